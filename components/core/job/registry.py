"""The versions of a job in its store: bundles of models, and releases of several of them."""

from __future__ import annotations

import hashlib
from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path

from components.core.bundle import DESCRIPTION, Bundle
from components.core.errors import InputError, NotFoundError
from components.core.job.fleet import PublishedBundle, PublishedFile
from components.core.release import RELEASE, Member, Release
from components.core.stores.base import Store
from components.core.stores.transfer import landing

FOLDER = "bundles/"
_ADVICE = "restore it from a backup, or roll back to another version"


@dataclass(frozen=True)
class Registry:
    """The versions in a job's root, each a folder under ``bundles/`` with a description.

    Whoever reads one gives the digest that the job's state has of its description, or that its release has; without
    one, as for versions older than that part of the state, only what the description says is checked.

    Args:
        store: the job's root.
    """

    store: Store

    def versions(self) -> list[str]:
        """The versions that are whole, sorted by name: a folder without a description is not there."""
        keys = (info.key for info in self.store.list(FOLDER))
        return sorted({key.split("/")[1] for key in keys if key.endswith((f"/{DESCRIPTION}", f"/{RELEASE}"))})

    def release(self, version: str, sha256: str | None) -> Release:
        """What a version consists of.

        Args:
            version: its name.
            sha256: of its description; None where it is not known.

        Raises:
            NotFoundError: there is no such version; the message names those there are.
            InputError: it is not the one that the job committed.
        """
        return self._release(version, sha256, self._names(version))

    def published(self, version: str, sha256: str | None) -> tuple[Release, dict[str, PublishedBundle]]:
        """What a version consists of, and each of its bundles as a worker fetches it, by its role.

        Args:
            version: its name.
            sha256: of its description; None where it is not known.

        Raises:
            NotFoundError: there is no such version, or no such bundle.
            InputError: it is not the one that the job committed, or a file that it describes is gone.
        """
        names = self._names(version)
        release = self._release(version, sha256, names)
        bundles = {}
        for role, member in release.members.items():
            sizes = names if member.version == version else self._names(member.version)
            bundles[role] = self._published(member, sizes)
        return release, bundles

    def _release(self, version: str, sha256: str | None, names: Container[str]) -> Release:
        if RELEASE in names:
            data = self._read(version, RELEASE, sha256)
            return Release.parse(data, self.store.uri_of(f"{FOLDER}{version}/{RELEASE}"))
        if DESCRIPTION not in names:
            raise self.no_version(version)
        return Release.of_one(version, sha256 or hashlib.sha256(self._read(version, DESCRIPTION, None)).hexdigest())

    def _published(self, member: Member, sizes: Mapping[str, int]) -> PublishedBundle:
        prefix = f"{FOLDER}{member.version}/"
        data = self._read(member.version, DESCRIPTION, member.sha256)
        digests = {**Bundle.parse(data, self.store.uri_of(prefix + DESCRIPTION)).files, DESCRIPTION: member.sha256}
        for name in digests:
            if name not in sizes:
                raise InputError(f"{self.store.uri_of(prefix + name)} is gone: {_ADVICE}")
        files = {name: PublishedFile(sha256=digest, size=sizes[name]) for name, digest in sorted(digests.items())}
        return PublishedBundle(version=member.version, uri=self.store.uri_of(prefix.rstrip("/")), files=files)

    def fetch(self, version: str, folder: Path, sha256: str | None) -> Bundle:
        """Bring a bundle here, and check its description, and its files against that.

        Args:
            version: its name.
            folder: gets the files.
            sha256: of its description; None where it is not known.

        Raises:
            NotFoundError: there is no such bundle; the message names the versions there are.
            InputError: it is not the one that the job committed, or a release of several models.
        """
        names = self._names(version)
        if DESCRIPTION not in names:
            members = self._release(version, sha256, names).members
            raise InputError(
                f"{self.store.uri}: version {version} is a release of several models ({', '.join(members)}), but one "
                "model is needed here"
            )
        data = self._read(version, DESCRIPTION, sha256)
        for name in Bundle.parse(data, self.store.uri_of(f"{FOLDER}{version}/{DESCRIPTION}")).files:
            self.store.download(f"{FOLDER}{version}/{name}", folder / name)
        with landing(folder / DESCRIPTION) as file:
            file.write(data)
        return Bundle.read(folder)

    def publish(self, folder: Path, version: str) -> None:
        """Put a bundle into the store, its description last: a bundle without one is not there."""
        bundle = Bundle.read(folder)
        for name in (*sorted(bundle.files), DESCRIPTION):
            self.store.upload(folder / name, f"{FOLDER}{version}/{name}")

    def publish_release(self, release: Release, version: str) -> None:
        """Put the description of a release of several models into the store; its members are there already."""
        self.store.write(f"{FOLDER}{version}/{RELEASE}", release.describe())

    def description(self, version: str) -> bytes | None:
        """The description of a stored bundle; None where there is none."""
        found = self.store.read_versioned(f"{FOLDER}{version}/{DESCRIPTION}")
        return found[0] if found else None

    def no_version(self, version: str) -> NotFoundError:
        """The error that names the versions there are."""
        return NotFoundError(
            f"{self.store.uri}: unknown model version {version!r}; choose from {', '.join(self.versions()) or 'none'}"
        )

    def _names(self, version: str) -> dict[str, int]:
        """The objects of a version by name, each with its size in bytes."""
        prefix = f"{FOLDER}{version}/"
        return {info.key.removeprefix(prefix): info.size for info in self.store.list(prefix)}

    def _read(self, version: str, name: str, sha256: str | None) -> bytes:
        key = f"{FOLDER}{version}/{name}"
        found = self.store.read_versioned(key)
        if found is None:
            raise NotFoundError(f"{self.store.uri_of(key)} is gone: {_ADVICE}")
        if sha256 is not None and hashlib.sha256(found[0]).hexdigest() != sha256:
            raise InputError(
                f"{self.store.uri_of(key)} was changed in the store: it differs from what the job committed; {_ADVICE}"
            )
        return found[0]
