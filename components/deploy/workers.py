"""What the edge workers say of a model: wait until they run it, and go back when they cannot."""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from pydantic import ValidationError

from components.core.errors import ConflictError, TooLargeError
from components.core.job.fleet import STATUS, WorkerStatus
from components.core.job.job import Job
from components.core.job.state import State
from components.deploy.pointer import publish_pointer

log = logging.getLogger(__name__)

MAX_STATUS_BYTES = 1 << 20
GONE_AFTER = timedelta(days=1)  # a worker writes its report again every minute


@dataclass(frozen=True)
class Acknowledgement:
    """What the workers have said of a model version.

    Attributes:
        outcome: ``confirmed`` when enough workers run it, ``not confirmed`` when they did not in time or so many failed
            that enough never will, ``no workers`` where none has ever reported.
        loaded: nodes that run it.
        failed: nodes that tried and could not, with the reason.
        waiting: nodes that have not said anything of it.
    """

    outcome: Literal["confirmed", "not confirmed", "no workers"]
    loaded: tuple[str, ...]
    failed: dict[str, str]
    waiting: tuple[str, ...]

    @property
    def total(self) -> int:
        """How many workers there are."""
        return len(self.loaded) + len(self.failed) + len(self.waiting)

    def hopeless(self, fraction: float) -> bool:
        """Whether a share of the workers cannot be reached any more, since too many have failed."""
        return self.total - len(self.failed) < share_of(fraction, self.total)

    def describe(self) -> str:
        """The counts as one line."""
        if not self.total:
            return "no workers have reported"
        line = f"{len(self.loaded)} of {self.total} workers run it, {len(self.failed)} failed, {len(self.waiting)} wait"
        reasons = "; ".join(f"{node}: {error}" for node, error in self.failed.items())
        return f"{line} ({reasons})" if reasons else line


def await_workers(
    job: Job, version: str, *, timeout_s: float, fraction: float = 1.0, poll_s: float = 5.0
) -> Acknowledgement:
    """Look at the workers' reports until enough of them run a version, or it is clear that they will not.

    Args:
        job: the job.
        version: the model version.
        timeout_s: seconds to wait at most; 0 looks once.
        fraction: share of the workers that is enough, above 0 up to 1. A worker is who has reported within a day.
        poll_s: seconds between two looks.
    """
    end = time.monotonic() + timeout_s
    while True:
        found = _look(job, version, fraction)
        left = end - time.monotonic()
        if found.outcome != "not confirmed" or left <= 0 or found.hopeless(fraction):
            return found
        time.sleep(min(poll_s, left))


def roll_back_failed(job: Job, fraction: float, found: tuple[State, str | None] | None = None) -> str | None:
    """Go back to the model before, where so many workers failed to run the champion that too few are left.

    One that somebody went back to by hand stays, whatever the workers say of it: there is no telling what is better.

    Args:
        job: the job.
        fraction: share of the workers that is enough.
        found: state and etag as read; None reads them.

    Returns:
        The version that is the champion again; None where nothing was done.
    """
    while True:
        state, etag = found or job.read()
        if not state.history or state.history[-1].before is None or state.history[-1].why.startswith("rolled back"):
            return None
        version, before = state.history[-1].version, state.history[-1].before
        said = _look(job, version, fraction)
        if not said.total or not said.hopeless(fraction):
            return None
        try:
            made = job.commit(state.pointing_at(before, f"rolled back: {version} failed: {said.describe()}"), etag)
        except ConflictError:
            found = None  # look again at what it has become
            continue
        log.warning("rolled back to %s, because %s failed: %s", before, version, said.describe())
        publish_pointer(job, made)
        return before


def read_reports(job: Job) -> dict[str, WorkerStatus | None]:
    """The report of each worker by its name, None where it cannot be read; those that are gone are left out."""
    now = datetime.now(UTC)
    found = {}
    for info in job.store.list(STATUS):
        if now - info.modified <= GONE_AFTER:
            report = _report(job, info.key)
            found[report.node if report else info.key.removeprefix(STATUS).removesuffix(".json")] = report
    return found


def share_of(fraction: float, workers: int) -> int:
    """How many workers a share of them is, rounded up."""
    return math.ceil(round(fraction * workers, 6))  # 0.07 * 100 is a little more than 7


def _look(job: Job, version: str, fraction: float) -> Acknowledgement:
    reports = read_reports(job)
    loaded, failed, waiting = [], {}, []
    for node, report in reports.items():
        if report is None or report.version != version:
            waiting.append(node)
        elif report.state == "loaded":
            loaded.append(node)
        else:
            failed[node] = report.error or "no reason given"
    if not reports:
        outcome: Literal["confirmed", "not confirmed", "no workers"] = "no workers"
    else:
        outcome = "confirmed" if len(loaded) >= share_of(fraction, len(reports)) else "not confirmed"
    return Acknowledgement(outcome, tuple(loaded), failed, tuple(waiting))


def _report(job: Job, key: str) -> WorkerStatus | None:
    """A worker's report; None where it cannot be read."""
    try:
        found = job.store.read_versioned(key, max_bytes=MAX_STATUS_BYTES)
        return WorkerStatus.model_validate_json(found[0]) if found else None
    except (ValidationError, TooLargeError):
        log.warning("%s is not a valid worker status; the worker counts as waiting", job.store.uri_of(key))
        return None
