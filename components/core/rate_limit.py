"""Saying the same thing now and then, not every time it happens."""

from __future__ import annotations

import time
from collections.abc import Callable


class RateLimit:
    """Lets each message through once per interval.

    Args:
        seconds: the interval.
        clock: seconds that only grow.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds, self._clock = seconds, clock
        self._last: dict[str, float] = {}

    def allows(self, message: str = "") -> bool:
        """Whether a message is due; if it is, it is not due again before the interval is over."""
        now = self._clock()
        self._last = {known: at for known, at in self._last.items() if 0 <= now - at < self._seconds}
        if message in self._last:
            return False
        self._last[message] = now
        return True
