"""How a task's model learns what is new: trained on, trained anew, not at all, or left to another task's."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, ClassVar

from pydantic import Field

from components.core.lifelong.plug_points import Decision, Situation, TaskUpdate, task_updates


class _SparingShared(TaskUpdate):
    """Leaves the shared model as it is while the models of tasks answer for what is new.

    It is what workers would have to fetch after every round, and it answers only where no task's own model does.

    Attributes:
        max_missed: fraction of all training samples that the shared model may not have learned yet.
    """

    max_missed: Annotated[float, Field(ge=0, le=1)] = 0.2

    def decide(self, task: Situation) -> Decision:
        """See the base class."""
        if task.is_shared and task.has_model and not task.unanswered and task.new < self.max_missed * task.samples:
            why = f"it has missed {task.new} of {task.samples} training samples, all of tasks with a model of their own"
            return Decision("keep", why)
        return self.update(task)

    @abstractmethod
    def update(self, task: Situation) -> Decision:
        """What is done otherwise."""


@task_updates.register("finetune")
class ByFinetune(_SparingShared):
    """A model is trained on from where it is, with the new samples and a replay of known ones."""

    def update(self, task: Situation) -> Decision:
        """See the base class."""
        return Decision("finetune" if task.has_model else "new", f"{task.new} new training samples")


@task_updates.register("retrain")
class ByRetraining(_SparingShared):
    """A model is trained anew, from the initial model and on all samples of the task."""

    def update(self, task: Situation) -> Decision:
        """See the base class."""
        return Decision("retrain" if task.has_model else "new", f"{task.new} new training samples")


@task_updates.register("gain")
class ByGain(_SparingShared):
    """As little as what was measured asks for.

    The models that there are look at the new training samples of the task before anything is trained. A task's own
    model stays as it is while it is as good on them as it was on the test samples of the round before, is trained on
    if it is worse, and is trained anew if it is much worse. A task without a model is merged with another if that
    one's model is as good on its samples as on its own; else it gets a model.

    Attributes:
        max_drop: how much worse a model may be on the new samples to be left alone.
        much: how much worse it is that is trained anew.
    """

    measures: ClassVar[bool] = True

    max_drop: Annotated[float, Field(ge=0, le=1)] = 0.02
    much: Annotated[float, Field(ge=0, le=1)] = 0.3

    def update(self, task: Situation) -> Decision:
        """See the base class."""
        if task.is_shared:
            return Decision("finetune" if task.has_model else "new", f"{task.new} new training samples")
        drops = {name: task.before[name] - score for name, score in task.scores.items() if name in task.before}
        if not task.has_model:
            near = min(sorted(drops), key=lambda name: drops[name], default="")
            if near and drops[near] <= self.max_drop:
                why = f"the model of {near} has {task.scores[near]:.3f} on the new samples, {_on(task, near)} its own"
                return Decision("merge", why, near)
            return Decision("new", f"{task.new} new training samples")
        if task.name not in drops:
            return Decision("finetune", f"{task.new} new training samples, which cannot be measured")
        drop = drops[task.name]
        why = (
            f"{task.scores[task.name]:.3f} on {task.new} new training samples, {_on(task, task.name)} the test samples"
        )
        if drop <= self.max_drop:
            return Decision("keep", why)
        return Decision("retrain" if drop > self.much else "finetune", why)


def _on(task: Situation, name: str) -> str:
    return f"{task.before[name]:.3f} on"
