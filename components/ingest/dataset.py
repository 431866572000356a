"""What a data format's reader is given, what it gives back, and the registry of readers.

A reader is small: it is shown a folder of files and says which images belong to the data set and what is labelled on
each. It reads no image. What is wrong with one image's label becomes the ``reason`` of that image's record, so
that the rest goes on; what is wrong with the data set as a whole is an ``InputError``.

The readers are our own because one bad file must neither stop a data set nor vanish in it. Datumaro 1.13.12, given 20
VOC images of which one is bad, stops at the first malformed XML file or undeclared class; told to go on, it keeps a
image whose boxes it could not read as one without boxes, which trains as a negative; and it says nothing of a
truncated JPEG, a missing image or a box outside the image.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import NamedTuple, Protocol

from components.core.errors import InputError, NotFoundError
from components.core.plugins import Registry

# Named like an image, whether it can be read or not: a kind that cannot be read must not vanish.
_READABLE = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff"}
_UNREADABLE = {".gif", ".heic", ".heif", ".avif", ".jp2", ".ppm", ".pgm"}
IMAGE_SUFFIXES = frozenset(_READABLE | _UNREADABLE)
MAX_LABEL_BYTES = 16 * 2**20  # the label file of one image; a larger one is an attack or a mistake
LFS_POINTER = b"version https://git-lfs"  # what lies in a clone in place of a large file that was not pulled
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
MAX_INDEX_BYTES = 2**30  # a file that labels many images; in memory it takes some ten times as much


class Label(NamedTuple):
    """One box as the data set gives it.

    Attributes:
        name: the data set's own name of the class.
        box: ``x1, y1, x2, y2``; in pixels of the image as displayed, or in 0..1 of its width and height.
        normalised: the box is in 0..1.
    """

    name: str
    box: tuple[float, float, float, float]
    normalised: bool = False


class Region(NamedTuple):
    """What one class covers, as somebody has marked it by brush or as a polygon.

    Attributes:
        name: the data set's own name of the class.
        is_drawn: whether somebody has drawn or changed it, and not only left it as proposed.
        code: of a brush, see :mod:`components.core.label_studio.brush`; empty of a polygon.
        points: of a polygon, ``x, y`` in 0..1 of the image's width and height; empty of a brush.
    """

    name: str
    is_drawn: bool
    code: bytes = b""
    points: tuple[tuple[float, float], ...] = ()


class Record(NamedTuple):
    """One image of a data set, or a label that has none.

    Attributes:
        source: path inside the data set; of the image, or of the label where there is no image.
        path: the image's file; empty when ``reason`` is given.
        labels: its boxes; empty: nothing to see; None: it is unlabelled.
        label_file: path of the label inside the data set; empty where there is none.
        split: ``train``, ``val`` or ``test`` if the data set says so, else empty.
        size: width and height in pixels that the label claims for the image; None: it claims nothing.
        left_out: boxes that the format marks as no single object (COCO's crowds) and that are not in ``labels``.
        mask: the file of its mask; empty where there is none. A file that is not there is none, too.
        regions: what makes its mask where that is no file, in the order in which it was drawn.
        reason: why the image cannot be used, ``kind: details``; empty if it can.
        sample: SHA-256 of the image that people have answered for in Label Studio; empty of all other records. A feed
            may have had several images under one ``source``, one after another.
    """

    source: str
    path: str = ""
    labels: tuple[Label, ...] | None = None
    label_file: str = ""
    split: str = ""
    size: tuple[int, int] | None = None
    left_out: int = 0
    reason: str = ""
    mask: str = ""
    regions: tuple[Region, ...] = ()
    sample: str = ""

    @property
    def has_mask(self) -> bool:
        """Whether it names a mask, be it in a file that is not there."""
        return bool(self.mask or self.regions)


@dataclass(frozen=True)
class DataSet:
    """What a reader found.

    Attributes:
        classes: the names that the data set declares, in its order; None: it declares none, so those found count.
        records: its images, read while they are iterated.
        values: what the values of its masks are called; an empty name: void; no names at all: the
            user names them in order. None: it has no masks.
        left_out: files with labels that do not belong to the data set, each with the reason.
    """

    classes: tuple[str, ...] | None
    records: Iterable[Record]
    values: Mapping[int, str] | None = None
    left_out: Mapping[str, str] = field(default_factory=dict)


class Format(Protocol):
    """Reads one data format."""

    def detect(self, folder: Folder) -> bool:
        """Say whether the folder (or its index file) is of this format."""

    def read(self, folder: Folder) -> DataSet:
        """Read the folder.

        Raises:
            InputError: the data set as a whole cannot be read.
        """


formats: Registry[Format] = Registry(
    "format",
    [
        f"components.ingest.formats.{name}"
        for name in ("voc", "yolo", "coco", "label_studio", "sedna", "table", "masks", "cityscapes", "folder")
    ],
)


class LabelError(Exception):
    """A label cannot be used; the message is the reason for the quarantine list, ``kind: details``."""


@dataclass(frozen=True)
class Folder:
    """The files of a data set.

    Attributes:
        root: the folder.
        files: every file in it, as paths below ``root`` with ``/`` between the parts, sorted; hidden files left out.
        index: the one of ``files`` that the user named as the data set's index; empty: none was named.
        unusable: names of objects in a bucket that no file can have.
        opened: those of ``files`` that were read as a whole.
    """

    root: Path
    files: tuple[str, ...]
    index: str = ""
    unusable: tuple[str, ...] = ()
    opened: set[str] = field(default_factory=set, init=False, repr=False, compare=False)
    _known: frozenset[str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_known", frozenset(self.files))

    @classmethod
    def scan(cls, root: Path, data_path: str = "", unusable: tuple[str, ...] = (), job: Path | None = None) -> Folder:
        """List a folder, or what ``data_path`` names inside it: a sub-folder, or an index file of the data set.

        Args:
            root: the folder.
            data_path: path inside it; empty: all of it.
            unusable: see ``Folder``.
            job: folder of the job, which is no part of the data where it lies in it; None: it is elsewhere.

        Raises:
            InputError: ``data_path`` leads out of the folder.
            NotFoundError: it is not there.
        """
        inside = PurePosixPath(data_path)
        if inside.is_absolute() or ".." in inside.parts:
            raise InputError(f"data_path {data_path!r} is outside the data: give a path inside it")
        target = root / inside
        if target.is_file():
            top = root if _points_up(target) else target.parent
            files = _walk(top, job)
            # As of COCO's index, whose images lie beside its folder.
            if top != root and not any(suffix_of(name) in IMAGE_SUFFIXES for name in files):
                top, files = root, _walk(root, job)
            return cls(top, tuple(files), target.relative_to(top).as_posix(), unusable)
        if not target.is_dir():
            there = sorted(entry.name for entry in root.iterdir() if not entry.name.startswith("."))
            raise NotFoundError(f"data_path {data_path!r} is not in the data: its top level has {few(there)}")
        return cls(target, tuple(_walk(target, job)), unusable=unusable)

    @cached_property
    def images(self) -> tuple[str, ...]:
        """The files that are named like images."""
        return self.named(*IMAGE_SUFFIXES)

    def named(self, *suffixes: str) -> tuple[str, ...]:
        """The files with one of the suffixes, whatever the case."""
        return tuple(name for name in self.files if suffix_of(name) in suffixes)

    def path(self, name: str) -> str:
        """Where a file lies."""
        return f"{self.root}/{name}"

    def __contains__(self, name: object) -> bool:
        return name in self._known

    def head(self, name: str, size: int = 65536) -> bytes:
        """The first bytes of a file, to tell its format; none if it cannot be read."""
        try:
            with Path(self.path(name)).open("rb") as file:
                return file.read(size)
        except OSError:
            return b""

    def read(self, name: str, limit: int = MAX_LABEL_BYTES) -> bytes:
        """The bytes of a label file.

        Raises:
            LabelError: it cannot be read, or is larger than ``limit`` bytes.
        """
        try:
            with Path(self.path(name)).open("rb") as file:
                data = file.read(limit + 1)
        except OSError as error:
            raise LabelError(f"annotation unreadable: {name}: {error.strerror}") from error
        if len(data) > limit:
            raise LabelError(f"annotation unreadable: {name}: larger than {_size_text(limit)}")
        self.opened.add(name)
        return data

    def text(self, name: str, limit: int = MAX_LABEL_BYTES) -> str:
        """The text of a label file: in UTF-8, or in UTF-16 with the byte-order mark that Windows puts before it.

        Raises:
            LabelError: it cannot be read, is too large, or is not such text.
        """
        data = self.read(name, limit)
        try:
            return data.decode("utf-16" if data.startswith(_UTF_16) else "utf-8-sig")
        except UnicodeDecodeError as error:
            raise LabelError(f"annotation unreadable: {name}: not UTF-8 text") from error


def suffix_of(name: str) -> str:
    """The suffix of a path in lower case, with its dot."""
    dot = name.rfind(".")
    return name[dot:].lower() if dot > name.rfind("/") else ""


def is_clutter(name: str) -> bool:
    """Whether a file or folder is what file managers and unfinished writes leave behind."""
    return name.startswith(".") or name == "__MACOSX"


def has_clutter(key: str) -> bool:
    """Whether a part of an object's name is clutter."""
    return any(is_clutter(part) for part in key.split("/") if part not in (".", ".."))


def few(names: Iterable[str], most: int = 5) -> str:
    """The first few of many names, for a message."""
    listed = list(names)
    rest = f" and {len(listed) - most} more" if len(listed) > most else ""
    return (", ".join(listed[:most]) or "nothing") + rest


def _points_up(index: Path) -> bool:
    """Whether an index names files outside of its own folder."""
    if index.suffix.lower() in (".yaml", ".yml"):  # whose ``../`` is Roboflow's, and means the folder itself
        return False
    with index.open("rb") as file:
        return bool(re.search(rb"(^|[\s\"',;])\.\.[/\\]", file.read(65536)))


def _size_text(size: int) -> str:
    return f"{size >> 20} MiB" if size >= 2**20 else f"{size >> 10} KiB"


def job_inside(root: Path, job: Path | None) -> set[tuple[int, int]]:
    """The folder of a job, by device and number, for a walk below another folder to pass over it; empty for none."""
    if job is None or not job.exists():
        return set()
    own, here = job.stat(), root.stat()
    return {(own.st_dev, own.st_ino)} - {(here.st_dev, here.st_ino)}


def _walk(root: Path, job: Path | None) -> list[str]:
    try:
        return sorted(_files(f"{root}/", "", job_inside(root, job)))
    except OSError as error:
        raise InputError(f"folder {root} cannot be read ({error.strerror}: {error.filename})") from error


def _files(root: str, below: str, seen: set[tuple[int, int]]) -> Iterator[str]:
    """Every regular file; links are followed, and ``seen`` keeps a link that leads upwards from going round."""
    status = os.stat(root + below)  # noqa: PTH116 (many thousands of paths: plain strings are what makes this fast)
    if (status.st_dev, status.st_ino) in seen:
        return
    seen.add((status.st_dev, status.st_ino))
    with os.scandir(root + below) as entries:
        listed = sorted(entries, key=lambda entry: entry.name)
    for entry in listed:
        if is_clutter(entry.name):
            continue
        if entry.is_dir():
            yield from _files(root, f"{below}{entry.name}/", seen)
        elif entry.is_file():
            yield below + entry.name
