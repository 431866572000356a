"""Where blobs, manifests, bundles and state lie: a folder or an S3 bucket behind one small interface.

========================= ==========================================================================================
address                   meaning
========================= ==========================================================================================
``file:///abs/folder``    a folder; percent-encoded as file addresses are
``/abs/folder``, ``data`` the same folder as a plain path
``s3://bucket/prefix``    an S3 bucket, as it is written (nothing is decoded)
``http(s)://...``         one object to read: for :func:`fetch` and :func:`check_readable` only
========================= ==========================================================================================

S3 takes what it needs from the environment, under the names every S3 tool uses: ``AWS_ENDPOINT_URL_S3`` or
``AWS_ENDPOINT_URL`` (``http://`` means without TLS; none means AWS itself), ``AWS_ACCESS_KEY_ID``,
``AWS_SECRET_ACCESS_KEY``, ``AWS_SESSION_TOKEN`` and ``AWS_REGION``; without keys there, from the AWS credentials file
or the machine's role.

Broken connections, HTTP 429 and HTTP 5xx are tried again, with growing pauses, for ``EDGE_STORE_PATIENCE`` seconds
(default 60). A broken download goes on where it stopped, where the server can do that.
"""

from __future__ import annotations

import base64
import configparser
import errno
import fcntl
import hashlib
import io
import logging
import os
import random
import re
import shutil
import ssl
import time
import urllib.request
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote, unquote, urlsplit, urlunsplit

import certifi
import urllib3
from minio import Minio
from minio.credentials import AWSConfigProvider, ChainedProvider, EnvAWSProvider, IamAwsProvider
from minio.error import MinioException, S3Error
from minio.helpers import check_bucket_name
from typing_extensions import override
from urllib3.exceptions import HTTPError, LocationValueError, MaxRetryError

from components.core.errors import ConflictError, InputError, NotFoundError

log = logging.getLogger(__name__)

PATIENCE_SECONDS = 60.0  # how long a store may be out of reach before a step gives up
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.25, 8.0
CHUNK_BYTES = 1 << 20
PART_BYTES = 16 << 20  # an upload holds three parts in memory at most
RESERVED = ".edge-"  # how names of unfinished files and of locks begin


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
    the credentials, has no space left, or when the key is not a plain relative path.

    Attributes:
        uri: the root's address, without a slash at its end.

    """

    uri: str

    def __reduce__(self) -> tuple[Callable[[str], Store], tuple[str]]:
        return open_store, (self.uri,)  # a store goes to another process as its address: connections cannot

    @abstractmethod
    def uri_of(self, key: str) -> str:
        """The address of one object, which :func:`fetch` takes."""

    def read(self, key: str) -> bytes:
        """The content of one object.

        Raises:
            NotFoundError: there is no such object.

        """
        found = self.read_versioned(key)
        if found is None:
            raise _not_found(self.uri_of(key))
        return found[0]

    @abstractmethod
    def read_versioned(self, key: str) -> tuple[bytes, str] | None:
        """The content of one object and the etag that ``write`` takes as ``if_match``; None when it is absent."""

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
    def download(self, key: str, path: Path, *, sha256: str | None = None) -> None:
        """Stream one object into a file, which appears only when it is whole.

        Args:
            key: the object's name.
            path: the file; its folder is made, what was there is replaced.
            sha256: what the content must hash to, as 64 hex digits.

        Raises:
            NotFoundError: there is no such object.
            InputError: the content hashes to something else.

        """

    @abstractmethod
    def upload(self, path: Path, key: str) -> None:
        """Stream a file into an object, which appears only when it is whole.

        Raises:
            NotFoundError: there is no such file.

        """

    @abstractmethod
    def list(self, prefix: str = "", *, start_after: str = "") -> Iterator[ObjectInfo]:
        """The objects whose keys begin with ``prefix``, sorted by key, without holding them all in memory.

        Args:
            prefix: any beginning of a key; ``a/b`` finds ``a/bc`` and ``a/b/c``.
            start_after: only keys that sort after this one.

        """

    @abstractmethod
    def stat(self, key: str) -> ObjectInfo | None:
        """Size, etag and time of one object; None when it is absent."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove one object; one that is absent is fine."""

    @abstractmethod
    def local_path(self, key: str) -> Path | None:
        """Where the object's bytes lie on this machine, or would; None when they lie elsewhere."""


def open_store(uri: str) -> Store:
    """Open the store at an address; nothing is asked of it yet.

    Args:
        uri: ``file:///abs/folder``, a plain path, or ``s3://bucket/prefix``.

    Raises:
        InputError: an address of another kind, or S3 without credentials.

    """
    scheme, separator, rest = uri.partition("://")
    if scheme == "s3" and separator:
        return S3Store(*rest.strip("/").partition("/")[::2])
    return FileStore(_folder(uri))


def split(uri: str) -> tuple[str, str]:
    """The store and the key of one object: ``s3://bucket/a/b`` is ``a/b`` in ``s3://bucket``.

    Raises:
        InputError: the address names no object.

    """
    if uri.startswith("s3://"):
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        root = f"s3://{bucket}"
    else:
        path = _folder(uri)
        root, key = _file_uri(path.parent), path.name
    if not key:
        raise InputError(f"{shown(uri)} names no object: give the address of a file")
    return root, key


def fetch(uri: str, path: Path, *, sha256: str | None = None) -> None:
    """Bring one object to a local file: streamed, tried again when the connection breaks, whole or not at all.

    Args:
        uri: ``http(s)://``, ``s3://``, ``file://`` or a plain path. A user and password in an http address are used
            and never shown.
        path: the file; its folder is made, what was there is replaced.
        sha256: what the content must hash to, as 64 hex digits.

    Raises:
        NotFoundError: there is no such object.
        InputError: it cannot be had, or hashes to something else.

    """
    if _is_web(uri):
        with _os_errors(str(path)), _web_errors(uri), _landing(path) as file:
            _receive(_web_source(uri), file, shown(uri))
            _verify(file, sha256, shown(uri))
    else:
        root, key = split(uri)
        open_store(root).download(key, path, sha256=sha256)


def check_readable(uri: str) -> None:
    """Make sure, before long work begins, that an object or a folder of objects is there and may be read.

    Args:
        uri: as for :func:`fetch`, or the address of a folder with something in it.

    Raises:
        NotFoundError: there is nothing.
        InputError: it is out of reach or may not be read.

    """
    if _is_web(uri):
        with _web_errors(uri):
            _web_source(uri, first_byte_only=True)(0, "").close()
    elif uri.startswith("s3://"):
        _check_bucket_holds(uri.rstrip("/"))
    else:
        _check_local(_folder(uri))


def shown(uri: str) -> str:
    """An address as messages may show it: without user, password and query, which can carry secrets."""
    scheme, separator, _ = uri.partition("://")
    if not separator or scheme in ("s3", "file"):
        return uri
    try:
        parts = urlsplit(uri)
        host = parts.netloc.rpartition("@")[2]
        _ = parts.port  # a password with a slash in it makes nonsense of the port
    except ValueError:
        return f"{scheme}://..."
    return f"{scheme}://{host}{parts.path}" + ("?..." if parts.query else "")


# --- files ---


class FileStore(Store):
    """A folder. The etag of a file is the SHA-256 of its content.

    A write takes the lock of the file's folder, so that conditions hold among processes and threads, also over NFS.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self.uri = _file_uri(root)

    @override
    def uri_of(self, key: str) -> str:
        return _file_uri(self.local_path(key))

    @override
    def local_path(self, key: str) -> Path:
        _check_key(key, self.uri)
        return self._root / key

    @override
    def read_versioned(self, key: str) -> tuple[bytes, str] | None:
        with _os_errors(self.uri_of(key)):
            try:
                data = self.local_path(key).read_bytes()
            except _ABSENT:
                return None
        return data, hashlib.sha256(data).hexdigest()

    @override
    def write(self, key: str, data: bytes, *, if_match: str | None = None, if_absent: bool = False) -> str:
        path = self.local_path(key)
        with _os_errors(self.uri_of(key)), _locked(path.parent):
            if if_absent and path.is_file():
                raise _conflict(self.uri_of(key))
            if if_match is not None and if_match != _file_etag(path):
                raise _conflict(self.uri_of(key))
            with _landing(path, durable=True) as file:
                file.write(data)
        return hashlib.sha256(data).hexdigest()

    @override
    def download(self, key: str, path: Path, *, sha256: str | None = None) -> None:
        uri = self.uri_of(key)
        with _os_errors(uri), _opened(self.local_path(key), uri) as source, _landing(path) as file:
            shutil.copyfileobj(source, file, CHUNK_BYTES)
            _verify(file, sha256, uri)

    @override
    def upload(self, path: Path, key: str) -> None:
        target = self.local_path(key)
        with _os_errors(self.uri_of(key)), _opened(path, str(path)) as source, _landing(target) as file:
            shutil.copyfileobj(source, file, CHUNK_BYTES)

    @override
    def list(self, prefix: str = "", *, start_after: str = "") -> Iterator[ObjectInfo]:
        base = prefix.rpartition("/")[0]
        folder = self.local_path(base) if base else self._root
        with _os_errors(self.uri):
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
        with _os_errors(self.uri_of(key)):
            etag = _file_etag(path)
            if etag is None:
                return None
            status = path.stat()
        return ObjectInfo(key, status.st_size, etag, datetime.fromtimestamp(status.st_mtime, UTC))

    @override
    def delete(self, key: str) -> None:
        path = self.local_path(key)
        with _os_errors(self.uri_of(key)):
            if path.exists():
                with _locked(path.parent):
                    path.unlink(missing_ok=True)


_ABSENT = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_PERMISSION = {errno.EACCES, errno.EPERM, errno.EROFS}


def _folder(uri: str) -> Path:
    scheme, separator, rest = uri.partition("://")
    if not uri.strip():
        raise InputError("an empty address: give file:///folder, a plain path or s3://bucket/prefix")
    if not separator:
        return Path(uri).expanduser().absolute()
    if scheme != "file":
        raise InputError(
            f"{shown(uri)}: cannot keep or list files at an address of the kind {scheme!r}; "
            "give file:///folder, a plain path or s3://bucket/prefix"
        )
    host, slash, path = rest.partition("/")
    if host not in ("", "localhost") or not slash:
        raise InputError(f"{uri}: a file address needs an absolute path after three slashes, as in file:///data/job")
    return Path("/" + unquote(path))


def _file_uri(path: Path) -> str:
    return "file://" + quote(str(path), errors="surrogateescape")


def _file_etag(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except _ABSENT:
        return None


def _check_local(path: Path) -> None:
    with _os_errors(str(path)):
        if not path.exists():
            raise NotFoundError(f"{path}: no such file or folder")
        if not path.is_dir():
            path.open("rb").close()
        elif next(path.iterdir(), None) is None:
            raise NotFoundError(f"{path}: the folder is empty")


def _walk(folder: Path, base: str, prefix: str, start_after: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Files below a folder with their keys, in the order of whole keys, as S3 lists them.

    A folder sorts as its name with a slash, since that is what its keys begin with: ``a.b`` comes before ``a/b``.
    """
    try:
        with os.scandir(folder) as found:
            entries = sorted((entry.name + "/" * entry.is_dir(), entry) for entry in found)
    except _ABSENT:
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


@contextmanager
def _landing(target: Path, *, durable: bool = False) -> Iterator[BinaryIO]:
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
def _opened(path: Path, name: str) -> Iterator[BinaryIO]:
    try:
        file = path.open("rb")
    except _ABSENT:
        raise _not_found(name) from None
    with file:
        yield file


@contextmanager
def _os_errors(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"{name}: {_os_reason(error)}") from error


def _os_reason(error: OSError) -> str:
    if error.errno in _NO_SPACE:
        return f"no space left ({error.strerror}): make room, or choose another disk"
    if error.errno in _NO_PERMISSION:
        return f"not permitted ({error.strerror}): check who may read and write {error.filename or 'there'}"
    return f"{error.strerror or error} ({error.filename})" if error.filename else str(error.strerror or error)


# --- S3 ---


class S3Store(Store):
    """A prefix in an S3 bucket.

    Conditional writes use ``If-None-Match: *`` and ``If-Match`` on a presigned address, because the client library
    offers neither. Safe for threads; not for a process forked while it is in use.
    """

    def __init__(self, bucket: str, prefix: str) -> None:
        self.uri = f"s3://{bucket}/{prefix}".rstrip("/")
        if prefix:
            _check_key(prefix, self.uri)
        self._bucket = bucket
        self._base = f"{prefix}/" if prefix else ""
        self._client, self._pool = _connect(self.uri, bucket)
        self._bucket_is_there = False

    @override
    def uri_of(self, key: str) -> str:
        return f"{self.uri}/{key}"

    @override
    def local_path(self, key: str) -> None:
        return None

    @override
    def read_versioned(self, key: str) -> tuple[bytes, str] | None:
        content = io.BytesIO()
        try:
            with _s3_errors(self.uri_of(key)):
                etag = _receive(self._source(key), content, self.uri_of(key))
        except NotFoundError:
            return None
        return content.getvalue(), etag.strip('"')

    @override
    def write(self, key: str, data: bytes, *, if_match: str | None = None, if_absent: bool = False) -> str:
        with _s3_errors(self.uri_of(key)):
            if if_absent:
                return self._write_if(key, data, {"If-None-Match": "*"})
            if if_match is not None:
                return self._write_if(key, data, {"If-Match": f'"{if_match}"'})
            return self._put(key, io.BytesIO(data), len(data), part_bytes=max(len(data), PART_BYTES))

    @override
    def download(self, key: str, path: Path, *, sha256: str | None = None) -> None:
        uri = self.uri_of(key)
        with _os_errors(str(path)), _s3_errors(uri), _landing(path) as file:
            _receive(self._source(key), file, uri)
            _verify(file, sha256, uri)

    @override
    def upload(self, path: Path, key: str) -> None:
        with _os_errors(str(path)), _s3_errors(self.uri_of(key)), _opened(path, str(path)) as file:
            self._put(key, file, os.fstat(file.fileno()).st_size)

    @override
    def list(self, prefix: str = "", *, start_after: str = "") -> Iterator[ObjectInfo]:
        after = self._base + start_after if start_after else None
        with _s3_errors(self.uri):
            for found in self._client.list_objects(
                self._bucket, prefix=self._base + prefix, recursive=True, start_after=after
            ):
                if not found.object_name.endswith("/"):  # consoles mark empty folders with such objects
                    key = found.object_name.removeprefix(self._base)
                    yield ObjectInfo(key, found.size, found.etag, found.last_modified)

    @override
    def stat(self, key: str) -> ObjectInfo | None:
        try:
            with _s3_errors(self.uri_of(key)):
                found = self._client.stat_object(self._bucket, self._name(key))
        except NotFoundError:
            self._check_bucket()
            return None
        return ObjectInfo(key, found.size, found.etag, found.last_modified)

    @override
    def delete(self, key: str) -> None:
        with _s3_errors(self.uri_of(key)):
            self._client.remove_object(self._bucket, self._name(key))

    def _name(self, key: str) -> str:
        _check_key(key, self.uri)
        return self._base + key

    def _source(self, key: str) -> _Source:
        def open_at(offset: int, etag: str) -> urllib3.BaseHTTPResponse:
            name, condition = self._name(key), {"If-Match": etag} if offset else {}
            answer: urllib3.BaseHTTPResponse
            try:
                answer = self._client.get_object(self._bucket, name, offset=offset, request_headers=condition)
            except S3Error as error:
                if not offset or error.response.status not in _CANNOT_RESUME:
                    raise
                answer = self._client.get_object(self._bucket, name)
            return answer

        return open_at

    def _put(self, key: str, data: BinaryIO, size: int, part_bytes: int = PART_BYTES) -> str:
        patience = _Patience(self.uri_of(key))
        while True:
            try:
                written = self._client.put_object(self._bucket, self._name(key), data, size, part_size=part_bytes)
                return str(written.etag)
            except S3Error as error:
                if error.code != "NoSuchUpload":  # which means that the answer to the closing request was lost
                    raise
                patience.pause(error)
                data.seek(0)

    def _write_if(self, key: str, data: bytes, condition: dict[str, str]) -> str:
        url = self._client.get_presigned_url("PUT", self._bucket, self._name(key), expires=timedelta(minutes=15))
        patience, uncertain = _Patience(self.uri_of(key)), False
        while True:
            try:
                answer = self._pool.once("PUT", url, body=data, headers=condition)
                break
            except HTTPError as error:
                patience.pause(error)
                uncertain = True  # the server may have written before the connection broke
        if answer.status == 200:
            return answer.headers["ETag"].strip('"')
        code = re.search(rb"<Code>(\w+)</Code>", answer.data)
        if answer.status not in (404, 409, 412) or b"NoSuchBucket" in answer.data:
            raise _refusal(self.uri_of(key), answer.status, code.group(1).decode() if code else answer.reason or "")
        current = self.read_versioned(key) if uncertain else None
        if current is None or current[0] != data:
            raise _conflict(self.uri_of(key))
        return current[1]

    def _check_bucket(self) -> None:
        """Tell a missing bucket from a missing object, which look the same to a request without an answer's body."""
        if self._bucket_is_there:
            return
        with _s3_errors(self.uri):
            if not self._client.bucket_exists(self._bucket):
                raise _refusal(self.uri, 404, "NoSuchBucket")
        self._bucket_is_there = True


def _check_bucket_holds(uri: str) -> None:
    """Look for the object first: who may read one object need not be allowed to list the bucket."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if key and open_store(f"s3://{bucket}").stat(key) is not None:
        return
    if next(open_store(uri).list(), None) is None:
        raise _not_found(uri)


def _connect(uri: str, bucket: str) -> tuple[Minio, _Pool]:
    """A client for one bucket, and the connections it uses."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or "https://s3.amazonaws.com"
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/"):
        raise InputError(
            f"AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL is {shown(endpoint)!r}: give http(s)://host:port and nothing more"
        )
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    pool = _connections(endpoint)
    try:
        check_bucket_name(bucket)
        client = Minio(
            parts.netloc.rpartition("@")[2],
            secure=parts.scheme == "https",
            region=region,
            credentials=_credentials(uri),
            http_client=pool,
        )
    except ValueError as error:
        raise InputError(f"{uri}: {error}") from error
    return client, pool


def _credentials(uri: str) -> ChainedProvider:
    """Keys from the environment, the AWS credentials file, or the machine's role."""
    role_service = urllib3.PoolManager(timeout=2, retries=False)
    provider = ChainedProvider([EnvAWSProvider(), AWSConfigProvider(), IamAwsProvider(http_client=role_service)])
    try:
        provider.retrieve()
    except (ValueError, OSError, HTTPError, configparser.Error):
        raise InputError(
            f"{uri}: no S3 credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY "
            "(and AWS_ENDPOINT_URL_S3 for a server other than AWS)"
        ) from None
    return provider


@contextmanager
def _s3_errors(uri: str) -> Iterator[None]:
    try:
        yield
    except S3Error as error:
        raise _refusal(uri, error.response.status, error.code or "") from error
    except MinioException as error:
        raise InputError(
            f"{uri}: what answers at AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL is not S3 ({str(error)[:100]})"
        ) from error
    except HTTPError as error:
        raise InputError(
            f"{uri}: the store is out of reach ({_reason(error)}): "
            "check AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL and the network"
        ) from error


def _refusal(uri: str, status: int, code: str) -> InputError:
    if code == "NoSuchBucket":
        return InputError(f"{uri}: there is no such bucket: make it, or correct the name")
    if status == 404:
        return _not_found(uri)
    if status in (401, 403) or "Token" in code:
        return InputError(
            f"{uri}: access refused ({code}): check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, "
            "and what they may do in this bucket"
        )
    return InputError(f"{uri}: the S3 server refuses (HTTP {status}, {code})")


# --- the web ---


def _is_web(uri: str) -> bool:
    return uri.lower().startswith(("http://", "https://"))


def _web_source(uri: str, *, first_byte_only: bool = False) -> _Source:
    try:
        parts = urlsplit(uri)
    except ValueError as error:
        raise InputError(f"{shown(uri)}: not a valid address") from error
    login, _, host = parts.netloc.rpartition("@")
    url = urlunsplit(parts._replace(netloc=host, fragment=""))
    headers = {"Authorization": "Basic " + base64.b64encode(unquote(login).encode()).decode()} if login else {}
    pool = _connections(url)

    def open_at(offset: int, validator: str) -> urllib3.BaseHTTPResponse:
        wanted = {"Range": "bytes=0-0"} if first_byte_only else {}
        if offset:
            wanted = {"Range": f"bytes={offset}-", "If-Range": validator}
        answer = pool.request("GET", url, headers=headers | wanted, preload_content=False)
        if answer.status in _CANNOT_RESUME and wanted:
            answer.close()
            answer = pool.request("GET", url, headers=headers, preload_content=False)
        if answer.status not in (200, 206):
            answer.close()
            raise _web_refusal(uri, answer)
        return answer

    return open_at


def _web_refusal(uri: str, answer: urllib3.BaseHTTPResponse) -> InputError:
    said = f"HTTP {answer.status} {answer.reason or ''}".rstrip()
    if answer.status in (404, 410):
        return NotFoundError(f"{shown(uri)}: no such file ({said})")
    if answer.status in (401, 403):
        return InputError(f"{shown(uri)}: access refused ({said}): check user, password or token in the address")
    return InputError(f"{shown(uri)}: the server does not give the file ({said})")


@contextmanager
def _web_errors(uri: str) -> Iterator[None]:
    try:
        yield
    except HTTPError as error:
        raise InputError(f"{shown(uri)}: out of reach ({_reason(error)}): check the address and the network") from error


# --- connections that break ---

_Source = Callable[[int, str], urllib3.BaseHTTPResponse]
"""Opens an object at an offset, given what told its version apart (an etag or a date); may begin at 0 instead."""

_CANNOT_RESUME = {412, 416}
_TRIED_ONCE = urllib3.Retry(  # nothing is tried again inside the library, so that patience is counted in one place
    total=None, connect=False, read=False, status=False, other=False, redirect=10, raise_on_redirect=False
)


class _BusyError(HTTPError):
    """The server answered that it cannot serve now."""


class _Patience:
    """Pauses between tries, growing until patience ends; ``renew`` starts afresh after progress."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.renew()

    def renew(self) -> None:
        self._end = time.monotonic() + _patience_seconds()
        self._pause = FIRST_PAUSE_SECONDS

    def pause(self, error: Exception) -> None:
        """Wait before the next try, or raise the error when there shall be none."""
        wait = self._pause * random.uniform(0.5, 1.5)
        if _is_final(error) or time.monotonic() + wait > self._end:
            raise error
        log.info("%s: %s; trying again in %.1f s", self._name, _reason(error), wait)
        time.sleep(wait)
        self._pause = min(2 * self._pause, LONGEST_PAUSE_SECONDS)


class _Pool(urllib3.PoolManager):
    """Connections on which every request is patient."""

    def urlopen(  # type: ignore[override]
        self, method: str, url: str, redirect: bool = True, **options: Any
    ) -> urllib3.BaseHTTPResponse:
        patience = _Patience(shown(url))
        while True:
            try:
                return self.once(method, url, redirect=redirect, **options)
            except HTTPError as error:
                patience.pause(error)

    def once(self, method: str, url: str, **options: Any) -> urllib3.BaseHTTPResponse:
        """One request, tried once."""
        answer = super().urlopen(method, url, **options)
        if answer.status == 429 or (answer.status >= 500 and answer.status != 501):
            answer.close()
            raise _BusyError(f"HTTP {answer.status} {answer.reason or ''}".rstrip())
        return answer


class _ProxyPool(_Pool, urllib3.ProxyManager):
    """The same through a proxy."""


def _connections(url: str) -> _Pool:
    """Connections to a server, through the proxy that the environment names for it."""
    parts = urlsplit(url)
    answer_seconds = min(30.0, max(0.5, _patience_seconds() / 2))  # one silence leaves time for another try
    options: Mapping[str, Any] = {
        "maxsize": 64,
        "retries": _TRIED_ONCE,
        "timeout": urllib3.Timeout(connect=min(10.0, answer_seconds), read=answer_seconds),
        "ca_certs": os.environ.get("AWS_CA_BUNDLE") or os.environ.get("SSL_CERT_FILE") or certifi.where(),
    }
    proxy = urllib.request.getproxies().get(parts.scheme)
    if not proxy or urllib.request.proxy_bypass(parts.hostname or ""):
        return _Pool(**options)
    login = unquote(urlsplit(proxy).netloc.rpartition("@")[0])
    headers = urllib3.make_headers(proxy_basic_auth=login) if login else None
    return _ProxyPool(proxy, proxy_headers=headers, **options)


def _receive(source: _Source, file: BinaryIO, name: str) -> str:
    """Write an object into an empty file, going on where a connection broke; returns what tells its version apart."""
    patience, validator, furthest = _Patience(name), "", 0
    while True:
        answer = source(file.tell() if validator else 0, validator)
        if answer.status != 206:
            file.seek(0)
            file.truncate()
        validator = _validator(answer.headers)
        try:
            with closing(answer):
                for chunk in answer.stream(CHUNK_BYTES, decode_content=False):
                    file.write(chunk)
            return validator
        except HTTPError as error:
            if file.tell() > furthest:
                furthest = file.tell()
                patience.renew()
            patience.pause(error)


def _validator(headers: Mapping[str, str]) -> str:
    """What an answer says to tell versions of the object apart; a weak etag may stand for other bytes."""
    etag = headers.get("ETag", "")
    return headers.get("Last-Modified", "") if not etag or etag.startswith("W/") else etag


def _patience_seconds() -> float:
    given = os.environ.get("EDGE_STORE_PATIENCE", "")
    try:
        return float(given) if given else PATIENCE_SECONDS
    except ValueError:
        raise InputError(f"EDGE_STORE_PATIENCE is {given!r}: give a number of seconds") from None


def _cause(error: Exception) -> Exception:
    return error.reason if isinstance(error, MaxRetryError) and error.reason else error


def _is_final(error: Exception) -> bool:
    """Whether another try would end the same way."""
    cause = _cause(error)
    untrusted = any(isinstance(part, ssl.SSLCertVerificationError) for part in cause.args)
    return untrusted or isinstance(cause, LocationValueError)


def _reason(error: Exception) -> str:
    """An error in few words, without the address, which may hold a signature."""
    cause = _cause(error)
    return "not a valid address" if isinstance(cause, LocationValueError) else str(cause).rpartition("connection: ")[2]


# --- what all have in common ---


def _check_key(key: str, uri: str) -> None:
    parts = key.split("/")
    if any(part in ("", ".", "..") or part.startswith(RESERVED) for part in parts) or "\0" in key:
        raise InputError(
            f"{key!r} cannot be a key in {uri}: give a relative path without '.', '..' or empty parts, "
            f"and no name that begins with {RESERVED!r}"
        )


def _verify(file: BinaryIO, sha256: str | None, uri: str) -> None:
    if sha256 is None:
        return
    file.seek(0)
    found = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
    if found != sha256.lower():
        raise InputError(f"{uri}: the content has SHA-256 {found}, expected {sha256}: it was changed or damaged")


def _not_found(name: str) -> NotFoundError:
    return NotFoundError(f"{name}: no such object")


def _conflict(uri: str) -> ConflictError:
    return ConflictError(f"{uri}: somebody else changed it first")
