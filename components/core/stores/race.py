"""Whether the conditional writes of a store hold when writers race, since all of a job's state rests on them.

Some servers that speak S3 leave out ``If-Match`` and ``If-None-Match``; SeaweedFS before 4.18 looks at them, but lets
several writers of a race win. Such a store would lose rounds without a word, so it is found out before work begins.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

from components.core.errors import ConflictError, UnfitStoreError
from components.core.stores.base import Store

FOLDER = "setup/"
WRITERS, RACES = 16, 3  # of SeaweedFS 4.00, 3 to 11 of 24 writers won each race

_ADVICE = (
    "rounds could be lost silently; use a store whose conditional writes are atomic: AWS S3, MinIO, Ceph, "
    "or SeaweedFS 4.18 or newer"
)


def check_conditional_writes(store: Store) -> None:
    """Let writers race for keys under ``setup/``, once for each server under whose address the store is used.

    Where a race was passed is remembered in the store, by the server's address and what it calls itself.

    Args:
        store: a job's root; one in a folder is not looked at, since its writes take a lock.

    Raises:
        UnfitStoreError: a condition is left out or lets several writers win.
        InputError: the store cannot be read or written.
    """
    if store.server is None:
        return
    passed = f"{FOLDER}conditional-writes-{hashlib.sha256(store.endpoint.encode()).hexdigest()[:16]}"
    known = store.read_versioned(passed, max_bytes=1 << 10)
    if known is not None and known[0] == _name_of(store).encode():
        return
    key = f"{FOLDER}{uuid.uuid4().hex}"
    try:
        _check_conditions(store, key)
        _check_races(store, key)
    finally:
        store.delete(key)
    store.write(passed, _name_of(store).encode())


def _check_conditions(store: Store, key: str) -> None:
    etag = store.write(key, b"the first", if_absent=True)
    if _wins(store, key, b"absent no more", if_absent=True):
        raise _unfit(store, "ignores If-None-Match")
    store.write(key, b"the second", if_match=etag)
    if _wins(store, key, b"of another version", if_match=etag):
        raise _unfit(store, "ignores If-Match")


def _check_races(store: Store, key: str) -> None:
    with ThreadPoolExecutor(WRITERS) as pool:
        for number in range(RACES):
            store.delete(key)
            won = _race(pool, lambda data: _wins(store, key, data, if_absent=True))
            if won != 1:
                raise _unfit(store, f"let {won} of {WRITERS} writers win a race with If-None-Match")
            etag = store.write(key, f"start {number}".encode())
            won = _race(pool, lambda data, etag=etag: _wins(store, key, data, if_match=etag))  # type: ignore[misc]
            if won != 1:
                raise _unfit(store, f"let {won} of {WRITERS} writers win a race with If-Match")


def _race(pool: ThreadPoolExecutor, write: Callable[[bytes], bool]) -> int:
    """How many of the writers, each with a content of its own, believe that they have won."""
    start = Barrier(WRITERS)

    def run(number: int) -> bool:
        start.wait()
        return write(f"writer {number}".encode())

    return sum(pool.map(run, range(WRITERS)))


def _wins(store: Store, key: str, data: bytes, *, if_match: str | None = None, if_absent: bool = False) -> bool:
    try:
        store.write(key, data, if_match=if_match, if_absent=if_absent)
    except ConflictError:
        return False
    return True


def _name_of(store: Store) -> str:
    return store.server or "unknown server"


def _unfit(store: Store, reason: str) -> UnfitStoreError:
    return UnfitStoreError(f"{store.uri}: the store at {store.endpoint} ({_name_of(store)}) {reason}: {_ADVICE}")
