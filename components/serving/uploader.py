"""Brings what waits in the spool to the job's store, for as long as it takes."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from components.core.backoff import Backoff
from components.core.errors import ConflictError, InputError, UnfitStoreError
from components.core.job.hard_examples import image_key, sidecar_key
from components.core.rate_limit import RateLimit
from components.core.stores.open import Store
from components.serving.clock import dated
from components.serving.spool import OnEvent, Spool
from components.serving.spool_files import DamagedError, Entry, Example

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 300.0
_IDLE_SECONDS = 0.5
_SECONDS_BETWEEN_LINES = 3600.0
_LOOK_SECONDS = 0.1  # how soon the stop event is seen

Clock = Callable[[], float]
Sleep = Callable[[threading.Event, float], object]

log = logging.getLogger(__name__)


class Uploader:
    """Sends examples oldest first, each image before its sidecar, and each once.

    After a start or a failure the store is asked what it has before bytes are sent again. What the store refuses, or
    cannot be reached for, is tried again with growing pauses up to five minutes, for ever.

    Args:
        spool: where the examples wait.
        store: the job's root.
        bytes_per_s: how much may be sent in the long run; None: as much as can be.
        on_event: called for ``uploaded`` examples, ``bytes_uploaded`` and ``retries``, for counting.
        check: made before anything is sent; raises ``UnfitStoreError`` if the store would lose what is written to it.
        clock: seconds since some moment, for waiting.
        sleep: waits for so many seconds, or until the event is set.

    Raises:
        InputError: a bandwidth that is not positive.
    """

    def __init__(
        self,
        spool: Spool,
        store: Store,
        *,
        bytes_per_s: float | None = None,
        on_event: OnEvent = lambda name, amount: None,
        check: Callable[[], None] = lambda: None,
        clock: Clock = time.monotonic,
        sleep: Sleep = threading.Event.wait,
    ) -> None:
        if bytes_per_s is not None and not bytes_per_s > 0:
            raise InputError(f"bandwidth {bytes_per_s}: must be a number of bytes per second > 0")
        self._spool, self._store, self._on_event = spool, store, on_event
        self._bucket = _Bucket(bytes_per_s, clock)
        self._lines = RateLimit(_SECONDS_BETWEEN_LINES, clock)
        self._backoff = Backoff(FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS)
        self._check, self._sleep = check, sleep
        self._is_fit = False  # whether the store is known to keep its conditions
        self._doubtful_below = 0  # examples with a lower number may be in the store already

    def run(self, stop: threading.Event) -> None:
        """Upload until the event is set; then return within a second.

        A request to the store that is under way is left to itself, since it may last a minute. The next start finds out
        what came of it.
        """
        thread = threading.Thread(target=self._work, args=(stop,), name="uploader", daemon=True)
        thread.start()
        while thread.is_alive() and not stop.wait(_LOOK_SECONDS):
            pass
        thread.join(timeout=0.5)

    def _work(self, stop: threading.Event) -> None:
        self._doubtful_below = self._spool.next_sequence
        while not stop.is_set():
            entry = self._spool.take()
            if entry is None:
                self._sleep(stop, _IDLE_SECONDS)
                continue
            try:
                self._bring(entry, stop)
            except DamagedError as error:
                self._spool.set_aside(entry, error)
            except Exception as error:  # whatever a store's library raises; this thread must not end
                self._doubtful_below = max(self._doubtful_below, entry.sequence + 1)
                self._on_event("retries", 1)
                self._report(error)
                self._sleep(stop, self._backoff.next())
            else:
                self._backoff.reset()

    def _report(self, error: Exception) -> None:
        """Log each kind of problem once an hour, and not at every try."""
        reason = _reason(error)
        if self._lines.allows(reason):
            log.warning("hard examples cannot be sent, %d are waiting; retrying: %s", len(self._spool), reason)

    def _bring(self, entry: Entry, stop: threading.Event) -> None:
        if not self._is_fit:
            self._check_store()
        example = self._spool.read(entry)
        sidecar = dated(example.sidecar, entry.since)
        if sidecar != example.sidecar:
            example = self._spool.rewrite(entry, sidecar)
        missing = self._missing(example, doubtful=entry.sequence < self._doubtful_below)
        self._sleep(stop, self._bucket.take(sum(len(data) for data in missing.values())))
        if stop.is_set():
            return
        for key, data in missing.items():
            self._put(key, data)
        self._is_fit = True
        self._spool.sent(entry)
        self._on_event("uploaded", 1)

    def _check_store(self) -> None:
        """Send nothing to a store that would lose rounds; a worker that may not look leaves that to the pipeline."""
        try:
            self._check()
        except UnfitStoreError:
            raise
        except InputError as error:
            log.debug("the store's conditional writes could not be checked: %s", error)

    def _missing(self, example: Example, *, doubtful: bool) -> dict[str, bytes]:
        """The objects that the store lacks, the sidecar last."""
        image, sidecar = image_key(example.sidecar), sidecar_key(example.sidecar)
        if doubtful and self._store.stat(sidecar):
            return {}
        if doubtful and self._store.stat(image):
            return {sidecar: example.text}
        return {image: example.image, sidecar: example.text}

    def _put(self, key: str, data: bytes) -> None:
        try:
            self._store.write(key, data, if_absent=True)
        except ConflictError:  # another worker saw the same image
            return
        self._on_event("bytes_uploaded", len(data))


class _Bucket:
    """A token bucket: one second's worth may go at once, then only as much as time brings."""

    def __init__(self, bytes_per_s: float | None, clock: Clock) -> None:
        self._rate, self._clock = bytes_per_s, clock
        self._tokens, self._filled = bytes_per_s or 0.0, clock()

    def take(self, size: int) -> float:
        """How many seconds to wait before so many bytes may go."""
        if self._rate is None:
            return 0.0
        now = self._clock()
        self._tokens = min(self._rate, self._tokens + self._rate * max(0.0, now - self._filled)) - size
        self._filled = now
        return max(0.0, -self._tokens / self._rate)


def _reason(error: Exception) -> str:
    """What is wrong, without the object's address; only errors of our own are known to be free of secrets."""
    return str(error).partition(": ")[2] if isinstance(error, InputError) else type(error).__name__
