"""Connections that break: requests are tried again for a while, and downloads go on where they stopped."""

from __future__ import annotations

import ipaddress
import logging
import math
import os
import re
import ssl
import time
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote, urlsplit

import certifi
import urllib3
from urllib3.exceptions import HTTPError, LocationValueError, MaxRetryError

from components.core.backoff import Backoff
from components.core.errors import InputError
from components.core.stores.addresses import shown
from components.core.stores.transfer import CHUNK_BYTES, check_size

log = logging.getLogger(__name__)

_NO_TLS = {"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST", "UNKNOWN_PROTOCOL"}  # as OpenSSL has it
PATIENCE_SECONDS = 60.0  # how long a store may be out of reach before a step gives up
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.25, 8.0
_TRIED_ONCE = urllib3.Retry(  # nothing is tried again inside the library, so that patience is counted in one place
    total=None, connect=False, read=False, status=False, other=False, redirect=10, raise_on_redirect=False
)

Check = Callable[[str, urllib3.BaseHTTPResponse, bool], None]
"""Looks at the answer to a request of some method, whose body has been read or is still to come, and raises an error if
it cannot come from the server that was meant."""

Source = Callable[[int, str], urllib3.BaseHTTPResponse]
"""Opens an object at an offset, given what identified its version (an etag or a date); may begin at 0 instead."""


class BusyError(HTTPError):
    """The server answered that it cannot serve now.

    Args:
        answer: its answer.
        said: what it said in place of its status.

    Attributes:
        status: of HTTP.
        retry_after_s: seconds for which it asks to be left alone; 0 where it does not say.
    """

    def __init__(self, answer: urllib3.BaseHTTPResponse, said: str = "") -> None:
        super().__init__(f"HTTP {answer.status} {said or answer.reason or ''}".rstrip())
        asked = answer.headers.get("Retry-After", "")
        self.status, self.retry_after_s = answer.status, float(asked) if asked.isdecimal() else 0.0


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
    """Connections on which every request is patient.

    Attributes:
        check: made of every answer.
    """

    check: Check | None = None

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
            raise BusyError(answer)
        if self.check is not None:
            try:
                self.check(method, answer, options.get("preload_content", True))
            except Exception:
                answer.close()
                raise
        return answer


@dataclass(frozen=True)
class Tls:
    """Certificates of one connection, as PEM files.

    Attributes:
        ca: that has to have issued the server's certificate; None for those that the environment names.
        certificate: of this client, for a server that asks for one.
        key: of that certificate, without a password.

    Raises:
        InputError: a file that cannot be, or one of ``certificate`` and ``key`` without the other.
    """

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise InputError("a client certificate needs both: the certificate and its key")
        for path in filter(None, (self.ca, self.certificate, self.key)):
            if not path.is_file():
                raise InputError(f"{path}: no such file; give the path of a PEM file")
        try:
            context = ssl.create_default_context(cafile=self.ca)
            if self.certificate is not None:
                context.load_cert_chain(self.certificate, self.key, password="")
        except OSError as error:  # an SSLError is one
            given = ", ".join(str(path) for path in (self.ca, self.certificate, self.key) if path)
            raise InputError(f"{given}: cannot be used ({error}); give PEM files, a key without a password") from error

    @property
    def options(self) -> dict[str, str]:
        """For urllib3."""
        named = {"ca_certs": self.ca, "cert_file": self.certificate, "key_file": self.key}
        return {name: str(path) for name, path in named.items() if path}


class _ProxyPool(Pool, urllib3.ProxyManager):
    """The same through a proxy."""


def open_pool(url: str, tls: Tls | None = None) -> Pool:
    """Connections to a server, through the proxy that the environment names for it.

    Args:
        url: of the server.
        tls: whom to trust, and what to show, where the environment is not to say so.

    Raises:
        InputError: what the environment says of certificates, the proxy or patience cannot be.
    """
    parts = urlsplit(url)
    answer_seconds = min(30.0, max(0.5, _patience_seconds() / 2))  # one silence leaves time for another try
    options: dict[str, Any] = {
        "maxsize": 64,
        "retries": _TRIED_ONCE,
        "timeout": urllib3.Timeout(connect=min(10.0, answer_seconds), read=answer_seconds),
        "ca_certs": _authorities() if parts.scheme == "https" else None,
    }
    options |= tls.options if tls else {}
    proxy = proxy_for(url)
    if not proxy:
        return Pool(**options)
    login = unquote(urlsplit(proxy).netloc.rpartition("@")[0])
    headers = urllib3.make_headers(proxy_basic_auth=login) if login else None
    try:
        return _ProxyPool(proxy, proxy_headers=headers, **options)
    except HTTPError:
        raise InputError(f"{parts.scheme.upper()}_PROXY is {shown(proxy)!r}: give http://host:port") from None


def proxy_for(url: str) -> str:
    """The proxy that ``HTTP_PROXY`` or ``HTTPS_PROXY`` names for a server, unless ``NO_PROXY`` does; empty: none."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    proxies = urllib.request.getproxies()
    proxy = proxies.get(parts.scheme, "").strip()
    if not proxy or urllib.request.proxy_bypass(host) or _is_in_networks(host, proxies.get("no", "")):
        return ""
    return proxy if "://" in proxy else f"http://{proxy}"


def proxy_to_check(url: str) -> str:
    """For the advice of a message: the proxy by which a server is reached, with `` and`` behind it; empty: none."""
    proxy = proxy_for(url)
    return f"the proxy in {urlsplit(url).scheme.upper()}_PROXY ({shown(proxy)}) and " if proxy else ""


def tls_trouble(error: Exception, variable: str) -> str:
    """What is wrong with a connection by TLS and what to do; empty if that is not what failed.

    Args:
        error: that ended the connection.
        variable: names the file of certificates to trust.
    """
    inner = next((part for part in _cause(error).args if isinstance(part, ssl.SSLError)), None)
    if isinstance(inner, ssl.SSLCertVerificationError):
        if "mismatch" in inner.verify_message:
            advice = "use the host name of the certificate"
        elif "expired" in inner.verify_message or "not yet valid" in inner.verify_message:
            advice = "renew it, or set this machine's clock"
        else:
            advice = f"set {variable} to the PEM file of its certificate authority"
        return f"the server's certificate is not trusted ({inner.verify_message}): {advice}"
    if inner is not None and inner.reason in _NO_TLS:
        return "the server does not speak TLS: write http:// in place of https://"
    return ""


def receive(source: Source, file: BinaryIO, name: str, max_bytes: int | None = None) -> str:
    """Write an object into an empty file, going on where a connection broke.

    Args:
        source: opens the object.
        file: gets its content.
        name: for messages.
        max_bytes: how large it may be; None: as large as it is.

    Returns:
        What identifies its version.

    Raises:
        TooLargeError: it is larger; at most a little more than ``max_bytes`` was written.
    """
    patience, validator, furthest = Patience(name), "", 0
    while True:
        try:
            with closing(source(file.tell() if validator else 0, validator)) as answer:
                if answer.status != 206:
                    file.seek(0)
                    file.truncate()
                validator = _validator(answer.headers)
                announced = answer.headers.get("Content-Length", "")
                check_size(name, file.tell() + (int(announced) if announced.isdecimal() else 0), max_bytes)
                for chunk in answer.stream(CHUNK_BYTES, decode_content=False):
                    file.write(chunk)
                    check_size(name, file.tell(), max_bytes)
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


def _authorities() -> str:
    """The file with the certificates to trust."""
    for variable in ("AWS_CA_BUNDLE", "SSL_CERT_FILE"):
        path = os.environ.get(variable, "").strip()
        if not path:
            continue
        try:
            ssl.create_default_context(cafile=path)
        except (OSError, ValueError) as error:  # an SSLError, that it holds no certificates, is an OSError
            reason = error.strerror if isinstance(error, FileNotFoundError | PermissionError) else "no certificates"
            raise InputError(f"{variable} is {path!r}: {reason}; give a PEM file of certificates") from None
        return path
    return certifi.where()


def _patience_seconds() -> float:
    given = os.environ.get("EDGE_STORE_PATIENCE", "")
    try:
        seconds = float(given) if given else PATIENCE_SECONDS
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise InputError(f"EDGE_STORE_PATIENCE={given!r}: must be a number of seconds")
    return seconds


def _cause(error: Exception) -> Exception:
    return error.reason if isinstance(error, MaxRetryError) and error.reason else error


def _is_final(error: Exception) -> bool:
    """Whether another try would end the same way."""
    return bool(tls_trouble(error, "")) or isinstance(_cause(error), LocationValueError)


def _is_in_networks(host: str, names: str) -> bool:
    """Whether an address is in one of the networks, such as ``10.0.0.0/8``, that ``NO_PROXY`` holds beside names."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    for name in names.split(","):
        with suppress(ValueError):
            if "/" in name and address in ipaddress.ip_network(name.strip(), strict=False):
                return True
    return False
