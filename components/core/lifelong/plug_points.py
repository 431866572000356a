"""What of lifelong learning is chosen by name and parameters; Sedna's names where it has one.

Each plug-in is a pydantic model: its fields are its parameters. What it learns from samples is its *state*, any JSON,
which the release keeps and which it is given back in the next round and at the edge.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from components.core.errors import InputError, one_line
from components.core.lifelong.samples import Floats, Samples, Task
from components.core.plugins import Registry

if TYPE_CHECKING:  # the table of parameters is not in the images of the edge
    from components.core.parameters import LifelongSettings

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
    def fit(self, features: Floats, tasks: Sequence[Task]) -> State:
        """Learn what training samples look like; features (N, D), N >= 1, and the task of each."""

    @abstractmethod
    def score(self, features: Floats, state: State) -> Floats:
        """The score of each sample, (N,), the higher the less like them; features (N, D)."""


@dataclass(frozen=True)
class Situation:
    """What is known of a task's model when a round begins.

    Attributes:
        name: of the task.
        is_shared: it is the model that learns from all tasks.
        has_model: the knowledge base has one.
        new: new training samples, at least one; of the shared model those that came since it was trained.
        scores: the main figure of each model of the knowledge base on these, by its member; empty unless the plug-in
            measures, or where there is nothing to measure.
        before: the main figure of each member's own task in the round before.
        unanswered: how many of the new ones no task's own model is there for; only of the shared model.
        samples: all its training samples.
    """

    name: str
    is_shared: bool
    has_model: bool
    new: int
    scores: Mapping[str, float] = field(default_factory=dict)
    before: Mapping[str, float] = field(default_factory=dict)
    unanswered: int = 0
    samples: int = 0


@dataclass(frozen=True)
class Decision:
    """What is done for a task's model.

    Attributes:
        action: ``new`` and ``retrain`` start from the initial model, ``finetune`` from the task's own; ``keep`` leaves
            it as it is; ``merge`` leaves the task to another one's.
        why: in a few words.
        into: whose model answers, where the action is ``merge``.
    """

    action: Literal["new", "finetune", "retrain", "keep", "merge"]
    why: str
    into: str = ""


class TaskUpdate(PlugIn, ABC):
    """Says how a task's model learns from new samples.

    Attributes:
        measures: it decides by what the models that there are score on the new samples, which costs their inference.
    """

    measures: ClassVar[bool] = False

    @abstractmethod
    def decide(self, task: Situation) -> Decision:
        """What is done; ``new`` and ``merge`` only for a task without a model, the other three only for one with it."""


class TaskRelation(PlugIn, ABC):
    """Says which task is another's parent: the one whose model answers where it has no good one of its own."""

    @abstractmethod
    def parent(self, shared: str, scores: Mapping[str, float]) -> str:
        """The name of the parent's model.

        Args:
            shared: name of the shared model, which is among them.
            scores: on the task's samples, by model; -1 where there is nothing to measure.
        """


class UnseenAllocation(PlugIn, ABC):
    """Says whose model an unseen sample goes to."""

    def fit(self, features: Floats, tasks: Sequence[Task]) -> State:
        """Learn what training samples look like; features (N, D), N >= 1, and the task of each."""
        return {}

    @abstractmethod
    def allocate(self, features: Floats, state: State) -> list[Task]:
        """The task whose model each sample goes to, features (N, D); None for the shared one."""


class TaskRemodeling(PlugIn, ABC):
    """Says which models look at a sample, once it is known whose answers for its task."""

    @abstractmethod
    def models(self, members: Sequence[str], shared: str) -> list[tuple[str, ...]]:
        """The models that look at each sample, at least one, in the order of the samples.

        Args:
            members: whose model answers for the task of each sample, or for an unseen one.
            shared: name of the shared model.
        """


class InferenceIntegration(PlugIn, ABC):
    """Makes one answer for a sample of those of the models that looked at it, where these are several.

    Attributes:
        kinds: of task that it can do this for; empty for any.
    """

    kinds: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def integrate(self, answers: Sequence[Any]) -> Any:
        """The answer for one sample; samples keep their order whatever it does.

        Args:
            answers: in the order of the models that task remodeling names, at least two: boxes as
                :class:`components.core.detections.Detections`, or classes of pixels, (H, W) uint8. Class numbers mean
                the same in all.
        """


class UnseenPolicy(PlugIn):
    """Says what becomes of an unseen sample."""

    @property
    def answers(self) -> bool:
        """Whether a model answers for it."""
        return True

    def warns(self, unseen: int, images: int) -> bool:
        """Whether a warning is due when so many of so many images are unseen."""
        return False


class ReRecognition(PlugIn, ABC):
    """Says which samples that were unseen once are known to a knowledge base that has learned since."""

    @abstractmethod
    def known(self, scores: Floats, threshold: float) -> list[bool]:
        """Whether each is known now.

        Args:
            scores: (N,) of unseen detection, of samples whose task is known.
            threshold: from which it calls a sample unseen.
        """


_HERE = "components.core.lifelong"
task_definitions: Registry[type[TaskDefinition]] = Registry("task definition", [f"{_HERE}.task_definition"])
task_relations: Registry[type[TaskRelation]] = Registry("task relation", [f"{_HERE}.task_relation"])
task_updates: Registry[type[TaskUpdate]] = Registry("task update", [f"{_HERE}.task_update"])
task_allocations: Registry[type[TaskAllocation]] = Registry("task allocation", [f"{_HERE}.task_allocation"])
task_remodelings: Registry[type[TaskRemodeling]] = Registry("task remodeling", [f"{_HERE}.inference"])
inference_integrations: Registry[type[InferenceIntegration]] = Registry("inference integration", [f"{_HERE}.inference"])
unseen_detections: Registry[type[UnseenDetection]] = Registry("unseen detection", [f"{_HERE}.unseen_detection"])
unseen_allocations: Registry[type[UnseenAllocation]] = Registry("unseen allocation", [f"{_HERE}.unseen_handling"])
unseen_policies: Registry[type[UnseenPolicy]] = Registry("unseen policy", [f"{_HERE}.unseen_handling"])
re_recognitions: Registry[type[ReRecognition]] = Registry("re-recognition", [f"{_HERE}.unseen_handling"])

# Every plug point, by the parameter that names its plug-in.
PLUG_POINTS: dict[str, Registry[Any]] = {
    "task_definition": task_definitions,
    "task_relation": task_relations,
    "task_update": task_updates,
    "task_allocation": task_allocations,
    "task_remodeling": task_remodelings,
    "inference_integration": inference_integrations,
    "unseen_detection": unseen_detections,
    "unseen_allocation": unseen_allocations,
    "unseen_policy": unseen_policies,
    "re_recognition": re_recognitions,
}


def parameters_of(chosen: LifelongSettings, point: str) -> dict[str, Any]:
    """The parameters of the plug-in of a plug point."""
    if point == "task_definition":
        return chosen.task_parameters
    return dict(chosen.plug_in_parameters.get(point, {}))


def check_plug_ins(chosen: LifelongSettings, kind: str = "") -> None:
    """See that the plug-ins that parameters name are there.

    Args:
        chosen: parameters.
        kind: of task, such as ``detection``; empty where it is not known.

    Raises:
        InputError: no such plug point, name or parameter, or a value that cannot be; every problem is named.
    """
    others = [point for point in PLUG_POINTS if point != "task_definition"]
    found = [
        f"plug_in_parameters: no plug point {point!r}: choose from {', '.join(others)}"
        for point in chosen.plug_in_parameters
        if point not in others
    ]
    for point, registry in PLUG_POINTS.items():
        name = getattr(chosen, point)
        try:
            plug_in = make(registry, name, parameters_of(chosen, point))
            if isinstance(plug_in, InferenceIntegration) and kind and kind not in (plug_in.kinds or (kind,)):
                found.append(f"{point}={name} is for {' and '.join(plug_in.kinds)}, but the estimator is for {kind}")
        except InputError as error:
            found.append(str(error))
    if found:
        raise InputError("; ".join(found))


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
