"""What a worker should run: by the job's own pointer, or by the one of KubeEdge Sedna."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from pydantic import BaseModel, Field, ValidationError

from components.core.errors import InputError, one_line
from components.core.job.fleet import POINTER, Pointer, PublishedFile
from components.core.stores.open import Store, open_store, shown, split

_BUNDLE = re.compile(r"/bundles/([A-Za-z0-9][A-Za-z0-9._-]*)$")


@dataclass(frozen=True)
class DesiredModel:
    """One model that a worker should run.

    Attributes:
        version: its name.
        move: distinguishes this one from an earlier one for the same version.
        uri: address of the folder of its files.
        files: size and digest of each by name; empty where the pointer does not say.
    """

    version: str
    move: str
    uri: str
    files: Mapping[str, PublishedFile] = field(default_factory=dict)


class PointerReader(Protocol):
    """Where orders come from."""

    def read(self) -> DesiredModel | None:
        """The order that holds now; None where there is none, or nothing that is newer than what was read.

        Raises:
            InputError: the pointer is out of reach, or is not one.
        """
        ...


class JobPointer:
    """The pointer in the job's root.

    Args:
        store: the job's root.
        node: this worker; a model on trial is for some of them.
    """

    def __init__(self, store: Store, node: str) -> None:
        self._store, self._node = store, node
        self._highest = 0

    def read(self) -> DesiredModel | None:
        """What ``champion.json`` says; see :class:`PointerReader`."""
        found = self._store.read_versioned(POINTER)
        if found is None:
            return None
        try:
            pointer = Pointer.model_validate_json(found[0])
        except ValidationError as error:
            raise _not_a_pointer(self._store.uri_of(POINTER), error) from error
        if pointer.move < self._highest:
            return None  # a stale copy, from a cache on the way
        self._highest = pointer.move
        target = pointer.for_node(self._node)
        return DesiredModel(target.version, str(pointer.move), target.uri, target.files)


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
        root, self._key = split(address)
        self._store = open_store(root)

    def read(self) -> DesiredModel | None:
        """What it says; see :class:`PointerReader`. Its models change when ``model_update_time`` does."""
        found = self._store.read_versioned(self._key)
        if found is None:
            return None
        try:
            model = _SednaModel.model_validate(json.loads(found[0])["model_config"])
        except (ValueError, KeyError, TypeError) as error:
            raise _not_a_pointer(self._name, error) from error
        folder = model.path.rpartition("/")[0] or "."
        return DesiredModel(_version(folder, model.time), model.time, folder)


def _version(folder: str, time: str) -> str:
    """Sedna's models have no version: the job's own folder names it, or else the time makes one."""
    published = _BUNDLE.search(folder)
    return published.group(1) if published else f"sedna-{hashlib.sha256(time.encode()).hexdigest()[:12]}"


def _not_a_pointer(name: str, error: Exception) -> InputError:
    reason = one_line(error) if isinstance(error, ValidationError) else f"{type(error).__name__}: {error}"
    return InputError(f"{name} does not say which model to run ({reason}); the next deployment writes it again")
