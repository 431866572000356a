"""Which task's model a new sample goes to."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from components.core.lifelong.plug_points import State, TaskAllocation, task_allocations
from components.core.lifelong.samples import Projection, Samples, Task, distances, rounded


@task_allocations.register("definition")
class ByDefinition(TaskAllocation):
    """The rule that defined the tasks, which is all that is needed where it knows new samples too."""

    def allocate(self, samples: Samples, defined: Sequence[Task], state: State) -> list[Task]:
        """See the base class."""
        return list(defined)


@task_allocations.register("router")
class Router(TaskAllocation):
    """The task whose training images look most like the new one, for samples of which nothing else is known.

    It goes by what tells the tasks apart, the size of images among it, as cameras have sizes of their own.
    """

    def fit(self, samples: Samples, tasks: Sequence[Task]) -> State:
        """See the base class."""
        known = [place for place, task in enumerate(tasks) if task is not None]
        if not known:
            return {"projection": None, "centres": {}}
        features, owners = samples.features[known], np.array([tasks[place] for place in known])
        projection = Projection.between(features, owners.tolist())
        points = projection.apply(features)
        centres = {name: list(rounded(points[owners == name].mean(axis=0))) for name in np.unique(owners).tolist()}
        return {"projection": projection.model_dump(mode="json"), "centres": centres}

    def names(self, state: State) -> list[str]:
        """See the base class."""
        return list(state["centres"])

    def allocate(self, samples: Samples, defined: Sequence[Task], state: State) -> list[Task]:
        """See the base class."""
        names = self.names(state)
        if not names:
            return [None] * len(samples)
        points = Projection.model_validate(state["projection"]).apply(samples.features)
        nearest = distances(points, np.array(list(state["centres"].values()))).argmin(axis=1)
        return [names[one] for one in nearest]
