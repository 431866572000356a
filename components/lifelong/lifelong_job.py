"""What lifelong learning needs of a job: its knowledge base, here."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Collection
from pathlib import Path

from components.core.job.job import Job
from components.core.job.state import State
from components.core.lifelong.knowledge_base import KnowledgeBase

_IN_USE_SECONDS = 3600.0  # another run on this machine may have fetched a model for its own release


def fetch_known(
    job: Job, state: State, version: str | None, folder: Path
) -> tuple[KnowledgeBase | None, dict[str, Path]]:
    """Bring the models of a knowledge base of a job here.

    Args:
        job: the job.
        state: of it, as read.
        version: of the release; None for none.
        folder: gets a folder of each model, named by its version; those of other releases are removed.

    Returns:
        The knowledge base and the folder of each member; None and none without a version.

    Raises:
        InputError: it is a release of something else, or a model is damaged.
    """
    if version is None:
        return None, {}
    release = job.registry.release(version, state.vouched.get(version))
    known = KnowledgeBase.of(release, version)
    folders = {}
    for role, member in release.members.items():
        folders[role] = folder / member.version
        job.registry.fetch(member.version, folders[role], member.sha256)
    _prune(folder, folders.values())
    return known, folders


def _prune(folder: Path, kept: Collection[Path]) -> None:
    """Remove models that no run on this machine has fetched lately."""
    for path in folder.iterdir():
        with contextlib.suppress(OSError):  # another run removes it, too
            if path not in kept and path.stat().st_mtime < time.time() - _IN_USE_SECONDS:
                shutil.rmtree(path, ignore_errors=True)


def check_job(job_root: str) -> None:
    """Make sure that a job can release a knowledge base.

    Args:
        job_root: the job; one that is not there yet can.

    Raises:
        InputError: its champion is something else.
    """
    job = Job.open(job_root)
    state, _ = job.read()
    if state.champion:
        release = job.registry.release(state.champion, state.vouched.get(state.champion))
        KnowledgeBase.of(release, f"{job.store.uri}: the champion {state.champion}")
