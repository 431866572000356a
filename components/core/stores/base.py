"""What every store is: the interface, its keys and the words of its errors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from components.core.errors import ConflictError, InputError, NotFoundError

RESERVED = ".edge-"  # how names of unfinished files and of locks begin
MAX_READ_BYTES = 256 << 20  # of what is read into memory as a whole
MAX_FILE_BYTES = 8 << 30  # of what becomes a file, unless the caller knows better


@dataclass(frozen=True)
class ObjectInfo:
    """One stored object, without its content.

    Attributes:
        key: its name below the store's root.
        size: bytes.
        etag: changes whenever the content does. It is the etag of ``read_versioned``, except in the listing of a file
            store, where time and size stand in for it, because a listing does not read every file.
        modified: when it was written, UTC.
    """

    key: str
    size: int
    etag: str
    modified: datetime


class Store(ABC):
    """A root under which objects lie, each under a key such as ``blobs/ab/abcd.jpg``.

    Every method raises ``InputError``, in one line that names the object, when the store cannot be reached, refuses
    the credentials, has no space left, or when the key is not a plain relative path. A store can be pickled.

    Attributes:
        uri: the root's address, without a slash at its end.
        endpoint: address of the server that is asked; empty for a folder.
        server: what that server calls itself, such as ``SeaweedFS 4.18``, as far as it has answered; None for a folder.
    """

    uri: str
    endpoint: str = ""
    server: str | None = None

    @abstractmethod
    def uri_of(self, key: str) -> str:
        """The address of one object, which ``fetch`` takes."""

    def read(self, key: str, *, max_bytes: int = MAX_READ_BYTES) -> bytes:
        """The content of one object.

        Raises:
            NotFoundError: there is no such object.
            TooLargeError: it is larger than ``max_bytes``.
        """
        found = self.read_versioned(key, max_bytes=max_bytes)
        if found is None:
            raise not_found(self.uri_of(key))
        return found[0]

    @abstractmethod
    def read_versioned(self, key: str, *, max_bytes: int = MAX_READ_BYTES) -> tuple[bytes, str] | None:
        """The content of one object and the etag that ``write`` takes as ``if_match``; None when it is absent.

        Raises:
            TooLargeError: it is larger than ``max_bytes``.
        """

    @abstractmethod
    def write(self, key: str, data: bytes, *, if_match: str | None = None, if_absent: bool = False) -> str:
        """Write one object whole: a reader sees the old content or the new one.

        Args:
            key: the object's name.
            data: its content.
            if_match: write only if the object still has this etag.
            if_absent: write only if there is no such object. Writers that race for one key must write contents that
                differ, since a writer that lost the answer of the server knows its success by the content.

        Returns:
            The etag of what was written.

        Raises:
            ConflictError: the condition does not hold; nothing was written.
        """

    @abstractmethod
    def download(self, key: str, path: Path, *, sha256: str | None = None, max_bytes: int = MAX_FILE_BYTES) -> None:
        """Stream one object into a file, which appears only when it is whole.

        Args:
            key: the object's name.
            path: the file; its folder is made, what was there is replaced.
            sha256: what the content must hash to, as 64 hex digits.
            max_bytes: how large the content may be.

        Raises:
            NotFoundError: there is no such object.
            InputError: the content hashes to something else.
            TooLargeError: it is larger than ``max_bytes``.
        """

    @abstractmethod
    def upload(self, path: Path, key: str) -> None:
        """Stream a file into an object, which appears only when it is whole.

        Raises:
            NotFoundError: there is no such file.
        """

    @abstractmethod
    def list(self, prefix: str = "", *, start_after: str = "") -> Iterator[ObjectInfo]:
        """The objects whose keys begin with ``prefix``, without holding them all in memory.

        They come in the order of the store, which need not be that of their keys: SeaweedFS lists by folders.

        Args:
            prefix: any beginning of a key; ``a/b`` finds ``a/bc`` and ``a/b/c``.
            start_after: only keys that are greater than this one, as texts are compared.
        """

    @abstractmethod
    def stat(self, key: str) -> ObjectInfo | None:
        """Size, etag and time of one object; None when it is absent."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove one object; one that is absent is fine."""

    def presigned(self, key: str, lifetime: timedelta) -> str:
        """An address by which whoever has it can read one object for a time, without credentials.

        Raises:
            InputError: the store has no such addresses.
        """
        raise InputError(f"{self.uri_of(key)}: a file has no address for other machines: keep it in a bucket")

    @abstractmethod
    def local_path(self, key: str) -> Path | None:
        """Where the object's bytes lie on this machine, or would; None when they lie elsewhere."""


def check_key(key: str, uri: str) -> None:
    """Refuse a key that is not a plain relative path, or that could meet our own files, with ``InputError``."""
    parts = key.split("/")
    if any(part in ("", ".", "..") or part.startswith(RESERVED) for part in parts) or "\0" in key:
        raise InputError(
            f"{key!r} cannot be a key in {uri}: give a relative path without '.', '..' or empty parts, "
            f"and no name that begins with {RESERVED!r}"
        )


def not_found(name: str) -> NotFoundError:
    """The error that names an absent object."""
    return NotFoundError(f"{name}: no such object")


def conflict(uri: str) -> ConflictError:
    """The error of a conditional write that lost the race."""
    return ConflictError(f"{uri}: changed by another process in the meantime")
