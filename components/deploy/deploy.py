"""Deploy: end a round. What the round made is put into the store, then the job's state names it in one commit.

Until that commit nothing of the round is seen, and after it all of it is; so a run that is killed anywhere and tried
again does what is left to do, and a round is never applied twice. The pointers that the edge workers read follow the
state.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from components.core.bundle import sha256_of
from components.core.errors import ConflictError, InputError
from components.core.job.job import Job
from components.core.job.state import RoundResult, State
from components.core.reports import page as reports
from components.core.rules.window import Window
from components.deploy.canary import CanaryPlan, await_canary
from components.deploy.candidate import Candidate, publish, version_of
from components.deploy.pointer import publish_pointer
from components.deploy.workers import Acknowledgement, await_workers, roll_back_failed

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Deployed:
    """How a round ended.

    Attributes:
        outcome: ``deployed``; ``kept`` the champion, the candidate being rejected; ``pending`` until the window opens;
            ``canary`` on some workers, or ``withdrawn`` after it; ``not confirmed``: deployed, but too few workers
            have said that they run it; or ``rolled back``, since too many could not.
        version: the candidate.
        champion: the version that is deployed now; None where there is none.
        workers: what they said; None if they were not asked.
        canary: where its canary stands, in words; empty where there is none.
    """

    outcome: Literal["deployed", "kept", "pending", "canary", "withdrawn", "not confirmed", "rolled back"]
    version: str
    champion: str | None
    workers: Acknowledgement | None = None
    canary: str = ""


def deploy(
    job_root: str,
    candidate: Candidate,
    manifest: Path,
    *,
    outcome: Literal["promoted", "pending", "rejected", "error"],
    why: str,
    round_number: int,
    run_id: str,
    cursor: str,
    champion: str | None,
    rollout_timeout: float = 0,
    rollout_fraction: float = 0.95,
    canary: CanaryPlan | None = None,
    poll_s: float = 5.0,
) -> Deployed:
    """Commit a round, with its candidate as the new champion if the gate says so.

    Args:
        job_root: the job.
        candidate: what the round made; it is kept whatever the outcome.
        manifest: file with every sample taken in so far, this round's among them.
        outcome: of the gate.
        why: the gate's reasons as one line.
        round_number: of this round.
        run_id: names this run; the same when it is tried again.
        cursor: how far the feed has been read.
        champion: the version that the candidate was judged against; None where there was none.
        rollout_timeout: seconds to wait for the workers to run the new champion; 0 does not ask them.
        rollout_fraction: share of the workers that is enough; when too many fail for that, the champion before is put
            back.
        canary: how some workers try the candidate before all others may; None for no canary.
        poll_s: seconds between two looks at their reports.

    Raises:
        InputError: the gate ended in an error, so that nothing is committed; or a file is missing or damaged.
        ConflictError: another run committed the round first, or the champion has changed; this one's work is dropped.
    """
    if outcome == "error":
        raise InputError(f"round {round_number} is not committed, because the gate could not decide: {why}")
    if not 0 < rollout_fraction <= 1:
        raise InputError(f"rollout_fraction={rollout_fraction}: must be above 0 and at most 1")
    job = Job.open(job_root)
    state, etag = job.read()
    if state.is_committed(round_number, run_id, job.store.uri):
        version = version_of(candidate, state, round_number)
    else:
        job.check_round(state, round_number, champion)
        _check_cursor(job, cursor)
        published = publish(candidate, job, state, round_number)
        version, why = published.version, f"{outcome}: {why}"
        result = RoundResult(
            number=round_number,
            run=run_id,
            cursor=cursor,
            manifest=_keep_manifest(job, manifest, round_number),
            champion=champion,
            version=version,
            description=published.description,
            outcome=outcome,
            why=why,
            canary=canary.begin(job, state, version, why) if canary and outcome == "promoted" else None,
        )
        state = job.commit_round(result, (state, etag))
    publish_pointer(job, state)
    return _ending(job, state, version, outcome, rollout_timeout, rollout_fraction, poll_s)


def promote_pending(
    job: Job, *, window: Window | None, now: datetime, found: tuple[State, str | None] | None = None
) -> str | None:
    """Deploy the candidate that waits, if there is one and its window is open.

    Args:
        job: the job.
        window: when a model may be deployed; None for always.
        now: the time, with its zone.
        found: state and etag as read; None reads them.

    Returns:
        The version that was deployed; None where none was.
    """
    while True:
        state, etag = found or job.read()
        if state.pending is None or (window is not None and not window.contains(now)):
            return None
        try:
            made = job.commit(state.pointing_at(state.pending, "promoted: it waited for the window", now), etag)
        except ConflictError:
            found = None  # it may have been deployed or replaced meanwhile; look again
            continue
        publish_pointer(job, made)
        return state.pending


def section(deployed: Deployed) -> reports.Section:
    """How the round ended, for its report."""
    facts = {"outcome": deployed.outcome, "candidate": deployed.version, "champion": deployed.champion or "none"}
    body = reports.facts(facts)
    if deployed.canary:
        body += reports.note(deployed.canary, "warn" if deployed.outcome == "withdrawn" else "info")
    if deployed.workers:
        kind = "info" if deployed.outcome == "deployed" else "warn"
        body += reports.note(f"{deployed.workers.outcome}: {deployed.workers.describe()}", kind)
    return reports.Section("Deployment", body)


def _check_cursor(job: Job, cursor: str) -> None:
    """Make sure that what the round has read of its feed is still known: a state must not name what is not there."""
    if cursor.startswith("feed/") and job.store.stat(cursor) is None:
        raise InputError(f"{job.store.uri_of(cursor)} was deleted after the round began: run the round again")


def _keep_manifest(job: Job, manifest: Path, round_number: int) -> str:
    if not manifest.is_file():
        raise InputError(f"manifest {manifest}: no such file")
    key = f"manifests/r{round_number:04d}-{sha256_of(manifest)[:8]}.parquet"
    job.store.upload(manifest, key)
    return key


def _ending(
    job: Job,
    state: State,
    version: str,
    outcome: Literal["promoted", "pending", "rejected"],
    rollout_timeout: float,
    rollout_fraction: float,
    poll_s: float,
) -> Deployed:
    """See what becomes of a candidate at the edge."""
    if outcome != "promoted":
        return Deployed("pending" if outcome == "pending" else "kept", version, state.champion)
    tried = ""
    if state.canary and state.canary.version == version:
        end = await_canary(job, timeout_s=rollout_timeout, poll_s=poll_s)
        if end and end.outcome != "promoted":
            return Deployed(end.outcome, version, state.champion, canary=end.reason)
        tried = end.reason if end else ""
        state, _ = job.read()
        if state.champion != version:  # a poll has settled it meanwhile, or a newer candidate took its place
            return Deployed("withdrawn", version, state.champion, canary=state.judged.get(version, tried))
    if rollout_timeout <= 0:
        return Deployed("deployed", version, state.champion, canary=tried)
    workers = await_workers(job, version, timeout_s=rollout_timeout, fraction=rollout_fraction, poll_s=poll_s)
    log.info("%s: %s", workers.outcome, workers.describe())
    if workers.outcome != "not confirmed":
        return Deployed("deployed", version, job.read()[0].champion, workers, tried)
    back = roll_back_failed(job, rollout_fraction)
    champion = job.read()[0].champion
    return Deployed("rolled back" if back else "not confirmed", version, champion, workers, tried)
