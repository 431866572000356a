"""Novelty: images that look like nothing seen before, by light, colour and layout; small things do not count.

An image is known by 256 numbers: of each cell of an 8 x 8 grid the mean red, green and blue and the contrast. The
distance of two images is the root mean square of their differences, 0 to 1: before a camera that stands still, people
walking through make some 0.05, lamps switched off 0.2. An image is remembered only when it is
novel, so that the memory covers what was seen with as few images as the threshold allows; when it is full, the one
that nothing has resembled for longest is forgotten.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PrivateAttr

from components.core.errors import InputError
from components.core.miners.base import Frame, Judgement, miners
from components.core.miners.rules import Ratio, Rule
from components.core.runtimes.letterbox import ImageArray

GRID = 8
CELL = 8  # pixels of the reduced image along each side of a cell
NUMBERS = GRID * GRID * 4


@miners.register("novelty")
class Novelty(Rule):
    """Hard when no remembered image is near; the score is the distance to the nearest, 1 for the first image.

    Attributes:
        threshold_distance: hard from this distance on.
        memory: how many images are remembered, 1 kB each.
    """

    name: ClassVar[str] = "novelty"
    threshold_distance: Ratio = 0.1
    memory: Annotated[int, Field(ge=1, le=100_000)] = 256
    # Least recently resembled first.
    _seen: NDArray[np.float32] = PrivateAttr(default_factory=lambda: np.empty((0, NUMBERS), np.float32))

    def judge(self, frame: Frame) -> Judgement:
        """Say whether a frame is hard, and remember its image if so.

        Raises:
            InputError: the frame has no image.
        """
        if frame.image is None:
            raise InputError("miner 'novelty' needs images, but this frame has none: use another miner")
        numbers = embedding(frame.image)
        if not len(self._seen):
            self._seen = numbers[None]
            return Judgement(True, 1.0, "the first image")
        distances = np.sqrt(np.square(self._seen - numbers).mean(axis=1))
        nearest = int(distances.argmin())
        distance = float(distances[nearest])
        novel = distance >= self.threshold_distance
        self._remember(numbers if novel else self._seen[nearest], None if novel else nearest)
        return Judgement(
            novel, min(distance, 1.0), f"{distance:.3f} distance to the nearest of {len(distances)} images"
        )

    def _remember(self, numbers: NDArray[np.float32], instead: int | None) -> None:
        others = self._seen if instead is None else np.delete(self._seen, instead, axis=0)
        self._seen = np.concatenate([others, numbers[None]])[-self.memory :]


def embedding(image: ImageArray) -> NDArray[np.float32]:
    """What an image is known by, (256,) float32 in 0..1.

    Args:
        image: (H, W, 3) uint8 RGB.
    """
    side = GRID * CELL
    small: Any = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    cells = small.reshape(GRID, CELL, GRID, CELL, 3).transpose(0, 2, 1, 3, 4).reshape(GRID, GRID, CELL * CELL, 3)
    contrast = cells.mean(axis=3).std(axis=2)
    numbers: NDArray[np.float32] = np.concatenate([cells.mean(axis=2), contrast[..., None]], axis=2).ravel()
    return numbers
