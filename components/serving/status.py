"""What a worker says of itself in the job's root."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Literal

from components.core.errors import InputError
from components.core.job.fleet import WorkerStatus, status_key
from components.core.stores.open import Store

BEAT_SECONDS = 60.0

log = logging.getLogger(__name__)


class StatusReport:
    """The worker's status: written when it changes, and again every minute so that one sees that it lives.

    Args:
        store: the job's root.
        node: the worker.
        frames: counts the images that the model in use has looked at.
        clock: seconds that only grow.
    """

    def __init__(
        self, store: Store, node: str, frames: Callable[[], int], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._store, self._node, self._frames, self._clock = store, node, frames, clock
        self._said: tuple[str, Literal["loaded", "failed"], str] | None = None
        self._due = 0.0
        self._silenced = ""

    def say(self, version: str, state: Literal["loaded", "failed"], error: str = "") -> None:
        """What the worker last did with a model; it is said again until the store has it."""
        self._said, self._due = (version, state, error), 0.0
        self.beat()

    def beat(self, *, now: bool = False) -> None:
        """Write the status if it is due, or now."""
        if self._said is None or (self._clock() < self._due and not now):
            return
        version, state, error = self._said
        status = WorkerStatus(
            node=self._node, version=version, state=state, error=error, time=datetime.now(UTC),
            frames=self._frames() if state == "loaded" else 0,
        )  # fmt: skip
        try:
            self._store.write(status_key(self._node), status.model_dump_json(indent=2).encode())
        except InputError as problem:
            if str(problem) != self._silenced:
                log.warning("the status cannot be written and is tried again: %s", problem)
            self._silenced = str(problem)
            return
        self._silenced, self._due = "", self._clock() + BEAT_SECONDS
