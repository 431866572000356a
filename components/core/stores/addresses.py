"""Addresses of stores and objects: which kind they are, and how messages show them."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from components.core.errors import InputError
from components.core.redaction import redacted

# Object stores that speak S3 under a scheme of their own, and where they do so.
S3_ELSEWHERE = {
    "gs": "https://storage.googleapis.com",
    "obs": "https://obs.REGION.myhuaweicloud.com",
    "oss": "https://oss-REGION.aliyuncs.com",
    "cos": "https://cos.REGION.myqcloud.com",
}


_HALF_AN_ADDRESS = re.compile(r"(s3a?|file|https?|gs|obs|oss|cos):", re.IGNORECASE)
_OF_WINDOWS = re.compile(r"[A-Za-z]:[\\/]|\\\\")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")


def is_web(uri: str) -> bool:
    """Whether an address is one of the web."""
    return uri.lower().startswith(("http://", "https://"))


def folder_at(uri: str) -> Path:
    """The local path that a ``file://`` address or a plain path names.

    Raises:
        InputError: an address of another kind.
    """
    scheme, separator, rest = uri.partition("://")
    if not uri.strip():
        raise InputError("empty address: give file:///folder, a plain path or s3://bucket/prefix")
    if not separator:
        if _HALF_AN_ADDRESS.match(uri):
            raise InputError(f"{shown(uri)}: two slashes must follow the colon, as in s3://bucket/prefix")
        if _OF_WINDOWS.match(uri):
            raise InputError(f"{uri}: a path of Windows, which this machine does not have: give one of its own")
        # Not Path.expanduser, which fails for ~name where there is no such user: to a shell that is a plain name.
        return _without_null(os.path.expanduser(uri)).absolute()  # noqa: PTH111
    if scheme in S3_ELSEWHERE:
        raise InputError(
            f"{shown(uri)}: {scheme}:// is accessed through its S3 interface: write s3://{rest.partition('?')[0]} and "
            f"set AWS_ENDPOINT_URL to {S3_ELSEWHERE[scheme]}"
        )
    if scheme != "file":
        raise InputError(
            f"{shown(uri)}: files cannot be stored or listed at a {scheme}:// address; "
            "give file:///folder, a plain path or s3://bucket/prefix"
        )
    host, slash, path = rest.partition("/")
    if host not in ("", "localhost") or not slash:
        raise InputError(
            f"{shown(uri)}: a file address needs an absolute path after three slashes, as in file:///data/job"
        )
    return _without_null("/" + unquote(path))


def _without_null(path: str) -> Path:
    if "\0" in path:
        raise InputError(f"{path!r} has a null character, which no file name can have")
    return Path(path)


def file_uri(path: Path) -> str:
    """The address of a local path."""
    return "file://" + quote(str(path), errors="surrogateescape")


def shown(uri: str) -> str:
    """An address as messages may show it: without user, password and query, which can carry secrets; a file's path.

    Of a longer text, such as a pipeline of GStreamer, the addresses and passwords in it are hidden.
    """
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return uri
    if not _SCHEME.fullmatch(scheme):
        return redacted(uri)
    place, slash, path = rest.partition("/")
    if scheme == "file" and place in ("", "localhost") and slash:
        return f"/{unquote(path)}"  # with its spaces and letters, so that it can be opened
    if scheme in ("s3", "file"):
        return f"{scheme}://{place.rpartition('@')[2]}{slash}{path}"
    try:
        parts = urlsplit(uri)
        host = parts.netloc.rpartition("@")[2]
        _ = parts.port  # a password with a slash in it makes nonsense of the port
    except ValueError:
        return f"{scheme}://..."
    return f"{scheme}://{host}{parts.path}" + ("?..." if parts.query else "")


def shown_model(base_model: str) -> str:
    """A base model as descriptions and reports may name it: an address without what lets somebody in."""
    url, separator, digest = base_model.partition("#sha256=")
    return shown(url) + separator + digest
