"""The miners behind the face of a hard-example filter of KubeEdge Sedna: ``filter(infer_result) -> bool``.

Sedna calls a frame without boxes easy; here, as everywhere, ``on_empty`` says what it is, by default hard. What Sedna
calls easy without a word, because it is not an inference result (a score outside 0..1, a box without a score), is an
error. On everything else the two agree.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.core.errors import InputError
from components.core.miners.base import PoolMiner, make_miner


class SednaFilter:
    """A miner that takes what Sedna's filters take.

    Args:
        name: of a miner that looks at scores alone: one of Sedna's six, ``entropy`` or ``margin``.
        parameters: of the miner; numbers may be text.

    Raises:
        InputError: no such miner or parameter, a value that cannot be, or a miner that looks at more than scores.
    """

    def __init__(self, name: str, **parameters: object) -> None:
        miner = make_miner(name, parameters)
        if not isinstance(miner, PoolMiner):
            raise InputError(f"miner {name!r} needs more than scores, but Sedna's filters get scores only")
        self._miner: PoolMiner = miner
        self._calls = itertools.count()

    def __call__(self, infer_result: Any = None) -> bool:
        """Whether an inference result is a hard example.

        Args:
            infer_result: boxes ``[xmin, ymin, xmax, ymax, score, label]`` or one flat row of class probabilities, as
                lists or arrays; None or nothing: no boxes. Chance goes by how many results came before.

        Raises:
            InputError: not such a result, or a score or probability outside 0..1.
        """
        try:
            scores = _scores(infer_result)
            hard, _ = self._miner.judge_many(scores, [len(scores)], [str(next(self._calls))])
        except (TypeError, ValueError, IndexError, KeyError) as error:
            raise InputError(
                "not an inference result: give boxes [xmin, ymin, xmax, ymax, score, label] or, for a miner that takes "
                f"them, one flat row of class probabilities ({error})"
            ) from error
        return bool(hard[0])


def _scores(infer_result: Any) -> NDArray[np.float64]:
    """Scores of the boxes (N,), or class probabilities (1, K)."""
    if infer_result is None or len(infer_result) == 0:
        return np.empty(0)
    if np.ndim(infer_result[0]) == 0:
        return np.array([[float(probability) for probability in infer_result]])
    # A label may be text, so the boxes make no array of numbers.
    return np.array([float(box[4]) for box in infer_result])
