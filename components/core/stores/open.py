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
``AWS_SECRET_ACCESS_KEY``, ``AWS_SESSION_TOKEN`` and ``AWS_REGION``; where there are no keys, a profile or a role, see
:func:`components.core.stores.credentials.find_credentials`. ``AWS_CA_BUNDLE`` names the certificates of a private
authority, ``HTTPS_PROXY`` and ``NO_PROXY`` a proxy.

Broken connections, HTTP 429 and HTTP 5xx are tried again, with growing pauses, for ``EDGE_STORE_PATIENCE`` seconds
(default 60). A broken download goes on where it stopped, where the server can do that.
"""

from __future__ import annotations

from pathlib import Path

from components.core.errors import InputError, NotFoundError
from components.core.stores.addresses import file_uri, folder_at, is_web, shown
from components.core.stores.base import MAX_FILE_BYTES, RESERVED, ObjectInfo, Store, not_found
from components.core.stores.files import FileStore
from components.core.stores.transfer import os_errors

__all__ = ["RESERVED", "ObjectInfo", "Store", "check_readable", "fetch", "open_store", "shown", "split"]


def open_store(uri: str) -> Store:
    """Open the store at an address; nothing is asked of it yet.

    Args:
        uri: ``file:///abs/folder``, a plain path, or ``s3://bucket/prefix``.

    Raises:
        InputError: an address of another kind, or S3 without credentials.
    """
    scheme, separator, rest = uri.partition("://")
    if scheme == "s3" and separator:
        from components.core.stores.s3 import S3Store  # here, because its libraries load slowly and files need none

        return S3Store(*rest.strip("/").partition("/")[::2])
    return FileStore(folder_at(uri))


def split(uri: str) -> tuple[str, str]:
    """The store and the key of one object: ``s3://bucket/a/b`` is ``a/b`` in ``s3://bucket``.

    Raises:
        InputError: the address names no object.
    """
    if uri.startswith("s3://"):
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        root = f"s3://{bucket}"
    else:
        path = folder_at(uri)
        root, key = file_uri(path.parent), path.name
    if not key:
        raise InputError(f"{shown(uri)} is not an object: give the address of a file")
    return root, key


def fetch(uri: str, path: Path, *, sha256: str | None = None, max_bytes: int = MAX_FILE_BYTES) -> None:
    """Bring one object to a local file: streamed, tried again when the connection breaks, whole or not at all.

    Args:
        uri: ``http(s)://``, ``s3://``, ``file://`` or a plain path. A user and password in an http address are used
            and never shown.
        path: the file; its folder is made, what was there is replaced.
        sha256: what the content must hash to, as 64 hex digits.
        max_bytes: how large it may be.

    Raises:
        NotFoundError: there is no such object.
        TooLargeError: it is larger.
        InputError: it cannot be had, or hashes to something else.
    """
    if is_web(uri):
        from components.core.stores import web

        web.download(uri, path, sha256, max_bytes)
    else:
        root, key = split(uri)
        open_store(root).download(key, path, sha256=sha256, max_bytes=max_bytes)


def check_readable(uri: str) -> None:
    """Make sure, before long work begins, that an object or a folder of objects is there and may be read.

    Args:
        uri: as for :func:`fetch`, or the address of a folder with something in it.

    Raises:
        NotFoundError: there is nothing.
        InputError: it is out of reach or may not be read.
    """
    if is_web(uri):
        from components.core.stores import web

        web.check(uri)
    elif uri.startswith("s3://"):
        _check_bucket_holds(uri.rstrip("/"))
    else:
        _check_local(folder_at(uri))


def _check_bucket_holds(uri: str) -> None:
    """Look for the object first: who may read one object need not be allowed to list the bucket."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if key and open_store(f"s3://{bucket}").stat(key) is not None:
        return
    if next(open_store(uri).list(), None) is None:
        raise not_found(uri)


def _check_local(path: Path) -> None:
    with os_errors(str(path)):
        if not path.exists():
            raise NotFoundError(f"{path}: no such file or folder")
        if not path.is_dir():
            path.open("rb").close()
        elif next(path.iterdir(), None) is None:
            raise NotFoundError(f"{path}: the folder is empty")
