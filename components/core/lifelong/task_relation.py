"""Whose model answers for a task that has no good one of its own: its parent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field

from components.core.lifelong.plug_points import TaskRelation, task_relations


@task_relations.register("identity")
class Identity(TaskRelation):
    """No task is related to another: the shared model is the parent of each."""

    def parent(self, shared: str, scores: Mapping[str, float]) -> str:
        """See the base class."""
        return shared


@task_relations.register("transfer")
class ByTransfer(TaskRelation):
    """The model that is best on the task's samples, whichever task it was trained for.

    Attributes:
        min_gain: by how much it must be better than the shared one.
    """

    min_gain: Annotated[float, Field(ge=0, le=1)] = 0.0

    def parent(self, shared: str, scores: Mapping[str, float]) -> str:
        """See the base class."""
        best = max(sorted(scores), key=lambda name: (scores[name], name == shared))
        return best if scores[best] - scores[shared] >= self.min_gain else shared
