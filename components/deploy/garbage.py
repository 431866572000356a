"""What a job keeps of its old versions, and what is removed."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from components.core.bundle import DESCRIPTION
from components.core.errors import InputError
from components.core.job.job import Job
from components.core.job.registry import FOLDER
from components.core.job.state import State
from components.core.release import RELEASE
from components.core.stores.base import RESERVED

log = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints/"
ABANDONED = timedelta(days=7)
UNFINISHED = timedelta(days=1)

_UNFINISHED_FILE = re.compile(rf"{re.escape(RESERVED)}[0-9a-f]{{32}}")
_TRAINING_OF_A_ROUND = re.compile(r"r(\d+)-")
_OF_A_ROUND = re.compile(r"r(\d+)-[0-9a-f]{8}")


def collect_garbage(job: Job, keep: int, state: State | None = None) -> list[str]:
    """Remove old candidates that were never deployed.

    What was ever deployed stays, the champion and what it can be rolled back to among them; so do the candidate that
    waits or is a canary, versions that no round made, the round in progress, and every member of what stays.

    Args:
        job: the job.
        keep: how many of the newest never deployed ones stay.
        state: as read; None reads it.

    Returns:
        The versions removed, oldest first.
    """
    if keep < 0:
        raise InputError(f"keep={keep} must be >= 0: give the number of rejected models to keep")
    state = state or job.read()[0]
    canary = state.canary.version if state.canary else None
    needed = {state.champion, state.pending, canary, *(change.version for change in state.history)}
    keys: dict[str, list[str]] = {}
    for info in job.store.list(FOLDER):
        keys.setdefault(info.key.split("/")[1], []).append(info.key)
    try:
        members = _members(job, state, [version for version in keys if f"{FOLDER}{version}/{RELEASE}" in keys[version]])
    except InputError as error:
        log.warning("old candidates are not removed, because a release cannot be read: %s", error)
        return []
    rounds = {version: int(found[1]) for version in keys if (found := _OF_A_ROUND.fullmatch(version))}
    ended = sorted(
        # The last round's candidate counts as the newest, also beside what an earlier try of its round has left: the
        # next round looks for its members there, and may judge it again.
        ((number, version) for version, number in rounds.items() if number <= state.round),
        key=lambda one: (one[1] == state.candidate, one),
    )
    parts = set().union(*members.values())
    candidates = [version for _, version in ended if version not in needed and version not in parts]
    kept = needed | set(candidates[max(0, len(candidates) - keep) :])
    kept |= set().union(*(members.get(version, set()) for version in kept if version))
    removed = [version for _, version in ended if version not in kept]
    # Releases before their members, and of each the description first: without one it is not there.
    for version in sorted(removed, key=lambda version: version not in members):
        for key in sorted(keys[version], key=lambda key: not key.endswith((f"/{DESCRIPTION}", f"/{RELEASE}"))):
            job.store.delete(key)
    return removed


def remove_leftovers(job: Job, state: State) -> None:
    """Remove what runs that were killed left behind, and what no run needs any more.

    These are the checkpoints of rounds that have ended, and of trainings outside of rounds that nobody resumed for a
    week; and in a job that is a folder unfinished files that are a day old.

    Args:
        job: the job.
        state: as read.
    """
    latest: dict[str, datetime] = {}
    keys: dict[str, list[str]] = {}
    for info in job.store.list(CHECKPOINTS):
        training = info.key.split("/")[1]
        keys.setdefault(training, []).append(info.key)
        latest[training] = max(info.modified, latest.get(training, info.modified))
    week_ago = datetime.now(UTC) - ABANDONED
    for training, found in keys.items():
        if _has_ended(training, state) or (not _TRAINING_OF_A_ROUND.match(training) and latest[training] < week_ago):
            for key in found:
                job.store.delete(key)
    folder = job.store.local_path(CHECKPOINTS.rstrip("/"))
    if folder is not None:
        for path in folder.glob("r*-*"):
            if _has_ended(path.name, state):
                shutil.rmtree(path, ignore_errors=True)
        _remove_unfinished(folder.parent)


def _has_ended(training: str, state: State) -> bool:
    """Whether a training was for a round that is committed."""
    found = _TRAINING_OF_A_ROUND.match(training)
    return found is not None and int(found[1]) <= state.round


def _remove_unfinished(root: Path) -> None:
    """Remove files that a killed process was writing; locks stay, since removing one would let two holders in."""
    day_ago = time.time() - UNFINISHED.total_seconds()
    for folder, _, names in os.walk(root):
        for path in (Path(folder) / name for name in names if _UNFINISHED_FILE.fullmatch(name)):
            with contextlib.suppress(OSError):
                if path.stat().st_mtime < day_ago:
                    path.unlink()


def _members(job: Job, state: State, releases: list[str]) -> dict[str, set[str]]:
    """The versions that each release of several models is made of."""
    return {
        version: {
            member.version for member in job.registry.release(version, state.vouched.get(version)).members.values()
        }
        for version in releases
    }
