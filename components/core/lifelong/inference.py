"""Which models look at a sample whose task is known, and what becomes of their answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from components.core.detections import Detections
from components.core.lifelong.plug_points import (
    InferenceIntegration,
    TaskRemodeling,
    inference_integrations,
    task_remodelings,
)
from components.core.runtimes.decode import suppress


@task_remodelings.register("task")
class OfTask(TaskRemodeling):
    """The model of the task alone."""

    def models(self, members: Sequence[str], shared: str) -> list[tuple[str, ...]]:
        """See the base class."""
        return [(member,) for member in members]


@task_remodelings.register("with-shared")
class WithShared(TaskRemodeling):
    """The model of the task and the shared one, which knows the classes of all tasks."""

    def models(self, members: Sequence[str], shared: str) -> list[tuple[str, ...]]:
        """See the base class."""
        return [(member,) if member == shared else (member, shared) for member in members]


@inference_integrations.register("first")
class First(InferenceIntegration):
    """The answer of the first model, that of the task."""

    def integrate(self, answers: Sequence[Any]) -> Any:
        """See the base class."""
        return answers[0]


@inference_integrations.register("merge")
class Merge(InferenceIntegration):
    """The boxes of all models; of those of a class that overlap the one with the best score.

    Attributes:
        overlap: (IoU) above which two boxes of a class are of the same object.
    """

    kinds: ClassVar[tuple[str, ...]] = ("detection",)

    overlap: Annotated[float, Field(gt=0, le=1)] = 0.5

    def integrate(self, answers: Sequence[Detections]) -> Detections:
        """See the base class."""
        every = Detections.joined(answers)
        ranked = every[np.argsort(-every.scores, kind="stable")]
        return ranked[suppress(ranked, self.overlap)]
