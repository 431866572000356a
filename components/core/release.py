"""A release: what the champion pointer names, and what is rolled out and rolled back as one.

A release has named members, each a version of a bundle, and routing data that says which member a sample goes to. Most
jobs release one model: then the release *is* the version of its bundle, with one member called ``model`` and nothing to
route, and nothing more is written. Several models that only work together, such as a little and a big one with their
thresholds, or one model per task with the rule that chooses among them, are released together: their release has a
description of its own beside those of its members::

    bundles/r0003-1f0c7a52/model.json      a member
    bundles/r0003-9d3e4b11/model.json      another one
    bundles/r0003-5be0cd19/release.json    the release of both

The job's state keeps one digest per version, that of ``model.json`` or of ``release.json``. A release has the digests
of its members' descriptions and each of these the digests of its files, so the state vouches for every byte of it.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from components.core.bundle import Version
from components.core.errors import InputError, one_line

RELEASE = "release.json"
MODEL = "model"  # the member of a release of one model
LITTLE, BIG = "little", "big"  # those of a release for joint inference

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
MemberName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


class Member(BaseModel):
    """One model of a release.

    Attributes:
        version: of its bundle.
        sha256: of the bundle's description, 64 hex digits.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Version
    sha256: Digest


class Release(BaseModel):
    """What a version of a job consists of.

    Attributes:
        format: of this description.
        members: the models by their role, such as ``little`` and ``big``, or by their task.
        routing: what decides between them, such as thresholds; any JSON. Nothing here reads it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    members: Annotated[dict[MemberName, Member], Field(min_length=1)]
    routing: dict[str, JsonValue] = {}

    @classmethod
    def of_one(cls, version: str, sha256: str) -> Self:
        """The release of one model, which has the version of its bundle."""
        return cls(members={MODEL: Member(version=version, sha256=sha256)})

    @classmethod
    def parse(cls, data: bytes, name: str) -> Self:
        """Read a description.

        Args:
            data: content of a ``release.json``.
            name: its address, for the message.

        Raises:
            InputError: it describes no release.
        """
        try:
            return cls.model_validate_json(data)
        except ValidationError as error:
            raise InputError(f"{name} does not describe a release: {one_line(error)}") from error

    @property
    def is_one_model(self) -> bool:
        """Whether this is one model without anything to route, which needs no description of its own."""
        return self.members.keys() == {MODEL} and not self.routing

    def describe(self) -> bytes:
        """The description; equal releases have equal bytes."""
        return json.dumps(self.model_dump(mode="json"), indent=2, sort_keys=True).encode()

    @property
    def sha256(self) -> str:
        """Of the description, 64 hex digits."""
        return hashlib.sha256(self.describe()).hexdigest()
