"""What of lifelong learning is chosen by name and parameters; Sedna's names where it has one.

Each plug-in is a pydantic model: its fields are its parameters. What it learns from samples is its *state*, any JSON,
which the release keeps and which it is given back in the next round and at the edge.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from components.core.errors import InputError, one_line
from components.core.lifelong.samples import Floats, Samples, Task
from components.core.parameters import LifelongSettings
from components.core.plugins import Registry

State = dict[str, Any]


class PlugIn(BaseModel):
    """An algorithm with its parameters."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class TaskDefinition(PlugIn, ABC):
    """Says which task a sample belongs to."""

    def fit(self, samples: Samples, state: State) -> State:
        """Learn from the labelled samples of all rounds.

        Args:
            samples: to learn from.
            state: of the round before; empty in the first.
        """
        return state

    @abstractmethod
    def assign(self, samples: Samples, state: State) -> list[Task]:
        """The task of each sample; None for a sample of no task."""


class TaskAllocation(PlugIn, ABC):
    """Says which task's model a new sample goes to."""

    def fit(self, samples: Samples, tasks: Sequence[Task]) -> State:
        """Learn from the samples that models are trained on, and the tasks that they belong to."""
        return {}

    def names(self, state: State) -> list[str]:
        """The tasks that it has learned to find, from ``fit``; none where it has learned nothing of its own."""
        return []

    @abstractmethod
    def allocate(self, samples: Samples, defined: Sequence[Task], state: State) -> list[Task]:
        """The task of each sample; None for none.

        Args:
            samples: new ones.
            defined: what the task definition says of them.
            state: from ``fit``.
        """


class UnseenDetection(PlugIn, ABC):
    """Says how little a sample is like what models were trained on."""

    @abstractmethod
    def fit(self, features: Floats) -> State:
        """Learn what training samples look like; features (N, D), N >= 1."""

    @abstractmethod
    def score(self, features: Floats, state: State) -> Floats:
        """The score of each sample, (N,), the higher the less like them; features (N, D)."""


_HERE = "components.core.lifelong"
task_definitions: Registry[type[TaskDefinition]] = Registry("task definition", [f"{_HERE}.task_definition"])
task_allocations: Registry[type[TaskAllocation]] = Registry("task allocation", [f"{_HERE}.task_allocation"])
unseen_detections: Registry[type[UnseenDetection]] = Registry("unseen detection", [f"{_HERE}.unseen_detection"])


def check_plug_ins(chosen: LifelongSettings) -> None:
    """See that the plug-ins that parameters name are there.

    Raises:
        InputError: no such name or parameter, or a value that cannot be.
    """
    make(task_definitions, chosen.task_definition, chosen.task_parameters)
    make(task_allocations, chosen.task_allocation, {})
    make(unseen_detections, chosen.unseen_detection, {})


P = TypeVar("P", bound=PlugIn)


def make(registry: Registry[type[P]], name: str, parameters: Mapping[str, Any]) -> P:
    """Make the plug-in of a name.

    Raises:
        InputError: no such name or parameter, or a value that cannot be.
    """
    kind = registry.get(name)
    try:
        return kind(**parameters)
    except ValidationError as error:
        known = ", ".join(kind.model_fields) or "none"
        raise InputError(f"{registry.kind} {name!r}: {one_line(error)}; its parameters are {known}") from error
