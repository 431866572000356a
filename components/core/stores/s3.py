"""A store in an S3 bucket."""

from __future__ import annotations

import configparser
import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

import urllib3
from minio import Minio
from minio.credentials import AWSConfigProvider, ChainedProvider, EnvAWSProvider, IamAwsProvider
from minio.error import MinioException, S3Error
from minio.helpers import check_bucket_name
from typing_extensions import override
from urllib3.exceptions import HTTPError

from components.core.errors import ConflictError, InputError, NotFoundError
from components.core.stores.addresses import shown
from components.core.stores.base import ObjectInfo, Store, check_key, conflict, not_found
from components.core.stores.connections import Patience, Pool, Source, open_pool, reason_of, receive
from components.core.stores.transfer import landing, opened, os_errors, verify

PART_BYTES = 16 << 20  # an upload holds three parts in memory at most


class S3Store(Store):
    """A prefix in an S3 bucket.

    Conditional writes use ``If-None-Match: *`` and ``If-Match`` on a presigned address, because the client library
    offers neither. Safe for threads; not for a process forked while it is in use.
    """

    def __init__(self, bucket: str, prefix: str) -> None:
        self.uri = f"s3://{bucket}/{prefix}".rstrip("/")
        if prefix:
            check_key(prefix, self.uri)
        self._bucket = bucket
        self._base = f"{prefix}/" if prefix else ""
        self._client, self._pool = _connect(self.uri, bucket)
        self._bucket_is_there = False

    def __reduce__(self) -> tuple[type[S3Store], tuple[str, str]]:
        return S3Store, (self._bucket, self._base.rstrip("/"))  # its connections cannot go to another process

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
            with _errors(self.uri_of(key)):
                etag = receive(self._source(key), content, self.uri_of(key))
        except NotFoundError:
            return None
        return content.getvalue(), etag.strip('"')

    @override
    def write(self, key: str, data: bytes, *, if_match: str | None = None, if_absent: bool = False) -> str:
        with _errors(self.uri_of(key)):
            if if_absent:
                return self._write_if(key, data, {"If-None-Match": "*"})
            if if_match is not None:
                return self._replace(key, data, if_match)
            return self._put(key, io.BytesIO(data), len(data), part_bytes=max(len(data), PART_BYTES))

    @override
    def download(self, key: str, path: Path, *, sha256: str | None = None) -> None:
        uri = self.uri_of(key)
        with os_errors(str(path)), _errors(uri), landing(path) as file:
            receive(self._source(key), file, uri)
            verify(file, sha256, uri)

    @override
    def upload(self, path: Path, key: str) -> None:
        with os_errors(str(path)), _errors(self.uri_of(key)), opened(path, str(path)) as file:
            self._put(key, file, os.fstat(file.fileno()).st_size)

    @override
    def list(self, prefix: str = "", *, start_after: str = "") -> Iterator[ObjectInfo]:
        after = self._base + start_after if start_after else None
        with _errors(self.uri):
            for found in self._client.list_objects(
                self._bucket, prefix=self._base + prefix, recursive=True, start_after=after
            ):
                if not found.object_name.endswith("/"):  # consoles mark empty folders with such objects
                    key = found.object_name.removeprefix(self._base)
                    yield ObjectInfo(key, found.size, found.etag, found.last_modified)

    @override
    def stat(self, key: str) -> ObjectInfo | None:
        try:
            with _errors(self.uri_of(key)):
                found = self._client.stat_object(self._bucket, self._name(key))
        except NotFoundError:
            self._check_bucket()
            return None
        return ObjectInfo(key, found.size, found.etag, found.last_modified)

    @override
    def delete(self, key: str) -> None:
        with _errors(self.uri_of(key)):
            self._client.remove_object(self._bucket, self._name(key))

    def _name(self, key: str) -> str:
        check_key(key, self.uri)
        return self._base + key

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
        code = re.search(rb"<Code>(\w+)</Code>", answer.data)
        if answer.status not in (404, 409, 412) or b"NoSuchBucket" in answer.data:
            raise _refusal(self.uri_of(key), answer.status, code.group(1).decode() if code else answer.reason or "")
        current = self.read_versioned(key) if uncertain else None
        if current is None or current[0] != data:
            raise conflict(self.uri_of(key))
        return current[1]

    def _check_bucket(self) -> None:
        """Tell a missing bucket from a missing object, which look the same to a request without an answer's body."""
        if self._bucket_is_there:
            return
        with _errors(self.uri):
            if not self._client.bucket_exists(self._bucket):
                raise _refusal(self.uri, 404, "NoSuchBucket")
        self._bucket_is_there = True


def _connect(uri: str, bucket: str) -> tuple[Minio, Pool]:
    """A client for one bucket, and the connections it uses."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or "https://s3.amazonaws.com"
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/"):
        raise InputError(
            f"AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL is {shown(endpoint)!r}: give http(s)://host:port and nothing more"
        )
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    pool = open_pool(endpoint)
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
def _errors(uri: str) -> Iterator[None]:
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
            f"{uri}: the store is out of reach ({reason_of(error)}): "
            "check AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL and the network"
        ) from error


def _refusal(uri: str, status: int, code: str) -> InputError:
    if code == "NoSuchBucket":
        return InputError(f"{uri}: there is no such bucket: make it, or correct the name")
    if status == 404:
        return not_found(uri)
    if code == "RequestTimeTooSkewed":
        return InputError(f"{uri}: access refused, because this machine's clock and the server's differ: set the clock")
    if status in (401, 403) or "Token" in code:
        return InputError(
            f"{uri}: access refused ({code}): check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, "
            "and what they may do in this bucket"
        )
    return InputError(f"{uri}: the S3 server refuses (HTTP {status}, {code})")
