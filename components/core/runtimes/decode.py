"""From the outputs of a model to boxes; the one decoder for every runtime.

A YOLO's model ends at its last convolutions: for each scale the box distances and the class scores, apart, because
one tensor that held both would lose the scores when it is quantised to 8 bits. What follows is done here. A two-stage
model gives boxes; their selection is done here too.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from components.core.detections import Detections
from components.core.errors import InputError
from components.core.heads import BoxesHead, SplitHead

MAX_DETECTIONS = 300  # per image
MAX_CANDIDATES = 30_000  # per image, before overlapping boxes are suppressed

Array = NDArray[np.float32]


def decode(outputs: Sequence[Array], head: SplitHead | BoxesHead, *, confidence: float, nms: float) -> Detections:
    """Boxes on the canvas, best score first, at most ``MAX_DETECTIONS``.

    Args:
        outputs: of a ``Head``, for each stride the box distances (1, 4 * reg_max, h, w) and the class scores
            (1, classes, h, w); of a ``BoxesHead``, boxes (N, 4), scores (N,) and classes (N,).
        head: what the outputs mean.
        confidence: least score of a box. One grid cell may give several boxes, one for each class.
        nms: overlap (IoU) above which the lower of two boxes of one class is dropped; an end-to-end head needs none.

    Raises:
        InputError: a box or a score is not a finite number.
    """
    found = candidates(outputs, head, confidence)
    found = found[np.argsort(-found.scores, kind="stable")[:MAX_CANDIDATES]]
    return found[:MAX_DETECTIONS] if head.end_to_end else found[suppress(found, nms)]


def candidates(outputs: Sequence[Array], head: SplitHead | BoxesHead, confidence: float) -> Detections:
    """Every box with its score, in the order of the outputs, grid cells and classes; arguments as for ``decode``.

    Raises:
        InputError: a box or a score is not a finite number.
    """
    if isinstance(head, BoxesHead):
        boxes, scores, classes = outputs
        _check_numbers("scores", scores)
        found = Detections.of(boxes, classes, scores)[scores >= confidence]
        _check_numbers("boxes", found.boxes)
        return found
    scales = [
        _candidates_of_scale(distances[0], scores[0], stride, head.reg_max, confidence)
        for distances, scores, stride in zip(outputs[::2], outputs[1::2], head.strides, strict=True)
    ]
    return Detections.of(
        np.concatenate([scale.boxes for scale in scales]),
        np.concatenate([scale.classes for scale in scales]),
        np.concatenate([scale.scores for scale in scales]),
    )


def suppress(sorted_detections: Detections, threshold: float) -> NDArray[np.intp]:
    """Greedy non-maximum suppression within each class.

    Args:
        sorted_detections: best score first.
        threshold: overlap (IoU) above which the later of two boxes is dropped.

    Returns:
        Indices of the boxes that stay, ascending, at most ``MAX_DETECTIONS``.
    """
    x1, y1, x2, y2 = sorted_detections.boxes.T
    # One contiguous row for each quantity: this loop is what a low confidence spends its time in.
    left = np.stack([x1, y1, x2, y2, (x2 - x1) * (y2 - y1), sorted_detections.classes.astype(np.float32)])
    places = np.arange(len(sorted_detections))
    kept: list[int] = []
    while places.size and len(kept) < MAX_DETECTIONS:
        kept.append(places[0])
        stays = ~(_overlaps(left[:, :1], left[:, 1:]) > threshold) | (left[5, 1:] != left[5, 0])
        left, places = left[:, 1:][:, stays], places[1:][stays]
    return np.array(kept, dtype=np.intp)


def _candidates_of_scale(distances: Array, scores: Array, stride: int, reg_max: int, confidence: float) -> Detections:
    classes, _, grid_width = scores.shape
    cell_scores = scores.reshape(classes, -1)
    # Thresholding first leaves few cells to decode, which is most of the speed.
    best = cell_scores.max(axis=0)  # which is NaN where one of them is
    _check_numbers("scores", best)
    cells = np.flatnonzero(best >= confidence)
    sides = _sides(distances.reshape(4, reg_max, -1)[:, :, cells])
    centres = np.stack([cells % grid_width, cells // grid_width]).astype(np.float32) + np.float32(0.5)
    boxes = np.concatenate([centres - sides[:2], centres + sides[2:]]).T * np.float32(stride)
    _check_numbers("boxes", boxes)
    kept_scores = cell_scores[:, cells].T
    cell, class_id = np.nonzero(kept_scores >= confidence)
    return Detections.of(boxes[cell], class_id, kept_scores[cell, class_id])


def _check_numbers(what: str, values: Array) -> None:
    """A comparison with NaN is false, so that boxes of a broken model would be left out, and nobody would notice."""
    if not np.isfinite(values).all():
        raise InputError(
            f"the model gives {what} that are not finite numbers (NaN or infinity): convert or train it again"
        )


def _sides(distances: Array) -> Array:
    """Distances (4, bins, N) as left, top, right and bottom in grid cells, (4, N): each the mean over its bins."""
    bins = distances.shape[1]
    if bins == 1:
        return distances[:, 0]
    weights = np.exp(distances - distances.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    sides: Array = np.einsum("sbn,b->sn", weights, np.arange(bins, dtype=np.float32))
    return sides


def _overlaps(box: Array, others: Array) -> Array:
    """Intersection over union (N,) of one box with others, given as rows x1, y1, x2, y2 and area, (5 or more, N)."""
    width = np.minimum(box[2], others[2]) - np.maximum(box[0], others[0])
    height = np.minimum(box[3], others[3]) - np.maximum(box[1], others[1])
    intersection = np.maximum(width, 0) * np.maximum(height, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        overlaps: Array = intersection / (box[4] + others[4] - intersection)
    return overlaps
