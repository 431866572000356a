"""A canary: some workers run a candidate before all others may, and their reports decide."""

from __future__ import annotations

import hashlib
import logging
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from components.core.errors import ConflictError
from components.core.job.job import Job
from components.core.job.state import Canary, State
from components.deploy.pointer import publish_pointer
from components.deploy.workers import read_reports, share_of

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CanaryPlan:
    """How a candidate is tried.

    Attributes:
        fraction: share of the workers that run it first, 0 to 1; 0 for no canary.
        frames: how many images each of them is to look at with it.
        hours: how long it may take before the candidate is withdrawn.
    """

    fraction: float = 0.0
    frames: int = 100
    hours: float = 24.0

    def begin(self, job: Job, state: State, version: str, why: str) -> Canary | None:
        """Choose the workers; None where there is no canary, or no older model that the others could run meanwhile.

        Which workers are chosen depends on the version, so that it is not always the same ones.
        """
        if self.fraction <= 0 or state.champion is None:
            return None
        nodes = sorted(read_reports(job), key=lambda node: hashlib.sha256(f"{version}:{node}".encode()).digest())
        chosen = tuple(sorted(nodes[: share_of(self.fraction, len(nodes))]))
        if not chosen:
            return None
        until = datetime.now(UTC) + timedelta(hours=self.hours)
        return Canary(version=version, nodes=chosen, frames=self.frames, until=until, why=why)


@dataclass(frozen=True)
class CanaryResult:
    """Where a canary stands.

    Attributes:
        outcome: ``promoted``, ``withdrawn``, or ``canary`` still.
        reason: in one line.
    """

    outcome: Literal["promoted", "withdrawn", "canary"]
    reason: str


def settle_canary(job: Job, now: datetime, found: tuple[State, str | None] | None = None) -> CanaryResult | None:
    """Promote the canary, withdraw it or leave it there, by what its workers report.

    One failure withdraws it. It is promoted once each of its workers has looked at as many images as asked for.

    Args:
        job: the job.
        now: the time, with its zone.
        found: state and etag as read; None reads them.

    Returns:
        Where the canary stands; None where there is none.
    """
    while True:
        state, etag = found or job.read()
        if state.canary is None:
            return None
        end = _judge(job, state.canary, now)
        if end.outcome == "canary":
            return end
        try:
            made = job.commit(_after(state, state.canary, end, now), etag)
        except ConflictError:
            found = None  # somebody settled it, or a newer candidate took its place
            continue
        publish_pointer(job, made)
        log.info("%s %s: %s", state.canary.version, end.outcome, end.reason)
        return end


def await_canary(job: Job, *, timeout_s: float, poll_s: float) -> CanaryResult | None:
    """Settle a canary, looking again and again for some time; later polls go on where this ends."""
    end = time.monotonic() + timeout_s
    while True:
        found = settle_canary(job, datetime.now(UTC))
        left = end - time.monotonic()
        if found is None or found.outcome != "canary" or left <= 0:
            return found
        time.sleep(min(poll_s, left))


def _judge(job: Job, canary: Canary, now: datetime) -> CanaryResult:
    reports = read_reports(job)
    mine = {node: r for node in canary.nodes if (r := reports.get(node)) and r.version == canary.version}
    failed = [
        f"{node}: {report.error or 'no reason given'}" for node, report in mine.items() if report.state == "failed"
    ]
    if failed:
        return CanaryResult("withdrawn", f"{len(failed)} of {len(canary.nodes)} workers failed ({'; '.join(failed)})")
    through = sum(report.frames >= canary.frames for report in mine.values())
    reason = f"{through} of {len(canary.nodes)} workers have processed {canary.frames} images with it"
    if through == len(canary.nodes):
        return CanaryResult("promoted", reason)
    return CanaryResult("withdrawn", f"timed out: {reason}") if now >= canary.until else CanaryResult("canary", reason)


def _after(state: State, canary: Canary, end: CanaryResult, now: datetime) -> State:
    if end.outcome == "promoted":
        return state.pointing_at(canary.version, f"{canary.why}; canary: {end.reason}", now)
    return state.withdrawing(canary, end.reason)
