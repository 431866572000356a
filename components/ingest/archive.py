"""Unpack an archive from an untrusted source.

Members are unpacked one after the other in pieces, so neither the archive nor a member is ever in memory as a whole.
What counts against the limits is what really comes out, never what a header claims.
"""

from __future__ import annotations

import bz2
import gzip
import io
import logging
import lzma
import os
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol, cast

from components.core.errors import InputError, TooLargeError
from components.core.stores.open import fetch

logger = logging.getLogger(__name__)

PIECE_BYTES = 2**20
MAX_NAME_BYTES = 255  # bytes of one folder's or file's name
_DOS_FOLDER = 0x10  # the attribute of a folder; some tools leave out the slash behind its name
_SAYS_UTF_8 = 0x800  # the flag of a zip member whose name is in UTF-8
_UNICODE_PATH = 0x7075  # the kind of an extra field with the name in UTF-8
# The longest single read of a tar that is no member's content is an extended header. A header claims its own length.
LONGEST_READ_BYTES = 16 * 2**20

_DAMAGE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    NotImplementedError,  # a zip method or flag that zipfile does not know
    RuntimeError,  # an encrypted zip member
    ValueError,
    OverflowError,
)
_COMPRESSIONS: dict[bytes, Callable[[Path], Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}


@dataclass(frozen=True)
class Limits:
    """How much may be brought in.

    Attributes:
        max_files: most files (and folders) of an archive, or objects of a prefix.
        max_unpacked_gb: most gigabytes (10^9 bytes) that they may have together, unpacked.
        max_compression_ratio: most bytes unpacked for each byte packed.
    """

    max_files: int
    max_unpacked_gb: float
    max_compression_ratio: float

    def fetch(self, url: str, path: Path) -> None:
        """Bring an archive here, unless it is larger than what may be in it.

        Raises:
            InputError: it is, or it cannot be had.
        """
        try:
            fetch(url, path, max_bytes=int(self.max_unpacked_gb * 1e9))
        except TooLargeError as error:
            raise InputError(f"{error}: raise max_unpacked_gb if this is intended") from None


class Meter:
    """Counts what comes in and stops it at the limits.

    Args:
        limits: the limits.
        shown: what to call the origin in messages.
        packed_bytes: size of the archive; None where nothing is packed.
    """

    def __init__(self, limits: Limits, shown: str, packed_bytes: int | None = None) -> None:
        self.limits = limits
        self.shown = shown
        self.files = 0
        self.bytes = 0
        self._most_bytes = limits.max_unpacked_gb * 1e9
        self._most_by_ratio = float("inf") if packed_bytes is None else limits.max_compression_ratio * packed_bytes

    def add_file(self) -> None:
        """Count one file.

        Raises:
            InputError: one too many.
        """
        self.files += 1
        if self.files > self.limits.max_files:
            raise InputError(
                f"{self.shown}: more than {self.limits.max_files} files: raise max_files if this is intended"
            )

    def add_bytes(self, count: int) -> None:
        """Count unpacked bytes.

        Raises:
            InputError: too many, or too many for the size of the archive.
        """
        self.bytes += count
        if self.bytes > self._most_bytes:
            raise InputError(
                f"{self.shown}: unpacks to more than {self.limits.max_unpacked_gb:g} GB: "
                "raise max_unpacked_gb if this is intended"
            )
        if self.bytes > self._most_by_ratio:
            raise InputError(
                f"{self.shown}: unpacks to more than {self.limits.max_compression_ratio:g} times its size, "
                "as a decompression bomb does: raise max_compression_ratio if this is intended"
            )


def unpack(path: Path, folder: Path, limits: Limits, shown: str) -> None:
    """Unpack a zip or tar (plain, gzip, bzip2, xz) into an empty folder.

    The kind is known by the content, not by the name.

    Args:
        path: the archive.
        folder: where the files go.
        limits: when to stop.
        shown: what to call the archive in messages.

    Raises:
        InputError: not an archive, damaged, truncated or encrypted; over a limit; or it holds a link, a device, the
            same name twice, or a name that leads out of the folder.
    """
    meter = Meter(limits, shown, path.stat().st_size)
    with path.open("rb") as file:
        head = file.read(512)
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        members = _zip_members(path, meter)
    elif head[257:262] == b"ustar" or _compression(head):
        members = _tar_members(path, _compression(head), meter)
    else:
        raise InputError(f"{shown}: not a zip or tar archive (starts with {head[:8]!r})")
    name = ""
    garbled: list[str] = []
    try:
        for name, content, is_known in members:
            _write(folder / checked_name(name, shown), content)
            if not is_known:
                garbled.append(name)
    except OSError as error:  # before the others, since gzip says "damaged" with an OSError
        reason = error.strerror or str(error)
        raise InputError(f"{shown}: cannot be unpacked after member {name!r} ({reason})") from error
    except _DAMAGE as error:
        detail = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"{shown}: truncated, damaged or encrypted after member {name!r} ({detail}): create or download it again"
        ) from error
    if garbled:
        logger.warning(
            "%s: %d names have an unknown encoding, such as %r: references to these files will not be found; "
            "repack the archive with UTF-8 names",
            shown,
            len(garbled),
            garbled[0],
        )


def checked_name(name: str, shown: str) -> str:
    """A member's name as a path below the folder.

    Raises:
        InputError: it is absolute, or holds ``..``, a backslash, a drive letter or a null character.
    """
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if not parts or name.startswith("/") or ".." in parts or re.search(r"[\\\0]|^[A-Za-z]:", name):
        raise InputError(
            f"{shown}: member {name!r} would be unpacked outside the target folder: "
            "repack the archive with relative names, without '..' and backslashes"
        )
    return "/".join(parts)


def is_plain(name: str) -> bool:
    """Whether the name of an object can be that of a file: no empty part, ``..`` or backslash, and none too long."""
    try:
        return checked_name(name, "") == name and all(
            len(os.fsencode(part)) <= MAX_NAME_BYTES for part in name.split("/")
        )
    except InputError:
        return False


class _Readable(Protocol):
    def read(self, size: int = ..., /) -> bytes: ...


Member = tuple[str, Iterator[bytes], bool]  # a file's name, its content in pieces, and whether its letters are known


def _zip_members(path: Path, meter: Meter) -> Iterator[Member]:
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            meter.add_file()
            kind = stat.S_IFMT(member.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _no_file(meter.shown, member.filename)
            if member.is_dir() or (member.external_attr & _DOS_FOLDER and not member.file_size):
                continue
            with archive.open(member) as content:
                name, is_known = _zip_name(member)
                yield name, _metered_pieces(content, meter), is_known


def _zip_name(member: zipfile.ZipInfo) -> tuple[str, bool]:
    """A member's name, and whether its encoding is known.

    Many tools write UTF-8 without saying so, where zipfile takes code page 437. Info-ZIP and others put the name in
    UTF-8 beside it, with a checksum of the name that it is for.
    """
    if member.flag_bits & _SAYS_UTF_8 or member.filename.isascii():
        return member.filename, True
    packed = member.filename.encode("cp437")
    extra = member.extra
    while len(extra) >= 4:
        kind, size = struct.unpack_from("<HH", extra)
        field, extra = extra[4 : 4 + size], extra[4 + size :]
        if kind == _UNICODE_PATH and field[1:5] == struct.pack("<I", zlib.crc32(packed)):
            packed = field[5:]
    try:
        return packed.decode(), True
    except UnicodeDecodeError:
        return member.filename, False


def _tar_members(path: Path, compression: bytes, meter: Meter) -> Iterator[Member]:
    with _opened(path, compression) as stream:
        source = _MeteredStream(stream, meter)
        with tarfile.open(fileobj=cast(IO[bytes], source), mode="r:") as archive:
            while (member := archive.next()) is not None:
                meter.add_file()
                if not (member.isreg() or member.isdir()):
                    raise _no_file(meter.shown, member.name)
                content = archive.extractfile(member) if member.isreg() else None
                if content is not None:
                    # The holes of a sparse file are in no byte of the stream.
                    pieces = _metered_pieces(content, meter) if member.issparse() else _pieces(content)
                    yield member.name, pieces, member.name.isprintable()
                archive.members.clear()  # type: ignore[attr-defined] # tarfile remembers each member; a million of them is a gigabyte
        if source.last.strip(b"\0") or len(source.last) < tarfile.BLOCKSIZE:
            raise tarfile.ReadError("the end mark is missing")  # tarfile takes a bad header for the end
        while source.read(PIECE_BYTES):  # to the end, where the checksum of the compressed stream is
            pass


class _MeteredStream:
    """A stream to read forwards, every byte of it counted."""

    def __init__(self, stream: _Readable, meter: Meter) -> None:
        self._stream = stream
        self._meter = meter
        self._position = 0
        self.last = b""

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= LONGEST_READ_BYTES:
            raise tarfile.ReadError(f"a header of {size} bytes")
        self.last = self._stream.read(size)
        self._position += len(self.last)
        self._meter.add_bytes(len(self.last))
        return self.last

    def tell(self) -> int:
        return self._position

    def seek(self, position: int, whence: int = io.SEEK_SET) -> int:
        if whence != io.SEEK_SET or position < self._position:
            raise tarfile.ReadError("members overlap")
        while self._position < position and self.read(min(PIECE_BYTES, position - self._position)):
            pass
        return self._position


@contextmanager
def _opened(path: Path, compression: bytes) -> Iterator[IO[bytes]]:
    with _COMPRESSIONS[compression](path) if compression else path.open("rb") as stream:
        yield stream


def _compression(head: bytes) -> bytes:
    return next((magic for magic in _COMPRESSIONS if head.startswith(magic)), b"")


def _pieces(content: _Readable) -> Iterator[bytes]:
    while piece := content.read(PIECE_BYTES):
        yield piece


def _metered_pieces(content: _Readable, meter: Meter) -> Iterator[bytes]:
    for piece in _pieces(content):
        meter.add_bytes(len(piece))
        yield piece


def _write(path: Path, content: Iterator[bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as file:  # x: the same name twice would make the second hide the first
        for piece in content:
            file.write(piece)


def _no_file(shown: str, name: str) -> InputError:
    return InputError(
        f"{shown}: member {name!r} is a link or device: repack the archive with plain files only (tar -h)"
    )
