"""The bootstrap: how far a figure would move with other images of the same kind (Efron, 1979)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def draws(images: int, resamples: int, seed: int = 0) -> NDArray[np.int64]:
    """How often each image is drawn in each resample, with replacement, (resamples, images)."""
    return np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), size=resamples)


def interval(values: Floats) -> tuple[float, float]:
    """The ends of the 95 % interval of a figure.

    Args:
        values: (resamples,); NaN where a resample has no such figure.
    """
    low, high = np.percentile(values[~np.isnan(values)], [2.5, 97.5])
    return float(low), float(high)
