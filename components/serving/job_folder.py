"""The folder of a job on a worker's disk, so that a board that is moved to another job mixes nothing of the two."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
from pathlib import Path

from components.core.errors import InputError
from components.core.job.fleet import POINTER
from components.core.stores.open import Store
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


def take_over_models(folder: Path, own: Path, store: Store) -> None:
    """Begin with the models of a job of the same name, where this job has none here and its store is out of reach.

    A job that has moved to another address keeps its model so. Where the store answers, its pointer decides.
    """
    name = own.name.rpartition("-")[0]
    others = [path for path in sorted(folder.glob(f"{name}-*/models")) if path.parent != own]
    if (own / "models").exists() or len(others) != 1:
        return
    try:
        store.stat(POINTER)
    except InputError as error:
        root = _root_of(others[0].parent / JOB)
        log.warning("no cached model of this job, and %s: starting with the model of %s", error, root)
        shutil.copytree(others[0], own / "models")


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
