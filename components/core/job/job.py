"""The state of a job: how far it has read its feed, which model is the champion, and how it came to be.

All of it is one small object, ``state.json`` in the job's root, which changes only by compare-and-swap: whoever read an
older state than the one that is there has lost, and nothing of theirs is seen. What the state names (manifests,
bundles) is written before it, so a state never points at something that is not there.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from components.core.bundle import DESCRIPTION, Bundle
from components.core.cache import local_file
from components.core.errors import ConflictError, InputError, NotFoundError, one_line
from components.core.job.state import STATE, RoundResult, State
from components.core.manifest import Manifest
from components.core.stores.open import Store, open_store

_NO_CHAMPION = "no job with a champion lies there, check the address"


@dataclass(frozen=True)
class Job:
    """A job in its store.

    Args:
        store: the job's root.
    """

    store: Store

    @classmethod
    def open(cls, job_root: str) -> Job:
        """The job at an address; a job that has no state yet is one that has not begun."""
        return cls(open_store(job_root))

    def read(self) -> tuple[State, str | None]:
        """The state, and the etag that ``commit`` takes; the etag of a job that has not begun is None.

        Raises:
            InputError: what is there is no state.
        """
        found = self.store.read_versioned(STATE)
        if found is None:
            return State(), None
        try:
            return State.model_validate_json(found[0]), found[1]
        except ValidationError as error:
            raise InputError(f"{self.store.uri_of(STATE)} is not the state of a job: {one_line(error)}") from error

    def commit(self, state: State, etag: str | None) -> State:
        """Replace the state that was read by another.

        Args:
            state: what is to be; its revision is set here.
            etag: of the state that this one was made from.

        Returns:
            The state as written.

        Raises:
            ConflictError: somebody else committed meanwhile; nothing was written.
        """
        made = state.model_copy(update={"revision": state.revision + 1})
        data = made.model_dump_json(indent=2).encode()
        if etag is None:
            self.store.write(STATE, data, if_absent=True)
        else:
            self.store.write(STATE, data, if_match=etag)
        return made

    def has_committed(self, number: int, run: str) -> bool:
        """Whether a run has committed a round; a run that was killed after its commit finds its work done.

        Raises:
            ConflictError: another run has committed it.
        """
        state, _ = self.read()
        return _is_done(state, number, run, self.store.uri)

    def commit_round(self, result: RoundResult) -> State:
        """End a round: number, cursor, manifest and pointer change in one step, or not at all.

        The same result committed again changes nothing.

        Returns:
            The state as written, or as found where the round was committed already.

        Raises:
            ConflictError: another run committed the round first, or the champion is not the one that the candidate was
                judged against; nothing was written.
            InputError: the rounds before this one are missing.
        """
        while True:
            state, etag = self.read()
            if _is_done(state, result.number, result.run, self.store.uri):
                return state
            if state.round != result.number - 1:
                raise InputError(
                    f"{self.store.uri}: round {result.number} cannot follow round {state.round}: the job's state was "
                    "put back or belongs to another job; run the round again"
                )
            if state.champion != result.champion:
                raise ConflictError(
                    f"{self.store.uri}: the champion became {state.champion} while round {result.number} was judged "
                    f"against {result.champion}; this one's work is dropped, the next run does the round again"
                )
            try:
                return self.commit(state.after(result), etag)
            except ConflictError:
                continue  # what was changed decides; look at it again

    def manifest(self, state: State, folder: Path) -> Manifest | None:
        """Every sample taken in so far; None before the first round.

        Args:
            state: as read.
            folder: where the file may be kept.

        Raises:
            NotFoundError: it is not in the store.
            InputError: it is damaged.
        """
        return Manifest.read(local_file(self.store, state.manifest, folder)) if state.manifest else None

    def champion(self) -> str:
        """The version of the champion, for whoever cannot do without one.

        Raises:
            InputError: there is none.
        """
        state, _ = self.read()
        if state.champion is None:
            raise InputError(f"{self.store.uri}: {_NO_CHAMPION}")
        return state.champion

    def fetch_bundle(self, version: str, folder: Path) -> Bundle:
        """Bring a bundle here, and check its files against its description, and that against the job's state.

        Args:
            version: its name under ``bundles/``.
            folder: gets the files.

        Raises:
            NotFoundError: there is no such version; the message names those there are.
            InputError: it is not the one that the job committed.
        """
        prefix = f"bundles/{version}/"
        names = [info.key.removeprefix(prefix) for info in self.store.list(prefix)]
        if DESCRIPTION not in names:
            raise NotFoundError(
                f"{self.store.uri}: no model version {version!r}; there are {self.versions() or 'none'}"
            )
        for name in names:
            self.store.download(prefix + name, folder / name)
        committed = self.read()[0].vouched.get(version)
        if committed and committed != hashlib.sha256((folder / DESCRIPTION).read_bytes()).hexdigest():
            raise InputError(
                f"{self.store.uri_of(prefix + DESCRIPTION)} is not the description that the job committed: the bundle "
                "was changed in the store; roll back to another version"
            )
        return Bundle.read(folder)

    def describe(self, version: str) -> str:
        """SHA-256 of a stored bundle's description."""
        return hashlib.sha256(self.store.read(f"bundles/{version}/{DESCRIPTION}")).hexdigest()

    def publish_bundle(self, folder: Path, version: str) -> None:
        """Put a bundle into the store, its description last: a bundle without one is not there."""
        bundle = Bundle.read(folder)
        for name in (*sorted(bundle.files), DESCRIPTION):
            self.store.upload(folder / name, f"bundles/{version}/{name}")

    def versions(self) -> list[str]:
        """The model versions that are whole, sorted by name."""
        keys = (info.key for info in self.store.list("bundles/"))
        return sorted(key.split("/")[1] for key in keys if key.endswith(f"/{DESCRIPTION}"))

    def roll_back(self, version: str = "") -> State:
        """Point at an earlier model again.

        Args:
            version: the one; empty for the one before the present champion.

        Raises:
            NotFoundError: no such version.
            InputError: there is nothing to go back to.
        """
        state, etag = self.read()
        target = version or (state.history[-1].before if state.history else None)
        if target is None:
            hint = "" if state.champion else f": {_NO_CHAMPION}"
            raise InputError(f"{self.store.uri}: there is no model before {state.champion!r} to go back to{hint}")
        if target not in self.versions():
            raise self._no_version(target)
        try:
            return self.commit(state.pointing_at(target, "rolled back"), etag)
        except ConflictError as error:
            raise InputError(
                f"{self.store.uri}: the job's state changed meanwhile; nothing was done, try again"
            ) from error

    def _no_version(self, version: str) -> NotFoundError:
        return NotFoundError(f"{self.store.uri}: no model version {version!r}; there are {self.versions() or 'none'}")


def _is_done(state: State, number: int, run: str, uri: str) -> bool:
    if state.round < number:
        return False
    if state.run_of(number) == run:
        return True
    raise ConflictError(f"{uri}: another run committed round {number} first; this one's work is dropped")
