"""Missed objects: how many objects an image probably shows beside those that the model reports.

A box that scores too low to count is an object more often the higher its score; where scores are calibrated, their sum
is the expected number of objects that are left out. A big model finds some of them, so these are the images to ask it
about.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from components.core.miners.base import miners
from components.core.miners.rules import Counts, Floats, OnEmpty, Ratio, ScoreRule, in_words, means


@miners.register("missed")
class Missed(ScoreRule):
    """Hard when the scores of the boxes that do not count add up to much; the score is total / (1 + total).

    Attributes:
        boxes_from: score from which the miner wants to see boxes.
        shown: score from which boxes count.
        threshold_missed: hard from this total on.
        on_empty: an image without even such boxes is easy.
    """

    name: ClassVar[str] = "missed"
    boxes_from: ClassVar[float] = 0.05
    shown: Ratio = 0.25
    threshold_missed: Annotated[float, Field(gt=0)] = 0.5
    on_empty: OnEmpty = "easy"

    def _judge(self, rows: Floats, counts: Counts) -> tuple[NDArray[np.bool_], Floats]:
        total = means(np.where(rows < self.shown, rows, 0.0), counts) * counts
        return total >= self.threshold_missed, total / (1 + total)

    def _reason(self, rows: Floats) -> str:
        below = rows[rows < self.shown]
        return (
            f"the scores of {in_words(len(below))} below {self.shown:g} sum to {below.sum():.2f}, hard from "
            f"{self.threshold_missed:g}"
        )
