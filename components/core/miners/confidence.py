"""Miners by the scores of a frame's boxes: Sedna's image-box-thresholds and its plain threshold."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from components.core.miners.base import miners
from components.core.miners.rules import Counts, Floats, Ratio, ScoreRule, in_words, means, settle, shares


@miners.register("IBT")
class IBT(ScoreRule):
    """Hard when enough of the boxes score low; the score is the share of those that do.

    Attributes:
        threshold_img: hard from a share of ``1 - threshold_img`` low boxes on, so a larger value makes more hard.
        threshold_box: a box that scores this or less is low.
    """

    name: ClassVar[str] = "IBT"
    threshold_img: Ratio = 0.5
    threshold_box: Ratio = 0.5

    def _judge(self, rows: Floats, counts: Counts) -> tuple[NDArray[np.bool_], Floats]:
        share = shares(rows <= self.threshold_box, counts)
        return share >= 1 - self.threshold_img, share

    def _reason(self, rows: Floats) -> str:
        low = int((rows <= self.threshold_box).sum())
        return f"{low} of {in_words(len(rows))} score {self.threshold_box:g} or less"


@miners.register("Threshold")
class Threshold(ScoreRule):
    """Hard when the boxes score low on average; the score is 1 - their mean.

    Attributes:
        threshold: hard below this mean.
    """

    name: ClassVar[str] = "Threshold"
    threshold: Ratio = 0.5

    def _judge(self, rows: Floats, counts: Counts) -> tuple[NDArray[np.bool_], Floats]:
        mean = means(rows, counts)
        settle(mean, self.threshold, rows, counts, lambda own: np.cumsum(own)[-1] / len(own))  # cumsum adds in order
        return mean < self.threshold, np.clip(1 - mean, 0, 1)

    def _reason(self, rows: Floats) -> str:
        return f"{in_words(len(rows))} with a mean score of {rows.mean():.2f}, hard below {self.threshold:g}"
