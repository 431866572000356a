"""Near-duplicates: images that differ from one kept shortly before in so little that a label would teach nothing new.

A fingerprint is a difference hash: the image in grey, shrunk to 9 x 8, one bit for each pixel that is brighter than
its left neighbour. Recompression, noise and small changes of light flip few of the 64 bits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import cv2
import numpy as np

from components.core.errors import InputError
from components.core.runtimes.letterbox import ImageArray

BITS = 64
_SHORT_SIDE = 128  # pixels that are enough to average over; a large image would cost milliseconds


def fingerprint(image: ImageArray) -> int:
    """The fingerprint of an image (H, W, 3) uint8 RGB, 64 bits."""
    step = max(1, min(image.shape[:2]) // _SHORT_SIDE)
    small = cv2.resize(np.ascontiguousarray(image[::step, ::step]), (9, 8), interpolation=cv2.INTER_AREA)
    grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
    return int.from_bytes(np.packbits(grey[:, 1:] > grey[:, :-1]).tobytes(), "big")


class Duplicates:
    """Tells whether an image is much like one of the last that were kept.

    An image enters the window when it is kept, not when it is looked at, so a scene that changes slowly is kept again
    once it has drifted far enough. One that begins with the fingerprints of what was kept before decides as if it had
    never ended.

    Args:
        threshold: bits in which two fingerprints may differ and still count as the same; -1: nothing is a duplicate.
        window: how many kept images are remembered.
        kept: fingerprints of those kept before, oldest first.

    Raises:
        InputError: a threshold or window that cannot be.
    """

    def __init__(self, threshold: int = 4, window: int = 64, kept: Iterable[int] = ()) -> None:
        if not -1 <= threshold < BITS:
            raise InputError(f"duplicate threshold {threshold}: must be 0 to {BITS - 1} bits, or -1 to disable")
        if window < 1:
            raise InputError(f"duplicate window {window}: must be at least 1 image")
        self._threshold = threshold
        self._kept = deque(kept, maxlen=window)

    def __contains__(self, candidate: int) -> bool:
        return any((candidate ^ known).bit_count() <= self._threshold for known in self._kept)

    def keep(self, candidate: int) -> None:
        """Remember the fingerprint of an image that was kept."""
        self._kept.append(candidate)
