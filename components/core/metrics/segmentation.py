"""How good a segmentation is: intersection over union (IoU) of each class, over the pixels of all images.

A class' IoU is the pixels that truth and model agree on, over those that either calls so (the PASCAL VOC challenge,
Everingham et al., 2015). Pixels of which the truth says nothing count nowhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from components.core.errors import NothingToMeasureError
from components.core.masks import VOID, ClassMap
from components.core.metrics.resampling import draws, interval

RESAMPLES = 1000

Counts = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ClassScores:
    """What was measured for one class.

    Attributes:
        name: of the class.
        iou: intersection over union, 0..1; None where neither truth nor model has a pixel of it.
        precision: correct pixels / pixels that the model calls so; None where there are none.
        recall: correct pixels / true pixels (also called class accuracy); None where there are none.
        truths: number of true pixels.
        predictions: number of pixels that the model calls so.
    """

    name: str
    iou: float | None
    precision: float | None
    recall: float | None
    truths: int
    predictions: int


@dataclass(frozen=True)
class SegmentationMetrics:
    """What was measured over all images.

    Attributes:
        miou: mean of the classes' IoU.
        pixel_accuracy: correct pixels / pixels.
        mean_recall: mean of the classes' recall (also called mean class accuracy, CPA).
        fwiou: mean of the classes' IoU, weighted by their true pixels (frequency-weighted IoU).
        images: number of images.
        pixels: number of pixels of which the truth says something.
        per_class: one entry per class, in the order of the class names.
    """

    miou: float
    pixel_accuracy: float
    mean_recall: float
    fwiou: float
    images: int
    pixels: int
    per_class: tuple[ClassScores, ...]

    def as_flat(self) -> dict[str, float]:
        """Every figure under one name, such as ``miou`` or ``iou[road]``; each is finite."""
        flat = {name: value for name, value in vars(self).items() if name != "per_class"}
        for one in self.per_class:
            flat |= {f"{name}[{one.name}]": value for name, value in vars(one).items() if name != "name"}
        return {name: float(value) for name, value in flat.items() if value is not None}


def confusion(truth: ClassMap, found: ClassMap, classes: int) -> Counts:
    """Count the pixels of one image by what they are and what they are taken for.

    Args:
        truth: (H, W), 255 where unlabelled (void).
        found: (H, W).
        classes: how many there are.

    Returns:
        (classes, classes): true class by found class.

    Raises:
        ValueError: the maps differ in size, or the model names a class that there is not.
    """
    if truth.shape != found.shape:
        raise ValueError(f"the mask has {truth.shape} pixels, the prediction {found.shape}")
    known = truth != VOID
    pairs = truth[known].astype(np.int64) * classes + found[known]
    if found[known].max(initial=0) >= classes or pairs.max(initial=0) >= classes * classes:
        raise ValueError(f"a class map contains an id outside the {classes} classes")
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def evaluate_segmentation(matrices: Sequence[Counts], names: Sequence[str]) -> SegmentationMetrics:
    """Figures from the counts of all images.

    Args:
        matrices: of each image, as ``confusion`` counts.
        names: of the classes.

    Raises:
        NothingToMeasureError: no pixel has a label.
    """
    total = np.sum(matrices, axis=0)
    if not len(matrices) or not total.sum():
        raise NothingToMeasureError(f"no pixel of {len(matrices)} masks is labelled: label some of them")
    correct, truths, predictions = np.diagonal(total), total.sum(axis=1), total.sum(axis=0)
    ious = _ratio(correct, truths + predictions - correct)
    recalls = _ratio(correct, truths)
    precisions = _ratio(correct, predictions)
    return SegmentationMetrics(
        miou=float(np.nanmean(ious)),
        pixel_accuracy=float(correct.sum() / total.sum()),
        mean_recall=float(np.nanmean(recalls)),
        fwiou=float(np.nansum(ious * truths) / total.sum()),
        images=len(matrices),
        pixels=int(total.sum()),
        per_class=tuple(
            ClassScores(name, _known(iou), _known(precision), _known(recall), int(true), int(predicted))
            for name, iou, precision, recall, true, predicted in zip(
                names, ious, precisions, recalls, truths, predictions, strict=True
            )
        ),
    )


def miou_interval(matrices: Sequence[Counts], seed: int = 0) -> tuple[float, float]:
    """The 95 % interval of the mean IoU under drawing the images again, with replacement."""
    return interval(_mious(matrices, draws(len(matrices), RESAMPLES, seed)))


def miou_delta_interval(candidate: Sequence[Counts], champion: Sequence[Counts], seed: int = 0) -> tuple[float, float]:
    """The 95 % interval of the difference in mean IoU, candidate - champion, both on the same drawn images."""
    drawn = draws(len(candidate), RESAMPLES, seed)
    return interval(_mious(candidate, drawn) - _mious(champion, drawn))


def accuracy_delta_interval(
    candidate: Sequence[Counts], champion: Sequence[Counts], seed: int = 0
) -> tuple[float, float]:
    """The same of the share of correct pixels."""
    drawn = draws(len(candidate), RESAMPLES, seed)
    ours, theirs = (
        _ratio(*(drawn @ np.array([of(one) for one in model]) for of in (np.trace, np.sum)))
        for model in (candidate, champion)
    )
    return interval(ours - theirs)


def _mious(matrices: Sequence[Counts], drawn: Counts) -> Floats:
    """The mean IoU in every resample; NaN where it has no labelled pixel."""
    correct = drawn @ np.array([np.diagonal(one) for one in matrices])
    either = drawn @ np.array([one.sum(axis=0) + one.sum(axis=1) for one in matrices]) - correct
    ious = _ratio(correct, either)
    known = ~np.isnan(ious)
    means: Floats = np.where(known, ious, 0).sum(axis=1) / np.where(known.any(axis=1), known.sum(axis=1), np.nan)
    return means


def _ratio(part: Counts, whole: Counts) -> Floats:
    """Part / whole, NaN where there is no whole."""
    ratio: Floats = part / np.where(whole > 0, whole, np.nan)
    return ratio


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
