"""The gate: may the candidate take the champion's place?

It asks, in this order, and reports the answer to every question:

======================= =========================================================================================
question                met when
======================= =========================================================================================
test images             as many labelled test images were measured as are asked for
conditions              the user's conditions hold; plain names are of all test samples, ``core.map50`` and
                        ``min(recent.recall_delta)`` of one set
good enough ...         the first champion scores at least as much mAP50 (mIoU) as is asked for
no class regresses      no class lost more AP50 (IoU, of a segmentation) than the tolerance, over all test samples
beyond chance           the lower end of the paired 95 % interval of the gain in mAP50 (mIoU) lies above the bound
window open             the deploy window is open; if it is the only obstacle, the candidate waits
======================= =========================================================================================

Where there is no champion yet, what compares with it is not asked. The outcome is ``promoted``, ``rejected``,
``pending`` (good, and waiting for the window) or ``error``: a question without an answer, such as a condition over a
metric that does not exist, rejects no candidate.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any

from pydantic import ConfigDict, TypeAdapter
from pydantic.dataclasses import dataclass

from components.core.errors import InputError
from components.core.rules import conditions as rules
from components.core.rules.conditions import Condition
from components.core.rules.window import Window
from components.evaluate.compare import ALL, CANDIDATE, CHAMPION, Comparison


class Outcome(StrEnum):
    """What becomes of the candidate."""

    PROMOTED = "promoted"
    REJECTED = "rejected"
    PENDING = "pending"
    ERROR = "error"


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Check:
    """One question that the gate asked.

    Attributes:
        question: as in the table of the module.
        outcome: met, not met or error.
        reason: one line, with what there is and what is needed.
    """

    question: str
    outcome: rules.Outcome
    reason: str


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Judgement:
    """The gate's decision.

    Attributes:
        outcome: of the candidate.
        reasons: why, one line each.
        checks: every question and its answer, those that did not matter among them.
        forced: whether the user asked for the outcome, whatever the answers were.
    """

    outcome: Outcome
    reasons: tuple[str, ...]
    checks: tuple[Check, ...] = ()
    forced: bool = False

    def describe(self) -> str:
        """The outcome and its reasons as one line."""
        return f"{self.outcome}: {'; '.join(self.reasons)}"

    def to_dict(self) -> dict[str, Any]:
        """The judgement as a mapping for JSON."""
        data: dict[str, Any] = _FORMAT.dump_python(self, mode="json")
        return data


_FORMAT = TypeAdapter(Judgement)


def judge(
    comparison: Comparison,
    *,
    now: datetime,
    conditions: Condition | None = None,
    no_regression: float | None = None,
    min_samples: int = 20,
    require_significant: bool = False,
    max_map50_drop: float | None = None,
    min_map50: float = 0.05,
    window: Window | None = None,
    further: Sequence[Check] = (),
    force: bool = False,
) -> Judgement:
    """Decide whether the candidate is promoted.

    Args:
        comparison: what was measured.
        now: the time, with its zone, that the window is compared with.
        conditions: what the candidate must score; None asks nothing.
        no_regression: how much AP50 each class may lose, 0..1; None asks nothing.
        min_samples: least number of labelled test images.
        require_significant: the gain in mAP50 must be above 0 with 95 % confidence.
        max_map50_drop: a loss in mAP50 of this much, 0..1, must be ruled out with 95 % confidence; None asks nothing.
            ``require_significant`` asks for more.
        min_map50: least mAP50, 0..1, of a first champion; of another task its main figure.
        window: when a model may be deployed; None for always.
        further: what was asked elsewhere, such as whether the model could be converted.
        force: promote whatever the answers, now; an error stays one, since then nothing is known of the candidate.

    Raises:
        InputError: a tolerance that is not a number >= 0.
    """
    if max_map50_drop is not None and not (math.isfinite(max_map50_drop) and max_map50_drop >= 0):
        raise InputError(f"max_map50_drop={max_map50_drop} must be a number >= 0")
    checks = [_samples(comparison, min_samples)]
    if conditions is not None:
        checks.append(_rule("conditions", conditions, comparison))
    if comparison.metrics(CHAMPION) is None and min_map50 > 0:
        checks.append(_floor(comparison, min_map50))
    if comparison.metrics(CHAMPION) is not None:
        if no_regression is not None:
            checks.append(_regression(comparison, no_regression))
        if require_significant or max_map50_drop is not None:
            checks.append(_chance(comparison, 0.0 if require_significant else -(max_map50_drop or 0.0)))
    return _decide([*checks, *further], _window(window, now), force)


def conversion_check(found: Mapping[str, Any]) -> Check:
    """Whether a model could be converted for the chips asked for.

    Args:
        found: ``outcome`` and ``reasons`` of the conversion.
    """
    outcome = rules.Outcome.NOT_MET if found["outcome"] == "failed" else rules.Outcome.MET
    return Check("conversion", outcome, "; ".join(found["reasons"]))


def _decide(checks: Sequence[Check], window: Check | None, force: bool) -> Judgement:
    asked = (*checks, window) if window else tuple(checks)
    errors = _reasons(checks, rules.Outcome.ERROR)
    against = _reasons(checks, rules.Outcome.NOT_MET)
    closed = _reasons([window] if window else [], rules.Outcome.NOT_MET)
    if errors:
        return Judgement(Outcome.ERROR, errors, asked)
    if force:
        stood = tuple(f"despite {reason}" for reason in (*against, *closed))
        return Judgement(Outcome.PROMOTED, ("forced", *stood), asked, forced=True)
    if against:
        return Judgement(Outcome.REJECTED, against, asked)
    if closed:
        return Judgement(Outcome.PENDING, closed, asked)
    return Judgement(Outcome.PROMOTED, _reasons(asked, rules.Outcome.MET), asked)


def _reasons(checks: Sequence[Check], outcome: rules.Outcome) -> tuple[str, ...]:
    return tuple(f"{check.question}: {check.reason}" for check in checks if check.outcome == outcome)


def _samples(comparison: Comparison, least: int) -> Check:
    reason = f"have {comparison.images}, need >= {least}"
    return Check("test images", _met(comparison.images >= least), reason)


def _rule(question: str, condition: Condition, comparison: Comparison) -> Check:
    verdict = condition.evaluate(
        comparison.metrics(CANDIDATE) or {}, comparison.metrics(CHAMPION), classes=comparison.classes
    )
    reason = verdict.describe().removeprefix(f"{verdict.outcome}: ")
    if verdict.outcome == rules.Outcome.ERROR and comparison.empty:
        reason += f"; the {' and the '.join(comparison.empty)} set has no labels"
    return Check(question, verdict.outcome, reason)


def _regression(comparison: Comparison, tolerance: float) -> Check:
    candidate = comparison.scores[ALL][CANDIDATE].measured
    measured = [name for name in comparison.classes if candidate.of_class("truths", name)]
    metric = next(iter(comparison.figures.of_class))
    return _rule("no class regresses", rules.no_regression(metric, measured, tolerance), comparison)


def _floor(comparison: Comparison, least: float) -> Check:
    figures = comparison.figures
    have = (comparison.metrics(CANDIDATE) or {})[figures.main]
    reason = f"{figures.main_title} is {have:.3f}, need >= {least:g} (min_map50)"
    if have < least:
        reason += ": train for more epochs, or start from a pretrained base_model"
    return Check("good enough for a first champion", _met(have >= least), reason)


def _chance(comparison: Comparison, bound: float) -> Check:
    figures = comparison.figures
    delta = comparison.deltas[ALL][CHAMPION][figures.main]
    reason = (
        f"the gain in {figures.main_title} is {delta.value:+.3f} with a 95 % lower bound of {delta.low:+.3f}, "
        f"need > {bound:g}"
    )
    return Check("beyond chance", _met(delta.low > bound), reason)


def _window(window: Window | None, now: datetime) -> Check | None:
    if window is None:
        return None
    if window.contains(now):
        return Check("window open", rules.Outcome.MET, window.describe())
    opens = window.opens_next(now).isoformat(timespec="minutes")
    return Check("window open", rules.Outcome.NOT_MET, f"{window.describe()} opens next at {opens}")


def _met(held: bool) -> rules.Outcome:
    return rules.Outcome.MET if held else rules.Outcome.NOT_MET
