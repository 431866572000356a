"""The examination of an estimator that segments: what differs from one that finds objects."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from components.core.estimators import examination
from components.core.estimators.base import Estimator
from components.core.estimators.examination import HEIGHT, WIDTH, Examination, examinations
from components.core.manifest import Manifest
from components.core.masks import encode_mask
from components.core.tasks.base import LocalSamples

CLASSES = ("ground", *examination.CLASSES)
SAME_PIXELS = 0.9  # share; where two classes meet, enlarging scores or classes makes a difference


@examinations.register("segmentation")
class MaskExamination(Examination):
    """One estimator and what is wrong with it."""

    classes = CLASSES

    @staticmethod
    def draw_samples(folder: Path) -> dict[str, LocalSamples]:
        """The drawn images, with a mask each instead of boxes."""
        return {split: _with_masks(samples, folder) for split, samples in examination.draw_samples(folder).items()}

    def results(self, model: Estimator[Any], found: Sequence[Any]) -> None:
        """Classes, one for each pixel."""
        shapes = sorted({(one.shape, str(one.dtype)) for one in found})
        self.expect(
            shapes == [((HEIGHT, WIDTH), "uint8")],
            f"predict: returns {shapes}, expected ({HEIGHT}, {WIDTH}) uint8, the class of each pixel",
        )
        self.expect(
            all(one.max(initial=0) < len(CLASSES) for one in found), "predict: class ids outside the model's classes"
        )

    def difference(self, expected: Any, found: Any) -> str:
        """How two class maps differ; empty if they are the same but where classes meet."""
        if expected.shape != found.shape:
            return f"{found.shape} pixels instead of {expected.shape}"
        same = float((expected == found).mean())
        return "" if same >= SAME_PIXELS else f"{same:.0%} of the pixels are the same"


def _with_masks(samples: LocalSamples, folder: Path) -> LocalSamples:
    rows, masks = [], []
    for row in samples.manifest.rows():
        mask = np.zeros((HEIGHT, WIDTH), np.uint8)
        for box in row["annotations"]:
            sides = (int(box[side]) for side in ("x1", "y1", "x2", "y2"))
            x1, y1, x2, y2 = sides
            mask[y1:y2, x1:x2] = 1 + box["class_id"]
        path = folder / f"{row['id']}.mask.png"
        path.write_bytes(encode_mask(mask))
        masks.append(path)
        rows.append({**row, "annotations": None, "mask": path.as_uri()})
    return LocalSamples(Manifest.of(rows, CLASSES), samples.paths, masks)
