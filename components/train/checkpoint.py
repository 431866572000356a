"""Checkpoints of a training in the job's store, so that a killed run goes on where it was.

The weights lie under their digest and ``checkpoint.json`` names them, written last. Whoever resumes checks what was
fetched against that digest before it is unpickled, and a run killed between the two finds the checkpoint before.
"""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.core.documents import read_json
from components.core.errors import InputError, NotFoundError
from components.core.estimators.base import Epoch
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


class Checkpoints:
    """The checkpoints of one training.

    Args:
        store: the job's.
        key: digest of all that the training depends on; another key is another training.
    """

    def __init__(self, store: Store, key: str) -> None:
        self._store = store
        self._prefix = f"checkpoints/{key}"
        self._kept: set[str] = set()

    def save(self, epoch: Epoch, history: list[dict[str, float]]) -> None:
        """Put an epoch's weights in the store, then name them, then drop those named before."""
        digests = {"last": _digest(epoch.last), "best": _digest(epoch.best)}
        for name, path in (("last", epoch.last), ("best", epoch.best)):
            if digests[name] not in self._kept:
                self._store.upload(path, self._weights(digests[name]))
        record = {**digests, "finished": epoch.finished, "history": history}
        self._store.write(f"{self._prefix}/checkpoint.json", json.dumps(record).encode())
        for digest in self._kept - set(digests.values()):
            self._store.delete(self._weights(digest))
        self._kept = set(digests.values())

    def restore(self, folder: Path) -> Checkpoint | None:
        """Fetch the latest checkpoint into a folder; None when there is none that can be trusted."""
        key = f"{self._prefix}/checkpoint.json"
        try:
            text = self._store.read(key)
        except NotFoundError:
            return None
        try:
            record: dict[str, Any] = read_json(text, self._store.uri_of(key))
            for name in ("last", "best"):
                self._store.download(self._weights(record[name]), folder / f"{name}.pt", sha256=record[name])
            found = Checkpoint(
                list(record["history"]), folder / "last.pt", folder / "best.pt", bool(record["finished"])
            )
        except (InputError, LookupError, TypeError, AttributeError) as error:
            logger.warning("the checkpoint of an earlier run cannot be used, training starts from scratch: %s", error)
            return None
        self._kept = {record["last"], record["best"]}
        return found

    def clear(self) -> None:
        """Remove them all: the training has become a model."""
        for info in list(self._store.list(self._prefix + "/")):
            self._store.delete(info.key)

    def _weights(self, digest: str) -> str:
        return f"{self._prefix}/{digest}.pt"


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
