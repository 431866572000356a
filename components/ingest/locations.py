"""Where a feed's files lie: listed as a stream, brought to this machine only when they are asked for."""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import NamedTuple, Protocol

import numpy as np
from typing_extensions import override

from components.core.errors import InputError, NotFoundError
from components.core.stores.open import RESERVED, ObjectInfo, Store, open_store
from components.ingest.archive import checked_name
from components.ingest.dataset import IMAGE_SUFFIXES, has_clutter, is_clutter, job_inside, suffix_of
from components.ingest.download import DOWNLOADS, INDEX_SUFFIXES, folder_of, keys_of, local_path, only_index
from components.ingest.fingerprints import Hashes, hash_of, hashes_of
from components.ingest.pairs import IMAGE_FOLDERS, LABEL_FOLDERS

MAX_OBJECT_BYTES = 4 << 30
BATCH = 4096  # entries that are looked at together
MOST_BRANCHES = 16  # listings of one poll

# Odd numbers with well mixed bits (those of splitmix64 and xxHash), so that near sizes and times give far hashes.
_TIME, _SIZE = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)


class Batch(NamedTuple):
    """Some entries of a listing.

    Attributes:
        names: paths inside the feed.
        versions: (N,) hashes that change with the content.
    """

    names: list[str]
    versions: Hashes


class FeedLocation(Protocol):
    """The files of a feed.

    Attributes:
        root: where the files lie, or appear when they are brought.
        index: the file that the user named as the index; empty: none.
        always_whole: whether every listing is of everything.
    """

    root: Path
    index: str
    always_whole: bool

    def listing(self, last: Mapping[str, str]) -> Iterator[Batch]:
        """Every file, or, where that takes long, those that sort behind the last ones.

        Args:
            last: what sorts last by branch; empty: list everything.
        """

    def versions(self, names: Iterable[str]) -> dict[str, int]:
        """The versions of some files; of those that are there."""

    def bring(self, versions: Mapping[str, int]) -> set[str]:
        """Make files readable below the root.

        Args:
            versions: by name, as listed.

        Returns:
            The names that are not there.
        """


def branch_of(name: str) -> str:
    """The folder for images only or labels only that a file is in, with its slash; empty: it is in none.

    Images and labels in two folders are two streams, each with a last key of its own.
    """
    folders = name.split("/")[:-1]
    for place, folder in enumerate(folders, 1):
        if folder.lower() in IMAGE_FOLDERS | LABEL_FOLDERS:
            return "/".join(folders[:place]) + "/"
    return ""


def latest(last: Mapping[str, str], names: Iterable[str]) -> dict[str, str]:
    """The names that sort last, of all and by branch; of very many branches the ones that sort last themselves."""
    found = dict(last)
    for name in names:
        for branch in {"", branch_of(name)}:
            if name > found.get(branch, ""):
                found[branch] = name
    return {branch: found[branch] for branch in ["", *sorted(found)[-MOST_BRANCHES:]] if branch in found}


@contextmanager
def location_of(
    feed_url: str, data_path: str, cache: Path, job: Store | None = None, *, is_prefix: bool = False
) -> Iterator[FeedLocation | None]:
    """The files of a feed; None if it is an archive.

    Args:
        feed_url: folder, prefix or index file; see :func:`components.ingest.download.opened`.
        data_path: sub-folder or index file inside it. Of an index its folder is read, or the whole feed where no image
            is there, as in COCO's ``annotations``.
        cache: where copies of objects may be kept.
        job: root of the job, which is no part of a feed that it lies in; None where it cannot.
        is_prefix: whether an address in a bucket is known to be no object.

    Raises:
        NotFoundError: it is not there.
        InputError: it cannot be used.
    """
    inside = PurePosixPath(data_path)
    if inside.is_absolute() or ".." in inside.parts:
        raise InputError(f"data_path {data_path!r} is outside the data: give a path inside it")
    if feed_url.lower().startswith(("http://", "https://")):
        yield None
    elif feed_url.startswith("s3://"):
        with tempfile.TemporaryDirectory(prefix="edge-feed-") as view:
            yield _bucket(feed_url.rstrip("/"), data_path, Path(view), cache, job, is_prefix)
    else:
        yield _folder(feed_url, data_path, folder_of(job))


def _folder(feed_url: str, data_path: str, job: Path | None) -> FeedLocation | None:
    root = path = local_path(feed_url)
    if path.is_dir():
        path /= data_path
        if not path.exists():
            raise NotFoundError(f"data_path {data_path!r} is not in the data {feed_url}")
        if path.is_dir():
            return FolderLocation(path, job=job)
        top = path.parent
        names = itertools.chain.from_iterable(batch.names for batch in FolderLocation(top, job=job).listing({}))
        if top != root and not any(suffix_of(name) in IMAGE_SUFFIXES for name in names):
            top = root
        return FolderLocation(top, path.relative_to(top).as_posix(), job)
    if path.suffix.lower() not in INDEX_SUFFIXES:
        return None
    return FolderLocation(path.parent, only_index(path.name, data_path), job)


def _bucket(
    url: str, data_path: str, view: Path, cache: Path, job: Store | None, is_prefix: bool
) -> FeedLocation | None:
    bucket, _, key = url.removeprefix("s3://").partition("/")
    named = key.lower().endswith(INDEX_SUFFIXES)
    if key and (named or not is_prefix) and open_store(f"s3://{bucket}").stat(key) is not None:
        if not named:
            return None
        url, _, index = url.rpartition("/")
        return BucketLocation(open_store(url), view, cache, only_index(index, data_path), job)
    if named:
        raise NotFoundError(f"{url}: no such object")
    path = f"{url}/{data_path}".rstrip("/")
    if not data_path.lower().endswith(INDEX_SUFFIXES):
        return BucketLocation(open_store(path), view, cache, job=job)
    top = path.rpartition("/")[0]
    if top != url and not any(suffix_of(found.key) in IMAGE_SUFFIXES for found in open_store(top).list()):
        top = url
    return BucketLocation(open_store(top), view, cache, path.removeprefix(f"{top}/"), job)


class FolderLocation(FeedLocation):
    """A folder of this machine, read in place. A file's version is its size and time."""

    always_whole = True

    def __init__(self, root: Path, index: str = "", job: Path | None = None) -> None:
        self.root = root
        self.index = index
        self._job = job

    @override
    def listing(self, last: Mapping[str, str]) -> Iterator[Batch]:
        try:
            yield from _batches(_files(f"{self.root}/", "", job_inside(self.root, self._job)))
        except OSError as error:
            raise InputError(f"folder {self.root} cannot be read ({error.strerror}: {error.filename})") from error

    @override
    def versions(self, names: Iterable[str]) -> dict[str, int]:
        found = {}
        for name in names:
            try:
                status = (self.root / name).stat()
            except OSError:
                continue
            found[name] = int(_local_versions([status.st_size], [status.st_mtime_ns])[0])
        return found

    @override
    def bring(self, versions: Mapping[str, int]) -> set[str]:
        return {name for name in versions if not os.path.isfile(f"{self.root}/{name}")}  # noqa: PTH113


class BucketLocation(FeedLocation):
    """A prefix of a bucket. An object's version is its size and etag.

    Objects are kept in the cache by name and version, and linked into the root when they are asked for.
    """

    always_whole = False

    def __init__(self, store: Store, view: Path, cache: Path, index: str = "", job: Store | None = None) -> None:
        self.root = view
        self.index = index
        self._own = keys_of(job, store.uri)
        self._store = store
        self._cache = cache
        self._used: set[str] = set()

    @override
    def listing(self, last: Mapping[str, str]) -> Iterator[Batch]:
        for branch, start_after in last.items() or {"": ""}.items():
            names: list[str] = []
            versions: list[str] = []
            for found in self._store.list(branch, start_after=start_after):
                if has_clutter(found.key) or (self._own and found.key.startswith(self._own)):
                    continue
                names.append(found.key)
                versions.append(_version_text(found))
                if len(names) == BATCH:
                    yield Batch(names, hashes_of(versions))
                    names, versions = [], []
            yield Batch(names, hashes_of(versions))

    @override
    def versions(self, names: Iterable[str]) -> dict[str, int]:
        wanted = list(names)
        with ThreadPoolExecutor(DOWNLOADS) as pool:
            infos = pool.map(self._store.stat, wanted)
            return {
                name: hash_of(_version_text(info)) for name, info in zip(wanted, infos, strict=True) if info is not None
            }

    @override
    def bring(self, versions: Mapping[str, int]) -> set[str]:
        with ThreadPoolExecutor(DOWNLOADS) as pool:
            there = pool.map(self._bring, versions.keys(), versions.values())
            return {name for name, found in zip(versions, there, strict=True) if not found}

    def forget_others(self) -> None:
        """Remove the copies that this poll did not ask for: what is committed is not read again."""
        for copy in self._cache.glob("*"):
            if copy.name not in self._used and not copy.name.startswith(RESERVED):
                copy.unlink(missing_ok=True)

    def _bring(self, name: str, version: int) -> bool:
        place = self.root / checked_name(name, self._store.uri)
        copy = self._cache / f"{hash_of(name):016x}{version:016x}"
        self._used.add(copy.name)
        try:
            if not copy.is_file():
                self._store.download(name, copy, max_bytes=MAX_OBJECT_BYTES)
        except NotFoundError:
            return False
        place.parent.mkdir(parents=True, exist_ok=True)
        if not place.is_symlink():
            place.symlink_to(copy.absolute())
        return True


def _batches(entries: Iterable[tuple[str, int, int]]) -> Iterator[Batch]:
    names: list[str] = []
    sizes: list[int] = []
    times: list[int] = []
    for name, size, time in entries:
        names.append(name)
        sizes.append(size)
        times.append(time)
        if len(names) == BATCH:
            yield Batch(names, _local_versions(sizes, times))
            names, sizes, times = [], [], []
    yield Batch(names, _local_versions(sizes, times))


def _local_versions(sizes: list[int], times: list[int]) -> Hashes:
    mixed = np.array(times, np.int64).astype(np.uint64) * _TIME
    return mixed ^ (np.array(sizes, np.uint64) * _SIZE)


def _version_text(info: ObjectInfo) -> str:
    return f"{info.size} {info.etag}"


def _files(root: str, below: str, above: set[tuple[int, int]]) -> Iterator[tuple[str, int, int]]:
    """Name, size and time of every regular file, in no order; links are followed, once."""
    status = os.stat(root + below)  # noqa: PTH116 (many thousands of paths: plain strings are what makes this fast)
    if (status.st_dev, status.st_ino) in above:
        return
    above.add((status.st_dev, status.st_ino))
    folders = []
    with os.scandir(root + below) as entries:
        for entry in entries:
            if is_clutter(entry.name):
                continue
            try:
                if entry.is_dir():
                    folders.append(entry.name)
                elif entry.is_file():
                    found = entry.stat()
                    yield below + entry.name, found.st_size, found.st_mtime_ns
            except FileNotFoundError:  # removed since the folder was read
                continue
    for folder in folders:
        yield from _files(root, f"{below}{folder}/", above)
