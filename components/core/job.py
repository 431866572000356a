"""The state of a job: how far it has read its feed, which model is the champion, and how it came to be.

All of it is one small object, ``state.json`` in the job's root, which changes only by compare-and-swap: whoever read an
older state than the one that is there has lost, and nothing of theirs is seen. What the state names (manifests,
bundles) is written before it, so a state never points at something that is not there.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from components.core.bundle import DESCRIPTION, Bundle, Version
from components.core.cache import local_file
from components.core.errors import ConflictError, InputError, NotFoundError
from components.core.manifest import Manifest
from components.core.store import Store, open_store

STATE = "state.json"
REMEMBERED_RUNS = 20


_NO_CHAMPION = "no job with a champion lies there, check the address"


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Change(_Record):
    """One move of the champion pointer.

    Attributes:
        version: what it points at from then on.
        before: what it pointed at; None for the first.
        at: when, UTC.
        why: ``promoted``, ``rolled back`` or ``forced``, with the reason.
    """

    version: Version
    before: Version | None
    at: datetime
    why: str


class TrialRun(_Record):
    """A candidate that some workers run before all others may.

    Attributes:
        version: the candidate.
        nodes: those workers.
        frames: how many pictures each of them is to look at with it.
        until: when it is withdrawn, unless it has passed by then; UTC.
        why: the gate's reasons, for the history.
    """

    version: Version
    nodes: Annotated[tuple[str, ...], Field(min_length=1)]
    frames: Annotated[int, Field(ge=0)]
    until: datetime
    why: str


class State(_Record):
    """What ``state.json`` says.

    Attributes:
        format: of this description.
        revision: counts the commits.
        round: the last round that was committed; 0 before the first.
        cursor: how far the feed has been read; what it means is the feed's affair.
        manifest: key of the manifest with every sample taken in so far; None before the first round.
        champion: version of the deployed bundle; None before the first.
        candidate: version that the last round made, whatever became of it; None before the first.
        pending: version of a candidate that passed the gate and waits for its window.
        trial: a candidate that passed the gate and is tried on some of the workers.
        trials: counts how often one began or was withdrawn.
        history: the moves of the champion pointer, oldest first.
        runs: which runs committed the last rounds, the newest last.
        vouched: SHA-256 of the descriptions of the deployed bundles and of the last candidates; a description
            has the digests of its files, so that whoever opens one knows that it is the one the job committed.
    """

    format: Literal[1] = 1
    revision: Annotated[int, Field(ge=0)] = 0
    round: Annotated[int, Field(ge=0)] = 0
    cursor: str = ""
    manifest: str | None = None
    champion: Version | None = None
    candidate: Version | None = None
    pending: Version | None = None
    trial: TrialRun | None = None
    trials: Annotated[int, Field(ge=0)] = 0
    history: tuple[Change, ...] = ()
    runs: tuple[str, ...] = ()
    vouched: dict[str, str] = {}

    def run_of(self, number: int) -> str | None:
        """The run that committed a round; None where that is not known (any more)."""
        place = number - 1 - self.round
        return self.runs[place] if -len(self.runs) <= place < 0 else None

    @property
    def moves(self) -> int:
        """Counts every change of what the workers are to run."""
        return len(self.history) + self.trials

    def pointing_at(self, version: str, why: str, at: datetime | None = None) -> Self:
        """This state with another champion, and the move in its history; it ends a trial."""
        change = Change(version=version, before=self.champion, at=at or datetime.now(UTC), why=why)
        pending = None if self.pending == version else self.pending
        return self.model_copy(
            update={"champion": version, "pending": pending, "trial": None, "history": (*self.history, change)}
        )

    def trying(self, trial: TrialRun | None) -> Self:
        """This state with a candidate on trial, or with the one that was withdrawn."""
        return self.model_copy(update={"trial": trial, "trials": self.trials + 1})

    def after(self, result: RoundResult) -> Self:
        """This state with one more round.

        A candidate that is promoted or pending takes the place of one that waited or was on trial, which would
        otherwise replace this newer one later.
        """
        state = self.model_copy(
            update={
                "round": result.number,
                "cursor": result.cursor,
                "manifest": result.manifest,
                "candidate": result.version,
                "runs": (*self.runs, result.run)[-REMEMBERED_RUNS:],
                "vouched": self._vouching_for(result),
            }
        )
        if result.outcome == "rejected":
            return state
        state = state.trying(None) if state.trial else state
        if result.outcome == "pending":
            return state.model_copy(update={"pending": result.version})
        state = state.model_copy(update={"pending": None})
        return state.trying(result.trial) if result.trial else state.pointing_at(result.version, result.why)

    def _vouching_for(self, result: RoundResult) -> dict[str, str]:
        """The digests with a candidate's; of candidates that were never deployed only the last ones are kept."""
        digests = {**self.vouched, result.version: result.description}
        deployed = {change.version for change in self.history} | {self.pending, result.version}
        spare = [version for version in digests if version not in deployed][:-REMEMBERED_RUNS]
        return {version: digest for version, digest in digests.items() if version not in spare}


class RoundResult(_Record):
    """What a round comes to; all of it becomes the job's in one commit.

    Attributes:
        number: of the round.
        run: names the run, so that one that is tried again knows its own work.
        cursor: how far the feed has been read with this round.
        manifest: key of the manifest with every sample taken in so far.
        champion: the version that the candidate was judged against; None where there was none.
        version: the candidate.
        description: SHA-256 of its ``model.json`` in the store.
        outcome: of the gate.
        why: for the history, such as ``promoted: map50_delta >= 0 (have 0.031, need >= 0)``.
        trial: which workers try a promoted candidate first; None where all get it at once.
    """

    number: Annotated[int, Field(ge=1)]
    run: Annotated[str, Field(min_length=1)]
    cursor: str
    manifest: str
    champion: Version | None
    version: Version
    description: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    outcome: Literal["promoted", "pending", "rejected"]
    why: str
    trial: TrialRun | None = None


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
            details = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'it'}: {e['msg']}" for e in error.errors())
            raise InputError(f"{self.store.uri_of(STATE)} is not the state of a job: {details}") from error

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
