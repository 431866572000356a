"""Which images of a pool to label under a budget.

The budget has three shares. The ``random`` images are drawn from the whole pool, before any other, so that there is
something fair to compare the ranking with. The ``hardest`` are chosen among the images in which something was found.
The ``empty`` are images in which nothing was found: a miner has no score to judge them by, yet they are where
everything may have been missed. A share that finds too few images leaves what is over to the others.

The hardest and the empty images are chosen in two stages. First a shortlist: the images of the highest value,
``shortlist`` times as many as the share has room for. The value of an image is the miner's score, more where the job
has few labels of the classes found in it, and with a budget in boxes less the more of them somebody must draw. Then
greedy k-centre: from the shortlist each next image is one of high value that is unlike all chosen before. (Both stages
are those of PPAL, Yang et al., CVPR 2024, in simple form.)

In each share an image that looks much like one already chosen is passed over. Ties are broken by a hash of the
image, as the random ones are drawn, so the same pool gives the same choice in whatever order it comes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from components.core.duplicates import Duplicates
from components.core.job.label_requests import Share
from components.core.miners.chance import draw
from components.mine.embeddings import greedy_k_centre
from components.mine.score_pool import Inference

Floats = NDArray[np.float32]
Vectors = Callable[[Sequence[Inference]], Floats]
"""The vectors (N, D) of N images, each of length 1, by which k-centre compares them."""

MOST_WEIGHT = 4.0  # of a class without labels


@dataclass(frozen=True)
class Pick:
    """An image to label.

    Attributes:
        seen: the image.
        share: of the budget that it was chosen for.
        reason: why, in one short line.
    """

    seen: Inference
    share: Share
    reason: str


@dataclass(frozen=True)
class Selection:
    """What to label.

    Attributes:
        picks: the most wanted first; every beginning has about the same mixture of shares.
        duplicates: how many images were passed over since they look like one that was chosen.
    """

    picks: tuple[Pick, ...]
    duplicates: int

    def count(self, share: Share) -> int:
        """How many were chosen for one share."""
        return sum(pick.share == share for pick in self.picks)


def no_vectors(pool: Sequence[Inference]) -> Floats:
    """Vectors for a choice by value alone: all images are equally far from each other."""
    return np.eye(len(pool), dtype=np.float32)


def choose(
    pool: Sequence[Inference],
    budget: int,
    *,
    random_fraction: float,
    empty_fraction: float,
    in_boxes: bool = False,
    shortlist: float = 3.0,
    class_weights: Sequence[float] = (),
    vectors: Vectors = no_vectors,
) -> Selection:
    """Choose images to label.

    Args:
        pool: what there is.
        budget: how many images, or boxes that are expected in them, to choose; fewer where the pool has no more. The
            last image of a share may bring more boxes than are left.
        random_fraction: part of the budget, 0 to 1, for the random ones.
        empty_fraction: part of the budget, 0 to 1, for the empty ones.
        in_boxes: whether the budget is in boxes.
        shortlist: how many times as many images as a share has room for are compared with each other; 1: the ranking
            alone decides.
        class_weights: of the model's classes; empty: all have the same.
        vectors: gives what images are compared by; called with the shortlists alone.
    """
    worth = {seen.candidate.id: _value(seen, in_boxes, class_weights) for seen in pool}
    ranked = sorted(pool, key=lambda seen: (-worth[seen.candidate.id], draw(seen.candidate.id, "rank")))
    hardest = [seen for seen in ranked if not seen.is_empty]
    empty = [seen for seen in ranked if seen.is_empty]
    by_chance = sorted(pool, key=lambda seen: draw(seen.candidate.id, "random share"))
    random = _part(budget * random_fraction, by_chance, "size of the random share")
    empties = _part(budget * empty_fraction, by_chance, "size of the empty share")

    choice = _Choice(budget, in_boxes, shortlist, worth, vectors)
    choice.take(by_chance, "random", until=random)
    choice.take_diverse(hardest, "hardest", until=budget - empties)
    choice.take_diverse(empty, "empty", until=budget)
    choice.take_diverse(hardest, "hardest", until=budget)  # where there were too few empty ones
    return Selection(tuple(_mixed(choice.picks)), choice.duplicates)


def weights_of(labelled_boxes: Mapping[str, int], classes: Sequence[str]) -> list[float]:
    """Weights of the model's classes, larger where the job has fewer labels of them.

    A class with n boxes, where the mean of the classes is m, weighs m / n as scikit-learn's ``balanced``, at least
    1 / ``MOST_WEIGHT`` and at most ``MOST_WEIGHT``.

    Args:
        labelled_boxes: boxes in the job by class.
        classes: of the model.
    """
    counts = np.array([labelled_boxes.get(name, 0) for name in classes], dtype=np.float64)
    if not counts.sum():
        return [1.0] * len(classes)
    found = counts.mean() / np.maximum(counts, 1e-9)
    return [float(weight) for weight in np.clip(found, 1 / MOST_WEIGHT, MOST_WEIGHT)]


def boxes_to_draw(seen: Inference) -> int:
    """How many boxes an image is expected to cost: as many as the champion found, and at least one."""
    return max(1, len(seen.detections))


def _value(seen: Inference, in_boxes: bool, class_weights: Sequence[float]) -> float:
    """What a label is worth.

    The boxes of one image are alike, so n of them are taken to teach as much as sqrt(n) of as many images. Divided by n
    the value would favor images of a single object, in which rare classes are rarer still.
    """
    value = seen.judgement.score
    if class_weights and len(seen.detections):
        value *= float(np.mean([class_weights[class_id] for class_id in seen.detections.classes]))
    return value / math.sqrt(boxes_to_draw(seen)) if in_boxes else value


def _part(room: float, by_chance: Sequence[Inference], purpose: str) -> int:
    """Whole images or boxes of a share; a remainder of 0.3 becomes one more in three rounds of ten.

    Rounded down, a small budget would never have a random image to compare the ranking with.
    """
    return math.floor(room + draw(by_chance[0].candidate.id, purpose)) if by_chance else 0


class _Choice:
    """Images chosen so far, none much like another."""

    def __init__(
        self, budget: int, in_boxes: bool, shortlist: float, worth: Mapping[str, float], vectors: Vectors
    ) -> None:
        self.picks: list[Pick] = []
        self.duplicates = 0
        self._in_boxes, self._shortlist, self._worth, self._vectors = in_boxes, shortlist, worth, vectors
        self._spent = 0
        self._done: set[str] = set()  # chosen or passed over
        self._looks = Duplicates(window=max(budget, 1))

    def take(self, ranked: Iterable[Inference], share: Share, *, until: int) -> None:
        """Take the next images until so much is spent in all; what was passed over does not come again."""
        for seen in ranked:
            if self._spent >= until:
                return
            if seen.candidate.id not in self._done:
                self._take(seen, share)

    def take_diverse(self, ranked: Sequence[Inference], share: Share, *, until: int) -> None:
        """Take images unlike each other among the first of a ranking, and go on behind these if they are too few."""
        left = [seen for seen in ranked if seen.candidate.id not in self._done]
        while left and self._spent < until:
            first, left = self._first(left, self._shortlist * (until - self._spent))
            if self._shortlist > 1:
                first = self._spread(first)
            self.take(first, share, until=until)

    def _take(self, seen: Inference, share: Share) -> None:
        self._done.add(seen.candidate.id)
        if seen.fingerprint in self._looks:
            self.duplicates += 1
            return
        self._looks.keep(seen.fingerprint)
        self._spent += self._cost(seen)
        self.picks.append(Pick(seen, share, _reason(seen, share)))

    def _first(self, ranked: Sequence[Inference], room: float) -> tuple[list[Inference], list[Inference]]:
        """The first images that fill so much room, and the others."""
        filled = np.cumsum([self._cost(seen) for seen in ranked])
        count = int(np.searchsorted(filled, room)) + 1
        return list(ranked[:count]), list(ranked[count:])

    def _spread(self, shortlist: Sequence[Inference]) -> list[Inference]:
        """The images in the order of k-centre, which begins at those chosen so far."""
        before = [pick.seen for pick in self.picks]
        found = self._vectors([*before, *shortlist])
        values = [self._worth[seen.candidate.id] for seen in shortlist]
        order = greedy_k_centre(found[len(before) :], values, found[: len(before)])
        return [shortlist[place] for place in order]

    def _cost(self, seen: Inference) -> int:
        return boxes_to_draw(seen) if self._in_boxes else 1


def _reason(seen: Inference, share: Share) -> str:
    reasons = {"hardest": seen.judgement.reason, "empty": "no detections", "random": "drawn at random"}
    return reasons[share]


def _mixed(picks: Iterable[Pick]) -> list[Pick]:
    """The shares spread evenly over the list, so that who labels its beginning alone labels some of each."""
    shares: dict[str, list[Pick]] = {}
    for pick in picks:
        shares.setdefault(pick.share, []).append(pick)
    places = [((place + 0.5) / len(own), pick) for own in shares.values() for place, pick in enumerate(own)]
    return [pick for _, pick in sorted(places, key=lambda one: one[0])]
