"""The way from an edge worker to the cloud server: one try within a deadline, none while the server is known gone."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from threading import Lock
from urllib.parse import urlsplit

import urllib3
from urllib3.exceptions import HTTPError, MaxRetryError, NewConnectionError, ProtocolError, SSLError, TimeoutError

from components.core.backoff import Backoff
from components.core.errors import InputError
from components.core.rate_limit import RateLimit
from components.core.stores.addresses import shown
from components.core.stores.connections import BusyError, Tls, open_pool, reason_of, tls_trouble
from components.core.wire import MAX_ANSWER_BYTES, TIMEOUT_HEADER, Answer, predict_path

FAILURES = 3  # one after the other, after which the circuit opens
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 2.0, 60.0
MAX_RETRY_AFTER_SECONDS = 60.0
_CHUNK_BYTES = 1 << 16
_REFUSALS = {400, 413, 415, 500}  # of an image, by a server that is well
_SAY_AGAIN_SECONDS = 60.0

log = logging.getLogger(__name__)


class CloudError(Exception):
    """The cloud server did not answer, or not with an answer.

    Attributes:
        refused: the server says that it cannot answer for this image, so that sending it again is of no use.
    """

    def __init__(self, reason: str, *, refused: bool = False) -> None:
        super().__init__(reason)
        self.refused = refused


class CircuitBreaker:
    """Keeps a worker from waiting for a server that is gone.

    After three failures the circuit is open: nothing is sent for a while, then one request is tried. Each such try that
    fails doubles the pause, up to a minute; one that succeeds closes the circuit. Several threads may use it.

    Args:
        clock: seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._backoff = Backoff(FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS)
        self._failures, self._closed_at = 0, 0.0
        self._lock = Lock()

    @property
    def closed(self) -> bool:
        """Whether the latest requests were answered, or too few failed to say more."""
        return self._failures < FAILURES

    @property
    def allows(self) -> bool:
        """Whether a request may be sent now."""
        return self._clock() >= self._closed_at

    def succeeded(self) -> None:
        """A request was answered."""
        with self._lock:
            self._failures, self._closed_at = 0, 0.0
            self._backoff.reset()

    def failed(self, retry_after_s: float = 0.0) -> None:
        """A request was not answered.

        Args:
            retry_after_s: for how long the server asks to be left alone.
        """
        with self._lock:
            self._failures += 1
            pause = self._backoff.next() if self._failures >= FAILURES else 0.0
            self._closed_at = self._clock() + max(pause, min(retry_after_s, MAX_RETRY_AFTER_SECONDS))


class CloudClient:
    """Asks a cloud server.

    Args:
        url: of the server, ``http://`` or ``https://``.
        token: that it asks for; empty for none.
        timeout_s: seconds that an image and its answer may take.
        name: of the model there.
        tls: certificates, for an ``https://`` address.
        clock: seconds that only grow.

    Raises:
        InputError: an address or a certificate that cannot be.
    """

    def __init__(
        self,
        url: str,
        token: str,
        timeout_s: float,
        name: str = "model",
        tls: Tls | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or "@" in parts.netloc:
            raise InputError(
                f"cloud address {shown(url)!r}: give http://HOST:PORT or https://HOST:PORT; the token goes into "
                "EDGE_CLOUD_TOKEN"
            )
        if "/v1/models" in parts.path:
            raise InputError(f"cloud address {shown(url)!r}: give it without /v1/models/..., which is added")
        if tls and tls != Tls() and parts.scheme != "https":
            raise InputError(f"cloud address {shown(url)!r}: certificates need TLS: give https://HOST:PORT")
        self.circuit = CircuitBreaker(clock)
        self._url = url.rstrip("/") + predict_path(name)
        self._name, self._timeout_s, self._clock = shown(url), timeout_s, clock
        self._headers = {TIMEOUT_HEADER: str(max(1, int(timeout_s * 1000)))}
        if token:
            self._headers["Authorization"] = f"Bearer {token}"
        self._pool = open_pool(url, tls)
        self._lines = RateLimit(_SAY_AGAIN_SECONDS)

    def ask(self, data: bytes, kind: str, width: int, height: int, classes: Sequence[str]) -> Answer:
        """What the cloud's model finds in an image.

        Args:
            data: bytes of a JPEG or PNG.
            kind: which of the two, as Content-Type.
            width: of the image, in pixels as displayed.
            height: of it.
            classes: names of the classes that the answer has to have, in any order.

        Raises:
            CloudError: there is no answer in time, or it is none that can be true or used. The circuit breaker is told.
        """
        try:
            status, body = self._post(data, kind)
            if status != 200:
                raise CloudError(self._refusal(status, body), refused=status in _REFUSALS)
            answer = Answer.decode(body, width, height)
            answer.detections(classes)
        except (HTTPError, InputError, CloudError) as error:
            reason = self._reason(error) if isinstance(error, HTTPError) else str(error)
            self.circuit.failed(error.retry_after_s if isinstance(error, BusyError) else 0.0)
            if self._lines.allows(reason):
                log.warning("cloud server %s: %s; using the edge's result", self._name, reason)
            refused = isinstance(error, CloudError) and error.refused
            if isinstance(error, BusyError):
                refused = error.status in _REFUSALS
            raise CloudError(reason, refused=refused) from error
        self.circuit.succeeded()
        return answer

    def close(self) -> None:
        """Close the connections."""
        self._pool.clear()

    def _post(self, data: bytes, kind: str) -> tuple[int, bytes]:
        end = self._clock() + self._timeout_s
        answer = self._pool.once(
            "POST", self._url, body=data, headers={**self._headers, "Content-Type": kind}, redirect=False,
            timeout=urllib3.Timeout(total=self._timeout_s), preload_content=False,
        )  # fmt: skip
        body = bytearray()
        try:
            while chunk := answer.read1(_CHUNK_BYTES):  # what has arrived, so that a slow answer meets the deadline
                body += chunk
                if len(body) > MAX_ANSWER_BYTES:
                    raise CloudError(f"the answer has more than {MAX_ANSWER_BYTES} bytes")
                if self._clock() > end:
                    raise CloudError(f"no complete answer within {self._timeout_s:g} s")
        except BaseException:
            answer.close()
            raise
        answer.release_conn()
        return answer.status, bytes(body)

    def _reason(self, error: HTTPError) -> str:
        """What went wrong with a connection, in the same words each time."""
        inner = error.reason if isinstance(error, MaxRetryError) else error
        if isinstance(inner, TimeoutError) and not isinstance(inner, NewConnectionError):
            return f"no answer within {self._timeout_s:g} s"
        if trouble := tls_trouble(error, "--cloud-ca"):
            return trouble
        # A server that misses a certificate says so, ends TLS or the connection, whatever reaches this side first.
        if isinstance(inner, (ProtocolError, SSLError)) and self._url.startswith("https:"):
            return f"{reason_of(error)}; it may ask for a client certificate: give --cloud-cert and --cloud-key"
        return reason_of(error)

    def _refusal(self, status: int, body: bytes) -> str:
        if 300 <= status < 400:
            return f"HTTP {status}, a redirect: give the address of the cloud server itself"
        if status in (401, 403):
            problem = "the token was rejected" if "Authorization" in self._headers else "a token is required"
            return f"HTTP {status}, {problem}: set EDGE_CLOUD_TOKEN to the server's CLOUD_TOKEN"
        said = " ".join(body[:200].decode("utf-8", "replace").split())
        return f"HTTP {status} ({said})" if said else f"HTTP {status}"
