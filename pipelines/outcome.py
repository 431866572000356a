"""How a run on a cluster ended: the step that failed, why and where its log is; or its figures and its report."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from components.core.errors import InputError
from components.core.job.tries import read_sure_failure
from components.core.redaction import redacted
from components.core.stores.addresses import shown
from pipelines import summary
from pipelines.metrics import figures_of

_NO_STEP = re.compile(r"root|executor(\(\d+\))?|.*-driver")
_DRIVER = "-driver"


def steps(run: Any) -> Iterator[tuple[str, Any]]:
    """The steps of a run with what the server says of each.

    The server lists every node of the workflow: pods that prepare a step, each try, and the workflow itself. Of these
    only one that failed while it prepared a step is of interest.

    Args:
        run: from the server.
    """
    details = (run.run_details.task_details if run.run_details else None) or []
    pods = [task.pod_name or "" for task in details]
    for task in details:
        name = task.display_name or ""
        is_workflow = any(pod.startswith(f"{name}-") for pod in pods)
        if not name or not task.state or is_workflow:
            continue
        if not _NO_STEP.fullmatch(name):
            yield name, task
        elif name.endswith(_DRIVER) and task.state == "FAILED":
            yield f"{name.removesuffix(_DRIVER)} (before it started)", task


def outcome(run: Any, url: str, namespace: str | None = None) -> Iterator[str]:
    """What a person wants to know of a finished run, line by line.

    Args:
        run: from the server.
        url: its page.
        namespace: of its pods; None where there is only one.
    """
    config = run.runtime_config
    job_root = str(((config and config.parameters) or {}).get("job_root") or "")
    if run.state != "SUCCEEDED":
        yield from _failure(run, job_root, url, namespace)
    elif job_root:
        yield from _figures(run.run_id, job_root)


def _failure(run: Any, job_root: str, url: str, namespace: str | None) -> Iterator[str]:
    # A step fails the groups that it is in, and these began before it.
    failed = sorted((str(task.start_time or ""), name) for name, task in steps(run) if task.state == "FAILED")
    if not failed:
        return
    known = _sure_failure(run.run_id, job_root)
    step = failed[-1][1]
    yield f"{step} failed" + _reason(step, known)
    yield f"log: {url}, step {step}, Logs"
    # The server lists pods in any order, also those of earlier tries and of other steps that failed.
    containers = sorted(
        (str(task.start_time or ""), task.pod_name)
        for task in run.run_details.task_details
        if task.state == "FAILED" and "-impl-" in (task.pod_name or "")
    )
    if containers:
        yield f"  or: kubectl logs {containers[-1][1]} -c main" + (f" --namespace {namespace}" if namespace else "")


def _reason(step: str, known: tuple[str, str] | None) -> str:
    """Why a step failed; with the name under which that was noted where it is another one, as of one beside it."""
    if known is None:
        return ""
    is_its = re.fullmatch(rf"{re.escape(known[0].replace('_', '-'))}(-\d+)?", step)
    return f": {known[1]}" if is_its else f": {known[0]}: {known[1]}"


def _sure_failure(run_id: str, job_root: str) -> tuple[str, str] | None:
    """Step and reason as the step left them in the job's root; None if it could not, or we may not read it."""
    try:
        failure = read_sure_failure(job_root) if job_root else None
    except InputError:
        return None
    return (failure.step, failure.error) if failure and failure.run == run_id else None


def _figures(run_id: str, job_root: str) -> Iterator[str]:
    try:
        found = figures_of(job_root, run_id)
    except InputError as error:
        yield redacted(f"no figures: {error}")
        return
    yield from summary.figures(found.figures)
    yield f"report: {shown(found.report)}"
