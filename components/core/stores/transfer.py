"""Files that appear whole and verified or not at all, and what the operating system's errors mean."""

from __future__ import annotations

import errno
import hashlib
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from components.core.errors import InputError, TooLargeError
from components.core.stores.base import RESERVED, not_found

CHUNK_BYTES = 1 << 20
ABSENT = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_PERMISSION = {errno.EACCES, errno.EPERM, errno.EROFS}


@contextmanager
def landing(target: Path, *, durable: bool = False) -> Iterator[BinaryIO]:
    """A new file that takes the target's place when the body ends well, and vanishes when it does not."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.parent / f"{RESERVED}{uuid.uuid4().hex}"
    try:
        with partial.open("x+b") as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    if durable:
        _sync_folder(target.parent)


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def opened(path: Path, name: str) -> Iterator[BinaryIO]:
    """A file to read; ``NotFoundError`` under the given name when it is absent."""
    try:
        file = path.open("rb")
    except ABSENT:
        raise not_found(name) from None
    with file:
        yield file


def check_size(name: str, size: int, max_bytes: int | None) -> None:
    """Raise ``TooLargeError`` if an object is larger than it may be; None allows any size."""
    if max_bytes is not None and size > max_bytes:
        raise TooLargeError(f"{name}: exceeds the limit of {max_bytes:,} bytes")


def copy(source: BinaryIO, file: BinaryIO, name: str, max_bytes: int | None) -> None:
    """Copy one open file into another.

    Raises:
        TooLargeError: it is larger than ``max_bytes``.
    """
    while chunk := source.read(CHUNK_BYTES):
        file.write(chunk)
        check_size(name, file.tell(), max_bytes)


def verify(file: BinaryIO, sha256: str | None, uri: str) -> None:
    """Raise ``InputError`` unless the file hashes to ``sha256``, 64 hex digits; None is always fine."""
    if sha256 is None:
        return
    file.seek(0)
    found = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
    if found != sha256.lower():
        raise InputError(f"{uri}: the content has SHA-256 {found}, expected {sha256}: it was changed or damaged")


@contextmanager
def os_errors(name: str) -> Iterator[None]:
    """Turn the operating system's errors into an ``InputError`` about what is named."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{name}: {os_reason(error)}") from error


def os_reason(error: OSError) -> str:
    """What went wrong and what to do, in few words."""
    if error.errno in NO_SPACE:
        return f"no space left ({error.strerror}): free some space, or use another disk"
    if error.errno in _NO_PERMISSION:
        return f"permission denied ({error.strerror}): check the permissions of {error.filename or 'the folder'}"
    return f"{error.strerror or error} ({error.filename})" if error.filename else str(error.strerror or error)
