"""Entropy sum: how many boxes' worth of uncertainty an image holds, all its boxes together.

The other miners by score ask how an image's boxes are on average, or at worst, so that an image with one dubious box
ranks with one that has twenty. Where people label whole images, the latter teaches more. Boxes that score low count
too, most where they are as likely right as wrong; a model that is weak shows in these what it misses, so let it give
boxes well below the score with which it is deployed.

Only an image's most uncertain boxes count, ``max_boxes`` of them, so that a crowded image does not win by the number of
its boxes alone: whoever labels it draws them all.
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
        max_boxes: how many boxes of an image count, the most uncertain ones.
    """

    name: ClassVar[str] = "entropy-sum"
    threshold_entropy_sum: Annotated[float, Field(ge=0)] = 2.0
    max_boxes: Annotated[int, Field(ge=1)] = 5

    def _judge(self, rows: Floats, counts: Counts) -> tuple[NDArray[np.bool_], Floats]:
        total = means(_largest(_entropies(rows), counts, self.max_boxes), counts) * counts
        return total >= self.threshold_entropy_sum, total / (1 + total)

    def _reason(self, rows: Floats) -> str:
        total = _largest(_entropies(rows), np.array([len(rows)]), self.max_boxes).sum()
        counted = in_words(min(len(rows), self.max_boxes))
        return f"the entropies of {counted} sum to {total:.1f}, hard from {self.threshold_entropy_sum:g}"


def _entropies(scores: Floats) -> Floats:
    """Of each score, in bits; 0 for a score of 0 or 1."""
    both = np.stack([scores, 1 - scores])
    found: Floats = -(both * np.log2(both, out=np.zeros_like(both), where=both > 0)).sum(axis=0)
    return found


def _largest(values: Floats, counts: Counts, most: int) -> Floats:
    """The values, of each frame the largest ``most`` as they are and 0 for the others."""
    frame = np.repeat(np.arange(len(counts)), counts)
    order = np.lexsort((-values, frame))
    rank = np.arange(len(values)) - np.repeat(np.cumsum(counts) - counts, counts)
    found = np.zeros_like(values)
    kept = order[rank < most]
    found[kept] = values[kept]
    return found
