"""How well a score tells what is unseen from what is known."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def auroc(known: ArrayLike, unseen: ArrayLike) -> float | None:
    """The area under the ROC curve: how often an unseen sample scores above a known one, ties counted half.

    This is the statistic of Mann and Whitney (1947); 1 for a perfect score, 0.5 for one that says nothing.

    Args:
        known: (N,) scores of known samples.
        unseen: (M,) scores of unseen ones.

    Returns:
        0..1; None where one of the two is empty.
    """
    low, high = np.sort(np.asarray(known, np.float64)), np.asarray(unseen, np.float64)
    if not len(low) or not len(high):
        return None
    below, up_to = np.searchsorted(low, high, side="left"), np.searchsorted(low, high, side="right")
    return float((below + up_to).sum() / 2 / (len(low) * len(high)))
