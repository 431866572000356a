"""What became of the examples that are no longer in the spool.

One line of text for each, only ever appended::

    sent 000000000017 9f3c00d1e2b4a587 <sha256>

When the file has grown to half of what is allowed, it becomes the older one and a new one begins, so that the newest
lines are always there.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple, cast

from components.core.stores.transfer import ABSENT, landing

Fate = Literal["sent", "dropped", "damaged"]

_LINE = re.compile(r"(sent|dropped|damaged) (\d{12}) ([0-9a-f]{16}|-) ([0-9a-f]{64})")


class Record(NamedTuple):
    """What became of one example.

    Attributes:
        fate: ``sent``: it is in the store; ``dropped`` for want of room; ``damaged`` and moved aside.
        sequence: its number in the order of arrival.
        fingerprint: of its image, 64 bits; None if none was taken.
        image: SHA-256 of its image, 64 hex digits.
    """

    fate: Fate
    sequence: int
    fingerprint: int | None
    image: str


class Ledger:
    """The records, in a file and the one before it; for one thread at a time.

    Args:
        path: of the newer file; the older one lies beside it.
        max_bytes: of both together.
    """

    def __init__(self, path: Path, max_bytes: int) -> None:
        self._path, self._older_path = path, path.with_name(f"{path.name}.older")
        self._half = max_bytes // 2
        self._sent, self._older_sent = _sent(path), _sent(self._older_path)

    @property
    def size(self) -> int:
        """Bytes of both files."""
        return _size(self._path) + _size(self._older_path)

    def records(self) -> Iterator[Record]:
        """Every record that the files have, oldest first; a line that a power cut tore is passed over."""
        yield from _records(self._older_path)
        yield from _records(self._path)

    def has_sent(self, image: str) -> bool:
        """Whether an image is known to be in the store."""
        digest = bytes.fromhex(image)
        return digest in self._sent or digest in self._older_sent

    def append(self, record: Record) -> None:
        """Write a record down. That an example was sent survives a power cut.

        Raises:
            OSError: the disk does not take it; ``has_sent`` knows it nevertheless.
        """
        print_ = "-" if record.fingerprint is None else f"{record.fingerprint:016x}"
        # The line break comes first, so that what follows half a line is still a line.
        line = f"\n{record.fate} {record.sequence:012d} {print_} {record.image}".encode()
        try:
            if _size(self._path) + len(line) > self._half or not self._path.exists():
                self._begin_anew()
            with self._path.open("ab") as file:
                file.write(line)
                file.flush()
                if record.fate == "sent":
                    os.fsync(file.fileno())
        finally:
            if record.fate == "sent":
                self._sent.add(bytes.fromhex(record.image))

    def _begin_anew(self) -> None:
        if self._path.exists():
            self._path.replace(self._older_path)
            self._sent, self._older_sent = set(), self._sent
        with landing(self._path, durable=True):
            pass


def _records(path: Path) -> Iterator[Record]:
    try:
        lines = path.read_text("ascii", errors="replace").split("\n")
    except ABSENT:
        return
    for found in filter(None, map(_LINE.fullmatch, lines)):
        fate, sequence, print_, image = found.groups()
        yield Record(cast(Fate, fate), int(sequence), None if print_ == "-" else int(print_, 16), image)


def _sent(path: Path) -> set[bytes]:
    return {bytes.fromhex(record.image) for record in _records(path) if record.fate == "sent"}


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except ABSENT:
        return 0
