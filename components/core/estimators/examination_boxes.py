"""The examination of an estimator that finds objects: what is asked of its boxes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from components.core.detections import Detections
from components.core.estimators.base import Estimator
from components.core.estimators.examination import (
    CLASSES,
    HEIGHT,
    LEAST_CONFIDENCE,
    SCORE_TOLERANCE,
    WIDTH,
    Examination,
    examinations,
)

COMPARED = 50  # boxes of an image, best first
PIXEL_TOLERANCE = 0.5


@examinations.register("detection")
class BoxExamination(Examination):
    """One estimator and what is wrong with it."""

    def results(self, model: Estimator[Any], found: Sequence[Any]) -> None:
        """Boxes on the images, no box worse than asked for."""
        scores = np.concatenate([one.scores for one in found])
        middle = float(np.median(scores)) if len(scores) else 0.5
        with self.step("predict"):
            fewer = model.predict(self.images(), confidence_threshold=middle, nms_threshold=1.0)
        boxes = np.concatenate([one.boxes for one in found])
        classes = np.concatenate([one.classes for one in found])
        limit = np.array([WIDTH, HEIGHT] * 2) + 1e-3
        self.expect(bool(len(boxes)), f"predict: no box with a score of {LEAST_CONFIDENCE:g}: nothing to compare")
        self.expect(
            bool(np.isfinite(boxes).all() and (boxes >= -1e-3).all() and (boxes <= limit).all()),
            f"predict: boxes reach beyond their image of {WIDTH} x {HEIGHT} pixels",
        )
        self.expect(bool((boxes[:, 2:] >= boxes[:, :2]).all()), "predict: boxes are not in x1, y1, x2, y2 order")
        self.expect(bool(((scores >= 0) & (scores <= 1)).all()), "predict: scores are not in 0..1")
        self.expect(
            bool(((classes >= 0) & (classes < len(CLASSES))).all()), "predict: class ids outside the model's classes"
        )
        self.expect(
            all((one.scores >= middle - 1e-6).all() for one in fewer),
            "predict: returns boxes below the confidence threshold",
        )

    def difference(self, expected: Any, found: Any) -> str:
        """See :class:`Examination`."""
        return differences(expected, found)


def differences(expected: Detections, found: Detections) -> str:
    """How two results for one image differ; empty if they are the same but for rounding.

    The best boxes that are expected must be found. Beyond these there may be more, since some models give a place one
    class and others every class, but none better.
    """
    best = expected[np.argsort(-expected.scores, kind="stable")[:COMPARED]]
    for box, score, class_id in zip(best.boxes, best.scores, best.classes, strict=True):
        same = (
            (np.abs(found.boxes - box).max(axis=1, initial=0) < PIXEL_TOLERANCE)
            & (np.abs(found.scores - score) < SCORE_TOLERANCE)
            & (found.classes == class_id)
        )
        if not same.any():
            return f"no {CLASSES[class_id]} at {np.round(box, 1).tolist()} with score {score:.3f}"
    highest = [one.scores.max(initial=0.0) for one in (expected, found)]
    if abs(highest[0] - highest[1]) > SCORE_TOLERANCE:
        return f"the best score is {highest[1]:.3f}, not {highest[0]:.3f}"
    return ""
