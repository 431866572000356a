"""The two figures of KubeEdge ianvs' incremental-learning benchmark, computed as it computes them, flaws included.

They are here so that its published results have something to be compared with; nothing is decided by them.
``f1_ianvs`` follows ``f1_score`` of its PCB-AoI example and the evaluation of its FPN package: in an image where
nothing of a class was found, the missed objects of the class are not counted, which makes recall too high.
``samples_transfer_ratio`` follows ``core/testcasecontroller/metrics/metrics.py``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from components.core.detections import Detections

CONFIDENCE = 0.5  # its model gives boxes of higher scores alone
IOU = 0.3


def f1_ianvs(
    truths: Sequence[Detections],
    predictions: Sequence[Detections],
    classes: int,
    *,
    confidence: float = CONFIDENCE,
    iou_threshold: float = IOU,
) -> float:
    """The mean over the classes of F1 as ianvs computes it, rounded to four digits as there.

    Args:
        truths: true boxes of each image.
        predictions: what was found in each image.
        classes: number of classes.
        confidence: boxes of higher scores count.
        iou_threshold: a correct box overlaps a true one by more than this. Boxes are taken to hold their last pixel.

    Returns:
        0..1; 0 where there is no class.
    """
    each = [_f1_of_class(truths, predictions, number, confidence, iou_threshold) for number in range(classes)]
    return round(sum(each) / len(each), 4) if each else 0.0


def samples_transfer_ratio(hard: Sequence[int], inferred: Sequence[int]) -> float:
    """Hard examples by images that were inferred, with one more below, rounded to four digits as there.

    Args:
        hard: in each round, and at last on the test set: images that the miner called hard.
        inferred: in the same: images that the model saw.
    """
    return round(sum(hard) / (sum(inferred) + 1), 4)


def _f1_of_class(
    truths: Sequence[Detections], predictions: Sequence[Detections], number: int, confidence: float, threshold: float
) -> float:
    correct = found = wanted = 0
    for truth, prediction in zip(truths, predictions, strict=True):
        boxes = prediction[(prediction.classes == number) & (prediction.scores > confidence)]
        if not len(boxes):
            continue  # and its true boxes are not counted
        own = truth.boxes[truth.classes == number]
        found += len(boxes)
        wanted += len(own)
        correct += _count_correct(own, boxes.boxes[np.argsort(-boxes.scores)], threshold)
    precision = correct / found if found else 0.0
    recall = correct / wanted if wanted else 0.0
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _count_correct(truths: NDArray[np.float32], boxes: NDArray[np.float32], threshold: float) -> int:
    """How many boxes take a true one: each the one it overlaps most, if that is still free."""
    taken: set[int] = set()
    for box in boxes if len(truths) else ():
        overlaps = _overlaps(truths.astype(np.float64), box.astype(np.float64))
        best = int(np.argmax(overlaps))
        if overlaps[best] > threshold:
            taken.add(best)
    return len(taken)


def _overlaps(truths: NDArray[np.float64], box: NDArray[np.float64]) -> NDArray[np.float64]:
    sides = np.minimum(truths[:, 2:], box[2:]) - np.maximum(truths[:, :2], box[:2]) + 1
    shared = np.maximum(sides, 0).prod(axis=1)
    areas = (truths[:, 2:] - truths[:, :2] + 1).prod(axis=1) + (box[2:] - box[:2] + 1).prod()
    overlaps: NDArray[np.float64] = shared / (areas - shared)
    return overlaps
