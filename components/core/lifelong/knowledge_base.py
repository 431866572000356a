"""The knowledge base: a release with one member for each task, and the data that says which sample goes where.

It has nothing of its own in the job's state: it is committed, rolled out and rolled back as every release is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, Self, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from components.core.errors import InputError, one_line
from components.core.lifelong.plug_points import (
    State,
    UnseenPolicy,
    inference_integrations,
    make,
    task_allocations,
    task_definitions,
    task_remodelings,
    unseen_allocations,
    unseen_detections,
    unseen_policies,
)
from components.core.lifelong.samples import Floats, Projection, Samples, Task
from components.core.release import Release

KIND: Literal["lifelong"] = "lifelong"  # what the routing data of a knowledge base says of itself
SHARED = "shared"  # the member that is trained on the samples of all tasks

Result = TypeVar("Result")


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Chosen(_Record):
    """A plug-in by its name, with its parameters and what it has learned."""

    name: str
    parameters: dict[str, Any] = {}
    state: State = {}

    def is_of(self, name: str, parameters: Mapping[str, Any]) -> bool:
        """Whether it is the same plug-in with the same parameters, so that what it has learned still holds."""
        return self.name == name and self.parameters == dict(parameters)


class TaskEntry(_Record):
    """What the knowledge base has of a task.

    Attributes:
        member: whose model answers for it: its own, ``shared``, or that of another task.
        why: in a few words.
        first_round: that brought it.
        samples: labelled training samples so far.
    """

    member: str
    why: str
    first_round: Annotated[int, Field(ge=1)]
    samples: Annotated[int, Field(ge=0)]


class RoundScores(_Record):
    """What a round measured, on the test samples that there were then.

    Attributes:
        round: its number.
        scores: main figure of the task's kind, by task, of the knowledge base that the round made.
        before: the same of the one before it, which does not know the tasks that are new.
    """

    round: Annotated[int, Field(ge=1)]
    scores: dict[str, float]
    before: dict[str, float] = {}


class KnowledgeBase(_Record):
    """The routing data of a release of lifelong learning.

    Attributes:
        kind: says that it is one.
        definition: what divides samples into tasks.
        allocation: what finds the task of a new sample.
        unseen: what says whether it is like the training samples.
        projection: of the features that ``unseen`` looks at.
        threshold: score from which a sample is unseen.
        unseen_allocation: what finds the model of an unseen sample.
        remodeling: what says which models look at a sample.
        integration: what makes one answer of theirs.
        policy: name of what becomes of an unseen sample: a model answers (``fallback``), and says so loudly
            (``alarm``), or there is no answer (``abstain``); or a plug-in.
        policy_parameters: of it.
        tasks: by name.
        shared_round: whose samples the shared model learned last; 0 where that is not known.
        rounds: what the rounds measured that made this one, the oldest first, as far as figures need it; see
            :func:`needed_rounds`.
    """

    kind: Literal["lifelong"] = KIND
    definition: Chosen
    allocation: Chosen
    unseen: Chosen
    projection: Projection
    threshold: float
    unseen_allocation: Chosen = Chosen(name="shared")
    remodeling: Chosen = Chosen(name="task")
    integration: Chosen = Chosen(name="first")
    policy: str
    policy_parameters: dict[str, Any] = {}
    tasks: dict[str, TaskEntry]
    shared_round: Annotated[int, Field(ge=0)] = 0
    rounds: tuple[RoundScores, ...] = ()

    @classmethod
    def of(cls, release: Release, version: str) -> Self:
        """The knowledge base of a release.

        Args:
            release: of the job.
            version: its name, for the message.

        Raises:
            InputError: it is a release of something else, or a task has a member that it lacks.
        """
        try:
            base = cls.model_validate(release.routing)
        except ValidationError as error:
            raise InputError(
                f"{version} is not a release of lifelong-learning ({one_line(error)}): use another job_root"
            ) from error
        lost = sorted({SHARED, *(entry.member for entry in base.tasks.values())} - release.members.keys())
        if lost:
            raise InputError(f"{version} has no member {', '.join(lost)}, which its tasks name: roll back to another")
        return base

    def check_allocation(self) -> None:
        """See that it knows every task that it may find for a sample.

        Raises:
            InputError: it does not, or a plug-in that it names is not there.
        """
        allocation = make(task_allocations, self.allocation.name, self.allocation.parameters)
        lost = sorted(set(allocation.names(self.allocation.state)) - self.tasks.keys())
        if lost:
            raise InputError(f"{self.allocation.name} knows task {', '.join(lost)}, which the knowledge base does not")

    def routes(self, samples: Samples) -> list[Route]:
        """Where each sample goes, in the order of the samples.

        Raises:
            InputError: a plug-in is not there, or cannot use what it has learned.
        """
        definition = make(task_definitions, self.definition.name, self.definition.parameters)
        allocation = make(task_allocations, self.allocation.name, self.allocation.parameters)
        unseen = make(unseen_detections, self.unseen.name, self.unseen.parameters)
        other = make(unseen_allocations, self.unseen_allocation.name, self.unseen_allocation.parameters)
        try:
            defined = definition.assign(samples, self.definition.state)
            tasks = allocation.allocate(samples, defined, self.allocation.state)
            features = self.projection.apply(samples.features)
            scores = [float(score) for score in unseen.score(features, self.unseen.state)]
            likely = other.allocate(features, self.unseen_allocation.state)
            routes = [self._route(*one) for one in zip(tasks, scores, likely, strict=True)]
            return self._remodelled(routes)
        except (KeyError, TypeError, ValueError) as error:
            used = ", ".join(
                one.name
                for one in (self.definition, self.allocation, self.unseen, self.unseen_allocation, self.remodeling)
            )
            raise InputError(
                f"the routing data of the knowledge base are damaged, or not those of its plug-ins ({used}): "
                f"{type(error).__name__}: {' '.join(str(error).split())[:200]}; roll back to another release"
            ) from error

    def integrated(self, answers: Sequence[Any]) -> Any:
        """One answer of those of the models that looked at a sample.

        Args:
            answers: in the order of ``Route.models``, in the same class numbers.
        """
        if len(answers) == 1:
            return answers[0]
        return make(inference_integrations, self.integration.name, self.integration.parameters).integrate(answers)

    def handling(self) -> UnseenPolicy:
        """What becomes of an unseen sample."""
        return make(unseen_policies, self.policy, self.policy_parameters)

    def _remodelled(self, routes: Sequence[Route]) -> list[Route]:
        """The routes with the models that look at each sample.

        Raises:
            ValueError: not one at least for each sample, or one that is not there.
        """
        remodeling = make(task_remodelings, self.remodeling.name, self.remodeling.parameters)
        models = remodeling.models([route.member for route in routes], SHARED)
        there = {SHARED, *(entry.member for entry in self.tasks.values())}
        if lost := sorted({name for names in models for name in names} - there):
            raise ValueError(f"task remodeling names the model {lost[0]}, which is not there")
        if not all(models):
            raise ValueError("task remodeling names no model for a sample")
        return [replace(route, member=names[0], others=tuple(names[1:]))
                for route, names in zip(routes, models, strict=True)]  # fmt: skip

    def _route(self, task: Task, score: float, likely: Task) -> Route:
        other = self.tasks[likely].member if likely in self.tasks else SHARED
        if task is None or task not in self.tasks:
            return Route(None, other, score, f"task {task} is not known" if task else "it belongs to no task")
        if score > self.threshold:
            return Route(None, other, score, f"score {score:.4g} is above {self.threshold:.4g}")
        return Route(task, self.tasks[task].member, score)


@dataclass(frozen=True)
class Route:
    """Where a sample goes.

    Attributes:
        task: whose it is; None where it is unseen.
        member: whose model answers, if one does.
        score: of unseen detection.
        unseen: why it is unseen; empty where it is not.
        others: whose models look at it, too.
    """

    task: Task
    member: str
    score: float
    unseen: str = ""
    others: tuple[str, ...] = ()

    @property
    def models(self) -> tuple[str, ...]:
        """Whose models look at it."""
        return (self.member, *self.others)


def ask(
    models: Sequence[Sequence[str]], answers: Callable[[str, Sequence[int]], Sequence[Result]]
) -> list[list[Result]]:
    """Ask each model once for all its samples, and put the answers into the order of the samples.

    Args:
        models: whose models look at each sample.
        answers: of a member, for the samples at some places.

    Returns:
        The answers for each sample, in the order in which its models are named.
    """
    found: dict[tuple[int, str], Result] = {}
    for member in sorted({name for names in models for name in names}):
        places = [place for place, names in enumerate(models) if member in names]
        found.update(zip([(place, member) for place in places], answers(member, places), strict=True))
    return [[found[place, name] for name in names] for place, names in enumerate(models)]


def needed_rounds(rounds: Sequence[RoundScores], tasks: Mapping[str, TaskEntry]) -> tuple[RoundScores, ...]:
    """What later figures need of earlier rounds, so that a knowledge base does not grow with each round.

    Of each task these are the scores when it was learned, those just before, the best, and the last: no more than four
    a task. The figures of :func:`components.core.metrics.continual.continual_metrics` over these and the next round
    are those over all rounds.
    """
    table, learned = score_matrix(rounds, tasks)
    names = _measured_tasks(rounds, tasks)
    last = len(rounds) - 1
    scores: list[dict[str, float]] = [{} for _ in rounds]
    before: list[dict[str, float]] = [{} for _ in rounds]
    for column, (name, first) in enumerate(zip(names, learned, strict=True)):
        of_task = table[first:, column]
        for row in {first, first + int(np.nanargmax(of_task)), last}:
            if name in rounds[row].scores:
                scores[row][name] = rounds[row].scores[name]
        if name in rounds[first].before:
            before[first][name] = rounds[first].before[name]
    return tuple(
        RoundScores(round=one.round, scores=of, before=then)
        for row, (one, of, then) in enumerate(zip(rounds, scores, before, strict=True))
        if of or row == 0  # the first one says that there was a round before a task
    )


def score_matrix(rounds: Sequence[RoundScores], tasks: Mapping[str, TaskEntry]) -> tuple[Floats, list[int]]:
    """The scores of tasks (columns) after rounds (rows), and the row in which each task was learned.

    Tasks that no round has measured are left out. Before its first round a task has the score of the knowledge base
    that did not know it yet.
    """
    numbers = [one.round for one in rounds]
    names = _measured_tasks(rounds, tasks)
    table = np.full((len(rounds), len(names)), np.nan)
    learned = []
    for column, name in enumerate(names):
        rows = [row for row, one in enumerate(rounds) if name in one.scores]
        learned.append(next((r for r in rows if numbers[r] >= tasks[name].first_round), rows[0]))
        for row in rows:
            table[row, column] = rounds[row].scores[name]
        first = learned[-1]
        if first and name in rounds[first].before:
            table[first - 1, column] = rounds[first].before[name]
    return table, learned


def _measured_tasks(rounds: Sequence[RoundScores], tasks: Mapping[str, TaskEntry]) -> list[str]:
    return [name for name in tasks if any(name in one.scores for one in rounds)]
