"""Measure several models on the same images, set by set."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from components.core.errors import InputError, NothingToMeasureError
from components.core.manifest import Manifest
from components.core.reports.page import Section
from components.core.rules.custom_metrics import Predictions, gate_metrics, own_values
from components.core.tasks.base import Figures, Measurement, Task
from components.evaluate.evaluate import evaluate
from components.evaluate.predictor import Predictor

CANDIDATE, CHAMPION = "candidate", "champion"
ALL = "all"  # the union of the other sets


@dataclass(frozen=True)
class Delta:
    """How much better one model is than another.

    Attributes:
        value: the difference.
        low: lower end of its paired 95 % bootstrap interval over the images.
        high: upper end.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Scores:
    """One model on one set of samples.

    Attributes:
        measured: the figures of its task.
        custom: the values of the user's custom metrics.
    """

    measured: Measurement[Any]
    custom: Mapping[str, float] = field(default_factory=dict)

    def as_flat(self) -> dict[str, float]:
        """All of them by name."""
        return {**self.custom, **self.measured.flat}


@dataclass(frozen=True)
class Comparison:
    """Several models on several sets of samples.

    Attributes:
        classes: class names of the samples. A model that does not know one scores 0 for it.
        task: of all the models.
        scores: by set, then by model, in the order given; ``all`` is the union of the sets. A set in which nothing is
            labelled cannot be measured and is left out.
        deltas: how much better the first model is, by set, by the model it is compared with, and by figure.
        empty: names of the sets that were left out.
        sections: the report of the first model's evaluation on ``all``.
    """

    classes: tuple[str, ...]
    task: Task[Any, Any]
    scores: Mapping[str, Mapping[str, Scores]]
    deltas: Mapping[str, Mapping[str, Mapping[str, Delta]]]
    empty: tuple[str, ...] = ()
    sections: Sequence[Section] = ()

    @property
    def figures(self) -> Figures:
        """What the models are compared by."""
        return self.task.figures

    @property
    def images(self) -> int:
        """How many images were measured."""
        return next(iter(self.scores[ALL].values())).measured.images

    def metrics(self, model: str) -> dict[str, float] | None:
        """A model's figures by name: ``map50`` is of all samples, ``core.map50`` of the core set.

        Returns:
            None where there is no such model.
        """
        if model not in self.scores[ALL]:
            return None
        sets = self.scores.items()
        return {f"{_prefix(name)}{key}": value for name, by in sets for key, value in by[model].as_flat().items()}

    def delta(self, set_name: str, figure: str, against: str = CHAMPION) -> Delta | None:
        """How much better the first model is in a figure; None where the other one is not there."""
        return self.deltas.get(set_name, {}).get(against, {}).get(figure)

    def as_flat(self) -> dict[str, float]:
        """The candidate's figures, and how they differ from the champion's, such as ``core.map50_delta_low``."""
        flat = self.metrics(CANDIDATE) or {}
        for name in self.scores:
            for figure in self.figures.overall:
                delta = self.delta(name, figure)
                if delta is not None:
                    key = f"{_prefix(name)}{figure}_delta"
                    flat |= {key: delta.value, f"{key}_low": delta.low, f"{key}_high": delta.high}
        return flat


def compare(
    predictors: Mapping[str, Predictor],
    sets: Mapping[str, Manifest],
    *,
    confidence_threshold: float,
    cache_folder: Path,
    named: Collection[str] = (),
) -> Comparison:
    """Run each model over the same images, once, and measure what it finds on each set of them.

    Args:
        predictors: the models by name; the first is compared with each of the others.
        sets: samples of the split ``test`` by name, such as ``core``; they may share some.
        confidence_threshold: score, 0..1, from which a prediction counts in figures such as precision and recall.
        cache_folder: where images are brought to.
        named: metrics that the gate's conditions name; the user's own among them are computed.

    Raises:
        InputError: two models are the same or of different tasks, or nothing is labelled in any set.
    """
    _check_one_task(predictors)
    joined = _union(sets)
    evaluations = {
        name: evaluate(joined, one, confidence_threshold=confidence_threshold, cache_folder=cache_folder)
        for name, one in predictors.items()
    }
    first = next(iter(evaluations.values()))
    measured = {name: evaluation.measured for name, evaluation in evaluations.items()}
    return compare_measured(measured, sets, named=named, sections=first.sections)


def compare_measured(
    measured: Mapping[str, Measurement[Any]],
    sets: Mapping[str, Manifest],
    *,
    named: Collection[str] = (),
    sections: Sequence[Section] = (),
) -> Comparison:
    """Compare what several models, or models that work together as one, found in the same samples.

    Args:
        measured: the models by name, all on the same samples; the first is compared with each of the others.
        sets: parts of these samples by name; those that are not among them are passed over.
        named: metrics that the gate's conditions name; the user's own among them are computed.
        sections: the report of the first model's evaluation.
    """
    first = next(iter(measured.values()))
    task, ids = first.task, first.samples.table["id"]
    members = {name: ids.is_in(one.table["id"].to_list()).arg_true().to_list() for name, one in sets.items()}
    members[ALL] = list(range(len(ids)))
    wanted = {name.rpartition(".")[2] for name in named}
    scores: dict[str, dict[str, Scores]] = {}
    for name, places in members.items():
        try:
            scores[name] = {model: _scores(task, one, places, wanted) for model, one in measured.items()}
        except NothingToMeasureError:
            continue
    deltas = {name: _deltas(task, by) for name, by in scores.items()}
    empty = tuple(name for name in members if name not in scores)
    return Comparison(first.samples.classes, task, scores, deltas, empty, sections)


def _check_one_task(predictors: Mapping[str, Predictor]) -> None:
    """See that all models are for one task, and different ones."""
    (first, one), *others = predictors.items()
    for name, other in others:
        if one.task.name != other.task.name:
            raise InputError(
                f"the {first} is for {one.task.name}, the {name} for {other.task.name}: "
                "use a different job_root for the new task"
            )
        if one.digest and one.digest == other.digest:
            raise InputError(
                f"{first} ({one.name}) and {name} ({other.name}) are the same model: model.onnx of both has SHA-256 "
                f"{one.digest[:8]}...; train a new candidate or choose another champion"
            )


def _union(sets: Mapping[str, Manifest]) -> Manifest:
    (first, one), *others = sets.items()
    for name, other in others:
        if other.classes != one.classes:
            raise InputError(
                f"the {first} set has classes {', '.join(one.classes)}, the {name} set {', '.join(other.classes)}: "
                "create both in the same round"
            )
    table = pl.concat([manifest.table for manifest in sets.values()])
    return Manifest(table.unique("id", keep="first", maintain_order=True), one.classes)


def _scores(task: Task[Any, Any], whole: Measurement[Any], places: Sequence[int], wanted: Collection[str]) -> Scores:
    """A model on some of the samples."""
    if not places:
        raise NothingToMeasureError("no sample")
    samples = Manifest(whole.samples.table[places], whole.samples.classes)
    measured = task.measure(samples, [whole.results[place] for place in places], whole.confidence)
    predictions = Predictions(samples, measured.results, whole.confidence)
    return Scores(measured, own_values(gate_metrics, wanted, predictions))


def _deltas(task: Task[Any, Any], scores: Mapping[str, Scores]) -> dict[str, dict[str, Delta]]:
    (_, first), *others = scores.items()
    ours = first.measured
    return {
        name: {
            figure: Delta(
                ours.flat[figure] - other.measured.flat[figure],
                *task.delta_interval(figure, ours, other.measured),
            )
            for figure in task.figures.overall
        }
        for name, other in others
    }


def _prefix(name: str) -> str:
    return "" if name == ALL else f"{name}."
