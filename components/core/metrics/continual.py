"""How well a model that learns task after task keeps what it knew: accuracy, transfer and forgetting.

All of them are figures of a matrix of scores ``R``: ``R[i, j]`` is the score on task ``j`` after round ``i``, and NaN
where it was not measured. ``learned[j]`` is the round in which task ``j`` was learned first. Definitions: average
accuracy, backward and forward transfer of Lopez-Paz and Ranzato, "Gradient Episodic Memory for Continual Learning"
(NeurIPS 2017), section 2; forgetting of Chaudhry et al., "Riemannian Walk for Incremental Learning" (ECCV 2018),
section 3.2; both for tasks that may arrive in any round.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def continual_metrics(scores: ArrayLike, learned: Sequence[int]) -> dict[str, float]:
    """Every figure that can be computed, by name.

    Args:
        scores: (rounds, tasks), each 0..1 or NaN.
        learned: (tasks,) the round, counted from 0, in which each was learned first.

    Returns:
        ``average_accuracy``, ``backward_transfer`` (negative where tasks were forgotten), ``forward_transfer`` (the
        score on a task just before it was learned), ``forgetting`` (0 where nothing was) and ``retention`` (the part
        of the best scores that is left, 0..1). Those that need a task of an earlier round are left out where there is
        none.

    Raises:
        ValueError: the shapes do not fit together, or a round is not there.
    """
    table = np.asarray(scores, dtype=np.float64)
    if table.ndim != 2 or table.shape[1] != len(learned):
        raise ValueError(f"scores of shape {table.shape} do not fit {len(learned)} tasks")
    if any(not 0 <= first < len(table) for first in learned):
        raise ValueError(f"learned={list(learned)} must be rounds from 0 to {len(table) - 1}")
    last = len(table) - 1
    old = [task for task, first in enumerate(learned) if first < last]
    best = [_of_measured(np.max, table[learned[task] : last, task]) for task in old]
    now, at_first = table[last, old], np.array([table[learned[task], task] for task in old])
    unlearned = [table[first - 1, task] for task, first in enumerate(learned) if first > 0]
    figures = {
        "average_accuracy": _of_measured(np.mean, table[last]),
        "backward_transfer": _of_measured(np.mean, now - at_first),
        "forward_transfer": _of_measured(np.mean, np.array(unlearned)),
        "forgetting": _of_measured(np.mean, np.array(best) - now),
        "retention": _retention(now, np.array(best)),
    }
    return {name: value for name, value in figures.items() if not np.isnan(value)}


def _retention(now: Floats, best: Floats) -> float:
    """The part of what was learned that is kept, over all tasks together; what was gained since makes up for nothing.

    A mean of the parts of single tasks would be ruled by a task of which next to nothing was learned at first.
    """
    measured = ~np.isnan(now) & ~np.isnan(best)
    learned = float(best[measured].sum())
    return float(np.minimum(now, best)[measured].sum()) / learned if learned > 0 else float("nan")


def _of_measured(reduce: Callable[[Floats], np.float64], values: ArrayLike) -> float:
    """A figure of the values that were measured; NaN where none was."""
    found = np.asarray(values, dtype=np.float64)
    found = found[~np.isnan(found)]
    return float(reduce(found)) if len(found) else float("nan")
