"""The candidate of the last round, brought back to be judged again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from components.core.errors import InputError
from components.core.job.job import Job
from components.core.reports import page as reports
from components.core.runtimes.golden import golden_file
from components.core.runtimes.rockchip import TARGETS, rknn_file
from components.train.train import Trained


def last_candidate(job_root: str, output: Path, *, confidence_threshold: float, nms_threshold: float) -> Trained:
    """Bring the last round's candidate; nothing is trained.

    It is as if it had just been trained: without what it was converted to, and with the thresholds of now, since it is
    deployed with those that it is judged by.

    Args:
        job_root: the job.
        output: folder of the bundle; created.
        confidence_threshold: score the model is to be deployed with.
        nms_threshold: overlap the model is to be deployed with.

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
    fetched = job.fetch_bundle(state.candidate, output, state)
    converted = fetched.files.keys() & {of(target) for target in TARGETS for of in (rknn_file, golden_file)}
    for name in converted:
        (output / name).unlink()
    bundle = replace(
        fetched,
        confidence_threshold=confidence_threshold,
        nms_threshold=nms_threshold,
        files={name: digest for name, digest in fetched.files.items() if name not in converted},
        lineage={name: value for name, value in fetched.lineage.items() if name != "rknn"},
    )
    if bundle != fetched:
        bundle = bundle.write(output)
    told = reports.note(f"Nothing was trained: the last round's candidate, {state.candidate}, is evaluated again.")
    return Trained(bundle, [], [reports.Section("Training", told)])
