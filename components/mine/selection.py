"""Which images of a pool to label under a budget.

The budget has three shares. The ``hardest`` are those that a miner ranks first among the images in which something
was found. The ``empty`` are images in which nothing was found: a miner has no score to judge them by, yet they are
where everything may have been missed. The ``random`` are drawn from all the rest, so that there is something to hold
the ranking against. A share that finds too few images leaves what is over to the others.

In each share an image that looks much like one already chosen is passed over. Ties are broken by a hash of the
image, as the random ones are drawn, so the same pool gives the same choice in whatever order it comes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from components.core.duplicates import Duplicates
from components.core.job.label_requests import Share
from components.core.miners.chance import draw
from components.mine.score_pool import Inference


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


def choose(pool: Sequence[Inference], budget: int, *, random_fraction: float, empty_fraction: float) -> Selection:
    """Choose images to label.

    Args:
        pool: what there is.
        budget: how many to choose; fewer where the pool has no more.
        random_fraction: part of the budget, 0 to 1, for the random ones.
        empty_fraction: part of the budget, 0 to 1, for the empty ones.
    """
    ranked = sorted(pool, key=lambda seen: (-seen.judgement.score, draw(seen.candidate.id, "rank")))
    hardest = (seen for seen in ranked if len(seen.detections))
    empty = (seen for seen in ranked if not len(seen.detections))
    random, empties = round(budget * random_fraction), round(budget * empty_fraction)

    choice = _Choice(budget)
    choice.take(hardest, "hardest", until=budget - random - empties)
    choice.take(empty, "empty", until=budget - random)
    choice.take(hardest, "hardest", until=budget - random)  # where there were too few empty ones
    rest = sorted([*hardest, *empty], key=lambda seen: draw(seen.candidate.id, "random share"))
    choice.take(iter(rest), "random", until=budget)
    return Selection(tuple(_mixed(choice.picks)), choice.duplicates)


class _Choice:
    """Images chosen so far, none much like another."""

    def __init__(self, budget: int) -> None:
        self.picks: list[Pick] = []
        self.duplicates = 0
        self._looks = Duplicates(window=max(budget, 1))

    def take(self, ranked: Iterator[Inference], share: Share, *, until: int) -> None:
        """Take the next images until so many are chosen in all; what was passed over does not come again."""
        while len(self.picks) < until and (seen := next(ranked, None)) is not None:
            if seen.fingerprint in self._looks:
                self.duplicates += 1
                continue
            self._looks.keep(seen.fingerprint)
            self.picks.append(Pick(seen, share, _reason(seen, share)))


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
