"""How little a sample is like what models were trained on; a threshold on the score makes it unseen."""

from __future__ import annotations

import math
from typing import Annotated

import numpy as np
from pydantic import Field

from components.core.lifelong.plug_points import State, UnseenDetection, unseen_detections
from components.core.lifelong.samples import Floats, distances, rounded


@unseen_detections.register("knn")
class Neighbours(UnseenDetection):
    """The mean distance to the nearest training samples (Sun et al., ICML 2022).

    Attributes:
        neighbours: how many.
        references: how many training samples are kept to compare with, evenly drawn.
    """

    neighbours: Annotated[int, Field(ge=1)] = 3
    references: Annotated[int, Field(ge=1, le=2000)] = 256

    def fit(self, features: Floats) -> State:
        """See the base class."""
        places = np.unique(np.linspace(0, len(features) - 1, self.references).round().astype(int))
        return {"references": [list(rounded(features[place])) for place in places]}

    def score(self, features: Floats, state: State) -> Floats:
        """See the base class."""
        away = np.sort(distances(features, state["references"]), axis=1)
        found: Floats = away[:, : self.neighbours].mean(axis=1)
        return found


@unseen_detections.register("mahalanobis")
class Mahalanobis(UnseenDetection):
    """The distance to the mean of the training samples, in units of how they vary (Lee et al., NeurIPS 2018)."""

    def fit(self, features: Floats) -> State:
        """See the base class."""
        centred = features - features.mean(axis=0)
        covariance = centred.T @ centred / len(features) + 1e-4 * np.eye(features.shape[1])
        return {
            "mean": list(rounded(features.mean(axis=0))),
            "precision": [list(rounded(row)) for row in np.linalg.inv(covariance)],
        }

    def score(self, features: Floats, state: State) -> Floats:
        """See the base class."""
        centred = features - np.array(state["mean"])
        squared = np.einsum("ni,ij,nj->n", centred, np.array(state["precision"]), centred)
        found: Floats = np.sqrt(np.maximum(squared, 0))
        return found


@unseen_detections.register("TaskAttr")
class ByTask(UnseenDetection):
    """What looks different is no reason: only samples of no known task are unseen."""

    def fit(self, features: Floats) -> State:
        """See the base class."""
        return {}

    def score(self, features: Floats, state: State) -> Floats:
        """See the base class."""
        return np.zeros(len(features))


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
