"""What a worker says of itself in the job's root."""

from __future__ import annotations

import logging
import socket
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Literal

from components.core.errors import InputError
from components.core.job.fleet import WorkerStatus, status_key
from components.core.rate_limit import RateLimit
from components.core.stores.open import Store

BEAT_SECONDS = 60.0
SOON_SECONDS = 5.0
CONFLICT_SECONDS = 3600.0  # between two lines about the same other worker

log = logging.getLogger(__name__)


class StatusReport:
    """The worker's status: written when it changes, and again every minute so that one sees that it lives.

    Another worker that writes the status of this node is noticed: what lies there is looked at before each write.

    Args:
        store: the job's root.
        node: the worker.
        frames: counts the images that the model in use has looked at.
        latency: a percentile of the time of the latest inferences, in seconds.
        on_conflict: called when another worker turned out to use this worker's name.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        store: Store,
        node: str,
        frames: Callable[[], int],
        latency: Callable[[float], float] = lambda _: 0.0,
        on_conflict: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store, self._node, self._clock = store, node, clock
        self._frames, self._latency, self._on_conflict = frames, latency, on_conflict
        self._instance = f"{socket.gethostname()}-{uuid.uuid4().hex[:8]}"  # of this process
        self._etag = ""  # of what it wrote last
        self._said: tuple[str, Literal["loaded", "failed"], str] | None = None
        self._due = 0.0
        self._silenced = ""
        self._conflicts = RateLimit(CONFLICT_SECONDS, clock)

    def say(self, version: str, state: Literal["loaded", "failed"], error: str = "") -> None:
        """What the worker last did with a model; it is said again until the store has it."""
        self._said, self._due = (version, state, error), 0.0
        if self.beat():
            self._due = self._clock() + SOON_SECONDS  # where another worker says something else, it has by then

    def beat(self, *, now: bool = False) -> bool:
        """Write the status if it is due, or now; whether it was written."""
        if self._said is None or (self._clock() < self._due and not now):
            return False
        version, state, error = self._said
        status = WorkerStatus(
            node=self._node, version=version, state=state, error=error, time=datetime.now(UTC),
            frames=self._frames() if state == "loaded" else 0, instance=self._instance,
            latency_p50_ms=1000 * self._latency(50), latency_p95_ms=1000 * self._latency(95),
        )  # fmt: skip
        key = status_key(self._node)
        try:
            self._look_for_another(key)
            self._etag = self._store.write(key, status.model_dump_json(indent=2).encode())
        except InputError as problem:
            if str(problem) != self._silenced:
                log.warning("the status cannot be written, trying again: %s", problem)
            self._silenced = str(problem)
            return False
        self._silenced, self._due = "", self._clock() + BEAT_SECONDS
        return True

    def remove(self) -> None:
        """Take the status away, as whoever does not come back under this name should: a pod of several, for example.

        It would count as a worker that has said nothing of the next model, for as long as a worker may be away.
        """
        try:
            if self._etag:
                self._store.delete(status_key(self._node))
        except InputError as problem:
            log.warning("the status cannot be removed: %s", problem)

    def _look_for_another(self, key: str) -> None:
        """Say so if another worker has written this worker's status since it did itself."""
        there = self._store.read_versioned(key) if self._etag else None
        if there is None or there[1] == self._etag:
            return
        try:
            other = WorkerStatus.model_validate_json(there[0]).instance
        except ValueError:  # of no worker; it is replaced
            return
        if other != self._instance and self._conflicts.allows(other):
            self._on_conflict()
            log.error(
                "another worker (%s) also reports as node %s: give each worker its own name (--node), or the job "
                "counts both as one", other or "of an earlier version", self._node,
            )  # fmt: skip
