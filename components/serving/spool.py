"""The spool: where hard examples wait, on this machine, until they are in the job's store.

============ =======================================================================================================
in a folder  meaning
============ =======================================================================================================
``pending/`` the examples that wait
``ledger``   what became of those that no longer do; ``ledger.older`` before that
``damaged/`` examples whose files turned out to be broken
``lock``     held by the one process that uses the folder
============ =======================================================================================================

Examples go out in the order in which they came in, which is that of their sequence numbers. The machine's clock, which
may step back, has no part in it.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import threading
import time
from bisect import bisect_left, insort
from collections import Counter, deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Literal, Self

from components.core.errors import InputError
from components.core.job.hard_examples import Sidecar
from components.core.rate_limit import RateLimit
from components.core.stores.base import RESERVED
from components.core.stores.transfer import os_errors, os_reason
from components.serving.ledger import Ledger, Record
from components.serving.spool_files import DamagedError, Entry, Example, PendingFiles

Outcome = Literal["kept", "known", "full"]
OnEvent = Callable[[str, int], None]
"""Told the name of what is counted, and by how much it grew."""

LEAST_BYTES = 64 << 10
REMEMBERED_FINGERPRINTS = 1024
_LEDGER_BYTES = 8 << 20  # 40 000 to 80 000 examples
_SECONDS_BETWEEN_LINES = 60.0

log = logging.getLogger(__name__)


class Spool:
    """Examples on disk, for one process at a time and any of its threads.

    What ``add`` calls kept survives a kill and a power cut until it is in the store, or gives way to something of more
    value in a full spool: audit samples go first, then the lowest score, then the oldest.

    Args:
        folder: made if need be.
        max_bytes: of disk, for everything that the spool writes.
        on_event: called for examples ``kept``, ``known``, ``full``, ``dropped`` and ``damaged``, for counting.

    Attributes:
        next_sequence: the number of the example that comes next.

    Raises:
        InputError: another process uses the folder, or it cannot be used.
    """

    def __init__(self, folder: Path, max_bytes: int, on_event: OnEvent = lambda name, amount: None) -> None:
        if max_bytes < LEAST_BYTES:
            raise InputError(f"a spool of {max_bytes} bytes is too small: give at least {LEAST_BYTES}")
        ledger_bytes = min(_LEDGER_BYTES, max_bytes // 8)
        self.next_sequence = 1
        self._room = max_bytes - ledger_bytes
        self._on_event, self._said = on_event, _Seldom()
        self._guard = threading.RLock()
        self._pending: dict[int, Entry] = {}  # by sequence, oldest first
        self._ranked: list[Entry] = []  # the same, least valuable first
        self._images: set[str] = set()  # theirs
        self._bytes = 0  # theirs
        self._in_hand: int | None = None
        self._fingerprints: deque[int] = deque(maxlen=REMEMBERED_FINGERPRINTS)
        with os_errors(f"spool folder {folder}"):
            self._files = PendingFiles(folder / "pending", folder / "damaged")
            self._lock = _only_user(folder)
            for unfinished in folder.rglob(f"{RESERVED}*"):
                unfinished.unlink()
            self._ledger = Ledger(folder / "ledger", ledger_bytes)
            self._damaged_bytes = self._files.damaged_bytes()
            self._load()

    def add(self, image: bytes, sidecar: Sidecar, fingerprint: int | None = None) -> Outcome:
        """Keep an example.

        Args:
            image: the bytes of its file.
            sidecar: what is known of it.
            fingerprint: of the image, for ``fingerprints``; None: leave it out there.

        Returns:
            ``kept``; ``known``, because the same bytes are pending or were sent; ``full``, because all that is here is
            worth more, or because the disk does not take it.

        Raises:
            ValueError: the sidecar belongs to a different image.
        """
        if hashlib.sha256(image).hexdigest() != sidecar.image:
            raise ValueError(f"the sidecar names {sidecar.image}, which is a different image")
        with self._guard:
            outcome = self._add(image, sidecar, fingerprint)
        self._on_event(outcome, 1)
        return outcome

    def pending(self) -> list[Sidecar]:
        """The sidecars of all that waits, oldest first.

        Raises:
            DamagedError: one is broken.
        """
        with self._guard:
            return [self._files.sidecar(entry) for entry in self._pending.values()]

    def take(self) -> Entry | None:
        """The oldest example, if any. It keeps its place until ``sent`` or ``set_aside``, also in a full spool."""
        with self._guard:
            entry = next(iter(self._pending.values()), None)
            self._in_hand = entry.sequence if entry else None
            return entry

    def read(self, entry: Entry) -> Example:
        """What is to be sent of an example that was taken.

        Raises:
            DamagedError: its files are broken.
            OSError: they cannot be read just now.
        """
        return self._files.read(entry)

    def rewrite(self, entry: Entry, sidecar: Sidecar) -> Example:
        """Replace the sidecar of an example that was taken; what is to be sent of it then.

        Raises:
            DamagedError: its files are broken.
            OSError: the disk does not take it.
        """
        self._files.rewrite(entry, sidecar.model_dump_json().encode())
        return self._files.read(entry)

    def sent(self, entry: Entry) -> None:
        """An example is in the store: remember that, and give its room back."""
        with self._guard:
            if not self._lock.closed:
                self._forget(entry.record("sent"), entry.names)

    def set_aside(self, entry: Entry, why: DamagedError) -> None:
        """An example is broken: move its files out of the way, for a person to look at."""
        with self._guard:
            if not self._lock.closed:
                self._move_aside(entry.record("damaged"), entry.names, why)

    def fingerprints(self) -> list[int]:
        """Those of the examples that were kept last, oldest first, also of those that are gone."""
        with self._guard:
            return list(self._fingerprints)

    @property
    def used_bytes(self) -> int:
        """What the spool takes of the disk."""
        with self._guard:
            return self._bytes + self._damaged_bytes + self._ledger.size

    @property
    def oldest_age(self) -> float:
        """For how many seconds the oldest example has been waiting; 0 if none is."""
        with self._guard:
            entry = next(iter(self._pending.values()), None)
        return time.monotonic() - entry.since if entry else 0.0

    def __len__(self) -> int:
        return len(self._pending)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave the folder to others. What is sent from now on is not written down, but found out at the next start."""
        with self._guard:
            self._lock.close()

    def _add(self, image: bytes, sidecar: Sidecar, fingerprint: int | None) -> Outcome:
        if self._lock.closed:
            raise RuntimeError("the spool is closed")
        if sidecar.image in self._images or self._ledger.has_sent(sidecar.image):
            return "known"
        text = sidecar.model_dump_json().encode()
        entry = Entry.of(sidecar, self.next_sequence, fingerprint, (len(image), len(text)), time.monotonic())
        if not self._make_room(entry):
            self._said.add("refused, because the spool is full of more valuable ones")
            return "full"
        self.next_sequence += 1
        try:
            self._files.write(entry, image, text)
        except OSError as error:
            self._said.add(f"refused: {os_reason(error)}")
            return "full"
        self._insert(entry)
        if fingerprint is not None:
            self._fingerprints.append(fingerprint)
        return "kept"

    def _insert(self, entry: Entry) -> None:
        self._pending[entry.sequence] = entry
        insort(self._ranked, entry)
        self._images.add(entry.image)
        self._bytes += entry.size

    def _make_room(self, newcomer: Entry) -> bool:
        """Give up what is worth less than an example until it fits; nothing if that would not suffice."""
        if self._excess(newcomer.size) > 0 and self._damaged_bytes:
            self._files.empty_damaged()
            self._damaged_bytes = 0
        victims, excess = [], self._excess(newcomer.size)
        for entry in self._ranked:
            if excess <= 0 or entry > newcomer:
                break
            if entry.sequence != self._in_hand:
                victims.append(entry)
                excess -= entry.size
        if excess > 0:
            return False
        for entry in victims:
            self._drop(entry)
        return True

    def _excess(self, more: int = 0) -> int:
        """Bytes that are too many with so many more."""
        return self._bytes + self._damaged_bytes + more - self._room

    def _drop(self, entry: Entry) -> None:
        self._forget(entry.record("dropped"), entry.names)
        self._on_event("dropped", 1)
        self._said.add("dropped from the full spool, the least valuable first")

    def _move_aside(self, record: Record, names: Iterable[str], why: DamagedError) -> None:
        log.warning("spool: %s is damaged (%s): moved to %s", record.image, why, self._files.damaged)
        self._files.move_aside(names)
        self._damaged_bytes = self._files.damaged_bytes()
        self._forget(record, names)
        self._on_event("damaged", 1)

    def _forget(self, record: Record, names: Iterable[str]) -> None:
        """Write down what became of an example, then remove it."""
        try:
            self._ledger.append(record)
        except OSError as error:
            self._said.add(f"left out of the ledger: {os_reason(error)}")
            self._files.unlink(names)  # which makes room on a full disk
            with suppress(OSError):
                self._ledger.append(record)
        self._files.unlink(names)
        entry = self._pending.pop(record.sequence, None)
        if entry is not None:
            del self._ranked[bisect_left(self._ranked, entry)]
            self._images.discard(entry.image)
            self._bytes -= entry.size

    def _load(self) -> None:
        """Take up what the process before this one left."""
        kept = {record.sequence: record.fingerprint for record in self._ledger.records()}
        for record, names in self._files.left_over(set(kept)):
            kept[record.sequence] = record.fingerprint
            try:
                self._insert(self._files.entry_of(record, names))
            except DamagedError as error:
                self._move_aside(record, names, error)
        self.next_sequence = max(kept, default=0) + 1
        self._fingerprints.extend(print_ for _, print_ in sorted(kept.items()) if print_ is not None)
        while self._excess() > 0 and self._ranked:
            self._drop(self._ranked[0])


class _Seldom:
    """Says how often each thing has happened, at most once a minute."""

    def __init__(self) -> None:
        self._untold: Counter[str] = Counter()
        self._lines = RateLimit(_SECONDS_BETWEEN_LINES)

    def add(self, what: str) -> None:
        self._untold[what] += 1
        if self._lines.allows():
            log.warning("hard examples: %s", "; ".join(f"{count} {what}" for what, count in self._untold.items()))
            self._untold.clear()


def _only_user(folder: Path) -> BinaryIO:
    """The lock of a folder; it is held until it is closed or the process ends."""
    lock = (folder / "lock").open("ab")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise InputError(
            f"spool folder {folder}: another process uses it; stop that one, or give another folder"
        ) from None
    return lock
