"""What ``state.json`` says, and what a round adds to it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Literal, Self

from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from components.core.bundle import Version
from components.core.errors import ConflictError
from components.core.release import Digest

STATE = "state.json"


REMEMBERED_RUNS = 20


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


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


class Canary(_Record):
    """A candidate that some workers run before all others may.

    Attributes:
        version: the candidate.
        nodes: those workers.
        frames: how many images each of them is to look at with it.
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
        champion: version of the deployed release; None before the first.
        candidate: version that the last round made, whatever became of it; None before the first.
        pending: version of a candidate that passed the gate and waits for its window.
        canary: a candidate that passed the gate and runs on some of the workers first.
        canaries: counts how often one began or was withdrawn.
        history: the moves of the champion pointer, oldest first.
        runs: which runs committed the last rounds, the newest last.
        vouched: SHA-256 of the descriptions of the deployed releases and of the last candidates; a description
            has the digests of what it describes, so that whoever opens one knows that it is the one the job committed.
        judged: why each of these candidates was promoted, is pending or was rejected, or what came in between.
    """

    format: Literal[1] = 1
    revision: Annotated[int, Field(ge=0)] = 0
    round: Annotated[int, Field(ge=0)] = 0
    cursor: str = ""
    manifest: str | None = None
    champion: Version | None = None
    candidate: Version | None = None
    pending: Version | None = None
    canary: Annotated[Canary | None, Field(validation_alias=AliasChoices("canary", "trial"))] = None
    canaries: Annotated[int, Field(ge=0, validation_alias=AliasChoices("canaries", "trials"))] = 0
    history: tuple[Change, ...] = ()
    runs: tuple[str, ...] = ()
    vouched: dict[Version, Digest] = {}
    judged: dict[Version, str] = {}

    def run_of(self, number: int) -> str | None:
        """The run that committed a round; None where that is not known (any more)."""
        place = number - 1 - self.round
        return self.runs[place] if -len(self.runs) <= place < 0 else None

    def is_committed(self, number: int, run: str, job: str) -> bool:
        """Whether a run has committed a round; a run that was killed after its commit finds its work done.

        Args:
            number: of the round.
            run: its name.
            job: address of the job, for the message.

        Raises:
            ConflictError: another run has committed it.
        """
        if self.round < number:
            return False
        if self.run_of(number) == run:
            return True
        raise ConflictError(f"{job}: another run committed round {number} first; the results of this run are discarded")

    @property
    def generation(self) -> int:
        """Counts every change of what the workers are to run."""
        return len(self.history) + self.canaries

    def pointing_at(self, version: str, why: str, at: datetime | None = None) -> Self:
        """This state with another champion, and the move in its history; it ends a canary."""
        change = Change(version=version, before=self.champion, at=at or datetime.now(UTC), why=why)
        pending = None if self.pending == version else self.pending
        judged = dict(self.judged)
        if self.canary and self.canary.version != version:
            judged[self.canary.version] = f"withdrawn: the champion became {version}"
        moved = {"champion": version, "pending": pending, "canary": None, "judged": judged}
        return self.model_copy(update=moved | {"history": (*self.history, change)})

    def trying(self, canary: Canary | None) -> Self:
        """This state with a canary, or without the one that was there."""
        return self.model_copy(update={"canary": canary, "canaries": self.canaries + 1})

    def withdrawing(self, canary: Canary, why: str) -> Self:
        """This state without a canary that did not pass."""
        judged = {**self.judged, canary.version: f"withdrawn: {why}"}
        return self.trying(None).model_copy(update={"judged": judged})

    def after(self, result: RoundResult) -> Self:
        """This state with one more round.

        A candidate that is promoted or pending takes the place of one that waited or was a canary, which would
        otherwise replace this newer one later.
        """
        vouched = self._vouching_for(result)
        judged = {**self.judged, **self._replaced_by(result), result.version: result.why}
        state = self.model_copy(
            update={
                "round": result.number,
                "cursor": result.cursor,
                "manifest": result.manifest,
                "candidate": result.version,
                "runs": (*self.runs, result.run)[-REMEMBERED_RUNS:],
                "vouched": vouched,
                "judged": {version: why for version, why in judged.items() if version in vouched},
            }
        )
        if result.outcome == "rejected":
            return state
        state = state.trying(None) if state.canary else state
        if result.outcome == "pending":
            return state.model_copy(update={"pending": result.version})
        state = state.model_copy(update={"pending": None})
        return state.trying(result.canary) if result.canary else state.pointing_at(result.version, result.why)

    def _replaced_by(self, result: RoundResult) -> dict[str, str]:
        """What became of the candidates that waited, where a newer one takes their place."""
        waiting = [self.pending, self.canary.version if self.canary else None]
        if result.outcome == "rejected":
            return {}
        return {version: f"replaced by {result.version} before it was deployed" for version in waiting if version}

    def _vouching_for(self, result: RoundResult) -> dict[str, str]:
        """The digests with a candidate's; of candidates that were never deployed only the last ones are kept."""
        digests = {**self.vouched, result.version: result.description}
        canary = self.canary.version if self.canary else None
        deployed = {change.version for change in self.history} | {self.pending, canary, result.version}
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
        description: SHA-256 of its description in the store.
        outcome: of the gate.
        why: for the history, such as ``promoted: map50_delta >= 0 (have 0.031, need >= 0)``.
        canary: which workers try a promoted candidate first; None where all get it at once.
    """

    number: Annotated[int, Field(ge=1)]
    run: Annotated[str, Field(min_length=1)]
    cursor: str
    manifest: str
    champion: Version | None
    version: Version
    description: Digest
    outcome: Literal["promoted", "pending", "rejected"]
    why: str
    canary: Canary | None = None
