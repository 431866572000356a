"""Another miner's score, with a cutoff that was calibrated."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field

from components.core.errors import InputError
from components.core.miners.base import Frame, Judgement, PoolMiner, boxes_from, make_miner, miners
from components.core.miners.rules import Ratio, Rule


@miners.register("cutoff")
class Cutoff(Rule):
    """Hard where the score of another miner is high enough.

    Attributes:
        of: name of that miner, one that looks at scores alone.
        parameters: of that miner.
        min_score: hard from this score on; compared in single precision, in which scores are kept.
    """

    name: ClassVar[str] = "cutoff"
    of: str = "Threshold"
    parameters: dict[str, Any] = Field(default_factory=dict)
    min_score: Ratio = 0.5

    def model_post_init(self, _: object) -> None:
        """See that there is such a miner."""
        _ = self._miner

    def judge(self, frame: Frame) -> Judgement:
        """Say whether a frame is hard."""
        judged = self._miner.judge(frame)
        hard = bool(np.float32(judged.score) >= np.float32(self.min_score))
        return Judgement(
            hard, judged.score, f"{judged.reason}: score {judged.score:.3f}, min_score {self.min_score:.3f}"
        )

    def judge_many(
        self, scores: ArrayLike, counts: ArrayLike, keys: Sequence[str] = ()
    ) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
        """Judge F frames at once; see :class:`components.core.miners.base.PoolMiner`."""
        _, found = self._miner.judge_many(scores, counts, keys)
        return found >= np.float32(self.min_score), found

    @property
    def boxes_from(self) -> float | None:
        """As of that miner."""
        return boxes_from(self._miner)

    @cached_property
    def _miner(self) -> PoolMiner:
        miner = make_miner(self.of, self.parameters)
        if not isinstance(miner, PoolMiner):
            raise InputError(f"miner {self.of!r} needs more than scores: choose a miner that needs scores only")
        return miner
