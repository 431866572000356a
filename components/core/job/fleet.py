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

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from components.core.bundle import Version
from components.core.release import MODEL

POINTER = "champion.json"
SEDNA_POINTER = "model_config.json"
STATUS = "status/"


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, serialize_by_alias=True)


class PublishedFile(_Record):
    """One file of a bundle in the store.

    Attributes:
        sha256: of its bytes, 64 hex digits.
        size: bytes.
    """

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    size: Annotated[int, Field(ge=0)]


class PublishedBundle(_Record):
    """One version of a bundle, as a worker fetches it.

    Attributes:
        version: its name.
        uri: where its files lie, without a slash at its end.
        files: every file of the bundle by name, ``model.json`` among them.
    """

    version: Version
    uri: str
    files: dict[str, PublishedFile]


class Target(_Record):
    """A release, as a worker fetches it.

    The release of one model is described by ``uri`` and ``files`` of its bundle, any other by ``members``.

    Attributes:
        version: of the release.
        uri: see :class:`PublishedBundle`.
        files: see :class:`PublishedBundle`.
        members: the bundles of a release of several models, by their role.
        routing: what decides between them, as in :class:`components.core.release.Release`.
    """

    version: Version
    uri: str = ""
    files: dict[str, PublishedFile] = {}
    members: dict[str, PublishedBundle] = {}
    routing: dict[str, JsonValue] = {}

    @classmethod
    def fields_of(
        cls, version: str, bundles: Mapping[str, PublishedBundle], routing: Mapping[str, JsonValue]
    ) -> dict[str, Any]:
        """A release as values of these fields.

        Args:
            version: of the release.
            bundles: its members by their role.
            routing: what decides between them.
        """
        if bundles.keys() == {MODEL} and bundles[MODEL].version == version and not routing:
            return bundles[MODEL].model_dump()
        return {"version": version, "members": {name: one.model_dump() for name, one in bundles.items()},
                "routing": dict(routing)}  # fmt: skip

    def bundles(self) -> dict[str, PublishedBundle]:
        """The members by their role; one model is the member ``model``."""
        if self.members:
            return self.members
        return {MODEL: PublishedBundle(version=self.version, uri=self.uri, files=self.files)}

    @model_validator(mode="after")
    def _check_one_form(self) -> Self:
        if bool(self.members) == bool(self.uri):
            raise ValueError("a release has either the uri of its bundle or members")
        return self

    @model_serializer(mode="wrap")
    def _in_one_form(self, full: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without the fields of the other form, so that workers who know only one model can read it."""
        unused = {"uri", "files"} if self.members else {"members", "routing"}
        return {name: value for name, value in full(self).items() if name not in unused}


class CanaryTarget(Target):
    """A release that some workers run before all others may.

    Attributes:
        nodes: those workers.
    """

    nodes: tuple[str, ...]


class Pointer(Target):
    """The release to run.

    Attributes:
        format: of this description; 2 where a release has several members, which older workers cannot run.
        generation: counts the changes of the pointer.
        updated: when the pointer moved here, UTC.
        trial: what some workers run instead; None while there is no canary.
    """

    format: Literal[1, 2] = 1
    generation: Annotated[int, Field(ge=1, alias="move")]
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
        instance: the process that wrote this; two at a time under one name are two workers that share it.
        latency_p50_ms: half of the latest inferences took no longer, in milliseconds; 0 before the first.
        latency_p95_ms: the same for 95 of 100.
    """

    node: Annotated[str, Field(min_length=1)]
    version: Version
    state: Literal["loaded", "failed"]
    error: str = ""
    frames: Annotated[int, Field(ge=0)] = 0
    time: datetime
    instance: str = ""
    latency_p50_ms: Annotated[float, Field(ge=0)] = 0.0
    latency_p95_ms: Annotated[float, Field(ge=0)] = 0.0


def status_key(node: str) -> str:
    """Where a worker writes its status."""
    return f"{STATUS}{node}.json"
