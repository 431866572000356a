"""The state of a job: how far it has read its feed, which model is the champion, and how it came to be.

All of it is one small object, ``state.json`` in the job's root, which changes only by compare-and-swap: whoever read an
older state than the one that is there has lost, and nothing of theirs is seen. What the state names (manifests,
bundles) is written before it, so a state never points at something that is not there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from components.core.bundle import Bundle
from components.core.cache import local_file
from components.core.errors import ConflictError, InputError, NotFoundError, one_line
from components.core.job.fleet import POINTER
from components.core.job.hard_examples import FOLDER as HARD_EXAMPLES
from components.core.job.registry import FOLDER as BUNDLES
from components.core.job.registry import Registry
from components.core.job.state import STATE, RoundResult, State
from components.core.manifest import Manifest
from components.core.release import MODEL
from components.core.stores.open import Store, open_store

_NO_CHAMPION = "the job has no champion: check the address"
_OF_A_ROUND = re.compile(r"[a-z]+/r(\d+)-")


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
            InputError: what is there is no state, or it is gone although the job has had rounds.
        """
        found = self.store.read_versioned(STATE)
        if found is None:
            if self._has_lost_its_state():
                raise InputError(
                    f"{self.store.uri_of(STATE)} is gone, although this job has had rounds: restore it from a backup; "
                    "to begin a new job, give another job_root or empty this one"
                )
            return State(), None
        try:
            return State.model_validate_json(found[0]), found[1]
        except ValidationError as error:
            name = self.store.uri_of(STATE)
            raise InputError(
                f"{name} is not the state of a job: {one_line(error)}; restore it from a backup"
            ) from error

    def read_existing(self) -> State:
        """The state of a job that is there: it has had a round, or its workers have sent hard examples.

        Raises:
            InputError: there is no such job, or its state is damaged.
        """
        state, etag = self.read()
        if etag is None and next(self.store.list(HARD_EXAMPLES), None) is None:
            raise InputError(f"{self.store.uri}: no job found (neither rounds nor hard examples): check job_root")
        return state

    @property
    def registry(self) -> Registry:
        """The versions that the rounds made."""
        return Registry(self.store)

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

    def commit_round(self, result: RoundResult, found: tuple[State, str | None] | None = None) -> State:
        """End a round: number, cursor, manifest and pointer change in one step, or not at all.

        The same result committed again changes nothing.

        Args:
            result: of the round.
            found: state and etag as read; None reads them.

        Returns:
            The state as written, or as found where the round was committed already.

        Raises:
            ConflictError: another run committed the round first, or the champion is not the one that the candidate was
                judged against; nothing was written.
            InputError: the rounds before this one are missing.
        """
        while True:
            state, etag = found or self.read()
            if state.is_committed(result.number, result.run, self.store.uri):
                return state
            self.check_round(state, result.number, result.champion)
            try:
                return self.commit(state.after(result), etag)
            except ConflictError:
                found = None  # what was changed decides; look at it again

    def check_round(self, state: State, number: int, champion: str | None) -> None:
        """Make sure that a round can be committed.

        Args:
            state: as read.
            number: of the round.
            champion: the version that the candidate was judged against; None where there was none.

        Raises:
            ConflictError: the champion is another one by now.
            InputError: the rounds before this one are missing.
        """
        if state.round != number - 1:
            raise InputError(
                f"{self.store.uri}: round {number} cannot follow round {state.round}: the job's state was "
                "restored or belongs to another job; run the round again"
            )
        if state.champion != champion:
            raise ConflictError(
                f"{self.store.uri}: the champion became {state.champion} while round {number} was evaluated "
                f"against {champion}; its results are discarded, and the next run repeats the round"
            )

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

    def fetch_bundle(self, version: str, folder: Path, state: State | None = None, member: str = MODEL) -> Bundle:
        """Bring the bundle of a release here, and check it against what the job committed.

        Args:
            version: its name.
            folder: gets the files.
            state: as read; None reads it.
            member: which one, of a release of several models.

        Raises:
            NotFoundError: there is no such version; the message names those there are.
            InputError: it is not the one that the job committed.
        """
        state = state or self.read()[0]
        digest = state.vouched.get(version)
        if member == MODEL:
            return self.registry.fetch(version, folder, digest)
        members = self.registry.release(version, digest).members
        if digest is None or member not in members:
            there = f"its members are {', '.join(members)}" if digest else "the job has not committed it"
            raise InputError(f"{self.store.uri}: no model {member!r} of version {version}: {there}")
        return self.registry.fetch(members[member].version, folder, members[member].sha256)

    def roll_back(self, version: str = "") -> State:
        """Point at an earlier release again.

        Args:
            version: the one, or the beginning of its name that no other one has; empty for the one before the present
                champion. Where it is the champion already, this only withdraws a canary.

        Raises:
            NotFoundError: no such version.
            InputError: there is nothing to go back to, several versions begin like that, or the bundle is damaged.
        """
        state, etag = self.read()
        if version:
            target = self._version_like(version, state)
        elif state.history and state.history[-1].before:
            target = state.history[-1].before
        else:
            hint = "" if state.champion else f": {_NO_CHAMPION}"
            raise InputError(f"{self.store.uri}: there is no model before {state.champion!r} to roll back to{hint}")
        self.registry.published(target, state.vouched.get(target))  # a damaged one is refused
        made = state.pointing_at(target, "rolled back")
        if target == state.champion:  # no change, of which the next call would take the champion for the one before
            if state.canary is None:
                return state
            made = state.withdrawing(state.canary, f"rolled back to {target}")
        try:
            return self.commit(made, etag)
        except ConflictError as error:
            raise InputError(
                f"{self.store.uri}: the job's state changed in the meantime; nothing was done, try again"
            ) from error

    def versions_to_choose(self, state: State) -> list[str]:
        """The versions that may become the champion, sorted by name: in the store, and made by the job's rounds.

        Args:
            state: as read.
        """
        known = {*state.vouched, *(change.version for change in state.history)}
        return [version for version in self.registry.versions() if version in known]

    def _version_like(self, beginning: str, state: State) -> str:
        """The version with a name, or the only one whose name begins like that, among those the state vouches for."""
        known = self.versions_to_choose(state)
        if beginning in known:
            return beginning
        found = [version for version in known if version.startswith(beginning)]
        if len(found) == 1:
            return found[0]
        if found:
            raise InputError(f"{self.store.uri}: {beginning!r} is ambiguous: {', '.join(found)} start with it")
        raise NotFoundError(
            f"{self.store.uri}: unknown model version {beginning!r}; choose from {', '.join(known) or 'none'}"
        )

    def _has_lost_its_state(self) -> bool:
        """Whether a job without a state has had one: a first round that was killed leaves nothing of these."""
        if self.store.stat(POINTER) is not None:
            return True
        made = (_OF_A_ROUND.match(info.key) for folder in (BUNDLES, "manifests/") for info in self.store.list(folder))
        return any(found and int(found[1]) > 1 for found in made)
