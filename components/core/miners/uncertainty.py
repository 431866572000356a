"""Miners by how sure the model is of the class: Sedna's CrossEntropy, entropy and margin.

They look at class probabilities, of the image or of each box, where the model gives them. Where it gives one score p
for each box, as a detector does, they look at (p, 1 - p): the class that was named against everything else. A box is
then least certain at 0.5, and certain at 0 (nothing there) as at 1. A single class of probability p is read likewise.
A probability of 0 adds nothing to an entropy, as in the limit.

Entropies are normalised: 0 where one class has all the probability, 1 where all classes have the same.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from components.core.miners.base import Frame, checked_probabilities, miners
from components.core.miners.rules import Counts, Floats, Ratio, ScoreRule, in_words, least, means, settle

OverBoxes = Literal["worst", "mean"]


class _Uncertainty(ScoreRule):
    """A frame is hard when its certainty is below a limit; the score is 1 - certainty."""

    def _scores(self, frame: Frame) -> ArrayLike:
        return frame.detections.scores if frame.probabilities is None else np.atleast_2d(frame.probabilities)

    def _checked(self, scores: ArrayLike) -> Floats:
        given = np.asarray(scores, dtype=np.float64)
        columns = given[:, None] if given.ndim == 1 else given
        if columns.ndim != 2 or columns.shape[1] == 0:
            raise ValueError(f"scores {given.shape}: {self.name} takes (M,) scores or (M, K) class probabilities")
        rows = checked_probabilities(columns)
        return np.hstack([rows, 1 - rows]) if rows.shape[1] == 1 else rows

    def _judge(self, rows: Floats, counts: Counts) -> tuple[NDArray[np.bool_], Floats]:
        certainty = self._certainty(rows, counts)
        return certainty < self._limit, np.clip(1 - certainty, 0, 1)

    def _reason(self, rows: Floats) -> str:
        certainty = self._certainty(rows, np.array([len(rows)]))[0]
        of_boxes = {"worst": "least", "mean": "mean"}[self._over]
        what = "certainty" if len(rows) == 1 else f"{of_boxes} certainty of {in_words(len(rows))}"
        return f"{what} {certainty:.2f}, hard below {self._limit:g}"

    @property
    @abstractmethod
    def _limit(self) -> float:
        """Of certainty, below which a frame is hard."""

    @property
    @abstractmethod
    def _over(self) -> OverBoxes:
        """Which of a frame's boxes its certainty is that of."""

    @abstractmethod
    def _certainty(self, rows: Floats, counts: Counts) -> Floats:
        """Of each frame, (F,); rows (M, K) with K of 2 or more."""


class _EntropyRule(_Uncertainty):
    def _certainty(self, rows: Floats, counts: Counts) -> Floats:
        certainty = _reduced(_certainties(rows), counts, self._over)
        settle(certainty, self._limit, rows, counts, self._exact)
        return certainty

    def _exact(self, rows: Floats) -> float:
        certainties = [_exact_certainty(row) for row in rows.tolist()]
        return min(certainties) if self._over == "worst" else sum(certainties) / len(certainties)


@miners.register("CrossEntropy")
class CrossEntropy(_EntropyRule):
    """Hard when 1 - entropy, its mean over the boxes, is low; the score is the entropy.

    Attributes:
        threshold_cross_entropy: hard below this.
    """

    name: ClassVar[str] = "CrossEntropy"
    threshold_cross_entropy: Ratio = 0.5

    @property
    def _limit(self) -> float:
        return self.threshold_cross_entropy

    @property
    def _over(self) -> OverBoxes:
        return "mean"


@miners.register("entropy")
class Entropy(_EntropyRule):
    """Hard when the entropy is high; the score is the entropy.

    Attributes:
        threshold_entropy: hard above this; the default, for a score of 0.32 to 0.68.
        boxes: whether the ``worst`` box decides or the ``mean`` of all.
    """

    name: ClassVar[str] = "entropy"
    threshold_entropy: Ratio = 0.9
    boxes: OverBoxes = "worst"

    @property
    def _limit(self) -> float:
        return 1 - self.threshold_entropy

    @property
    def _over(self) -> OverBoxes:
        return self.boxes


@miners.register("margin")
class Margin(_Uncertainty):
    """Hard when the two most probable classes are close; the score is 1 - their distance.

    Attributes:
        threshold_margin: hard when they are closer than this; the default, for a score of 0.35 to 0.65.
        boxes: whether the ``worst`` box decides or the ``mean`` of all.
    """

    name: ClassVar[str] = "margin"
    threshold_margin: Ratio = 0.3
    boxes: OverBoxes = "worst"

    @property
    def _limit(self) -> float:
        return self.threshold_margin

    @property
    def _over(self) -> OverBoxes:
        return self.boxes

    def _certainty(self, rows: Floats, counts: Counts) -> Floats:
        second, first = np.partition(rows, rows.shape[1] - 2, axis=1)[:, -2:].T
        return _reduced(first - second, counts, self._over)


def _certainties(rows: Floats) -> Floats:
    """1 - normalised entropy of each row."""
    logarithms = np.log(rows, out=np.zeros_like(rows), where=rows > 0)
    found: Floats = 1 + np.einsum("mk,mk->m", rows, logarithms) / math.log(rows.shape[1])
    return found


def _exact_certainty(row: list[float]) -> float:
    """The same of one row, term by term as the formula has it."""
    total = 0.0
    for probability in row:
        if probability > 0:
            total += probability * math.log(probability)
    return 1 + total / math.log(len(row))


def _reduced(values: Floats, counts: Counts, over: OverBoxes) -> Floats:
    return least(values, counts) if over == "worst" else means(values, counts)
