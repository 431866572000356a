"""What a round made: put into the store under the name of a version, before the job's state names it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import JsonValue

from components.core.bundle import DESCRIPTION, ONNX, Bundle, sha256_of
from components.core.errors import InputError
from components.core.job.job import Job
from components.core.job.state import State
from components.core.release import MODEL, Member, Release


@dataclass(frozen=True)
class Candidate:
    """The members of a release that is to be.

    Attributes:
        members: the folder of each bundle by its role. One that the job has already, as a member of its champion or of
            its last candidate, keeps its version.
        routing: what decides between them; see :class:`components.core.release.Release`.
    """

    members: Mapping[str, Path]
    routing: Mapping[str, JsonValue] = field(default_factory=dict)

    @classmethod
    def of_one(cls, folder: Path) -> Candidate:
        """A candidate of one model."""
        return cls({MODEL: folder})

    @property
    def is_one_model(self) -> bool:
        """Whether its release is the version of its bundle; see :class:`components.core.release.Release`."""
        return self.members.keys() == {MODEL} and not self.routing


@dataclass(frozen=True)
class Published:
    """A candidate in the store.

    Attributes:
        version: its name.
        description: SHA-256 of its description, 64 hex digits.
    """

    version: str
    description: str


def publish(candidate: Candidate, job: Job, state: State, round_number: int) -> Published:
    """Put a candidate into the store; what is there already is left as it is.

    Args:
        candidate: what the round made.
        job: gets it.
        state: of the job, as read.
        round_number: of the round.

    Raises:
        InputError: a folder is no whole bundle, or has no model to deploy.
    """
    if candidate.is_one_model:
        member = _publish_bundle(job, state, candidate.members[MODEL], round_number)
        return Published(member.version, member.sha256)
    known = _known_members(job, state)
    members = {
        role: known.get(_description_of(folder)) or _publish_bundle(job, state, folder, round_number)
        for role, folder in candidate.members.items()
    }
    release = Release(members=members, routing=dict(candidate.routing))
    version = _named(state, release.sha256, release.sha256, round_number)
    job.registry.publish_release(release, version)
    return Published(version, release.sha256)


def version_of(candidate: Candidate, state: State, round_number: int) -> str:
    """The version of a candidate that its round has committed already.

    Args:
        candidate: what the round made.
        state: of the job, as read.
        round_number: of the round.

    Raises:
        InputError: a folder is no whole bundle, or has no model to deploy.
    """
    if candidate.is_one_model:
        return _version_of_bundle(candidate.members[MODEL], state, round_number)
    return state.candidate or ""


def _version_of_bundle(folder: Path, state: State, round_number: int) -> str:
    """Its round and the beginning of its model's digest."""
    digest = Bundle.read(folder).files.get(ONNX)
    if digest is None:
        raise InputError(f"bundle {folder}: no {ONNX} in it: convert the model before it is deployed")
    return _named(state, _description_of(folder), digest, round_number)


def _publish_bundle(job: Job, state: State, folder: Path, round_number: int) -> Member:
    """Put a bundle into the store, unless an earlier try of the round has done so."""
    description = _description_of(folder)
    version = _version_of_bundle(folder, state, round_number)
    stored = job.registry.description(version)
    if stored is not None and hashlib.sha256(stored).hexdigest() != description:
        files = Bundle.parse(stored, f"{job.store.uri_of(f'bundles/{version}')}: {DESCRIPTION}").files
        if files == Bundle.read(folder).files:  # the earlier try made the same, at another time
            return Member(version=version, sha256=hashlib.sha256(stored).hexdigest())
        version = _name(round_number, description)
        stored = job.registry.description(version)
    if stored is None:
        job.registry.publish(folder, version)
    return Member(version=version, sha256=description)


def _known_members(job: Job, state: State) -> dict[str, Member]:
    """The members of the champion and of the last candidate, by the digests of their descriptions."""
    versions = {version for version in (state.champion, state.candidate) if version in state.vouched}
    releases = [job.registry.release(version, state.vouched[version]) for version in sorted(versions)]
    return {member.sha256: member for release in releases for member in release.members.values()}


def _description_of(folder: Path) -> str:
    Bundle.read(folder)
    return sha256_of(folder / DESCRIPTION)


def _named(state: State, description: str, digest: str, round_number: int) -> str:
    """The name of a version; the last round's candidate, when it is judged again, keeps its own."""
    if state.candidate and state.vouched.get(state.candidate) == description:
        return state.candidate
    return _name(round_number, digest)


def _name(round_number: int, digest: str) -> str:
    return f"r{round_number:04d}-{digest[:8]}"
