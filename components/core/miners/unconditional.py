"""Miners that do not look at the frame: by chance, always, never."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from components.core.miners.base import Frame, Judgement, miners
from components.core.miners.chance import draw
from components.core.miners.rules import Ratio, Rule, checked_counts


@miners.register("Random")
class Random(Rule):
    """Hard by chance, seeded by the frame's key; the score ranks in a random order.

    Attributes:
        random_ratio: share of the frames that are hard.
    """

    name: ClassVar[str] = "Random"
    random_ratio: Ratio = 0.3

    def judge(self, frame: Frame) -> Judgement:
        """Say whether a frame is hard."""
        drawn = draw(frame.key, self.name)
        hard = drawn < self.random_ratio
        return Judgement(hard, 1 - drawn, f"{'' if hard else 'not '}drawn (random_ratio {self.random_ratio:g})")

    def judge_many(
        self, scores: ArrayLike, counts: ArrayLike, keys: Sequence[str] = ()
    ) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
        """Judge F frames at once; see :class:`components.core.miners.base.PoolMiner`."""
        frames = len(checked_counts(counts))
        if len(keys) != frames:
            raise ValueError(f"{self.name}: {len(keys)} keys for {frames} frames")
        drawn = np.array([draw(key, self.name) for key in keys], dtype=np.float64)
        return drawn < self.random_ratio, (1 - drawn).astype(np.float32)


class _Constant(Rule):
    always: ClassVar[bool]

    def judge(self, frame: Frame) -> Judgement:
        """Say whether a frame is hard."""
        return Judgement(self.always, float(self.always), f"{self.name}: {'every' if self.always else 'no'} frame is")

    def judge_many(
        self, scores: ArrayLike, counts: ArrayLike, keys: Sequence[str] = ()
    ) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
        """Judge F frames at once; see :class:`components.core.miners.base.PoolMiner`."""
        frames = len(checked_counts(counts))
        return np.full(frames, self.always), np.full(frames, self.always, dtype=np.float32)


@miners.register("CloudOnly")
class CloudOnly(_Constant):
    """Every frame is hard."""

    name: ClassVar[str] = "CloudOnly"
    always: ClassVar[bool] = True


@miners.register("EdgeOnly")
class EdgeOnly(_Constant):
    """No frame is hard."""

    name: ClassVar[str] = "EdgeOnly"
    always: ClassVar[bool] = False
