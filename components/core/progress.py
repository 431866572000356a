"""How far a long piece of work has come, in the log, now and then."""

from __future__ import annotations

import logging
import time

from components.core.rate_limit import RateLimit


class Progress:
    """Logs the progress of one piece of work.

    Args:
        log: gets the lines.
        text: of a line, with ``{done}`` and ``{total}``, such as ``evaluated {done} of {total} images``.
        total: how many steps the work has.
        seconds: between two lines.
        to_the_end: log the last step in any case, so that the log says that the work is complete.
    """

    def __init__(
        self, log: logging.Logger, text: str, total: int, *, seconds: float = 10.0, to_the_end: bool = False
    ) -> None:
        self._log, self._text, self._total, self._to_the_end = log, text, total, to_the_end
        self._done = 0
        self._started = time.monotonic()
        self._lines = RateLimit(seconds)
        self._lines.allows()  # the first line comes after the first interval

    def advance(self, note: str = "") -> None:
        """One more step is done.

        Args:
            note: something to add to the line.
        """
        self._done += 1
        if self._lines.allows() or (self._to_the_end and self._done == self._total):
            speed = self._done / max(time.monotonic() - self._started, 1e-9)
            line = f"{self._text.format(done=self._done, total=self._total)}, {speed:.1f}/s"
            self._log.info("%s", f"{line}, {note}" if note else line)
