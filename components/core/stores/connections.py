"""Connections that break: requests are tried again for a while, and downloads go on where they stopped."""

from __future__ import annotations

import logging
import os
import re
import ssl
import time
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import closing
from typing import Any, BinaryIO
from urllib.parse import unquote, urlsplit

import certifi
import urllib3
from urllib3.exceptions import HTTPError, LocationValueError, MaxRetryError

from components.core.backoff import Backoff
from components.core.errors import InputError
from components.core.stores.addresses import shown
from components.core.stores.transfer import CHUNK_BYTES

log = logging.getLogger(__name__)

PATIENCE_SECONDS = 60.0  # how long a store may be out of reach before a step gives up
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.25, 8.0
_TRIED_ONCE = urllib3.Retry(  # nothing is tried again inside the library, so that patience is counted in one place
    total=None, connect=False, read=False, status=False, other=False, redirect=10, raise_on_redirect=False
)

Source = Callable[[int, str], urllib3.BaseHTTPResponse]
"""Opens an object at an offset, given what told its version apart (an etag or a date); may begin at 0 instead."""


class _BusyError(HTTPError):
    """The server answered that it cannot serve now."""


class Patience:
    """Pauses between tries, growing until patience ends."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.renew()

    def renew(self) -> None:
        """Start afresh, after progress."""
        self._end = time.monotonic() + _patience_seconds()
        self._backoff = Backoff(FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS)

    def pause(self, error: Exception) -> None:
        """Wait before the next try, or raise the error when there shall be none."""
        wait = self._backoff.next()
        if _is_final(error) or time.monotonic() + wait > self._end:
            raise error
        log.info("%s: %s; trying again in %.1f s", self._name, reason_of(error), wait)
        time.sleep(wait)


class Pool(urllib3.PoolManager):
    """Connections on which every request is patient."""

    def urlopen(  # type: ignore[override]
        self, method: str, url: str, redirect: bool = True, **options: Any
    ) -> urllib3.BaseHTTPResponse:
        """One request, tried again until patience ends."""
        patience = Patience(shown(url))
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


class _ProxyPool(Pool, urllib3.ProxyManager):
    """The same through a proxy."""


def open_pool(url: str) -> Pool:
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
        return Pool(**options)
    login = unquote(urlsplit(proxy).netloc.rpartition("@")[0])
    headers = urllib3.make_headers(proxy_basic_auth=login) if login else None
    return _ProxyPool(proxy, proxy_headers=headers, **options)


def receive(source: Source, file: BinaryIO, name: str) -> str:
    """Write an object into an empty file, going on where a connection broke; returns what tells its version apart."""
    patience, validator, furthest = Patience(name), "", 0
    while True:
        try:
            with closing(source(file.tell() if validator else 0, validator)) as answer:
                if answer.status != 206:
                    file.seek(0)
                    file.truncate()
                validator = _validator(answer.headers)
                for chunk in answer.stream(CHUNK_BYTES, decode_content=False):
                    file.write(chunk)
            return validator
        except HTTPError as error:
            if file.tell() > furthest:
                furthest = file.tell()
                patience.renew()
            patience.pause(error)


def reason_of(error: Exception) -> str:
    """An error in few words, without the address, which may hold a signature."""
    cause = _cause(error)
    if isinstance(cause, LocationValueError):
        return "not a valid address"
    inner = cause.args[-1] if cause.args and isinstance(cause.args[-1], Exception) else cause
    return re.sub(r"^HTTPS?Connection(Pool)?\(.*?\): (Failed to establish a new connection: )?", "", str(inner))


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
