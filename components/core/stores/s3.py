"""A store in an S3 bucket."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit
from xml.etree import ElementTree

import urllib3
from minio import Minio
from minio.error import MinioException, S3Error
from minio.helpers import check_bucket_name
from typing_extensions import override
from urllib3.exceptions import HTTPError

from components.core.errors import ConflictError, InputError, NotFoundError, OutOfReachError
from components.core.stores.addresses import shown
from components.core.stores.base import MAX_FILE_BYTES, MAX_READ_BYTES, ObjectInfo, Store, check_key, conflict
from components.core.stores.connections import (
    BusyError,
    Patience,
    Pool,
    Source,
    open_pool,
    proxy_to_check,
    reason_of,
    receive,
    tls_trouble,
)
from components.core.stores.credentials import find_credentials
from components.core.stores.s3_answers import (
    ENDPOINT_VARIABLES,
    MAKE_ROOM,
    STORAGE_FULL,
    NotS3Error,
    Refusal,
    check_is_s3,
    server_of,
    shown_endpoint,
)
from components.core.stores.settings import setting
from components.core.stores.transfer import landing, opened, os_errors, verify

READING = "s3:GetObject and s3:ListBucket (without the latter S3 also denies missing objects)"
LISTING = "s3:ListBucket"
WRITING = "s3:PutObject (and s3:AbortMultipartUpload)"
DELETING = "s3:DeleteObject"

PART_BYTES = 16 << 20  # an upload holds three parts in memory at most

_REGIONS: dict[str, dict[str, str]] = {}  # of buckets by their name, by the server's address


class S3Store(Store):
    """A prefix in an S3 bucket.

    Conditional writes use ``If-None-Match: *`` and ``If-Match`` on a presigned address, because the client library
    offers neither. Safe for threads; not for a process forked while it is in use.
    """

    def __init__(self, bucket: str, prefix: str) -> None:
        self.uri = f"s3://{bucket}/{prefix}".rstrip("/")
        if "@" in bucket:
            raise InputError(
                f"{shown(self.uri)}: an S3 address must not contain credentials: "
                "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            )
        if prefix:
            check_key(prefix, self.uri)
        self._bucket = bucket
        self._base = f"{prefix}/" if prefix else ""
        self.endpoint, self.server = shown_endpoint(), ""
        self._client, self._pool = _connect(self.uri, bucket)
        self._pool.check = self._look_at
        self._bucket_is_there = False
        self._in_key_order: bool | None = None

    def __reduce__(self) -> tuple[type[S3Store], tuple[str, str]]:
        return S3Store, (self._bucket, self._base.rstrip("/"))  # its connections cannot go to another process

    @override
    def uri_of(self, key: str) -> str:
        return f"{self.uri}/{key}"

    @override
    def presigned(self, key: str, lifetime: timedelta) -> str:
        with _errors(self.uri_of(key), READING):
            return str(self._client.get_presigned_url("GET", self._bucket, self._name(key), expires=lifetime))

    @override
    def local_path(self, key: str) -> None:
        return None

    @override
    def read_versioned(self, key: str, *, max_bytes: int = MAX_READ_BYTES) -> tuple[bytes, str] | None:
        content = io.BytesIO()
        try:
            with _errors(self.uri_of(key), READING):
                etag = receive(self._source(key), content, self.uri_of(key), max_bytes)
        except NotFoundError:
            return None
        return content.getvalue(), etag.strip('"')

    @override
    def write(self, key: str, data: bytes, *, if_match: str | None = None, if_absent: bool = False) -> str:
        with _errors(self.uri_of(key), WRITING):
            if if_absent:
                return self._write_if(key, data, {"If-None-Match": "*"})
            if if_match is not None:
                return self._replace(key, data, if_match)
            return self._put(key, io.BytesIO(data), len(data), part_bytes=max(len(data), PART_BYTES))

    @override
    def download(self, key: str, path: Path, *, sha256: str | None = None, max_bytes: int = MAX_FILE_BYTES) -> None:
        uri = self.uri_of(key)
        with os_errors(str(path)), _errors(uri, READING), landing(path) as file:
            receive(self._source(key), file, uri, max_bytes)
            verify(file, sha256, uri)

    @override
    def upload(self, path: Path, key: str) -> None:
        with os_errors(str(path)), _errors(self.uri_of(key), WRITING), opened(path, str(path)) as file:
            self._put(key, file, os.fstat(file.fileno()).st_size)

    @override
    def list(self, prefix: str = "", *, start_after: str = "") -> Iterator[ObjectInfo]:
        if start_after and not self._lists_in_key_order(start_after):
            yield from (found for found in self.list(prefix) if found.key > start_after)
            return
        after, loop = self._base + start_after if start_after else None, _Loop(self.uri)
        with _errors(self.uri, LISTING):
            for found in self._client.list_objects(
                self._bucket, prefix=self._base + prefix, recursive=True, start_after=after
            ):
                loop.check(found.object_name)
                if not found.object_name.endswith("/"):  # consoles mark empty folders with such objects
                    key = found.object_name.removeprefix(self._base)
                    yield ObjectInfo(key, found.size, found.etag, found.last_modified)

    @override
    def stat(self, key: str) -> ObjectInfo | None:
        try:
            with _errors(self.uri_of(key), READING):
                found = self._head(key)
        except NotFoundError:
            self._check_bucket()
            return None
        if not found.size and next(self.list(f"{key}/"), None) is not None:  # SeaweedFS shows a folder as an object
            return None
        return ObjectInfo(key, found.size, found.etag, found.last_modified)

    @override
    def delete(self, key: str) -> None:
        with _errors(self.uri_of(key), DELETING):
            self._client.remove_object(self._bucket, self._name(key))

    def _look_at(self, method: str, answer: urllib3.BaseHTTPResponse, is_read: bool) -> None:
        self.server = server_of(answer) or self.server
        check_is_s3(method, answer, is_read)

    def _name(self, key: str) -> str:
        check_key(key, self.uri)
        return self._base + key

    def _head(self, key: str) -> Any:
        """What is known of an object; the answer to a HEAD has no body, so the reason of a refusal is asked for."""
        try:
            return self._client.stat_object(self._bucket, self._name(key))
        except S3Error as error:
            if _refusal(error).says_nothing:
                self._client.get_object(self._bucket, self._name(key), length=1).close()
            raise

    def _lists_in_key_order(self, key: str) -> bool:
        """Whether what this server lists behind a key is all that is greater; asked once, by what is there.

        A server that lists by folders has all of ``a/`` before ``a.b``, and so nothing of ``a/`` behind ``a.b``.
        """
        folder = key.rpartition("/")[0]
        if self._in_key_order is None and folder:
            place = self._base + folder
            with _errors(self.uri, LISTING):
                listed = self._client.list_objects(self._bucket, prefix=place, recursive=True, start_after=f"{place}.~")
                first = next(listed, None)
            self._in_key_order = first is not None and first.object_name.startswith(f"{place}/")
        return self._in_key_order is not False

    def _source(self, key: str) -> Source:
        def open_at(offset: int, etag: str) -> urllib3.BaseHTTPResponse:
            name, condition = self._name(key), {"If-Match": etag} if offset else {}
            answer: urllib3.BaseHTTPResponse
            try:
                answer = self._client.get_object(self._bucket, name, offset=offset, request_headers=condition)
            except S3Error:
                if not offset:
                    raise
                answer = self._client.get_object(self._bucket, name)
            return answer

        return open_at

    def _put(self, key: str, data: BinaryIO, size: int, part_bytes: int = PART_BYTES) -> str:
        patience = Patience(self.uri_of(key))
        while True:
            try:
                written = self._client.put_object(self._bucket, self._name(key), data, size, part_size=part_bytes)
                return str(written.etag)
            except S3Error as error:
                if error.code != "NoSuchUpload":  # which means that the answer to the closing request was lost
                    raise
                patience.pause(error)
                data.seek(0)

    def _replace(self, key: str, data: bytes, etag: str) -> str:
        """Write only if the object still has an etag.

        Ceph's gateway compares the header as it comes with an etag that it keeps without quotes. So a refusal while the
        object still has that etag says nothing, and the bare etag is tried, which is a condition as well.
        """
        try:
            return self._write_if(key, data, {"If-Match": f'"{etag}"'})
        except ConflictError:
            current = self.stat(key)
            if current is None or current.etag != etag:
                raise
        return self._write_if(key, data, {"If-Match": etag})

    def _write_if(self, key: str, data: bytes, condition: dict[str, str]) -> str:
        url = self._client.get_presigned_url("PUT", self._bucket, self._name(key), expires=timedelta(minutes=15))
        patience, uncertain = Patience(self.uri_of(key)), False
        while True:
            try:
                answer = self._pool.once("PUT", url, body=data, headers=condition)
                break
            except HTTPError as error:
                patience.pause(error)
                uncertain = True  # the server may have written before the connection broke
        if answer.status == 200:
            return answer.headers["ETag"].strip('"')
        refusal = Refusal.of(answer)
        if answer.status not in (404, 409, 412) or refusal.code == "NoSuchBucket":
            raise refusal.error(self.uri_of(key), WRITING)
        current = self.read_versioned(key) if uncertain else None
        if current is None or current[0] != data:
            raise conflict(self.uri_of(key))
        return current[1]

    def _check_bucket(self) -> None:
        """Tell a missing bucket from a missing object, which look the same to a request without an answer's body."""
        if self._bucket_is_there:
            return
        with _errors(self.uri, LISTING):
            if not self._client.bucket_exists(self._bucket):
                raise Refusal(404, "NoSuchBucket").error(self.uri, LISTING)
        self._bucket_is_there = True


class _Loop:
    """Finds a listing that goes round, as of a server that passes over where a page is to go on (Brent's algorithm)."""

    def __init__(self, uri: str) -> None:
        self._uri, self._kept, self._seen, self._next = uri, "", 0, 1

    def check(self, key: str) -> None:
        """Look at the next key.

        Raises:
            InputError: it was listed before.
        """
        if key == self._kept:
            raise InputError(
                f"{self._uri}: the store lists {key[:200]!r} again and again: its pages of ListObjectsV2 do not end, "
                "so it cannot be used"
            )
        self._seen += 1
        if self._seen == self._next:
            self._kept, self._next = key, 2 * self._next


def _refusal(error: S3Error) -> Refusal:
    return Refusal.of(error.response, error.code or "")


def _connect(uri: str, bucket: str) -> tuple[Minio, Pool]:
    """A client for one bucket, and the connections it uses."""
    endpoint = setting(*ENDPOINT_VARIABLES) or "https://s3.amazonaws.com"
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/"):
        raise InputError(
            f"AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL is {shown(endpoint)!r}: give http(s)://host:port only"
        )
    pool = open_pool(endpoint)
    try:
        check_bucket_name(bucket)
        client = Minio(
            parts.netloc.rpartition("@")[2],
            secure=parts.scheme == "https",
            region=setting("AWS_REGION", "AWS_DEFAULT_REGION") or None,
            credentials=find_credentials(uri),
            http_client=pool,
        )
    except ValueError as error:
        raise InputError(f"{uri}: {error}") from error
    client._region_map = _REGIONS.setdefault(endpoint, {})  # else each client asks for the region anew
    return client, pool


@contextmanager
def _errors(uri: str, needs: str) -> Iterator[None]:
    """Turn what goes wrong with requests into one line.

    Args:
        uri: what they are about.
        needs: the permissions that they take.
    """
    try:
        yield
    except S3Error as error:
        raise _refusal(error).error(uri, needs) from error
    except NotS3Error as error:
        raise InputError(f"{uri}: {error}") from None
    except (MinioException, ElementTree.ParseError, ValueError) as error:
        if isinstance(error, ValueError) and "XML" not in str(error):  # that XML lacks what belongs there
            raise
        raise InputError(f"{uri}: {NotS3Error(None, str(error)[:100])}") from error
    except HTTPError as error:
        if trouble := tls_trouble(error, "AWS_CA_BUNDLE"):
            raise InputError(f"{uri}: {shown_endpoint()}: {trouble}") from error
        if isinstance(error, BusyError) and error.status == STORAGE_FULL:
            raise OutOfReachError(f"{uri}: the store is full ({error}): {MAKE_ROOM}") from error
        proxy = proxy_to_check(setting(*ENDPOINT_VARIABLES) or "https://s3.amazonaws.com")
        raise OutOfReachError(
            f"{uri}: the store cannot be reached ({reason_of(error)}): "
            f"check {proxy}AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL and the network"
        ) from error
