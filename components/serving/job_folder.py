"""The folder of a job on a worker's disk, so that a board that is moved to another job mixes nothing of the two."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
import uuid
from pathlib import Path

from components.core.errors import InputError
from components.core.job.fleet import POINTER
from components.core.stores.open import RESERVED, Store
from components.core.stores.transfer import landing, os_errors

JOB = "job.json"
_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9._-]+")

log = logging.getLogger(__name__)


def job_folder(folder: Path, job_root: str) -> Path:
    """The folder in which everything of one job lies, made if need be: examples, models and the place in a source.

    Args:
        folder: of the worker.
        job_root: address of the job's root, in its one form.

    Raises:
        InputError: it cannot be made.
    """
    name = _NOT_IN_A_NAME.sub("-", job_root.rpartition("/")[2]).strip("-.") or "job"
    own = folder / f"{name}-{hashlib.sha256(job_root.encode()).hexdigest()[:8]}"
    with os_errors(f"spool folder {folder}"):
        own.mkdir(parents=True, exist_ok=True)
        if not (own / JOB).exists():
            with landing(own / JOB, durable=True) as file:
                file.write(json.dumps({"job_root": job_root}).encode())
    return own


def models_folder(own: Path, member: str = "") -> Path:
    """Where the models of a job lie, or of one member of its releases: none stands in for another member.

    Args:
        own: the folder of the job.
        member: role of the member; empty for releases as a whole.
    """
    return own / (f"models-{_NOT_IN_A_NAME.sub('-', member)}" if member else "models")


def take_over_models(folder: Path, models: Path, store: Store) -> None:
    """Begin with the models of a job of the same name, where this job has none here and its store is out of reach.

    A job that has moved to another address keeps its model so. Where the store answers, its pointer decides.

    Args:
        folder: of the worker.
        models: of this job.
        store: of this job.
    """
    name = models.parent.name.rpartition("-")[0]
    others = [
        path
        for path in sorted(folder.glob(f"{name}-*/{models.name}"))
        if path != models and path.parent.name.rpartition("-")[0] == name
    ]
    if models.exists() or len(others) != 1:
        return
    try:
        store.stat(POINTER)
    except InputError as error:
        root = _root_of(others[0].parent / JOB)
        log.warning("no cached model of this job, and %s: starting with the model of %s", error, root)
        _copy(others[0], models)


def _copy(models: Path, target: Path) -> None:
    """Copy a folder as a whole or not at all; the next start removes what a killed one left half-copied."""
    partial = target.with_name(f"{RESERVED}{uuid.uuid4().hex}")
    try:
        shutil.copytree(models, partial)
        partial.rename(target)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        log.warning("%s: cannot be copied (%s); waiting for the store", models, error)


def warn_of_other_jobs(folder: Path, own: Path) -> None:
    """Say which examples of other jobs wait in a worker's folder: they are sent when that job is served again."""
    for other in sorted(folder.glob(f"*/{JOB}")):
        waiting = sum(1 for _ in (other.parent / "examples" / "pending").glob("*.json"))
        if other.parent != own and waiting:
            log.warning(
                "%d hard examples of the job %s wait in %s: run a worker with that --job-root to send them",
                waiting, _root_of(other), other.parent,
            )  # fmt: skip


def _root_of(path: Path) -> str:
    try:
        return str(json.loads(path.read_bytes())["job_root"])
    except (OSError, ValueError, KeyError, TypeError):
        return path.parent.name
