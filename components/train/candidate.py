"""The candidate of the last round, brought back to be judged again."""

from __future__ import annotations

from pathlib import Path

from components.core.errors import InputError
from components.core.job.job import Job
from components.core.reports import page as reports
from components.train.train import Trained


def last_candidate(job_root: str, output: Path) -> Trained:
    """Bring the last round's candidate; nothing is trained.

    Args:
        job_root: the job.
        output: folder of the bundle; created.

    Raises:
        InputError: there is none, or it is the champion already.
        NotFoundError: it was removed from the store.
    """
    job = Job.open(job_root)
    state, _ = job.read()
    if state.candidate is None:
        raise InputError(f"{job.store.uri}: no round has trained a candidate yet: run without force_evaluate")
    if state.candidate == state.champion:
        raise InputError(f"{job.store.uri}: the last candidate, {state.candidate}, is already the champion")
    bundle = job.fetch_bundle(state.candidate, output, state)
    told = reports.note(f"Nothing was trained: the last round's candidate, {state.candidate}, is evaluated again.")
    return Trained(bundle, [], [reports.Section("Training", told)])
