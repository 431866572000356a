"""A candidate on trial: some workers run it before all others may, and their reports decide."""

from __future__ import annotations

import hashlib
import logging
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from components.core.errors import ConflictError
from components.core.job import Job, State, TrialRun
from components.deploy.pointer import publish_pointer
from components.deploy.workers import read_reports, share_of

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrialPlan:
    """How a candidate is tried.

    Attributes:
        fraction: share of the workers that try it, 0 to 1; 0 for no trial.
        frames: how many pictures each of them is to look at with it.
        hours: how long it may take before the candidate is withdrawn.
    """

    fraction: float = 0.0
    frames: int = 100
    hours: float = 24.0

    def begin(self, job: Job, version: str, why: str, now: datetime) -> TrialRun | None:
        """Choose the workers; None where there is nothing to try, or nobody who could go on with an older model.

        Which workers are chosen depends on the version, so that it is not always the same ones.
        """
        nodes = sorted(read_reports(job), key=lambda node: hashlib.sha256(f"{version}:{node}".encode()).digest())
        chosen = tuple(sorted(nodes[: share_of(self.fraction, len(nodes))]))
        if not chosen or job.read()[0].champion is None:
            return None
        until = now + timedelta(hours=self.hours)
        return TrialRun(version=version, nodes=chosen, frames=self.frames, until=until, why=why)


@dataclass(frozen=True)
class TrialEnd:
    """Where a trial stands.

    Attributes:
        outcome: ``promoted``, ``withdrawn``, or ``on trial`` still.
        reason: in one line.
    """

    outcome: Literal["promoted", "withdrawn", "on trial"]
    reason: str


def settle_trial(job: Job, now: datetime) -> TrialEnd | None:
    """Promote the candidate on trial, withdraw it or leave it there, by what its workers report.

    One failure withdraws it. It is promoted once each of its workers has looked at as many pictures as asked for.

    Args:
        job: the job.
        now: the time, with its zone.

    Returns:
        Where the trial stands; None where there is none.
    """
    while True:
        state, etag = job.read()
        if state.trial is None:
            return None
        end = _judge(job, state.trial, now)
        if end.outcome == "on trial":
            return end
        try:
            job.commit(_after(state, state.trial, end, now), etag)
        except ConflictError:
            continue  # somebody settled it, or a newer candidate took its place
        publish_pointer(job)
        log.info("%s %s: %s", state.trial.version, end.outcome, end.reason)
        return end


def await_trial(job: Job, *, timeout_s: float, poll_s: float) -> TrialEnd | None:
    """Settle a trial, looking again and again for some time; later polls go on where this ends."""
    end = time.monotonic() + timeout_s
    while True:
        found = settle_trial(job, datetime.now(UTC))
        left = end - time.monotonic()
        if found is None or found.outcome != "on trial" or left <= 0:
            return found
        time.sleep(min(poll_s, left))


def _judge(job: Job, trial: TrialRun, now: datetime) -> TrialEnd:
    reports = read_reports(job)
    mine = {node: r for node in trial.nodes if (r := reports.get(node)) and r.version == trial.version}
    failed = [
        f"{node}: {report.error or 'no reason given'}" for node, report in mine.items() if report.state == "failed"
    ]
    if failed:
        return TrialEnd("withdrawn", f"{len(failed)} of {len(trial.nodes)} workers failed ({'; '.join(failed)})")
    through = sum(report.frames >= trial.frames for report in mine.values())
    reason = f"{through} of {len(trial.nodes)} workers have looked at {trial.frames} pictures with it"
    if through == len(trial.nodes):
        return TrialEnd("promoted", reason)
    return TrialEnd("withdrawn", f"in time only {reason}") if now >= trial.until else TrialEnd("on trial", reason)


def _after(state: State, trial: TrialRun, end: TrialEnd, now: datetime) -> State:
    if end.outcome == "promoted":
        return state.pointing_at(trial.version, f"{trial.why}; tried: {end.reason}", now)
    return state.trying(None)
