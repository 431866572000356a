"""What becomes of unseen samples: whose model they go to, whether it answers, and what is looked at again later."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from pydantic import Field

from components.core.lifelong.plug_points import (
    ReRecognition,
    State,
    UnseenAllocation,
    UnseenPolicy,
    re_recognitions,
    unseen_allocations,
    unseen_policies,
)
from components.core.lifelong.samples import Floats, Task, distances, rounded


@unseen_allocations.register("shared")
class ToShared(UnseenAllocation):
    """All go to the shared model, which has learned from every task."""

    def allocate(self, features: Floats, state: State) -> list[Task]:
        """See the base class."""
        return [None] * len(features)


@unseen_allocations.register("nearest")
class ToNearest(UnseenAllocation):
    """Each goes to the task whose training images look most like it."""

    def fit(self, features: Floats, tasks: Sequence[Task]) -> State:
        """See the base class."""
        names = sorted({task for task in tasks if task is not None})
        owners = np.array([task or "" for task in tasks])
        return {"centres": {name: list(rounded(features[owners == name].mean(axis=0))) for name in names}}

    def allocate(self, features: Floats, state: State) -> list[Task]:
        """See the base class."""
        names = list(state["centres"])
        if not names:
            return [None] * len(features)
        nearest = distances(features, np.array(list(state["centres"].values()))).argmin(axis=1)
        return [names[one] for one in nearest]


@unseen_policies.register("fallback")
class Fallback(UnseenPolicy):
    """A model answers all the same."""


@unseen_policies.register("abstain")
class Abstain(UnseenPolicy):
    """There is no answer."""

    @property
    def answers(self) -> bool:
        """See the base class."""
        return False


@unseen_policies.register("alarm")
class Alarm(UnseenPolicy):
    """A model answers, and a warning goes to the log.

    Attributes:
        min_fraction: of the images of a look that must be unseen for one.
    """

    min_fraction: Annotated[float, Field(ge=0, le=1)] = 0.0

    def warns(self, unseen: int, images: int) -> bool:
        """See the base class."""
        return unseen > 0 and unseen >= self.min_fraction * images


@re_recognitions.register("score")
class ByScore(ReRecognition):
    """Known now is what the new knowledge base has a task for and scores well below its threshold.

    Attributes:
        margin: how far below, as a fraction of the threshold, so that what lies at it does not go to and fro.
    """

    margin: Annotated[float, Field(ge=0, lt=1)] = 0.1

    def known(self, scores: Floats, threshold: float) -> list[bool]:
        """See the base class."""
        return [bool(score <= (1 - self.margin) * threshold) for score in scores]


@re_recognitions.register("none")
class Never(ReRecognition):
    """What was unseen once stays unseen until it is labelled."""

    def known(self, scores: Floats, threshold: float) -> list[bool]:
        """See the base class."""
        return [False] * len(scores)
