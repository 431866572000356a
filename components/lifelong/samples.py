"""Samples with what their images look like, in numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict

from components.core.cache import fetch_blobs
from components.core.manifest import Manifest
from components.core.miners.novelty import NUMBERS, embedding
from components.core.runtimes.letterbox import read_image

Floats = NDArray[np.float64]
Task = str | None  # the name of a task; None for a sample of no known one


@dataclass(frozen=True)
class Samples:
    """Samples and the numbers that their images are known by.

    Attributes:
        manifest: N samples.
        features: (N, 256) in 0..1, of :func:`components.core.miners.novelty.embedding`.
    """

    manifest: Manifest
    features: Floats

    @classmethod
    def of(cls, manifest: Manifest, cache_folder: Path) -> Samples:
        """Look at the images of samples.

        Raises:
            InputError: an image is out of reach or damaged.
        """
        rows = [embedding(read_image(path)) for path in fetch_blobs(manifest, cache_folder)]
        return cls(manifest, np.array(rows, dtype=np.float64).reshape(len(rows), NUMBERS))

    def __len__(self) -> int:
        return len(self.manifest)

    def with_ids(self, ids: Sequence[str]) -> Samples:
        """Those of some ids, in the order of these."""
        of_id = {id_: place for place, id_ in enumerate(self.manifest.table["id"])}
        places = [of_id[id_] for id_ in ids]
        return Samples(Manifest(self.manifest.table[places], self.manifest.classes), self.features[places])


class Projection(BaseModel):
    """The few directions in which the features of some samples differ most (principal components).

    Attributes:
        mean: (256,) of the features.
        axes: (D, 256), each of length 1.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    mean: tuple[float, ...]
    axes: tuple[tuple[float, ...], ...]

    @classmethod
    def fit(cls, features: Floats, dimensions: int = 8) -> Projection:
        """Find the directions.

        Args:
            features: (N, 256) with N >= 1.
            dimensions: how many directions, fewer where the samples are fewer.
        """
        mean = features.mean(axis=0)
        axes = np.linalg.svd(features - mean, full_matrices=False)[2][:dimensions]
        return cls(mean=rounded(mean), axes=tuple(rounded(axis) for axis in axes))

    def apply(self, features: Floats) -> Floats:
        """Features (N, 256) in these directions, (N, D)."""
        found: Floats = (features - np.array(self.mean)) @ np.array(self.axes).T
        return found


def rounded(values: ArrayLike) -> tuple[float, ...]:
    """Numbers as a release keeps them, short and the same on every machine."""
    return tuple(round(float(value), 5) for value in np.asarray(values))


def distances(features: Floats, points: ArrayLike) -> Floats:
    """From each of N features to each of M points, (N, M); both have D numbers."""
    found: Floats = np.linalg.norm(features[:, None] - np.asarray(points, dtype=np.float64)[None], axis=2)
    return found
