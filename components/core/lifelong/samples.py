"""Samples with what their images look like, in numbers; at the edge, the frames of a source."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict

from components.core.lifelong.appearance import LOOKS, NUMBERS, appearance
from components.core.runtimes.letterbox import ImageArray

Floats = NDArray[np.float64]
_LEAST = 20  # samples of a task; by fewer its images are hardly known again
_LEAST_SPREAD = 0.01  # of features that hardly vary, so that rounding is no difference
_OCTAVE = 20.0  # what double the size counts, in units of the spread of looks: more than any looks of known images

Task = str | None  # the name of a task; None for a sample of no known one


@dataclass(frozen=True)
class Samples:
    """Samples and the numbers that their images are known by.

    Attributes:
        columns: what is known of each of N samples: ``source``, its path in the feed, and ``group``, as in the
            manifest; in a round also ``id``.
        features: (N, 24), of :func:`components.core.lifelong.appearance.appearance`.
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
    """A few directions in which the features of samples differ.

    Attributes:
        mean: (F,) of the features; the first F of more are looked at.
        scale: (F,) their spread.
        axes: (D, F), of standard scores.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    mean: tuple[float, ...]
    scale: tuple[float, ...]
    axes: tuple[tuple[float, ...], ...]

    @classmethod
    def fit(cls, features: Floats, dimensions: int = 10, *, sizes: bool = False) -> Projection:
        """Find the directions in which the looks of samples differ most (principal components of standard scores).

        Args:
            features: (N, 24) with N >= 1.
            dimensions: how many directions, fewer where the samples are fewer.
            sizes: look at the sizes of images, too, as two directions more.
        """
        looks = features[:, :LOOKS]
        mean, scale = looks.mean(axis=0), np.maximum(looks.std(axis=0), _LEAST_SPREAD)
        axes = np.linalg.svd((looks - mean) / scale, full_matrices=False)[2][:dimensions]
        if sizes:
            mean, scale = features.mean(axis=0), np.append(scale, [1 / _OCTAVE] * (features.shape[1] - LOOKS))
            axes = np.block([
                [axes, np.zeros((len(axes), len(scale) - LOOKS))],
                [np.zeros((len(scale) - LOOKS, LOOKS)), np.eye(len(scale) - LOOKS)],
            ])  # fmt: skip
        return cls(mean=rounded(mean), scale=rounded(scale), axes=tuple(rounded(axis) for axis in axes))

    @classmethod
    def between(cls, features: Floats, groups: Sequence[str]) -> Projection:
        """Find the directions in which groups of samples differ, in units of how samples vary within their groups.

        The nearest mean of a group in these directions is the most probable group (linear discriminant analysis;
        Fisher, 1936). The covariance within groups is shrunk as far as their few samples ask for.

        Args:
            features: (N, F) with N >= 1.
            groups: (N,) of each.
        """
        mean, scale = features.mean(axis=0), np.maximum(features.std(axis=0), _LEAST_SPREAD)
        scores, owners = (features - mean) / scale, np.array(groups)
        names = sorted(set(groups))
        means = np.array([scores[owners == name].mean(axis=0) for name in names])
        within = scores - means[np.searchsorted(names, owners)]
        spreads, directions = np.linalg.eigh(shrunk_covariance(within))
        whitening = (directions / np.sqrt(spreads)).T
        apart = np.linalg.svd((means - means.mean(axis=0)) @ whitening.T, full_matrices=False)[2]
        axes = apart[: max(len(names) - 1, 1)] @ whitening
        return cls(mean=rounded(mean), scale=rounded(scale), axes=tuple(rounded(axis) for axis in axes))

    def apply(self, features: Floats) -> Floats:
        """Features (N, F or more) in these directions, (N, D)."""
        found: Floats = ((features[:, : len(self.mean)] - np.array(self.mean)) / np.array(self.scale)) @ np.array(
            self.axes
        ).T
        return found


def drawn(tasks: Sequence[Task], most: int) -> NDArray[np.intp]:
    """Places of some samples, evenly drawn, but of each task at least twenty, where it has so many.

    Args:
        tasks: (N,) of each sample.
        most: how many, but for those of rare tasks.

    Returns:
        Ascending; all where there are no more than ``most``.
    """
    owners = np.array([task or "" for task in tasks])
    evenly = _evenly(np.arange(len(owners)), most)
    names, counts = np.unique(owners, return_counts=True)
    rare = names[
        [(owners[evenly] == name).sum() < min(count, _LEAST) for name, count in zip(names, counts, strict=True)]
    ]
    return np.unique(np.concatenate([evenly, *(_evenly(np.flatnonzero(owners == name), _LEAST) for name in rare)]))


def _evenly(places: NDArray[np.intp], most: int) -> NDArray[np.intp]:
    found: NDArray[np.intp] = places[np.unique(np.linspace(0, len(places) - 1, most).round().astype(int))]
    return found


def rounded(values: ArrayLike) -> tuple[float, ...]:
    """Numbers as a release keeps them, short and the same on every machine."""
    return tuple(round(float(value), 5) for value in np.asarray(values))


def shrunk_covariance(centred: Floats) -> Floats:
    """The covariance of few samples of many numbers, drawn towards that of equal and independent ones.

    How far is what makes the expected error least (Ledoit and Wolf, 2004). It is never singular.

    Args:
        centred: (N, F) samples minus their mean.

    Returns:
        (F, F).
    """
    count, width = centred.shape
    covariance = centred.T @ centred / count
    target = np.eye(width) * np.trace(covariance) / width
    away = ((covariance - target) ** 2).sum()
    error = (((centred**2).sum(axis=1) ** 2).sum() / count - (covariance**2).sum()) / count
    share = min(error / away, 1.0) if away else 1.0
    found: Floats = (1 - share) * covariance + share * target + 1e-4 * np.eye(width)
    return found


def distances(features: Floats, points: ArrayLike) -> Floats:
    """From each of N features to each of M points, (N, M); both have D numbers."""
    found: Floats = np.linalg.norm(features[:, None] - np.asarray(points, dtype=np.float64)[None], axis=2)
    return found
