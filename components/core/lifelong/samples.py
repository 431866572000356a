"""Samples with what their images look like, in numbers; at the edge, the frames of a source."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict

from components.core.lifelong.appearance import NUMBERS, appearance
from components.core.runtimes.letterbox import ImageArray

Floats = NDArray[np.float64]
_LEAST_SPREAD = 0.01  # of features that hardly vary, so that rounding is no difference

Task = str | None  # the name of a task; None for a sample of no known one


@dataclass(frozen=True)
class Samples:
    """Samples and the numbers that their images are known by.

    Attributes:
        columns: what is known of each of N samples: ``source``, its path in the feed, and ``group``, as in the
            manifest; in a round also ``id``.
        features: (N, 22), of :func:`components.core.lifelong.appearance.appearance`.
    """

    columns: Mapping[str, Sequence[str]]
    features: Floats

    @classmethod
    def of(cls, images: Iterable[ImageArray], **columns: Sequence[str]) -> Samples:
        """Look at images, one at a time, (H, W, 3) uint8 RGB each.

        Args:
            images: N of them.
            columns: what is known of each.
        """
        rows = [appearance(image) for image in images]
        return cls(columns, np.array(rows, dtype=np.float64).reshape(len(rows), NUMBERS))

    def __len__(self) -> int:
        return len(self.features)

    def with_ids(self, ids: Sequence[str]) -> Samples:
        """Those of some ids, in the order of these."""
        of_id = {id_: place for place, id_ in enumerate(self.columns["id"])}
        places = [of_id[id_] for id_ in ids]
        columns = {name: [values[place] for place in places] for name, values in self.columns.items()}
        return Samples(columns, self.features[places])


class Projection(BaseModel):
    """The few directions in which the features of some samples differ most (principal components of standard scores).

    Attributes:
        mean: (F,) of the features.
        scale: (F,) their spread.
        axes: (D, F), each of length 1.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    mean: tuple[float, ...]
    scale: tuple[float, ...]
    axes: tuple[tuple[float, ...], ...]

    @classmethod
    def fit(cls, features: Floats, dimensions: int = 10) -> Projection:
        """Find the directions.

        Args:
            features: (N, F) with N >= 1.
            dimensions: how many directions, fewer where the samples are fewer.
        """
        mean = features.mean(axis=0)
        scale = np.maximum(features.std(axis=0), _LEAST_SPREAD)
        axes = np.linalg.svd((features - mean) / scale, full_matrices=False)[2][:dimensions]
        return cls(mean=rounded(mean), scale=rounded(scale), axes=tuple(rounded(axis) for axis in axes))

    def apply(self, features: Floats) -> Floats:
        """Features (N, F) in these directions, (N, D)."""
        found: Floats = ((features - np.array(self.mean)) / np.array(self.scale)) @ np.array(self.axes).T
        return found


def rounded(values: ArrayLike) -> tuple[float, ...]:
    """Numbers as a release keeps them, short and the same on every machine."""
    return tuple(round(float(value), 5) for value in np.asarray(values))


def distances(features: Floats, points: ArrayLike) -> Floats:
    """From each of N features to each of M points, (N, M); both have D numbers."""
    found: Floats = np.linalg.norm(features[:, None] - np.asarray(points, dtype=np.float64)[None], axis=2)
    return found
