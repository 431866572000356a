"""What a worker should run: by the job's own pointer, or by the one of KubeEdge Sedna."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from pydantic import BaseModel, Field, JsonValue, ValidationError

from components.core.bundle import DESCRIPTION
from components.core.errors import InputError, one_line
from components.core.job.fleet import POINTER, Pointer, PublishedBundle, PublishedFile, Target
from components.core.job.state import STATE
from components.core.lifelong.knowledge_base import KIND
from components.core.rate_limit import RateLimit
from components.core.release import MODEL, Member, Release
from components.core.stores.addresses import file_uri, folder_at
from components.core.stores.open import Store, open_store, shown, split

STALE_SECONDS = 300.0  # after which a pointer of a lower generation is no stale copy
MAX_POINTER_BYTES = 8 << 20  # the routing data of a knowledge base is in it
WHOLE = ""  # in place of a member: the release as a whole
_SECONDS_BETWEEN_LINES = 3600.0

log = logging.getLogger(__name__)

_BUNDLE = re.compile(r"/bundles/([A-Za-z0-9][A-Za-z0-9._-]*)$")


@dataclass(frozen=True)
class DesiredModel:
    """The model that a worker should run, or all models of a knowledge base.

    Attributes:
        version: of the release.
        generation: distinguishes this request from an earlier one for the same version.
        uri: address of the folder of its files.
        files: size and digest of each by name; empty where the pointer does not say.
        bundle: version of its bundle, where that is another one than the release.
        routing: what decides between the members of the release.
        members: the bundles of a knowledge base by their role, in place of ``uri``, ``files`` and ``bundle``.
    """

    version: str
    generation: str
    uri: str
    files: Mapping[str, PublishedFile] = field(default_factory=dict)
    bundle: str = ""
    routing: Mapping[str, JsonValue] = field(default_factory=dict)
    members: Mapping[str, PublishedBundle] = field(default_factory=dict)

    @property
    def bundle_version(self) -> str:
        """The version of its bundle, or of the knowledge base."""
        return self.bundle or self.version

    @property
    def digest(self) -> str:
        """The SHA-256 of its description; empty where the pointer does not say."""
        if self.members:
            return self.release.sha256
        return self.files[DESCRIPTION].sha256 if DESCRIPTION in self.files else ""

    @property
    def release(self) -> Release:
        """A knowledge base as a release.

        Raises:
            InputError: the pointer lacks the description of a member.
        """
        lost = [role for role, bundle in self.members.items() if DESCRIPTION not in bundle.files]
        if lost:
            raise InputError(f"the pointer names no {DESCRIPTION} of member {lost[0]}")
        return Release(
            members={role: Member(version=one.version, sha256=one.files[DESCRIPTION].sha256)
                     for role, one in self.members.items()},
            routing=dict(self.routing),
        )  # fmt: skip

    def member(self, role: str) -> DesiredModel:
        """One model of a knowledge base."""
        one = self.members[role]
        return DesiredModel(self.version, self.generation, one.uri, one.files, one.version, self.routing)


class PointerReader(Protocol):
    """Where a worker learns which model to run.

    Attributes:
        awaited: for people, what a worker waits for that has read of no model yet.
    """

    awaited: str

    def read(self) -> DesiredModel | None:
        """The model to run now; None where there is none, or nothing that is newer than what was read.

        Raises:
            InputError: the pointer is out of reach, or is not one.
        """
        ...


class JobPointer:
    """The pointer in the job's root.

    A pointer of a lower generation than one that was followed is a stale copy from a cache on the way, or the job was
    put back to an earlier state. The latter is followed at once where the pointer is newer by its time, and else when
    it is still there after ``STALE_SECONDS``.

    Args:
        store: the job's root.
        node: this worker; a canary is for some of them.
        member: the one to run, of a release of several models; ``WHOLE`` for all of a knowledge base.
        clock: seconds that only grow.
    """

    awaited = "the job has no champion yet; waiting for its first"

    def __init__(
        self, store: Store, node: str, member: str = MODEL, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._store, self._node, self._member, self._clock = store, node, member, clock
        self._read: tuple[str, Pointer] | None = None  # the last one, and its etag
        self._followed: Pointer | None = None
        self._older_since: float | None = None
        self._lines = RateLimit(_SECONDS_BETWEEN_LINES)

    def read(self) -> DesiredModel | None:
        """What ``champion.json`` says; see :class:`PointerReader`."""
        pointer = self._pointer()
        if pointer is None:
            self._check_job()
            return None
        if not self._follows(pointer):
            return None
        self._followed, self._older_since = pointer, None
        return self._desired(pointer.for_node(self._node), str(pointer.generation))

    def _pointer(self) -> Pointer | None:
        """What lies in the store, which is read only where it is another than last time."""
        if self._read is not None:
            there = self._store.stat(POINTER)
            if there is not None and there.etag == self._read[0]:
                return self._read[1]
        found = self._store.read_versioned(POINTER, max_bytes=MAX_POINTER_BYTES)
        if found is None:
            return None
        try:
            self._read = found[1], Pointer.model_validate_json(found[0])
        except ValidationError as error:
            raise _not_a_pointer(self._store.uri_of(POINTER), error) from error
        return self._read[1]

    def _desired(self, target: Target, generation: str) -> DesiredModel:
        """The member to run of what the pointer names, or all of it."""
        bundles, member = target.bundles(), self._member
        if member == WHOLE and bundles.keys() == {MODEL}:
            member = MODEL
        if member == WHOLE and target.routing.get("kind") == KIND:
            return DesiredModel(target.version, generation, "", routing=target.routing, members=bundles)
        if member not in bundles:
            lacks = f"no member {member!r}" if member else "several models that are no knowledge base"
            raise InputError(
                f"{self._store.uri_of(POINTER)}: the release {target.version} has {lacks}; "
                f"choose --member from {', '.join(bundles)}"
            )
        bundle = bundles[member]
        return DesiredModel(target.version, generation, bundle.uri, bundle.files, bundle.version, target.routing)

    def _follows(self, pointer: Pointer) -> bool:
        """Whether to follow a pointer, or to wait, since it looks like a stale copy."""
        before = self._followed
        if before is None or pointer.generation >= before.generation:
            return True
        now = self._clock()
        seen = f"{self._store.uri_of(POINTER)} went back from generation {before.generation} ({before.version}) to "
        seen += f"{pointer.generation} ({pointer.version})"
        since = now if self._older_since is None else self._older_since
        if pointer.updated > before.updated or now - since >= STALE_SECONDS:
            log.warning("%s: following it, because the job was restored to an earlier state", seen)
            return True
        if self._older_since is None:
            self._older_since = now
            log.warning("%s: a stale copy, or the job was restored; following it if it stays for %d s",
                        seen, STALE_SECONDS)  # fmt: skip
        return False

    def _check_job(self) -> None:
        """Say so where there is no pointer because there is no job."""
        if self._store.stat(STATE) is None and self._lines.allows():
            log.warning("no job at %s: check --job-root; waiting until there is one", shown(self._store.uri))


class BundlePointer:
    """One bundle on this machine, for a worker without a job; the model changes when its description does.

    Args:
        folder: of the bundle.

    Raises:
        InputError: there is no bundle.
    """

    awaited = ""  # there is one from the start

    def __init__(self, folder: str) -> None:
        self._folder = folder_at(folder)
        self.read()

    def read(self) -> DesiredModel:
        """What lies there; see :class:`PointerReader`."""
        try:
            digest = hashlib.sha256((self._folder / DESCRIPTION).read_bytes()).hexdigest()
        except OSError as error:
            raise InputError(
                f"bundle {self._folder}: no {DESCRIPTION} in it; give the folder of a model, such as bundles/VERSION "
                "of a job or what a run's convert step wrote"
            ) from error
        return DesiredModel(f"bundle-{digest[:12]}", digest, file_uri(self._folder))


class _SednaModel(BaseModel):
    path: str = Field(alias="model_path", min_length=1)
    time: str = Field(alias="model_update_time", min_length=1)


class SednaPointer:
    """A ``model_config.json`` of KubeEdge Sedna; the folder of the model that it names is the bundle.

    Args:
        address: of the file: a path or a store's address.
    """

    def __init__(self, address: str) -> None:
        self._name = shown(address)
        self.awaited = f"{self._name} does not exist yet; waiting for it"
        root, self._key = split(address)
        self._store = open_store(root)

    def read(self) -> DesiredModel | None:
        """What it says; see :class:`PointerReader`. Its models change when ``model_update_time`` does."""
        found = self._store.read_versioned(self._key, max_bytes=MAX_POINTER_BYTES)
        if found is None:
            return None
        try:
            model = _SednaModel.model_validate(json.loads(found[0])["model_config"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise _not_a_pointer(self._name, error) from error
        folder = model.path.rpartition("/")[0] or "."
        return DesiredModel(_version(folder, model.time), model.time, folder)


def _version(folder: str, time: str) -> str:
    """Sedna's models have no version: the job's own folder names it, or else the time makes one."""
    published = _BUNDLE.search(folder)
    return published.group(1) if published else f"sedna-{hashlib.sha256(time.encode()).hexdigest()[:12]}"


def _not_a_pointer(name: str, error: Exception) -> InputError:
    reason = one_line(error) if isinstance(error, ValidationError) else f"{type(error).__name__}: {error}"
    return InputError(f"{name} is not a valid pointer ({reason}); the next deployment rewrites it")
