"""A store in a folder."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from typing_extensions import override

from components.core.stores.addresses import file_uri
from components.core.stores.base import MAX_FILE_BYTES, MAX_READ_BYTES, RESERVED, ObjectInfo, Store, check_key, conflict
from components.core.stores.transfer import ABSENT, check_size, copy, landing, opened, os_errors, verify


class FileStore(Store):
    """A folder. The etag of a file is the SHA-256 of its content.

    A write takes the lock of the file's folder, so that conditions hold among processes and threads, also over NFS.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self.uri = file_uri(root)

    @override
    def uri_of(self, key: str) -> str:
        return file_uri(self.local_path(key))

    @override
    def local_path(self, key: str) -> Path:
        check_key(key, self.uri)
        return self._root / key

    @override
    def read_versioned(self, key: str, *, max_bytes: int = MAX_READ_BYTES) -> tuple[bytes, str] | None:
        with os_errors(self.uri_of(key)):
            try:
                with self.local_path(key).open("rb") as file:
                    data = file.read(max_bytes + 1)
            except ABSENT:
                return None
        check_size(self.uri_of(key), len(data), max_bytes)
        return data, hashlib.sha256(data).hexdigest()

    @override
    def write(self, key: str, data: bytes, *, if_match: str | None = None, if_absent: bool = False) -> str:
        path = self.local_path(key)
        with os_errors(self.uri_of(key)), _locked(path.parent):
            if if_absent and path.is_file():
                raise conflict(self.uri_of(key))
            if if_match is not None and if_match != _file_etag(path):
                raise conflict(self.uri_of(key))
            with landing(path, durable=True) as file:
                file.write(data)
        return hashlib.sha256(data).hexdigest()

    @override
    def download(self, key: str, path: Path, *, sha256: str | None = None, max_bytes: int = MAX_FILE_BYTES) -> None:
        uri = self.uri_of(key)
        with os_errors(uri), opened(self.local_path(key), uri) as source, landing(path) as file:
            copy(source, file, uri, max_bytes)
            verify(file, sha256, uri)

    @override
    def upload(self, path: Path, key: str) -> None:
        target = self.local_path(key)
        with os_errors(self.uri_of(key)), opened(path, str(path)) as source, landing(target) as file:
            copy(source, file, str(path), None)

    @override
    def list(self, prefix: str = "", *, start_after: str = "") -> Iterator[ObjectInfo]:
        base = prefix.rpartition("/")[0]
        folder = self.local_path(base) if base else self._root
        with os_errors(self.uri):
            for key, entry in _walk(folder, f"{base}/" if base else "", prefix, start_after):
                try:
                    status = entry.stat()
                except FileNotFoundError:  # deleted since the folder was read, or a link to nowhere
                    continue
                etag = f"{status.st_mtime_ns}-{status.st_size}"
                yield ObjectInfo(key, status.st_size, etag, datetime.fromtimestamp(status.st_mtime, UTC))

    @override
    def stat(self, key: str) -> ObjectInfo | None:
        path = self.local_path(key)
        with os_errors(self.uri_of(key)):
            etag = _file_etag(path)
            if etag is None:
                return None
            status = path.stat()
        return ObjectInfo(key, status.st_size, etag, datetime.fromtimestamp(status.st_mtime, UTC))

    @override
    def delete(self, key: str) -> None:
        path = self.local_path(key)
        with os_errors(self.uri_of(key)):
            if path.exists():
                with _locked(path.parent):
                    path.unlink(missing_ok=True)


def _file_etag(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except ABSENT:
        return None


def _walk(folder: Path, base: str, prefix: str, start_after: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Files below a folder with their keys, in the order of whole keys, as S3 lists them.

    A folder sorts as its name with a slash, since that is what its keys begin with: ``a.b`` comes before ``a/b``.
    """
    try:
        with os.scandir(folder) as found:
            entries = sorted((entry.name + "/" * entry.is_dir(), entry) for entry in found)
    except ABSENT:
        return
    for name, entry in entries:
        key = base + name
        if name.startswith(RESERVED):
            continue
        if name.endswith("/"):
            relevant = key.startswith(prefix) or prefix.startswith(key)
            ahead = key > start_after or start_after.startswith(key)
            if relevant and ahead and not _points_upwards(entry):
                yield from _walk(Path(entry.path), key, prefix, start_after)
        elif key.startswith(prefix) and key > start_after and entry.is_file():
            yield key, entry


def _points_upwards(entry: os.DirEntry[str]) -> bool:
    """Whether a folder is a link to one that it lies in, so that walking on would never end."""
    path = Path(entry.path)
    return entry.is_symlink() and path.parent.resolve().is_relative_to(path.resolve())


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder. The lock file stays: removing it would let two holders in."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{RESERVED}lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
