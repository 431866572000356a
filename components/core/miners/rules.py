"""What the built-in miners share: checked parameters, empty frames, and sums over the boxes of each frame."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Annotated, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

from components.core.miners.base import Frame, Judgement, checked_scores
from components.core.miners.chance import draw

Ratio = Annotated[float, Field(ge=0, le=1)]
Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

_ROUNDING = 1e-9  # far above what the order of a sum or another library's logarithm changes


def _policy(text: str) -> str:
    sampled = re.fullmatch(r"sample:(1|1\.0*|0?\.\d+|0)", text)
    if text not in ("hard", "easy") and not sampled:
        raise PydanticCustomError("on_empty", "write hard, easy or sample:0.1 (a fraction from 0 to 1)")
    return text


OnEmpty = Annotated[str, AfterValidator(_policy)]


class Rule(BaseModel):
    """A miner with checked parameters."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: ClassVar[str]


class BoxRule(Rule):
    """A miner that looks at boxes.

    Attributes:
        on_empty: what a frame without boxes is: ``hard``, ``easy``, or ``sample:<ratio>``, hard for that share of them.
    """

    on_empty: OnEmpty = "hard"

    def judge_empty(self, key: str) -> Judgement:
        """What a frame without boxes is."""
        if self.on_empty in ("hard", "easy"):
            hard = self.on_empty == "hard"
            return Judgement(hard, float(hard), "no boxes")
        drawn = draw(key, "on_empty")
        hard = drawn < float(self.on_empty.removeprefix("sample:"))
        return Judgement(hard, 1 - drawn, f"no boxes, {'' if hard else 'not '}drawn ({self.on_empty})")


class ScoreRule(BoxRule):
    """A miner that looks at the scores of one frame and nothing else."""

    def judge(self, frame: Frame) -> Judgement:
        """Say whether a frame is hard."""
        rows = self._checked(self._scores(frame))
        if not len(rows):
            return self.judge_empty(frame.key)
        hard, score = self._judge(rows, np.array([len(rows)]))
        return Judgement(bool(hard[0]), float(score[0]), self._reason(rows))

    def judge_many(
        self, scores: ArrayLike, counts: ArrayLike, keys: Sequence[str] = ()
    ) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
        """Judge F frames at once; see :class:`components.core.miners.base.PoolMiner`."""
        rows, sizes = self._checked(scores), checked_counts(counts)
        if sizes.sum() != len(rows):
            raise ValueError(f"counts sum to {sizes.sum()}, but there are {len(rows)} scores")
        if len(keys) not in (0, len(sizes)):
            raise ValueError(f"{len(keys)} keys for {len(sizes)} frames")
        hard, score = self._judge(rows, sizes)
        empty = np.flatnonzero(sizes == 0)
        if self.on_empty in ("hard", "easy"):
            hard[empty] = score[empty] = self.on_empty == "hard"
        else:
            judged = [self.judge_empty(keys[place] if len(keys) else "") for place in empty.tolist()]
            hard[empty], score[empty] = [one.hard for one in judged], [one.score for one in judged]
        return hard, score.astype(np.float32)

    def _scores(self, frame: Frame) -> ArrayLike:
        """What is looked at of a frame."""
        return frame.detections.scores

    def _checked(self, scores: ArrayLike) -> Floats:
        values = checked_scores(scores)
        if values.ndim != 1:
            raise ValueError(f"scores {values.shape}: {self.name} takes one score for each box")
        return values

    @abstractmethod
    def _judge(self, rows: Floats, counts: Counts) -> tuple[NDArray[np.bool_], Floats]:
        """Hard (F,) and score (F,) of frames; whatever comes easiest for frames without boxes."""

    @abstractmethod
    def _reason(self, rows: Floats) -> str:
        """The reason for one frame that has boxes."""


def checked_counts(counts: ArrayLike) -> Counts:
    """Counts as an array.

    Raises:
        ValueError: not whole numbers of 0 or more in one row.
    """
    values = np.asarray(counts)
    if values.size == 0:
        values = values.astype(np.int64)
    if values.ndim != 1 or values.dtype.kind not in "iu" or (values < 0).any():
        raise ValueError(f"counts of shape {values.shape} and type {values.dtype}: give (F,) whole numbers, 0 or more")
    return values.astype(np.int64)


def shares(flags: NDArray[np.bool_], counts: Counts) -> Floats:
    """Which part of each frame's flags is set, (F,); 0 for one without boxes."""
    ends = np.cumsum(counts)
    before = np.concatenate([[0], np.cumsum(flags)])
    found: Floats = (before[ends] - before[ends - counts]) / np.maximum(counts, 1)
    return found


def means(values: Floats, counts: Counts) -> Floats:
    """The mean over each frame, (F,); 0 for one without boxes."""
    found: Floats = _reduced(np.add, values, counts) / np.maximum(counts, 1)
    return found


def least(values: Floats, counts: Counts) -> Floats:
    """The least of each frame, (F,); 0 for one without boxes."""
    return _reduced(np.minimum, values, counts)


def settle(values: Floats, limit: float, rows: Floats, counts: Counts, formula: Callable[[Floats], float]) -> None:
    """Decide frames that lie at a limit by the formula as it is written, not by how arrays are summed.

    Args:
        values: (F,) what each frame came to; changed in place where it is as good as the limit.
        limit: what they are compared with.
        rows: (M, ...) what they were made of.
        counts: (F,) rows of each frame.
        formula: makes the value of one frame from its rows.
    """
    ends = np.cumsum(counts)
    for frame in np.flatnonzero((np.abs(values - limit) < _ROUNDING) & (counts > 0)).tolist():
        values[frame] = formula(rows[ends[frame] - counts[frame] : ends[frame]])


def in_words(count: int) -> str:
    """The number of boxes in words."""
    return "1 box" if count == 1 else f"{count} boxes"


def _reduced(how: np.ufunc, values: Floats, counts: Counts) -> Floats:
    found = np.zeros(len(counts))
    filled = counts > 0
    if filled.any():
        found[filled] = how.reduceat(values, (np.cumsum(counts) - counts)[filled])
    return found
