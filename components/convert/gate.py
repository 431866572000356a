"""The gate of a conversion: does the converted model still see what the model it was made from sees?

====================== ==========================================================================================
question               met when
====================== ==========================================================================================
mAP50, mAP50-95        it fell by at most ``max_map_drop``
enough images          the change in mAP50 is known to within ``max_map_drop``, with 95 % confidence
F1 of a class          at the deployed confidence it fell by at most ``max_f1_drop``, or by what two boxes make
highest score          it is at least ``min_score_ratio`` of what it was
score steps            no score output has coarser steps than 1/255, as it has when it shares a scale with boxes
====================== ==========================================================================================

All are asked, because each sees what the others miss: noise as calibration costs a point of mAP50 and caps every score
at 0.5; and how alike the outputs are (their cosine) says nothing, a dead detector has the best one.

Another kind of task has other figures in their place. Of a segmentation these are mIoU, correct pixels, and the
IoU of each class that is in enough images to tell; its results have no scores, so the last two are not asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from components.core.errors import InputError
from components.core.tasks.base import Measurement

_MIN_REFERENCE = 0.05  # of the float model's main figure; below it there is nothing that could be lost
_COARSEST_STEP = 1.01 / 255  # scores are 0..1; the hundredth is rounding


@dataclass(frozen=True)
class Limits:
    """How much a conversion may cost.

    Attributes:
        max_map_drop: most that mAP50 and mAP50-95 may fall, 0..1; of a segmentation, mIoU and correct pixels.
        max_f1_drop: most that the F1 of any class may fall, 0..1; of a segmentation, its IoU.
        min_score_ratio: least ratio of the highest scores, 0..1.
    """

    max_map_drop: float = 0.02
    max_f1_drop: float = 0.02
    min_score_ratio: float = 0.9

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 <= value <= 1:
                raise InputError(f"{name}={value} must be a number from 0 to 1")


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


def check_reference(reference: Measurement[Any]) -> Check:
    """Whether the float model finds enough for a comparison to mean something."""
    figures = reference.task.figures
    have = reference.flat[figures.main]
    reason = f"its {figures.main_title} is {have:.3f}, need >= {_MIN_REFERENCE:g} to compare"
    return Check("float model", have >= _MIN_REFERENCE, reason)


def judge(
    converted: Measurement[Any], reference: Measurement[Any], score_steps: Mapping[str, float], limits: Limits
) -> tuple[Check, ...]:
    """Ask all questions of the module that are for the model's task.

    Args:
        converted: what was built, on the check images.
        reference: the float model on the same.
        score_steps: difference between two neighbouring 8-bit levels of each score output; empty for fp16.
        limits: what is allowed.
    """
    return (
        *_overall(converted, reference, limits.max_map_drop),
        *_of_classes(converted, reference, limits.max_f1_drop),
        *_highest_score(converted, reference, limits.min_score_ratio),
        *_steps(score_steps),
    )


def _overall(converted: Measurement[Any], reference: Measurement[Any], max_drop: float) -> Iterator[Check]:
    """Whether the figures over all classes fell too far, and whether the main one's change is known well enough."""
    task = reference.task
    figures = task.figures
    for name, title in figures.overall.items():
        new, old = converted.flat[name], reference.flat[name]
        yield Check(title, old - new <= max_drop, f"{old:.3f} -> {new:.3f}, allowed drop {max_drop:g}")
    low, high = task.delta_interval(figures.main, converted, reference)
    reason = (
        f"the change in {figures.main_title} is between {low:+.3f} and {high:+.3f}, the half-width must not exceed "
        f"{max_drop:g}"
    )
    yield Check("enough images", (high - low) / 2 <= max_drop, f"{converted.images} images: {reason}")


def _of_classes(converted: Measurement[Any], reference: Measurement[Any], max_drop: float) -> Iterator[Check]:
    """Whether a single class fell too far."""
    figure, title = reference.task.figures.converted
    for name in reference.samples.classes:
        old, allowed = reference.of_class(figure, name), reference.task.allowed_drop(name, reference, max_drop)
        if old is not None and allowed is not None:
            new = converted.of_class(figure, name) or 0.0
            reason = f"{old:.3f} -> {new:.3f}, allowed drop {allowed:.3g}"
            yield Check(f"{title} of {name}", old - new <= allowed, reason)


def _highest_score(converted: Measurement[Any], reference: Measurement[Any], min_ratio: float) -> Iterator[Check]:
    new, old = (one.task.highest_score(one.results) for one in (converted, reference))
    if new is not None and old is not None:
        reason = f"{old:.3f} -> {new:.3f}, need >= {min_ratio * old:.3f} (min_score_ratio={min_ratio:g})"
        yield Check("highest score", new >= min_ratio * old, reason)


def _steps(score_steps: Mapping[str, float]) -> Iterator[Check]:
    if score_steps:
        name, coarsest = max(score_steps.items(), key=lambda step: step[1])
        reason = f"the coarsest is {coarsest:.4g} of {name}, need <= 1/255"
        yield Check("score steps", coarsest <= _COARSEST_STEP, reason)
