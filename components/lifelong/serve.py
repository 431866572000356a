"""Which model answers for each task: measured, every model on the samples of every task."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from components.core.errors import InputError, NothingToMeasureError
from components.core.lifelong.knowledge_base import SHARED, RoundScores, Route
from components.core.lifelong.plug_points import TaskRelation, make, task_relations
from components.core.manifest import Manifest
from components.core.rules.conditions import Condition, Outcome
from components.core.tasks.base import Measurement
from components.lifelong.plan import Plan

BEFORE = "before:"  # the champion's model of a task, beside the new one


@dataclass(frozen=True)
class Matrix:
    """Every model on every task's test samples.

    Attributes:
        measured: what each model finds in all test samples, by its label; all on the same samples.
        places: where the samples of each task are among them.
        scores: the main figure by model, then by task; a task in whose samples there is nothing to measure has none.
    """

    measured: Mapping[str, Measurement[Any]]
    places: Mapping[str, Sequence[int]]
    scores: Mapping[str, Mapping[str, float]]

    @classmethod
    def of(cls, measured: Mapping[str, Measurement[Any]], places: Mapping[str, Sequence[int]]) -> Matrix:
        """Measure every model on every task."""
        scores = {
            label: {task: score for task, where in places.items() if (score := score_at(one, where)) is not None}
            for label, one in measured.items()
        }
        return cls(measured, places, scores)

    def at(self, places: Mapping[str, Sequence[int]]) -> Matrix:
        """The same models on samples at other places."""
        return Matrix.of(self.measured, places)

    def joined(self, labels: Sequence[str], further: Mapping[str, Measurement[Any]] | None = None) -> Measurement[Any]:
        """What several models find as one: each sample's answer is that of the model named for it.

        Args:
            labels: of the model for each sample.
            further: what models find that the matrix does not have, on the same samples.
        """
        first, measured = next(iter(self.measured.values())), {**self.measured, **(further or {})}
        results = [measured[label].results[place] for place, label in enumerate(labels)]
        return first.task.measure(first.samples, results, first.confidence)


def places_to_answer(routes: Sequence[Route], places: Mapping[str, Sequence[int]]) -> dict[str, Sequence[int]]:
    """Where the test samples are that a model of each task would answer for.

    Where tasks are told apart by what images look like, a model gets images of other tasks, too, and not all of its
    own. The model that is best on those that it gets is not always the one that is best on the task.

    Args:
        routes: of the test samples, by the knowledge base from :func:`components.lifelong.learn.learn`.
        places: where the samples of each task are among them; those of ``shared`` are all.

    Returns:
        Places by task; of a task that gets no sample, those that are its own.
    """
    got: dict[str, list[int]] = {}
    for place, route in enumerate(routes):
        got.setdefault(route.member, []).append(place)
    return {name: own if name == SHARED else got.get(name, own) for name, own in places.items()}


def score_at(measured: Measurement[Any], places: Sequence[int]) -> float | None:
    """The main figure on some of the samples; None where there is nothing to measure."""
    if not places:
        return None
    samples = Manifest(measured.samples.table[list(places)], measured.samples.classes)
    try:
        part = measured.task.measure(samples, [measured.results[place] for place in places], measured.confidence)
    except NothingToMeasureError:
        return None
    return part.flat[measured.task.figures.main]


@dataclass(frozen=True)
class Served:
    """Whose model answers for a task.

    Attributes:
        member: the role of the model in the release.
        label: the model, as the matrix has it.
        why: in a few words.
    """

    member: str
    label: str
    why: str


def read_keep(conditions: Sequence[Any]) -> Condition | None:
    """What has to hold for a task to keep its own model; None for nothing.

    Raises:
        InputError: it is over something else than ``score``, ``gain`` and ``parent``.
    """
    if not conditions:
        return None
    keep = Condition.parse(conditions, "keep_conditions")
    verdict = keep.evaluate({"score": 0.5, "gain": 0.0, "parent": 0.5})
    if verdict.outcome is Outcome.ERROR:
        raise InputError(f"keep_conditions: {verdict.describe()}")
    return keep


def choose_models(
    plan: Plan,
    matrix: Matrix,
    *,
    keep: Condition | None,
    max_forgetting: float,
    relation: TaskRelation | None = None,
    unconverted: Mapping[str, str] | None = None,
) -> dict[str, Served]:
    """Choose the model of each task, and of ``shared``.

    A new model that lost more than ``max_forgetting`` on the task's test samples is replaced by the one before it. Then
    a task keeps a model of its own if the keep-if rule holds; else its parent answers.

    Args:
        plan: of the round.
        matrix: of all models, on the test samples that a model of each task would answer for
            (:func:`places_to_answer`); those of ``shared`` are all.
        keep: over ``score``, ``gain`` (over the parent) and ``parent``; None keeps all.
        max_forgetting: 0..1.
        relation: what finds a task's parent, unless it is merged into another; None for the shared model.
        unconverted: why a new model could not be converted for its chips, by its name; the matrix does not have it.
    """
    relation = relation or make(task_relations, "identity", {})
    current = {one.name: _new_or_before(one.name, matrix, max_forgetting) for one in plan.models}
    label, why = current[SHARED]
    served = {SHARED: Served(SHARED, label, why)}
    own = {name: found for name, found in current.items() if found[0]}
    for one in plan.models[1:]:
        scores = {name: matrix.scores[label].get(one.name, -1.0) for name, (label, _) in own.items()}
        parent = one.into if one.into in own else relation.parent(SHARED, _without(scores, one.name))
        label, why = current[one.name]
        lost = (unconverted or {}).get(one.name)
        why = f"{why}; the new one could not be converted: {lost}" if lost and label else why
        score = matrix.scores[label].get(one.name) if label else None
        if not label:
            reason = f"its model could not be converted: {lost}" if lost else one.why
        elif score is None:
            reason = "none of its test samples can be measured"
        else:
            values = {"score": score, "parent": scores[parent], "gain": score - scores[parent]}
            verdict = keep.evaluate(values) if keep else None
            if verdict is None or verdict.outcome is Outcome.MET:
                served[one.name] = Served(one.name, label, why)
                continue
            reason = verdict.describe()
        served[one.name] = Served(parent, own[parent][0], f"{parent} answers: {reason}")
    return served


def unless_shared_is_better(
    served: Mapping[str, Served], matrix: Matrix, together: Measurement[Any]
) -> Mapping[str, Served]:
    """The models that were chosen, or the shared model for every task where it alone has the better mean over tasks.

    Each model is best on the samples that it gets. Together they may still be worse than one: their confidences are not
    calibrated to each other, and where a router confuses tasks each gets images that it was not trained on.

    Args:
        served: from :func:`choose_models`.
        matrix: of all models, on the test samples of each task.
        together: what the knowledge base with these models finds in the test samples.
    """
    shared = served[SHARED]
    found = {task: score_at(together, where) for task, where in matrix.places.items() if task != SHARED}
    pairs = [
        (score, matrix.scores[shared.label][task])
        for task, score in found.items()
        if score is not None and task in matrix.scores[shared.label]
    ]
    if not pairs:
        return served
    all_models, alone = (statistics.fmean(scores) for scores in zip(*pairs, strict=True))
    if all_models >= alone:
        return served
    why = f"{SHARED} answers for all tasks: {alone:.3f} on average, the models of the tasks {all_models:.3f}"
    return {name: shared if name == SHARED else Served(SHARED, shared.label, why) for name in served}


def _without(scores: Mapping[str, float], name: str) -> dict[str, float]:
    return {one: score for one, score in scores.items() if one != name}


def _new_or_before(name: str, matrix: Matrix, max_forgetting: float) -> tuple[str, str]:
    """The label of a task's own model, and why it is that one; no label where there is none."""
    new, before = name in matrix.measured, BEFORE + name in matrix.measured
    if not (new or before):
        return "", ""
    if not new:
        return BEFORE + name, "kept as it was"
    if not before:
        return name, "new"
    now, then = matrix.scores[name].get(name), matrix.scores[BEFORE + name].get(name)
    if now is not None and then is not None and then - now > max_forgetting:
        return BEFORE + name, f"the one before answers: the new one lost {then - now:.3f}"
    return name, "updated"


def forgotten(row: RoundScores, known: Collection[str], max_forgetting: float) -> list[str]:
    """The tasks that a round forgot, one line each.

    Args:
        row: what the round measured.
        known: the tasks of the knowledge base before it.
        max_forgetting: how much a task may lose, 0..1.
    """
    both = sorted(row.before.keys() & row.scores.keys() & set(known))
    lost = {task: row.before[task] - row.scores[task] for task in both}
    return [f"{task} lost {loss:.3f}" for task, loss in lost.items() if loss > max_forgetting]
