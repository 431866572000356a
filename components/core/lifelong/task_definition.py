"""How samples are divided into tasks: by what is known of them, by their origin, or by what they look like."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import AfterValidator, Field, model_validator

from components.core.lifelong.plug_points import State, TaskDefinition, task_definitions
from components.core.lifelong.samples import Floats, Projection, Samples, Task, distances, rounded

_LOOKED_AT = 500  # of images that look like no known ones, when these are compared with each other
_ROOM = 1.5  # a cluster reaches this much farther than the samples that made it


def task_name(*values: object) -> str:
    """One value, or several, as the name of a task; where letters must be replaced, a digest keeps names apart."""
    texts = [str(value) for value in values]
    text = "_".join(texts)
    parts = texts if len(texts) == 1 else [one.replace("_", "-") for one in texts]
    plain = re.sub(r"[^A-Za-z0-9._-]", "-", "_".join(parts)).lstrip("._-")[:40]
    if plain == text and plain != "shared":
        return plain
    return f"{plain or 'task'}-{hashlib.sha256('/'.join(texts).encode()).hexdigest()[:6]}"


def _groups(pattern: str) -> str:
    try:
        compiled = re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"not a regular expression: {error}") from error
    if compiled.groups != max(len(compiled.groupindex), 1):
        raise ValueError("must have exactly one group, in parentheses, or named groups alone, (?P<name>...)")
    return pattern


@task_definitions.register("TaskDefinitionByDataAttr")
class TaskDefinitionByDataAttr(TaskDefinition):
    """A task for each value that a pattern finds in a column of the manifest; no task where it finds none.

    With named groups a sample has several attributes, and each combination of their values is a task.

    Attributes:
        column: ``source`` (the path in the feed), or ``group``.
        pattern: regular expression with one group, or with named ones; by default the first folder of a path.
        attribute: the named groups that make a task; all where it is empty.
    """

    column: Literal["source", "group"] = "source"
    pattern: Annotated[str, AfterValidator(_groups)] = r"^([^/]+)/"
    attribute: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _known_attributes(self) -> Self:
        there = re.compile(self.pattern).groupindex
        if unknown := [name for name in self.attribute if name not in there]:
            raise ValueError(
                f"attribute {', '.join(unknown)}: no group of the pattern has this name; "
                f"named groups are {', '.join(there) or 'none'}"
            )
        return self

    def assign(self, samples: Samples, state: State) -> list[Task]:
        """See the base class."""
        groups = self.attribute or tuple(re.compile(self.pattern).groupindex) or (1,)
        found = [re.search(self.pattern, value) for value in samples.columns[self.column]]
        values = [[match[group] for group in groups] if match else [""] for match in found]
        return [task_name(*of_sample) if all(of_sample) else None for of_sample in values]


@task_definitions.register("TaskDefinitionByOrigin")
class TaskDefinitionByOrigin(TaskDefinition):
    """Two tasks: samples whose path contains a word, such as the city of real images, and all others.

    Attributes:
        attribute: the names of both tasks.
        city: the word.
    """

    attribute: Annotated[str, Field(pattern=r"^[^,]+,[^,]+$")] = "real, sim"
    city: Annotated[str, Field(min_length=1)] = "berlin"

    def assign(self, samples: Samples, state: State) -> list[Task]:
        """See the base class."""
        first, second = (task_name(name.strip()) for name in self.attribute.split(","))
        return [first if self.city in source else second for source in samples.columns["source"]]


@task_definitions.register("TaskDefinitionByCluster")
class TaskDefinitionByCluster(TaskDefinition):
    """A task for each group of images that look alike (k-means); later images that look like none form a new one.

    Attributes:
        clusters: how many groups the first round makes.
        min_cluster: how many images a later group needs.
        seed: of the first centres.
    """

    clusters: Annotated[int, Field(ge=1, le=100)] = 2
    min_cluster: Annotated[int, Field(ge=2)] = 10
    seed: Annotated[int, Field(ge=0)] = 0

    def fit(self, samples: Samples, state: State) -> State:
        """See the base class."""
        if not state:
            projection = Projection.fit(samples.features)
            points = projection.apply(samples.features)
            centres = _k_means(points, min(self.clusters, len(points)), self.seed)
            farthest = distances(points, centres).min(axis=1).max()
            return {
                "projection": projection.model_dump(mode="json"),
                "centres": [list(rounded(centre)) for centre in centres],
                "radius": max(round(_ROOM * float(farthest), 5), 1e-5),
            }
        points = Projection.model_validate(state["projection"]).apply(samples.features)
        known, radius = state["centres"], state["radius"]
        strangers = _farther(points, known, radius)
        while len(group := _most_alike(strangers, radius)) >= self.min_cluster:
            grown = [*known, list(rounded(group.mean(axis=0)))]
            left = _farther(strangers, grown, radius)
            if len(left) == len(strangers):  # the radius is below what rounding moves a centre by
                break
            known, strangers = grown, left
        return {**state, "centres": known}

    def assign(self, samples: Samples, state: State) -> list[Task]:
        """See the base class."""
        points = Projection.model_validate(state["projection"]).apply(samples.features)
        away = distances(points, state["centres"])
        nearest = away.argmin(axis=1)
        near = away[np.arange(len(points)), nearest] <= state["radius"]
        return [f"cluster-{one}" if is_near else None for one, is_near in zip(nearest, near, strict=True)]


def _farther(points: Floats, centres: Sequence[Sequence[float]], radius: float) -> Floats:
    """Those points that lie farther than a radius from every centre."""
    far: Floats = points[distances(points, centres).min(axis=1) > radius]
    return far


def _most_alike(points: Floats, radius: float) -> Floats:
    """Those points around one of them, within a radius, where they are most; of very many only some are looked at."""
    some = points[:: max(len(points) // _LOOKED_AT, 1)]
    near = distances(some, some) <= radius
    return some[near[near.sum(axis=1).argmax()]] if len(some) else some


def _k_means(points: Floats, clusters: int, seed: int) -> Floats:
    """Centres (clusters, D) of points (N, D), by Lloyd's algorithm from points that lie far apart."""
    chosen = [int(np.random.default_rng(seed).integers(len(points)))]
    while len(chosen) < clusters:
        chosen.append(int(distances(points, points[chosen]).min(axis=1).argmax()))
    centres = points[chosen]
    for _ in range(100):
        nearest = distances(points, centres).argmin(axis=1)
        moved = np.array([points[nearest == one].mean(axis=0) if (nearest == one).any() else centres[one]
                          for one in range(clusters)])  # fmt: skip
        if np.allclose(moved, centres):
            break
        centres = moved
    return centres
