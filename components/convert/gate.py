"""The gate of a conversion: does the converted model still see what the model it was made from sees?

====================== ==========================================================================================
question               met when
====================== ==========================================================================================
mAP50                  it fell by at most ``max_map_drop``
mAP50-95               the same
enough images        the change in mAP50 is known to within ``max_map_drop``, with 95 % confidence
F1 of a class          at the deployed confidence it fell by at most ``max_f1_drop``, or by what two boxes make
highest score          it is at least ``min_score_ratio`` of what it was
score steps            no score output has coarser steps than 1/255, as it has when it shares a scale with boxes
====================== ==========================================================================================

All are asked, because each sees what the others miss: noise as calibration costs a point of mAP50 and caps every score
at 0.5; and how alike the outputs are (their cosine) says nothing, a dead detector has the best one.

Of a segmentation it asks:

====================== ==========================================================================================
mean IoU               it fell by at most ``max_map_drop``
correct pixels         their share fell by at most ``max_map_drop``
enough images        the change in mean IoU is known to within ``max_map_drop``, with 95 % confidence
IoU of a class         it fell by at most ``max_f1_drop``, if the class is in enough images to tell
====================== ==========================================================================================
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from components.convert.measure import Measured, map50_change
from components.convert.measure_masks import MeasuredMasks, miou_change
from components.core.errors import InputError
from components.core.metrics.detection import DetectionMetrics
from components.core.metrics.segmentation import SegmentationMetrics

LEAST_MAP50 = 0.05  # of the float model; below it there is nothing that could be lost
LEAST_MIOU = 0.05  # likewise
_COARSEST_STEP = 1.01 / 255  # scores are 0..1; the hundredth is rounding
_BOXES_OF_CHANCE = 2  # so many boxes at the edge of the confidence are no evidence
_OF_BOXES = {"map50": "mAP50", "map50_95": "mAP50-95"}
_OF_MASKS = {"miou": "mean IoU", "pixel_accuracy": "correct pixels"}
_IMAGES_OF_CHANCE = 5  # the IoU of a class in fewer is that of a few objects


@dataclass(frozen=True)
class Limits:
    """How much a conversion may cost.

    Attributes:
        max_map_drop: most that mAP50 and mAP50-95 may fall, 0..1; of a segmentation, mean IoU and correct pixels.
        max_f1_drop: most that the F1 of any class may fall, 0..1; of a segmentation, its IoU.
        min_score_ratio: least ratio of the highest scores, 0..1.
    """

    max_map_drop: float = 0.02
    max_f1_drop: float = 0.02
    min_score_ratio: float = 0.9

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 <= value <= 1:
                raise InputError(f"{name}={value} is not between 0 and 1")


@dataclass(frozen=True)
class Check:
    """One question.

    Attributes:
        question: as in the table of the module.
        met: the answer.
        reason: one line, with what there is and what is needed.
    """

    question: str
    met: bool
    reason: str


def check_reference(reference: Measured | MeasuredMasks) -> Check:
    """Whether the float model finds enough for a comparison to mean something."""
    if isinstance(reference, MeasuredMasks):
        name, have, least = "mean IoU", reference.metrics.miou, LEAST_MIOU
    else:
        name, have, least = "mAP50", reference.metrics.map50, LEAST_MAP50
    return Check("float model", have >= least, f"its {name} is {have:.3f}, need >= {least:g} to compare")


def judge(
    converted: Measured | MeasuredMasks,
    reference: Measured | MeasuredMasks,
    score_steps: Mapping[str, float],
    limits: Limits,
) -> tuple[Check, ...]:
    """Ask all questions of the module that are for the model's task.

    Args:
        converted: what was built, on the check images.
        reference: the float model on the same.
        score_steps: difference between two neighbouring 8-bit levels of each score output; empty for fp16.
        limits: what is allowed.
    """
    if isinstance(converted, MeasuredMasks) and isinstance(reference, MeasuredMasks):
        change = miou_change(converted, reference)
        return (
            *_kept(_OF_MASKS, converted.metrics, reference.metrics, change, limits.max_map_drop),
            *_ious(converted, reference, limits.max_f1_drop),
        )
    assert isinstance(converted, Measured) and isinstance(reference, Measured)
    return (
        *_kept(
            _OF_BOXES, converted.metrics, reference.metrics, map50_change(converted, reference), limits.max_map_drop
        ),
        *_f1(converted, reference, limits.max_f1_drop),
        _highest_score(converted, reference, limits.min_score_ratio),
        *_steps(score_steps),
    )


def _kept(
    titles: Mapping[str, str],
    converted: DetectionMetrics | SegmentationMetrics,
    reference: DetectionMetrics | SegmentationMetrics,
    change: tuple[float, float],
    most: float,
) -> Iterator[Check]:
    """Whether the figures over all classes fell too far, and whether the first one's change is known well enough."""
    for name, title in titles.items():
        new, old = getattr(converted, name), getattr(reference, name)
        yield Check(title, old - new <= most, f"{old:.3f} -> {new:.3f}, may fall by {most:g}")
    low, high = change
    main = next(iter(titles.values()))
    reason = f"the change in {main} lies between {low:+.3f} and {high:+.3f}, its half width may be {most:g}"
    yield Check("enough images", (high - low) / 2 <= most, f"{converted.images} images: {reason}")


def _ious(converted: MeasuredMasks, reference: MeasuredMasks, most: float) -> Iterator[Check]:
    pairs = zip(converted.metrics.per_class, reference.metrics.per_class, strict=True)
    for index, (new, old) in enumerate(pairs):
        if old.iou is not None and reference.images_with(index) >= _IMAGES_OF_CHANCE:
            now = new.iou or 0.0
            reason = f"{old.iou:.3f} -> {now:.3f}, may fall by {most:g}"
            yield Check(f"IoU of {old.name}", old.iou - now <= most, reason)


def _f1(converted: Measured, reference: Measured, most: float) -> Iterator[Check]:
    for new, old in zip(converted.metrics.per_class, reference.metrics.per_class, strict=True):
        if new.f1 is not None and old.f1 is not None:
            allowed = max(most, _BOXES_OF_CHANCE / old.truths)
            reason = f"{old.f1:.3f} -> {new.f1:.3f}, may fall by {allowed:.3g}"
            yield Check(f"F1 of {old.name}", old.f1 - new.f1 <= allowed, reason)


def _highest_score(converted: Measured, reference: Measured, least: float) -> Check:
    new, old = converted.max_score, reference.max_score
    return Check(
        "highest score", new >= least * old, f"{old:.3f} -> {new:.3f}, may fall to {least:g} of it, {least * old:.3f}"
    )


def _steps(score_steps: Mapping[str, float]) -> Iterator[Check]:
    if score_steps:
        name, coarsest = max(score_steps.items(), key=lambda step: step[1])
        reason = f"the coarsest is {coarsest:.4g} of {name}, may be 1/255"
        yield Check("score steps", coarsest <= _COARSEST_STEP, reason)
