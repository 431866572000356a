"""Where images come from."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import numpy as np

from components.core.runtimes.letterbox import ImageArray


@dataclass(frozen=True)
class Shot:
    """One image of a source.

    Attributes:
        image: (H, W, 3) uint8 RGB, as displayed.
        number: of the image in its source, from 0.
        place: names the image in its source; ``shots`` goes on after it.
        original: the bytes of the image's own file; None where it has none.
        suffix: of that file, with its dot, in lower case.
    """

    image: ImageArray
    number: int
    place: str
    original: bytes | None = None
    suffix: str = ".jpg"


class Source(Protocol):
    """Something that images come from.

    Attributes:
        name: as messages and sidecars show it, without secrets.
        identity: changes when the content is another, so that an old place does not count for it.
        live: it cannot be read again, and its newest image is the one that matters.
        retries: how often it was opened again.
        read: how many images it has read, those that it passed over among them.
    """

    name: str
    identity: str
    live: bool
    retries: int
    read: int

    def shots(self, stop: threading.Event, after: str = "", every: int = 1) -> Iterator[Shot]:
        """The images in their order.

        Args:
            stop: ends it early when set.
            after: place of the last one that is done with; empty: from the beginning.
            every: give each n-th image only.

        Raises:
            InputError: there is not one image in it.
        """
        ...


def rgb(frame: Any) -> ImageArray:
    """A frame (H, W, 3) as OpenCV gives it, in BGR, as RGB."""
    return np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def codec(capture: Any) -> str:
    """The four letters that name the codec of an open ``cv2.VideoCapture``."""
    return (
        int(capture.get(cv2.CAP_PROP_FOURCC)).to_bytes(4, "little", signed=True).decode("ascii", "replace").strip("\0 ")
    )
