"""Where a data set comes from: made a folder on this machine, whatever it was."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from components.core.errors import InputError, NotFoundError
from components.core.stores.open import RESERVED, Store, open_store, shown
from components.ingest.archive import Limits, Meter, is_plain, unpack
from components.ingest.dataset import Folder, has_clutter

logger = logging.getLogger(__name__)

INDEX_SUFFIXES = (".txt", ".json", ".csv", ".jsonl", ".ndjson", ".yaml", ".yml")
DOWNLOADS = 8  # at the same time


@contextmanager
def open_dataset(
    data_url: str, data_path: str, workspace: Path | None, limits: Limits, job: Store | None = None
) -> Iterator[Folder]:
    """Open an archive, folder or index file as a folder of files; what it took on this machine is removed at the end.

    A job that lies in the data is no part of them: its images came from there, or from cameras without a label.

    Args:
        data_url: ``http(s)://`` (an archive), ``s3://`` (an archive, an index file, or a prefix as a folder),
            ``file://`` or a path (an archive, an index file, or a folder, which is read in place).
        data_path: sub-folder or index file inside it.
        workspace: existing folder for temporary files; None: the system's.
        limits: how much to take.
        job: root of the job; None where it cannot lie in the data.

    Raises:
        NotFoundError: it is not there.
        InputError: it cannot be used.
    """
    is_web, is_s3 = data_url.lower().startswith(("http://", "https://")), data_url.startswith("s3://")
    path = None if is_web or is_s3 else local_path(data_url)
    if path is not None and path.is_dir():
        yield Folder.scan(path, data_path, job=folder_of(job))
    elif path is not None and path.suffix.lower() in INDEX_SUFFIXES:
        yield Folder.scan(path.parent, only_index(path.name, data_path), job=folder_of(job))
    else:
        with tempfile.TemporaryDirectory(prefix=f"{RESERVED}ingest-", dir=workspace) as temporary:
            folder = Path(temporary) / "data"
            folder.mkdir()
            unusable: tuple[str, ...] = ()
            if path is not None:
                unpack(path, folder, limits, data_url)
            elif is_s3:
                data_path, unusable = _bring_s3(data_url, data_path, folder, limits, job)
            else:
                _bring_archive(data_url, folder, limits)
            yield Folder.scan(folder, data_path, unusable)


def local_path(url: str) -> Path:
    """The file or folder of this machine at an address.

    Raises:
        NotFoundError: there is none.
    """
    inside = open_store(url).local_path("inside")
    if inside is None or not inside.parent.exists():
        raise NotFoundError(f"{url}: no such file or folder")
    return inside.parent


def folder_of(job: Store | None) -> Path | None:
    """The folder of a job on this machine; None if it lies elsewhere."""
    inside = job.local_path("inside") if job else None
    return inside.parent if inside else None


def keys_of(job: Store | None, uri: str) -> str:
    """How the keys of a job begin that lies below an address; empty if it does not."""
    below = job.uri.removeprefix(f"{uri}/") if job else ""
    return f"{below}/" if job and below != job.uri else ""


def _bring_archive(url: str, folder: Path, limits: Limits) -> None:
    archive = folder.with_name("archive")
    logger.info("downloading %s", shown(url))
    limits.fetch(url, archive)
    logger.info("unpacking %.1f MB", archive.stat().st_size / 1e6)
    unpack(archive, folder, limits, shown(url))
    archive.unlink()  # its room may be needed for the blobs


def _bring_s3(url: str, data_path: str, folder: Path, limits: Limits, job: Store | None) -> tuple[str, tuple[str, ...]]:
    """Bring one archive, or all objects below a prefix; return the data path that then holds, and unusable names."""
    bucket, _, key = url.removeprefix("s3://").partition("/")
    if key and not key.endswith("/") and open_store(f"s3://{bucket}").stat(key) is not None:
        if not key.lower().endswith(INDEX_SUFFIXES):
            _bring_archive(url, folder, limits)
            return data_path, ()
        data_path = only_index(key.rpartition("/")[2], data_path)
        url = url.rpartition("/")[0]
    store = open_store(url.rstrip("/"))
    own = keys_of(job, store.uri)
    is_asked_for = bool(own) and f"{data_path}/".startswith(own)
    return data_path, _bring_prefix(store, folder, Meter(limits, url), "" if is_asked_for else own)


def _bring_prefix(store: Store, folder: Path, meter: Meter, own: str) -> tuple[str, ...]:
    """Bring all objects but clutter and the job's own; return the names of those that no file can have."""
    keys: list[str] = []
    unusable: list[str] = []
    for found in store.list():
        if has_clutter(found.key) or (own and found.key.startswith(own)):
            continue
        meter.add_file()
        meter.add_bytes(found.size)
        (keys if is_plain(found.key) else unusable).append(found.key)
    if not keys and not unusable:
        raise NotFoundError(f"{meter.shown}: no such object or prefix")
    logger.info("downloading %d objects, %.1f MB, from %s", len(keys), meter.bytes / 1e6, meter.shown)
    with ThreadPoolExecutor(DOWNLOADS) as pool:
        for _ in pool.map(lambda key: store.download(key, folder / key), keys):
            pass
    return tuple(unusable)


def only_index(name: str, data_path: str) -> str:
    """The name of the index that ``data_url`` ends with, beside which there can be no ``data_path``."""
    if data_path:
        raise InputError(f"the address is the index file {name}: data_path must be empty, not {data_path!r}")
    return name
