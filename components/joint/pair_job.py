"""A job that releases a little and a big model together."""

from __future__ import annotations

from pathlib import Path

from pydantic import JsonValue

from components.core.cache import version_folder
from components.core.errors import InputError
from components.core.job.job import Job
from components.core.job.state import State
from components.core.release import BIG, LITTLE, Release


def check_job(job_root: str) -> None:
    """Make sure that a job can release a pair.

    Args:
        job_root: the job; one that is not there yet can.

    Raises:
        InputError: its workers run something else, and would not find their model in the release of a pair.
    """
    job = Job.open(job_root)
    state, _ = job.read()
    if state.champion is None:
        return
    _release(job, state, state.champion)


def fetch_champion(job: Job, state: State) -> tuple[list[Path], dict[str, JsonValue]] | None:
    """The pair that is deployed: the folders of the little and of the big bundle, and the way between them.

    Args:
        job: the job.
        state: as read.

    Returns:
        None where nothing is deployed.

    Raises:
        InputError: the champion is no pair, or is out of reach or damaged.
    """
    if state.champion is None:
        return None
    release = _release(job, state, state.champion)
    folders = []
    for role in (LITTLE, BIG):
        member = release.members[role]
        folders.append(version_folder(job.store.uri, role, member.version))
        job.registry.fetch(member.version, folders[-1], member.sha256)
    return folders, release.routing


def _release(job: Job, state: State, version: str) -> Release:
    release = job.registry.release(version, state.vouched.get(version))
    if release.members.keys() != {LITTLE, BIG}:
        raise InputError(
            f"{job.store.uri}: its champion {version} consists of {', '.join(sorted(release.members))}, and joint "
            f"inference releases {LITTLE} and {BIG}: give it a job_root of its own"
        )
    return release
