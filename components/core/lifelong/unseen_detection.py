"""How little a sample is like what models were trained on; a threshold on the score makes it unseen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

import numpy as np
from pydantic import Field

from components.core.lifelong.plug_points import State, UnseenDetection, unseen_detections
from components.core.lifelong.samples import Floats, Task, distances, drawn, rounded


@unseen_detections.register("knn")
class Neighbours(UnseenDetection):
    """The mean distance to the nearest training samples (Sun et al., ICML 2022).

    Attributes:
        neighbours: how many.
        references: how many training samples are kept to compare with, evenly drawn; of a rare task at least twenty.
    """

    neighbours: Annotated[int, Field(ge=1)] = 3
    references: Annotated[int, Field(ge=1, le=2000)] = 256

    def fit(self, features: Floats, tasks: Sequence[Task]) -> State:
        """See the base class."""
        return {"references": [list(rounded(features[place])) for place in drawn(tasks, self.references)]}

    def score(self, features: Floats, state: State) -> Floats:
        """See the base class."""
        away = np.sort(distances(features, state["references"]), axis=1)
        found: Floats = away[:, : self.neighbours].mean(axis=1)
        return found


@unseen_detections.register("mahalanobis")
class Mahalanobis(UnseenDetection):
    """The distance to the mean of the training samples, in units of how they vary (Lee et al., NeurIPS 2018)."""

    def fit(self, features: Floats, tasks: Sequence[Task]) -> State:
        """See the base class."""
        mean = features.mean(axis=0)
        return {"mean": list(rounded(mean)), "precision": _precision(features - mean)}

    def score(self, features: Floats, state: State) -> Floats:
        """See the base class."""
        return np.sqrt(_squared(features, state["mean"], state["precision"]))


@unseen_detections.register("energy")
class Energy(UnseenDetection):
    """The free energy of a classifier of tasks (Liu et al., NeurIPS 2020, equation 4, temperature 1).

    The logit of a task is minus half the squared distance to the mean of its training samples, in units of how samples
    vary within their tasks (linear discriminant analysis, all tasks alike probable), so that no score is below 0.
    Models of detection and segmentation have no logits of an image as a whole, and those of two tasks' models could
    not be compared.
    """

    def fit(self, features: Floats, tasks: Sequence[Task]) -> State:
        """See the base class."""
        names = sorted({task or "" for task in tasks})
        numbers = np.array([names.index(task or "") for task in tasks])
        means = np.array([features[numbers == number].mean(axis=0) for number in range(len(names))])
        return {"means": [list(rounded(mean)) for mean in means], "precision": _precision(features - means[numbers])}

    def score(self, features: Floats, state: State) -> Floats:
        """See the base class."""
        logits = -0.5 * np.stack([_squared(features, mean, state["precision"]) for mean in state["means"]], axis=1)
        highest = logits.max(axis=1)
        found: Floats = -(highest + np.log(np.exp(logits - highest[:, None]).mean(axis=1)))
        return found


@unseen_detections.register("TaskAttr")
class ByTask(UnseenDetection):
    """What looks different is no reason: only samples of no known task are unseen."""

    def fit(self, features: Floats, tasks: Sequence[Task]) -> State:
        """See the base class."""
        return {}

    def score(self, features: Floats, state: State) -> Floats:
        """See the base class."""
        return np.zeros(len(features))


def _precision(centred: Floats) -> list[list[float]]:
    """The inverse of a covariance that is never singular; (N, D) samples minus their mean."""
    covariance = centred.T @ centred / len(centred) + 1e-4 * np.eye(centred.shape[1])
    return [list(rounded(row)) for row in np.linalg.inv(covariance)]


def _squared(features: Floats, mean: Sequence[float], precision: Sequence[Sequence[float]]) -> Floats:
    """The squared Mahalanobis distance of samples (N, D) to a mean, (N,)."""
    centred = features - np.array(mean)
    found: Floats = np.maximum(np.einsum("ni,ij,nj->n", centred, np.array(precision), centred), 0)
    return found


def threshold_for(scores: Floats, max_false_unseen: float) -> float:
    """The score above which a sample is called unseen.

    A sample like the held-out ones is then called unseen with a probability of at most ``max_false_unseen`` (split
    conformal prediction; Vovk et al., 2005). Where the samples are too few for that, it is the highest score of any.

    Args:
        scores: (N,) of held-out samples, N >= 1.
        max_false_unseen: 0..1.
    """
    ranked = np.sort(scores)
    rank = min(math.ceil((len(ranked) + 1) * (1 - max_false_unseen)), len(ranked))
    return float(ranked[max(rank, 1) - 1])


def samples_needed(max_false_unseen: float) -> int:
    """How many held-out samples make the bound of :func:`threshold_for` certain.

    Args:
        max_false_unseen: 0..1, neither.
    """
    return math.ceil(round((1 - max_false_unseen) / max_false_unseen, 9))
