"""Trigger: should a round run now? A time window, and a condition over what is new in the feed.

======================= ============================================================================================
metric                  its value
======================= ============================================================================================
``num_of_samples``      new samples: valid, labelled, and not in the job yet, or there with other labels
``num_of_new_images``   the same, labelled or not
``boxes[helmet]``       new boxes of one class; also ``min(boxes)``, ``max(boxes)``, ``mean(boxes)``
``class_coverage``      share of the job's classes, 0 to 1, of which a new sample has a box
``hard_example_rate``   share of the new images, 0 to 1, that the edge sent as hard: the ones with a folder
                        ``hard-examples`` in their path
``quarantined_rate``    share of the files that were looked at, 0 to 1, that could not be used
``model_age``           hours since the champion was made champion
``hours_since_round``   hours since the last round was committed
``drift``               how unlike the remembered samples the new ones are, 0 to 1; also of one statistic,
                        ``drift[width]``; see :func:`drift`
======================= ============================================================================================

A user's own are those that :mod:`components.core.rules.custom_metrics` knows. Shares of nothing are 0. What has never
been is ``NEVER`` hours ago, so that an age never stands in a first round's way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Protocol, TypeAlias

import numpy as np
import polars as pl
from numpy.typing import NDArray

from components.core.job.failures import Failures
from components.core.job.hard_examples import FOLDER
from components.core.job.state import State
from components.core.manifest import Manifest
from components.core.rules.conditions import Condition, Metrics, Verdict
from components.core.rules.conditions import Outcome as Judged
from components.core.rules.custom_metrics import Arrival, own_values, trigger_metrics
from components.core.rules.window import Window

DEFAULT_CONDITION = "num_of_samples >= 50"
HARD_FOLDER = FOLDER.rstrip("/")
NEVER = 24.0 * 365 * 100

Values: TypeAlias = NDArray[np.float64]


class Arrived(Protocol):
    """What a poll brought in."""

    @property
    def manifest(self) -> Manifest:
        """The new samples."""

    @property
    def counts(self) -> Mapping[str, int]:
        """How many files were ``found``, and of these ``quarantined``."""


class Outcome(StrEnum):
    """What is to happen."""

    RUN = "run"
    WAIT = "wait"
    ERROR = "error"


@dataclass(frozen=True)
class Decision:
    """Whether a round runs, and why.

    Attributes:
        outcome: run; wait, for the window or for more; or error: the condition cannot be judged, or the
            round that is due has failed so often that it rests.
        reasons: one line for each clause and for the window.
        verdict: of the condition.
        metrics: what it was judged by.
        opens: when the window opens next; None while it is open, or where there is none.
    """

    outcome: Outcome
    reasons: tuple[str, ...]
    verdict: Verdict
    metrics: Metrics = field(default_factory=dict)
    opens: datetime | None = None

    def describe(self) -> str:
        """The outcome and its reasons as one line."""
        return f"{self.outcome}: {'; '.join(self.reasons)}"


def decide(
    state: State,
    arrived: Arrived,
    *,
    now: datetime,
    window: object = None,
    conditions: object = None,
    known: Manifest | None = None,
    round_at: datetime | None = None,
    max_rounds: int = 0,
    failures: Callable[[], Failures | None] = lambda: None,
    parameters: str = "",
    lacks: str = "",
    force: bool = False,
) -> Decision:
    """Decide whether a round runs.

    Args:
        state: of the job.
        arrived: what is new.
        now: the time, with its time zone.
        window: the hours in which rounds may run, as :class:`Window` reads it; None or empty: always.
        conditions: as :class:`Condition` reads them; None or empty: ``num_of_samples >= 50``.
        known: what the job has; see :func:`compares_with_known`.
        round_at: when the last round was committed; see :func:`asks_for_last_round`; None: there was none.
        max_rounds: how many rounds the job may have; 0 for no end.
        failures: gives what is known of a round that failed; asked only if a round would run.
        lacks: what a round would lack that the conditions do not ask for, in words; empty: nothing.
        parameters: which ones this round would have; see :func:`components.core.job.failures.parameters_key`.
        force: run in any case.

    Raises:
        InputError: the window or the condition cannot be read.
    """
    condition = Condition.parse(conditions or DEFAULT_CONDITION, "conditions")
    hours = Window.parse(window) if window else None
    metrics = measure(state, arrived, known=known, round_at=round_at, now=now)
    arrival = Arrival(arrived.manifest, known, arrived.counts, now)
    metrics = {**own_values(trigger_metrics, condition.metrics() - metrics.keys(), arrival), **metrics}
    verdict = condition.evaluate(metrics, classes=arrived.manifest.classes)
    opens = None if hours is None or hours.contains(now) else hours.opens_next(now)
    reasons = [f"{clause.text}: {clause.reason}" for clause in verdict.clauses]
    if hours is not None:
        reasons.append(
            f"the window {hours.describe()} " + (f"opens at {opens:%Y-%m-%d %H:%M %Z}" if opens else "is open")
        )
    over = bool(max_rounds) and state.round >= max_rounds
    if over:
        reasons.append(f"the job has reached {state.round} of {max_rounds} rounds (max_rounds)")
    if lacks:
        reasons.append(lacks)
    if force:
        return Decision(Outcome.RUN, ("forced", *reasons), verdict, metrics, opens)
    if verdict.outcome == Judged.ERROR:
        outcome = Outcome.ERROR
    else:
        runs = verdict.outcome == Judged.MET and opens is None and not over and not lacks
        outcome = Outcome.RUN if runs else Outcome.WAIT
    failed = failures() if outcome == Outcome.RUN else None
    rests_until = failed.rests_until(now) if failed and failed.is_of(state.round + 1, parameters) else None
    if failed and rests_until:
        outcome = Outcome.ERROR
        again = f"it is retried from {rests_until:%Y-%m-%d %H:%M UTC}; force_train retries now"
        reasons.insert(0, f"{failed.describe()}; {again}")
    return Decision(outcome, tuple(reasons), verdict, metrics, opens)


def compares_with_known(conditions: object) -> bool:
    """Whether conditions ask for something that only the samples that the job has can tell.

    Raises:
        InputError: they cannot be read.
    """
    named = Condition.parse(conditions or DEFAULT_CONDITION, "conditions").metrics()
    return not named.isdisjoint({"drift", *trigger_metrics.names()})


def asks_for_last_round(conditions: object) -> bool:
    """Whether conditions ask for something that only the time of the last round can tell.

    Raises:
        InputError: they cannot be read.
    """
    return "hours_since_round" in Condition.parse(conditions or DEFAULT_CONDITION, "conditions").metrics()


def measure(
    state: State, arrived: Arrived, *, known: Manifest | None, round_at: datetime | None, now: datetime
) -> dict[str, float | Mapping[str, float]]:
    """The metrics that a condition may name; the arguments are those of :func:`decide`."""
    manifest, counts = arrived.manifest, arrived.counts
    boxes = _boxes_by_class(manifest)
    hard = sum(HARD_FOLDER in source.split("/")[:-1] for source in manifest.table["source"])
    promoted = state.history[-1].at if state.champion and state.history else None
    drifts = drift(manifest, known) if known is not None else dict.fromkeys(STATISTICS, 0.0)
    return {
        "num_of_samples": float(len(manifest.labelled())),
        "num_of_new_images": float(len(manifest)),
        "boxes": boxes,
        "class_coverage": _share(sum(count > 0 for count in boxes.values()), len(boxes)),
        "hard_example_rate": _share(hard, len(manifest)),
        "quarantined_rate": _share(counts.get("quarantined", 0), counts.get("found", 0)),
        "model_age": _hours_since(promoted, now),
        "hours_since_round": _hours_since(round_at, now),
        "drift": max(drifts.values()),
        **{f"drift[{name}]": value for name, value in drifts.items()},
    }


def drift(new: Manifest, known: Manifest) -> dict[str, float]:
    """How unlike the new samples are to the known ones, by simple statistics that need no image.

    For each statistic this is the distance of Kolmogorov and Smirnov between its two distributions: the largest
    difference, over all x, between the shares of values that are at most x. 0 means alike, 1 that they do not overlap;
    it does not depend on units. Few values differ by chance: of two draws of n values from one distribution, one in ten
    is more than 1.22 / sqrt(n / 2) apart (0.24 for n = 50), so ask for ``num_of_samples`` beside it.

    Args:
        new: the new samples.
        known: those that the job has.

    Returns:
        The distance by statistic: ``width`` and ``height`` of each image in pixels, ``boxes`` on each labelled
        image, and ``area``, the share of its image that each box covers. 0 where either side has no value.
    """
    return {name: _distance(values(new), values(known)) for name, values in STATISTICS.items()}


def _box_areas(manifest: Manifest) -> Values:
    areas = (pl.col("x2") - pl.col("x1")) * (pl.col("y2") - pl.col("y1")) / (pl.col("width") * pl.col("height"))
    return _floats(manifest.boxes().select(areas).to_series())


def _floats(values: pl.Series) -> Values:
    return values.cast(pl.Float64).to_numpy()


STATISTICS: dict[str, Callable[[Manifest], Values]] = {
    "width": lambda manifest: _floats(manifest.table["width"]),
    "height": lambda manifest: _floats(manifest.table["height"]),
    "boxes": lambda manifest: _floats(manifest.table["annotations"].drop_nulls().list.len()),
    "area": _box_areas,
}


def _distance(these: Values, those: Values) -> float:
    if not len(these) or not len(those):
        return 0.0
    points = np.concatenate([these, those])
    shares = [np.searchsorted(np.sort(values), points, side="right") / len(values) for values in (these, those)]
    return float(np.abs(shares[0] - shares[1]).max())


def _boxes_by_class(manifest: Manifest) -> dict[str, float]:
    found = dict(manifest.boxes()["class_id"].value_counts().iter_rows())
    return {name: float(found.get(number, 0)) for number, name in enumerate(manifest.classes)}


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _hours_since(then: datetime | None, now: datetime) -> float:
    """Hours, never negative: a clock may have been put back."""
    return NEVER if then is None else max(0.0, (now - then) / timedelta(hours=1))


def clauses(decision: Decision) -> Sequence[tuple[str, str, str, str]]:
    """Each comparison as ``metric``, ``have``, ``need`` and its outcome, in words."""
    words = {Judged.MET: "met", Judged.NOT_MET: "not yet", Judged.ERROR: "error"}
    return [
        (
            clause.text.removesuffix(clause.need).strip(),
            clause.reason if clause.have is None else f"{clause.have:.6g}",
            clause.need,
            words[clause.outcome],
        )
        for clause in decision.verdict.clauses
    ]
