"""What each class is taken for, and what a detector finds at each confidence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from components.core.detections import Detections
from components.core.metrics.detection import Matches, take_boxes

NOTHING = "background"  # what a missed box is taken for, and what a false one is
STEPS = 40  # of confidence in a curve


@dataclass(frozen=True)
class Confusion:
    """What each class is taken for.

    Attributes:
        labels: of rows and columns.
        counts: (labels, labels) true by found.
    """

    labels: tuple[str, ...]
    counts: NDArray[np.int64]


@dataclass(frozen=True)
class CurvePoint:
    """What counts at one confidence.

    Attributes:
        confidence: score, 0..1, from which predictions count.
        recall: correct predictions / true boxes.
        false_share: false predictions / predictions; 0 where there are none.
    """

    confidence: float
    recall: float
    false_share: float


def confusion_of_boxes(
    truths: Sequence[Detections],
    predictions: Sequence[Detections],
    class_names: Sequence[str],
    confidence: float,
    iou_threshold: float = 0.5,
) -> Confusion:
    """What true boxes are taken for.

    First each true box goes to a prediction of its own class, as for precision and recall, so that the diagonal is
    what these count as correct. Predictions and true boxes that are left are matched whatever their class, and what is
    left then is a missed box or a false one.

    Args:
        truths: true boxes of each image.
        predictions: what was found in each image.
        class_names: in the order of the class indices of both.
        confidence: least score of a prediction that counts.
        iou_threshold: least overlap of a match.
    """
    nothing = len(class_names)
    counts = np.zeros((nothing + 1, nothing + 1), dtype=np.int64)
    for truth, found in zip(truths, predictions, strict=True):
        sure = found[found.scores >= confidence]
        sure = sure[np.argsort(-sure.scores, kind="stable")]
        taken = np.full(len(sure), -1, dtype=np.intp)  # which true box each prediction takes
        for class_id in np.unique(truth.classes):
            own, theirs = np.flatnonzero(truth.classes == class_id), np.flatnonzero(sure.classes == class_id)
            matched = take_boxes(truth.boxes[own], sure.boxes[theirs], iou_threshold)
            taken[theirs[matched >= 0]] = own[matched[matched >= 0]]
        rest, free = np.setdiff1d(np.arange(len(truth)), taken), np.flatnonzero(taken < 0)
        matched = take_boxes(truth.boxes[rest], sure.boxes[free], iou_threshold)
        taken[free[matched >= 0]] = rest[matched[matched >= 0]]
        rows = np.append(truth.classes, nothing)[taken]
        np.add.at(counts, (rows, sure.classes), 1)
        missed = truth.classes[np.setdiff1d(np.arange(len(truth)), taken)]
        np.add.at(counts, (missed, np.full_like(missed, nothing)), 1)
    return Confusion((*class_names, NOTHING), counts)


def confidence_curve(matches: Matches) -> list[CurvePoint]:
    """What counts at each confidence, from the highest to the lowest.

    Args:
        matches: what became of every prediction.
    """
    truths = max(int(matches.truths.sum()), 1)
    points = []
    for confidence in np.linspace(1, 0, STEPS + 1).tolist():
        sure = matches.scores >= confidence
        found, correct = int(sure.sum()), int((sure & matches.correct).sum())
        points.append(CurvePoint(confidence, correct / truths, (found - correct) / max(found, 1)))
    return points
