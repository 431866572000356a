"""What a job and its edge workers tell each other, as small objects in the job's root.

===================== =========================================================================================
object                meaning
===================== =========================================================================================
``champion.json``     the model to run, for every worker: a :class:`Pointer`
``model_config.json`` the same for workers of KubeEdge Sedna, in its own words
``status/<node>.json`` which model a worker runs, written by that worker: a :class:`WorkerStatus`
===================== =========================================================================================

The first two are made from the job's state and can be made again from it at any time.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from components.core.bundle import Version

POINTER = "champion.json"
SEDNA_POINTER = "model_config.json"
STATUS = "status/"


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PublishedFile(_Record):
    """One file of a bundle in the store.

    Attributes:
        sha256: of its bytes, 64 hex digits.
        size: bytes.
    """

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    size: Annotated[int, Field(ge=0)]


class Target(_Record):
    """One model version, as a worker fetches it.

    Attributes:
        version: its name.
        uri: where its files lie, without a slash at its end.
        files: every file of the bundle by name, ``model.json`` among them.
    """

    version: Version
    uri: str
    files: dict[str, PublishedFile]


class CanaryTarget(Target):
    """A model version that some workers run before all others may.

    Attributes:
        nodes: those workers.
    """

    nodes: tuple[str, ...]


class Pointer(Target):
    """The model to run.

    Attributes:
        format: of this description.
        move: counts the moves of the pointer; a worker that has seen a higher one reads a stale copy.
        updated: when the pointer moved here, UTC.
        trial: what some workers run instead; None where no trial is under way.
    """

    format: Literal[1] = 1
    move: Annotated[int, Field(ge=1)]
    updated: datetime
    trial: CanaryTarget | None = None

    def for_node(self, node: str) -> Target:
        """What one worker is to run."""
        return self.trial if self.trial and node in self.trial.nodes else self


class WorkerStatus(_Record):
    """What a worker last did with a model.

    Attributes:
        node: the worker.
        version: the model version it tried.
        state: ``loaded`` and in use, or ``failed``, the worker going on with the model it had.
        error: why it failed; empty otherwise.
        frames: how many images it has looked at with that version.
        time: when, UTC, by the worker's clock; for people to read, nothing is decided by it.
    """

    node: Annotated[str, Field(min_length=1)]
    version: Version
    state: Literal["loaded", "failed"]
    error: str = ""
    frames: Annotated[int, Field(ge=0)] = 0
    time: datetime


def status_key(node: str) -> str:
    """Where a worker writes its status."""
    return f"{STATUS}{node}.json"
