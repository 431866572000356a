"""What a job keeps of its old versions, and what is removed."""

from __future__ import annotations

import logging
import re

from components.core.bundle import DESCRIPTION
from components.core.errors import InputError
from components.core.job.job import Job
from components.core.job.registry import FOLDER
from components.core.job.state import State
from components.core.release import RELEASE

log = logging.getLogger(__name__)

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
        raise InputError(f"keep={keep} is negative: give the number of rejected models to keep")
    state = state or job.read()[0]
    canary = state.canary.version if state.canary else None
    needed = {state.champion, state.pending, canary, *(change.version for change in state.history)}
    keys: dict[str, list[str]] = {}
    for info in job.store.list(FOLDER):
        keys.setdefault(info.key.split("/")[1], []).append(info.key)
    try:
        members = _members(job, state, [version for version in keys if f"{FOLDER}{version}/{RELEASE}" in keys[version]])
    except InputError as error:
        log.warning("no old candidates are removed, since a release cannot be read: %s", error)
        return []
    rounds = {version: int(found[1]) for version in keys if (found := _OF_A_ROUND.fullmatch(version))}
    ended = sorted((number, version) for version, number in rounds.items() if number <= state.round)
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


def _members(job: Job, state: State, releases: list[str]) -> dict[str, set[str]]:
    """The versions that each release of several models is made of."""
    return {
        version: {
            member.version for member in job.registry.release(version, state.vouched.get(version)).members.values()
        }
        for version in releases
    }
