"""What this machine keeps of a job, so that training and evaluation read files."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import logging
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from components.core.errors import InputError, NotFoundError
from components.core.manifest import Manifest
from components.core.progress import Progress
from components.core.stores.open import RESERVED, Store, open_store, split

log = logging.getLogger(__name__)

MAX_BLOB_BYTES = 1 << 30  # an image or a mask
MAX_PIXELS = 100_000_000  # of one; more might fill the memory
PROGRESS_SECONDS = 5.0
_DIGEST_IN_NAME = re.compile(r"[-/]([0-9a-f]{8,64})\.[a-z]+$")


def cache_folder(job_root: str) -> Path:
    """Where this machine keeps copies of a job's blobs and unfinished work; nothing in it is needed again.

    It is the folder that ``EDGE_CACHE_DIR`` names, or a temporary one where that may not be written, as a volume that
    belongs to root may not; without the variable ``cache`` in the job root, where that is a folder, or
    else ``~/.cache/edge-learning``. Jobs may share it: what lies in it is named by its content, or in ``own_folder``.
    """
    named = os.environ.get("EDGE_CACHE_DIR")
    if named:
        return _writable(Path(named))
    return open_store(job_root).local_path("cache") or Path.home() / ".cache" / "edge-learning"


@functools.cache
def _writable(folder: Path) -> Path:
    with contextlib.suppress(OSError):  # what may not be made may not be written
        folder.mkdir(parents=True, exist_ok=True)
    if os.access(folder, os.W_OK | os.X_OK):
        return folder
    instead = Path(tempfile.gettempdir()) / "edge-learning-cache"
    log.warning("the cache %s is not writable for user %d: using %s for this step only",
                   folder, os.getuid(), instead)  # fmt: skip
    return instead


def own_folder(job_root: str) -> Path:
    """Where this machine keeps what belongs to one job alone, in a cache that other jobs may share."""
    return cache_folder(job_root) / "jobs" / hashlib.sha256(open_store(job_root).uri.encode()).hexdigest()[:16]


def version_folder(job_root: str, purpose: str, version: str) -> Path:
    """Where this machine keeps one version of a job's model; of the other versions only the latest one stays.

    Args:
        job_root: the job.
        purpose: what the versions are kept for; each has folders of its own.
        version: of the model.
    """
    root = own_folder(job_root) / purpose
    others = [path for path in root.glob("*") if path.is_dir() and path.name != version]
    for path in sorted(others, key=lambda path: path.stat().st_mtime)[:-1]:
        shutil.rmtree(path, ignore_errors=True)
    return root / version


def local_file(store: Store, key: str, folder: Path) -> Path:
    """An object that never changes as a file of this machine, compared with the digest in its name.

    Args:
        store: has the object.
        key: its name, which ends in the beginning of its SHA-256, as in ``manifests/r0001-89abcdef.parquet``. Where it
            does not, nothing is checked.
        folder: gets a copy of an object that lies elsewhere; a copy that is there and whole is not fetched again.

    Raises:
        NotFoundError: there is no such object.
        InputError: it is damaged.
    """
    file = store.local_path(key) or folder / key
    if _has_digest_of(file, key):
        return file
    copy = folder / key
    store.download(key, copy)
    if not _has_digest_of(copy, key):
        raise InputError(f"{store.uri_of(key)}: damaged, its content does not match its name: restore it from a backup")
    return copy


def fetch_blobs(manifest: Manifest, folder: Path, workers: int = 8) -> list[Path]:
    """Make every image of a manifest readable as a local file.

    An image on this machine's disks is linked, never copied, so what is done to the file is done to the blob: read
    it only. Any other is downloaded. Each is checked against its id, since disks rot and tools write into files.
    Several processes may fill one folder at the same time.

    Args:
        manifest: the samples.
        folder: where the files go, as ``<id[:2]>/<id><suffix>``.
        workers: how many images are brought in at the same time.

    Returns:
        The file of each sample, in table order.

    Raises:
        NotFoundError: an image is not where the manifest says.
        InputError: an image is out of reach, or its bytes are not those of its id.
    """
    return _fetch(manifest.table["id"].to_list(), manifest.table["uri"].to_list(), folder, workers, "images")


def fetch_masks(manifest: Manifest, folder: Path, workers: int = 8) -> list[Path]:
    """Make the mask of every sample of a manifest readable as a local file.

    As for ``fetch_blobs``.

    Args:
        manifest: the samples, each with a mask.
        folder: where the files go, as ``<digest[:2]>/<digest>.png``; it may be that of the images.
        workers: how many masks are brought in at the same time.

    Returns:
        The mask of each sample, in table order.

    Raises:
        NotFoundError: a mask is not where the manifest says.
        InputError: a sample has no mask, or a mask is out of reach, or its bytes are not those of its name.
    """
    uris = manifest.table["mask"].drop_nulls().to_list()
    if len(uris) < len(manifest):
        raise InputError(f"{len(manifest) - len(uris)} of {len(manifest)} samples have no mask")
    digests = [PurePosixPath(uri).stem for uri in uris]
    return _fetch(digests, uris, folder, workers, "masks")


def _fetch(digests: list[str], uris: list[str], folder: Path, workers: int, what: str) -> list[Path]:
    """Bring blobs in, each under its digest."""
    opened = functools.cache(open_store)  # one store, and so one set of connections, for each bucket
    progress = Progress(log, f"fetched {{done}} of {{total}} {what}", len(uris), seconds=PROGRESS_SECONDS)
    files: list[Path] = []
    with ThreadPoolExecutor(workers) as pool:
        for file in pool.map(_bring, digests, uris, itertools.repeat(folder), itertools.repeat(opened)):
            files.append(file)
            progress.advance()
    return files


def _bring(digest: str, uri: str, folder: Path, opened: Callable[[str], Store]) -> Path:
    """Link or download one blob and return its file."""
    file = folder / digest[:2] / f"{digest}{PurePosixPath(uri).suffix.lower()}"
    root, key = split(uri)
    store = opened(root)
    source = store.local_path(key)
    if source is not None:
        _link(source, file)
        if not _holds(file, digest):
            raise InputError(f"{uri}: damaged, its content does not match its name: restore it from a backup")
    elif not _holds(file, digest):
        store.download(key, file, sha256=digest, max_bytes=MAX_BLOB_BYTES)
    return file


def _has_digest_of(file: Path, key: str) -> bool:
    """Whether a file is there and, where its key is a digest, has it."""
    if not file.is_file():
        return False
    named = _DIGEST_IN_NAME.search(key)
    with file.open("rb") as content:
        return named is None or hashlib.file_digest(content, "sha256").hexdigest().startswith(named[1])


def _holds(file: Path, sha256: str) -> bool:
    """Whether a file is there and whole; one that a power cut left short would fail the trainer much later."""
    try:
        with file.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest() == sha256
    except FileNotFoundError:
        return False


def _link(source: Path, file: Path) -> None:
    """Make a file another name of a blob: a hard link, or a symbolic one where the disks differ."""
    if not source.is_file():
        raise NotFoundError(f"{source}: no such file")
    if file.exists() and file.samefile(source):
        return
    link = file.parent / f"{RESERVED}{uuid.uuid4().hex}"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source.resolve(), link)
        except OSError:
            link.symlink_to(source.resolve())
        link.replace(file)
    except OSError as error:
        raise InputError(f"{file}: cannot link to {source} ({error.strerror})") from error
    finally:
        link.unlink(missing_ok=True)
