"""Checkpoints of a training in the job's store, so that a killed run goes on where it was.

The weights lie under their digest and ``checkpoint.json`` names them, written last. Whoever resumes checks what was
fetched against that digest before it is unpickled, and a run killed between the two finds the checkpoint before.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from components.core.bundle import sha256_of
from components.core.documents import read_json
from components.core.errors import InputError, NotFoundError, OutOfReachError, one_line
from components.core.estimators.base import Epoch
from components.core.release import Digest
from components.core.stores.open import Store

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """What a training had come to.

    Attributes:
        history: one dictionary of figures per epoch, with its ``epoch``, counted from 1.
        last: the trainer's checkpoint.
        best: the best weights so far.
        finished: nothing is left to train.
    """

    history: list[dict[str, float]]
    last: Path
    best: Path
    finished: bool


class _Record(BaseModel):
    """What ``checkpoint.json`` says."""

    model_config = ConfigDict(extra="forbid")

    last: Digest
    best: Digest
    finished: bool
    history: Annotated[list[dict[str, float]], Field(min_length=1)]


class Checkpoints:
    """The checkpoints of one training.

    Those of a round that has ended are removed with the rest of what it left, whatever became of the training.

    Args:
        store: the job's.
        key: the round, and a digest of all that the training depends on; another key is another training.
    """

    def __init__(self, store: Store, key: str) -> None:
        self._store = store
        self._prefix = f"checkpoints/{key}"
        self._kept: set[str] = set()

    def save(self, epoch: Epoch, history: list[dict[str, float]]) -> None:
        """Put an epoch's weights in the store, then name them, then drop those named before."""
        digests = {"last": sha256_of(epoch.last), "best": sha256_of(epoch.best)}
        for name, path in (("last", epoch.last), ("best", epoch.best)):
            if digests[name] not in self._kept:
                self._store.upload(path, self._weights(digests[name]))
        record = {**digests, "finished": epoch.finished, "history": history}
        self._store.write(f"{self._prefix}/checkpoint.json", json.dumps(record).encode())
        for digest in self._kept - set(digests.values()):
            self._store.delete(self._weights(digest))
        self._kept = set(digests.values())

    def restore(self, folder: Path) -> Checkpoint | None:
        """Fetch the latest checkpoint into a folder; None when there is none that can be trusted.

        Raises:
            InputError: it cannot be fetched now, for want of the store or of space; it is not to be trained over.
        """
        key = f"{self._prefix}/checkpoint.json"
        try:
            text = self._store.read(key)
        except NotFoundError:
            return None
        try:
            record = _Record.model_validate(read_json(text, self._store.uri_of(key)))
            for name, digest in (("last", record.last), ("best", record.best)):
                self._store.download(self._weights(digest), folder / f"{name}.pt", sha256=digest)
        except (InputError, ValidationError) as error:
            if isinstance(error, OutOfReachError) or isinstance(error.__cause__, OSError):
                raise
            wrong = f"{self._store.uri_of(key)}: {one_line(error)}" if isinstance(error, ValidationError) else error
            logger.warning("cannot use the checkpoint of an earlier run, starting from epoch 1: %s", wrong)
            return None
        self._kept = {record.last, record.best}
        return Checkpoint(record.history, folder / "last.pt", folder / "best.pt", record.finished)

    def epochs(self) -> int:
        """How many epochs are done; 0 where nothing is known of them."""
        try:
            return len(_Record.model_validate_json(self._store.read(f"{self._prefix}/checkpoint.json")).history)
        except (NotFoundError, ValidationError):
            return 0

    def clear(self) -> None:
        """Remove them all: the training has become a model, so what is out of reach now is left for later."""
        try:
            for info in list(self._store.list(self._prefix + "/")):
                self._store.delete(info.key)
        except OutOfReachError as error:
            logger.warning("checkpoints are left behind: %s", error)

    def _weights(self, digest: str) -> str:
        return f"{self._prefix}/{digest}.pt"
