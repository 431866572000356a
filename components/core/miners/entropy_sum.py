"""Entropy sum: how many boxes' worth of uncertainty an image holds, all its boxes together.

The other miners by score ask how an image's boxes are on average, or at worst, so that an image with one dubious box
ranks with one that has twenty. Where people label whole images, the latter teaches more. Boxes that score low count
too, most where they are as likely right as wrong; a model that is weak shows in these what it misses, so let it give
boxes well below the score with which it is deployed.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from components.core.miners.base import miners
from components.core.miners.rules import Counts, Floats, ScoreRule, in_words, means


@miners.register("entropy-sum")
class EntropySum(ScoreRule):
    """Hard when the entropies of all boxes add up to much; the score is total / (1 + total).

    The entropy of a box of score p is that of (p, 1 - p), 0 where the model is certain and 1 where it tosses a coin.

    Attributes:
        threshold_entropy_sum: hard from this total on.
    """

    name: ClassVar[str] = "entropy-sum"
    threshold_entropy_sum: Annotated[float, Field(ge=0)] = 2.0

    def _judge(self, rows: Floats, counts: Counts) -> tuple[NDArray[np.bool_], Floats]:
        total = means(_entropies(rows), counts) * counts
        return total >= self.threshold_entropy_sum, total / (1 + total)

    def _reason(self, rows: Floats) -> str:
        total = _entropies(rows).sum()
        return f"the entropies of {in_words(len(rows))} sum to {total:.1f}, hard from {self.threshold_entropy_sum:g}"


def _entropies(scores: Floats) -> Floats:
    """Of each score, in bits; 0 for a score of 0 or 1."""
    both = np.stack([scores, 1 - scores])
    found: Floats = -(both * np.log2(both, out=np.zeros_like(both), where=both > 0)).sum(axis=0)
    return found
