"""Pauses between tries: each twice as long as the one before, and never the same for a whole fleet."""

from __future__ import annotations

import random

_MAX_DOUBLINGS = 30


def doubled(first: float, longest: float, times: int) -> float:
    """A pause that has doubled a number of times, but is never longer than the longest.

    Args:
        first: the pause before the first doubling.
        longest: in the same unit.
        times: how often it has doubled, from 0 on.
    """
    return min(first * 2.0 ** min(times, _MAX_DOUBLINGS), longest)


class Backoff:
    """The pauses between the tries of one thing.

    Args:
        first: seconds of the first pause.
        longest: seconds that no pause exceeds.
        jitter: fraction, 0 to 1, by which a pause may be shorter at random, so that many workers that were cut off
            together do not all come back together.
    """

    def __init__(self, first: float, longest: float, *, jitter: float = 0.5) -> None:
        self._first, self._longest, self._jitter = first, longest, jitter
        self._tries = 0

    def next(self) -> float:
        """Seconds to wait before the next try."""
        pause = doubled(self._first, self._longest, self._tries)
        self._tries += 1
        return pause * random.uniform(1 - self._jitter, 1)

    def reset(self) -> None:
        """Begin with the first pause again, after a success."""
        self._tries = 0
