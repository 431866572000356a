"""Boxes as arrays: the one type that models return, metrics take and reports draw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class Detections:
    """The boxes of one image: found by a model, or drawn by a person (then every score is 1).

    Attributes:
        boxes: (N, 4) float32, ``x1, y1, x2, y2`` in pixels of the whole image as it is displayed (EXIF orientation
            applied). Coordinates are continuous: 0 is the left or upper edge, ``width`` and ``height`` the opposite
            one, so a box one pixel wide has ``x2 - x1 == 1``.
        scores: (N,) float32 in 0..1.
        classes: (N,) int32, index into the class names of the manifest or bundle that the boxes belong to.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    classes: NDArray[np.int32]

    @classmethod
    def of(cls, boxes: ArrayLike, classes: ArrayLike, scores: ArrayLike | None = None) -> Detections:
        """Make detections from anything array-like; without scores they count as certain.

        Raises:
            ValueError: the three do not have the same length.
        """
        box_array = np.asarray(boxes, dtype=np.float32).reshape(-1, 4)
        class_array = np.asarray(classes, dtype=np.int32).reshape(-1)
        score_array = (
            np.ones(len(class_array), dtype=np.float32)
            if scores is None
            else np.asarray(scores, dtype=np.float32).reshape(-1)
        )
        if not len(box_array) == len(class_array) == len(score_array):
            raise ValueError(
                f"{len(box_array)} boxes, {len(class_array)} classes and {len(score_array)} scores: lengths differ"
            )
        return cls(box_array, score_array, class_array)

    @classmethod
    def none(cls) -> Detections:
        """No boxes."""
        return cls.of([], [])

    @classmethod
    def joined(cls, images: Sequence[Detections]) -> Detections:
        """The boxes of several images, one image after the other."""
        every = [cls.none(), *images]
        return cls.of(
            np.concatenate([one.boxes for one in every]),
            np.concatenate([one.classes for one in every]),
            np.concatenate([one.scores for one in every]),
        )

    def renumbered(self, table: Sequence[int]) -> Detections:
        """The boxes with other class numbers: ``table[k]`` in place of ``k``; a box whose number would be < 0 goes."""
        numbers = np.asarray(table, dtype=np.int32)[self.classes]
        kept = numbers >= 0
        return Detections(self.boxes[kept], self.scores[kept], numbers[kept])

    def __len__(self) -> int:
        return len(self.classes)

    def __getitem__(self, index: slice | NDArray[np.bool_] | NDArray[np.intp]) -> Detections:
        return Detections(self.boxes[index], self.scores[index], self.classes[index])


def iou(first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float32]:
    """Intersection over union of each box of ``first`` (N, 4) with each of ``second`` (M, 4).

    Returns:
        (N, M), 0..1; 0 for boxes without area.
    """
    sides = np.minimum(first[:, None, 2:], second[None, :, 2:]) - np.maximum(first[:, None, :2], second[None, :, :2])
    shared = np.clip(sides, 0, None).prod(axis=2)
    areas = [np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(axis=1) for boxes in (first, second)]
    union = areas[0][:, None] + areas[1][None, :] - shared
    overlaps: NDArray[np.float32] = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return overlaps
