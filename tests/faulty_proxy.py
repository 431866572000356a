"""A proxy before an HTTP server of the tests, which spoils answers as networks and stores do on bad days."""

import os
import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

FAULTS = ("busy", "reset", "cut", "lost")
_OF_THE_CONNECTION = {"connection", "keep-alive", "transfer-encoding", "content-length"}


class FaultyProxy(ThreadingHTTPServer):
    """Passes requests on, and spoils some of them.

    ``busy`` answers 503 and ``reset`` breaks the connection, both without asking the server; ``cut`` breaks it in the
    middle of the answer, and ``lost`` before it, when the server has done what was asked.

    Attributes:
        address: of the proxy.
        share: of the requests that are spoilt, 0 to 1.
        is_down: while it is, every connection breaks before the server is asked.
        passed: how many requests were passed on unspoilt.
        spoilt: how many were spoilt, by fault.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, server: str, seed: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behind = urlsplit(server).netloc
        self.address = f"http://127.0.0.1:{self.server_address[1]}"
        self.share, self.is_down, self.passed = 0.0, False, 0
        self.spoilt: Counter[str] = Counter()
        self._random, self._lock = random.Random(seed), threading.Lock()

    def next_fault(self) -> str:
        """What is to happen to the next request; empty for nothing."""
        with self._lock:
            fault = self._random.choice(FAULTS) if self._random.random() < self.share else ""
            fault = "down" if self.is_down else fault
            if fault:
                self.spoilt[fault] += 1
            else:
                self.passed += 1
            return fault

    def handle_error(self, *_) -> None:
        """A client that was killed says nothing of the proxy."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = self.server.next_fault()
        if fault in ("down", "reset"):
            return self._break()
        if fault == "busy":
            return self._answer(503, [], b"<html>not now</html>")
        status, headers, content = self._asked(body)
        if fault == "lost" or (fault == "cut" and not content):
            return self._break()
        self._answer(status, headers, content, sent=len(content) // 2 if fault == "cut" else None)
        if fault == "cut":
            self._break()

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _serve  # noqa: N815

    def _asked(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        """What the server answers. The host is left as the client wrote it, since it is part of what was signed."""
        connection = HTTPConnection(self.server.behind)
        connection.request(self.command, self.path, body, dict(self.headers) | {"Connection": "close"})
        answer = connection.getresponse()
        content = answer.read()
        headers = [(name, value) for name, value in answer.getheaders() if name.lower() not in _OF_THE_CONNECTION]
        length = answer.headers["Content-Length"] if self.command == "HEAD" else len(content)
        connection.close()
        return answer.status, [*headers, ("Content-Length", str(length or 0))], content

    def _answer(self, status: int, headers: list[tuple[str, str]], content: bytes, sent: int | None = None) -> None:
        self.send_response_only(status)
        for name, value in headers or [("Content-Length", str(len(content)))]:
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[:sent])

    def _break(self) -> None:
        """Close the connection with a reset, which tells the client that it is broken and not at its end."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(self.connection.detach())

    def log_message(self, *_) -> None:
        pass


@contextmanager
def faulty_proxy(server: str, seed: int = 0) -> Iterator[FaultyProxy]:
    """Start a proxy before the server at an address; it spoils nothing until it is told to."""
    proxy = FaultyProxy(server, seed)
    thread = threading.Thread(target=proxy.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield proxy
    finally:
        proxy.shutdown()
        thread.join()
        proxy.server_close()
