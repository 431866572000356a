"""The way from a source to the loop: a thread reads ahead, so that decoding and inference share the time."""

from __future__ import annotations

import threading
from collections import deque

from components.serving.sources.base import Shot, Source

_AHEAD = 2  # images of a finite source that wait decoded


class FrameQueue:
    """The images of a source, one at a time.

    A finite source waits for whoever takes; of a live one only the newest image is kept, and those not taken in time
    are counted.

    Args:
        source: where they come from.
        after: place of the last one that is done with.
        every: each n-th image only.

    Attributes:
        dropped: images of a live source that a newer one replaced.
    """

    def __init__(self, source: Source, *, after: str = "", every: int = 1) -> None:
        self._source = source
        self._room = 1 if source.live else _AHEAD
        self._waiting: deque[Shot] = deque()
        self._changed = threading.Condition()
        self._stop, self._ended = threading.Event(), False
        self._error: Exception | None = None
        self.dropped = 0
        self._thread = threading.Thread(target=self._read, args=(after, every), name="source", daemon=True)
        self._thread.start()

    def take(self, timeout_s: float, at_most: int = 1) -> list[Shot]:
        """The next image, and those behind it that wait; none if there was none in that time, or at the end.

        Args:
            timeout_s: to wait for it.
            at_most: how many, which is also how far a finite source is read ahead.

        Raises:
            InputError: the source cannot be read.
        """
        with self._changed:
            if not self._source.live:
                self._room = max(_AHEAD, at_most)
            self._changed.wait_for(lambda: self._waiting or self._ended, timeout_s)
            if self._waiting:
                taken = [self._waiting.popleft() for _ in range(min(at_most, len(self._waiting)))]
                self._changed.notify_all()
                return taken
            if self._error is not None:
                raise self._error
            return []

    @property
    def ended(self) -> bool:
        """Whether the last image has been taken.

        Raises:
            InputError: it has, and the source cannot be read any further.
        """
        with self._changed:
            if self._ended and not self._waiting and self._error is not None:
                raise self._error
            return self._ended and not self._waiting

    @property
    def progress(self) -> int:
        """Grows with every image that the source reads, also one that it passes over, and whenever it is reopened."""
        return self._source.read + self._source.retries

    def close(self, timeout_s: float = 3.0) -> bool:
        """End the thread; whether it ended in that time. One inside a driver can take its read deadline."""
        with self._changed:
            self._stop.set()
            self._changed.notify_all()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _read(self, after: str, every: int) -> None:
        error: Exception | None = None
        try:
            for shot in self._source.shots(self._stop, after, every):
                self._put(shot)
                if self._stop.is_set():
                    break
        except Exception as problem:  # the loop is who can do something about it
            error = problem
        with self._changed:
            self._ended, self._error = True, error
            self._changed.notify_all()

    def _put(self, shot: Shot) -> None:
        """Leave an image for the loop."""
        with self._changed:
            if self._source.live and self._waiting:
                self._waiting.clear()
                self.dropped += 1
            self._changed.wait_for(lambda: len(self._waiting) < self._room or self._stop.is_set())
            if not self._stop.is_set():
                self._waiting.append(shot)
                self._changed.notify_all()
