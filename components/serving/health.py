"""What a worker shows of itself over HTTP: whether it lives, whether it is ready, and its metrics for Prometheus."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler
from socketserver import TCPServer, ThreadingMixIn

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from components.core.errors import InputError
from components.serving.metrics import Metrics

SILENT_SECONDS = 60.0  # without an image or another try, after which a worker counts as stuck
REQUEST_SECONDS = 5.0  # for each piece of a request to arrive
MAX_CONNECTIONS = 32  # a further one closes the oldest, so that probes get through whoever else holds connections


@contextmanager
def served(host: str, port: int, metrics: Metrics, ready: Callable[[], bool]) -> Iterator[int]:
    """Answer ``/healthz``, ``/readyz`` and ``/metrics`` while the body runs.

    Args:
        host: address or name of the interface to listen on; ``0.0.0.0`` or ``::`` for all of them.
        port: to listen on; 0 for any that is free.
        metrics: what is shown.
        ready: whether a model is loaded.

    Yields:
        The port.

    Raises:
        InputError: the host is not one of this machine, or the port is in use.
    """

    class Handler(_Handler):
        def answer(self, path: str) -> tuple[int, str, bytes]:
            return _answer(path, metrics, ready)

    server = _listening(host, port, Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, name="health", daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    """One request a connection."""

    timeout = REQUEST_SECONDS

    def do_GET(self) -> None:
        status, kind, body = self.answer(self.path.partition("?")[0])
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def answer(self, path: str) -> tuple[int, str, bytes]:
        """Status, content type and body of a path."""
        raise NotImplementedError

    def handle(self) -> None:
        with suppress(OSError):  # whoever asked is gone, or too slow
            super().handle()

    def version_string(self) -> str:
        """Nothing about the software for strangers."""
        return "edge-worker"

    def log_message(self, *_: object) -> None:
        pass  # a probe every few seconds is no news


class _Server(ThreadingMixIn, TCPServer):
    """A thread for each connection, of which there are at most ``MAX_CONNECTIONS``."""

    allow_reuse_address = daemon_threads = True
    block_on_close = False
    request_queue_size = MAX_CONNECTIONS

    def __init__(self, family: socket.AddressFamily, address: tuple[str, int], handler: type[_Handler]) -> None:
        self.address_family = family
        self._guard = threading.Lock()
        self._open: dict[socket.socket, None] = {}  # oldest first
        super().__init__(address, handler)

    def server_bind(self) -> None:
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)  # "::" answers IPv4, too
        super().server_bind()

    def process_request(self, request: socket.socket, client_address: object) -> None:  # type: ignore[override]
        with self._guard:
            self._open[request] = None
            oldest = next(iter(self._open)) if len(self._open) > MAX_CONNECTIONS else None
        if oldest is not None:
            with suppress(OSError):  # its thread may have closed it just now
                oldest.shutdown(socket.SHUT_RDWR)
        super().process_request(request, client_address)

    def shutdown_request(self, request: socket.socket) -> None:  # type: ignore[override]
        with self._guard:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, *_: object) -> None:
        pass  # one connection's trouble, which is not the worker's


def _listening(host: str, port: int, handler: type[_Handler]) -> _Server:
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return _Server(family, (str(address[0]), int(address[1])), handler)
    except (OSError, OverflowError) as error:
        raise InputError(
            f"host {host!r} and port {port} cannot be used ({error}): give another --host or --port, or port 0 for none"
        ) from error


def _answer(path: str, metrics: Metrics, ready: Callable[[], bool]) -> tuple[int, str, bytes]:
    if path == "/metrics":
        return 200, CONTENT_TYPE_LATEST, generate_latest(metrics.registry)
    if path == "/healthz":
        silence = metrics.silence
        well, text = silence < SILENT_SECONDS, f"last active {silence:.0f} s ago\n"
    elif path == "/readyz":
        well = ready()
        text = "a model is loaded\n" if well else "no model yet\n"
    else:
        return 404, "text/plain", b"there are /healthz, /readyz and /metrics\n"
    return (200 if well else 503), "text/plain", text.encode()
