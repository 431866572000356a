"""Metrics of the user's own, which the conditions of the trigger and of the gate can name.

A function that is registered under a name gives one number, or one for each class::

    @trigger_metrics.register("night_share")
    def night_share(arrival: Arrival) -> float: ...

    @gate_metrics.register("small_recall")
    def small_recall(seen: Predictions) -> dict[str, float]: ...

With ``plugins=my_metrics``, ``trigger_conditions=["night_share > 0.3"]`` and
``gate_conditions=["min(core.small_recall_delta) >= -0.02"]`` then mean something. A metric is computed only where a
condition names it; one of the gate for the candidate and the champion, on each set of samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from numbers import Real
from typing import Any, TypeAlias, TypeVar

from components.core.errors import InputError
from components.core.manifest import Manifest
from components.core.plugins import Registry

Value: TypeAlias = float | Mapping[str, float]
Given = TypeVar("Given")


@dataclass(frozen=True)
class Arrival:
    """What a poll of the feed has found.

    Attributes:
        samples: the new ones, labelled or not.
        known: those that the job has; None before its first round.
        counts: of files: ``found``, ``quarantined`` and so on.
        now: the time, with its zone.
    """

    samples: Manifest
    known: Manifest | None
    counts: Mapping[str, int]
    now: datetime


@dataclass(frozen=True)
class Predictions:
    """What a model found on a set of test samples.

    Attributes:
        samples: labelled.
        found: of each sample in table order, in the manifest's classes, what its kind of task measures by: the boxes,
            with scores from 0.001; of a segmentation the counts of its pixels, (classes, classes) true by found class.
        confidence_threshold: score that the model is to be deployed with.
    """

    samples: Manifest
    found: Sequence[Any]
    confidence_threshold: float


trigger_metrics: Registry[Callable[[Arrival], Value]] = Registry("trigger metric")
gate_metrics: Registry[Callable[[Predictions], Value]] = Registry("gate metric")


def own_values(registry: Registry[Callable[[Given], Value]], named: Collection[str], given: Given) -> dict[str, float]:
    """The values of those metrics that are named, by name or ``name[class]``.

    Args:
        registry: of the metrics.
        named: names that the conditions name, others among them.
        given: what the metrics are computed from.

    Raises:
        InputError: a metric fails, or gives something else than finite numbers.
    """
    values: dict[str, float] = {}
    for name in registry.names():
        if name in named:
            for key, value in _each(name, _computed(registry, name, given)).items():
                if not isinstance(value, Real) or not math.isfinite(value):
                    raise InputError(f"{registry.kind} {name!r} returned {value!r} for {key}: return a finite number")
                values[key] = float(value)
    return values


def _computed(registry: Registry[Callable[[Given], Value]], name: str, given: Given) -> Any:
    try:
        return registry.get(name)(given)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{registry.kind} {name!r} failed with {type(error).__name__}: {error}") from error


def _each(name: str, value: Any) -> dict[str, Any]:
    if isinstance(value, Mapping):
        return {f"{name}[{part}]": one for part, one in value.items()}
    return {name: value}
