"""The files of examples that wait: an image and its sidecar each, both named ``<sequence>-<fingerprint>-<sha256>``.

The sidecar is written last and removed first, so an image without one is not there.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from components.core.errors import one_line
from components.core.job.hard_examples import Sidecar
from components.core.stores.transfer import landing, os_reason
from components.serving.clock import is_set
from components.serving.ledger import Fate, Record

_BLOCK_BYTES = 4096  # a file takes whole blocks of the disk
_STEM = re.compile(r"(\d{12})-([0-9a-f]{16})?-([0-9a-f]{64})")
_BROKEN = {errno.ENOENT, errno.EIO, errno.EISDIR, errno.EACCES}


class DamagedError(Exception):
    """The files of one example are not what was put there."""


class Entry(NamedTuple):
    """One example that waits. Entries sort by their value, the least valuable first.

    Attributes:
        hard: False for an audit sample.
        score: 0..1, the larger the harder.
        sequence: its number in the order of arrival.
        fingerprint: of its image, 64 bits; None if none was taken.
        image: SHA-256 of its image, 64 hex digits.
        suffix: of the image's file.
        size: bytes on disk, image and sidecar together.
        since: when it came, on the clock of ``time.monotonic``.
    """

    hard: bool
    score: float
    sequence: int
    fingerprint: int | None
    image: str
    suffix: str
    size: int
    since: float

    @classmethod
    def of(cls, sidecar: Sidecar, sequence: int, fingerprint: int | None, sizes: Iterable[int], since: float) -> Entry:
        """The entry of an example whose files have these sizes in bytes."""
        size = sum(on_disk(each) for each in sizes)
        hard = sidecar.kind != "audit"
        return cls(hard, sidecar.score, sequence, fingerprint, sidecar.image, sidecar.suffix, size, since)

    @property
    def names(self) -> tuple[str, str]:
        """The names of its sidecar and of its image."""
        print_ = "" if self.fingerprint is None else f"{self.fingerprint:016x}"
        stem = f"{self.sequence:012d}-{print_}-{self.image}"
        return f"{stem}.json", stem + self.suffix

    def record(self, fate: Fate) -> Record:
        """What the ledger says of it once it is gone."""
        return Record(fate, self.sequence, self.fingerprint, self.image)


class Example(NamedTuple):
    """What goes to the store: the bytes of an image and of its sidecar, and what the latter says."""

    image: bytes
    text: bytes
    sidecar: Sidecar


class PendingFiles:
    """The folder of the examples that wait, and the one for those whose files turned out to be broken.

    Args:
        folder: made if need be.
        damaged: made when the first one is broken.
    """

    def __init__(self, folder: Path, damaged: Path) -> None:
        self._folder, self.damaged = folder, damaged
        folder.mkdir(parents=True, exist_ok=True)

    def write(self, entry: Entry, image: bytes, text: bytes) -> None:
        """Write an example, so that it survives a power cut; nothing of it stays when that cannot be done.

        Raises:
            OSError: the disk does not take it.
        """
        sidecar_name, image_name = entry.names
        try:
            with landing(self._folder / image_name) as file:
                file.write(image)
                file.flush()
                os.fsync(file.fileno())  # the names of both become durable together
            with landing(self._folder / sidecar_name, durable=True) as file:
                file.write(text)
        except OSError:
            self.unlink(entry.names)
            raise

    def rewrite(self, entry: Entry, text: bytes) -> None:
        """Replace the sidecar of an example, so that either the old or the new one survives a power cut.

        Raises:
            OSError: the disk does not take it.
        """
        with landing(self._folder / entry.names[0], durable=True) as file:
            file.write(text)

    def read(self, entry: Entry) -> Example:
        """Read an example.

        Raises:
            DamagedError: its files are broken.
            OSError: they cannot be read just now.
        """
        text, image = (_content(self._folder / name) for name in entry.names)
        sidecar = _parsed(text)
        if hashlib.sha256(image).hexdigest() != entry.image:
            raise DamagedError("the image has changed")
        if sidecar.image != entry.image:
            raise DamagedError("the sidecar belongs to a different image")
        return Example(image, text, sidecar)

    def sidecar(self, entry: Entry) -> Sidecar:
        """Read the sidecar of an example.

        Raises:
            DamagedError: it is broken.
            OSError: it cannot be read just now.
        """
        return _parsed(_content(self._folder / entry.names[0]))

    def unlink(self, names: Iterable[str]) -> None:
        """Remove files, in this order, as far as the disk lets."""
        for name in names:
            with suppress(OSError):
                (self._folder / name).unlink()

    def move_aside(self, names: Iterable[str]) -> None:
        """Move files to the folder of broken ones, as far as the disk lets."""
        for name in names:
            with suppress(OSError):
                self.damaged.mkdir(exist_ok=True)
                (self._folder / name).replace(self.damaged / name)

    def damaged_bytes(self) -> int:
        """What the broken ones take of the disk."""
        return sum(on_disk(path.stat().st_size) for path in self.damaged.glob("*"))

    def empty_damaged(self) -> None:
        """Remove the broken ones."""
        shutil.rmtree(self.damaged, ignore_errors=True)

    def left_over(self, gone: set[int]) -> Iterator[tuple[Record, tuple[str, str]]]:
        """Whole examples of a process before this one, oldest first: as a record, with the names of their files.

        Args:
            gone: sequence numbers of those that were to be removed. They are, and so is what was not finished.
        """
        files: dict[str, list[str]] = defaultdict(list)
        for path in self._folder.iterdir():
            files[path.stem].append(path.name)
        for stem, names in sorted(files.items()):
            known = _STEM.fullmatch(stem)
            if known is None:
                continue
            names.sort(key=lambda name: not name.endswith(".json"))
            if int(known[1]) in gone or len(names) != 2 or not names[0].endswith(".json"):
                self.unlink(names)
            else:
                print_ = int(known[2], 16) if known[2] else None
                yield Record("damaged", int(known[1]), print_, known[3]), (names[0], names[1])

    def entry_of(self, record: Record, names: tuple[str, str]) -> Entry:
        """What the sidecar of a left-over example says.

        Raises:
            DamagedError: it is not its sidecar.
        """
        sidecar = _parsed(_content(self._folder / names[0]))
        found = [(self._folder / name).stat() for name in names]
        came = found[0].st_mtime  # by the machine's clock, which may not have been set then
        age = max(0.0, time.time() - came) if is_set(datetime.fromtimestamp(came, UTC)) else 0.0
        since = time.monotonic() - age
        entry = Entry.of(sidecar, record.sequence, record.fingerprint, [each.st_size for each in found], since)
        if entry.names != names:
            raise DamagedError("the sidecar belongs to a different image")
        return entry


def on_disk(size: int) -> int:
    """The bytes of disk that a file of so many bytes takes."""
    return -(-size // _BLOCK_BYTES) * _BLOCK_BYTES


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        if error.errno in _BROKEN:
            raise DamagedError(os_reason(error)) from error
        raise


def _parsed(text: bytes) -> Sidecar:
    try:
        return Sidecar.model_validate_json(text)
    except ValidationError as error:
        raise DamagedError(f"no sidecar: {one_line(error)}") from error
