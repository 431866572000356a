"""Objects of the web, by ``http://`` and ``https://``."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

import urllib3
from urllib3.exceptions import HTTPError

from components.core.errors import InputError, NotFoundError, OutOfReachError
from components.core.stores.addresses import shown
from components.core.stores.connections import Source, open_pool, proxy_to_check, reason_of, receive, tls_trouble
from components.core.stores.transfer import landing, os_errors, verify

_CANNOT_RESUME = {412, 416}


def download(uri: str, path: Path, sha256: str | None, max_bytes: int) -> None:
    """Bring one object to a local file, as :func:`components.core.stores.open.fetch` promises."""
    with os_errors(str(path)), _errors(uri), landing(path) as file:
        receive(_source(uri), file, shown(uri), max_bytes)
        verify(file, sha256, shown(uri))


def check(uri: str) -> None:
    """Make sure that an object is there, as :func:`components.core.stores.open.check_readable` promises."""
    with _errors(uri):
        _source(uri, first_byte_only=True)(0, "").close()


def _source(uri: str, *, first_byte_only: bool = False) -> Source:
    try:
        parts = urlsplit(uri)
    except ValueError as error:
        raise InputError(f"{shown(uri)}: not a valid address") from error
    login, _, host = parts.netloc.rpartition("@")
    url = urlunsplit(parts._replace(netloc=host, fragment=""))
    headers = {"Authorization": "Basic " + base64.b64encode(unquote(login).encode()).decode()} if login else {}
    pool = open_pool(url)

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
            raise _refusal(uri, answer)
        return answer

    return open_at


def _refusal(uri: str, answer: urllib3.BaseHTTPResponse) -> InputError:
    said = f"HTTP {answer.status} {answer.reason or ''}".rstrip()
    if answer.status in (404, 410):
        return NotFoundError(f"{shown(uri)}: no such file ({said})")
    if answer.status in (401, 403):
        return InputError(f"{shown(uri)}: access denied ({said}): check user, password or token in the address")
    kind = OutOfReachError if answer.status == 429 or answer.status >= 500 else InputError
    return kind(f"{shown(uri)}: the server did not return the file ({said})")


@contextmanager
def _errors(uri: str) -> Iterator[None]:
    try:
        yield
    except HTTPError as error:
        if trouble := tls_trouble(error, "SSL_CERT_FILE"):
            raise InputError(f"{shown(uri)}: {trouble}") from error
        where = f"{proxy_to_check(uri)}the address and the network"
        raise OutOfReachError(f"{shown(uri)}: cannot be reached ({reason_of(error)}): check {where}") from error
