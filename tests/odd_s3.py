"""An S3 server in memory that behaves as some servers do, and not as it should. Signatures are not looked at."""

import hashlib
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from xml.sax.saxutils import escape

CONDITIONS = ("atomic", "racy", "ignored", "only-if-absent")
_SECONDS_OF_A_RACE = 0.02  # between looking at a condition and writing

Answer = tuple[int, bytes, dict[str, str]]


class OddS3(ThreadingHTTPServer):
    """The server.

    Attributes:
        objects: contents by key, of whatever bucket.
        requests: method and key of each.
        conditions: what becomes of If-Match and If-None-Match: ``atomic``; ``racy``, where several writers of a race
            win; ``ignored``; ``only-if-absent``, where If-Match is ignored.
        by_folders: whether listings come in the order of folders, also behind ``start-after``, as SeaweedFS has it.
        name: the header ``Server``.
        rule: answers in place of the server; None from it leaves the request to the server.
        page: how many keys a listing has at most.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.address = f"http://127.0.0.1:{self.server_address[1]}"
        self.objects: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.conditions, self.by_folders, self.name, self.page = "atomic", False, "OddS3 1.0", 1000
        self.rule: Callable[[BaseHTTPRequestHandler, str], Answer | None] = lambda *_: None
        self.lock = threading.Lock()

    def keys_after(self, prefix: str, after: str) -> list[str]:
        """The keys of a listing."""
        order = (lambda key: key.split("/")) if self.by_folders else (lambda key: key)
        with self.lock:
            found = [key for key in self.objects if key.startswith(prefix)]
        return sorted((key for key in found if not after or order(key) > order(after)), key=order)

    def handle_error(self, *_) -> None:
        """A client that went away says nothing of the server."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def version_string(self) -> str:
        return self.server.name

    def log_message(self, *_) -> None:
        pass

    def _serve(self) -> None:
        parts = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(parts.query, keep_blank_values=True))
        _, _, key = urllib.parse.unquote(parts.path).lstrip("/").partition("/")
        self.body = body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.requests.append((self.command, key))
        given = self.server.rule(self, key)
        if given is not None:
            return self._answer(*given)
        if "location" in query:
            return self._answer(200, _xml("LocationConstraint", ""), {})
        if not key:
            return self._list(query) if self.command == "GET" else self._answer(200, b"", {})
        if self.command == "PUT":
            return self._put(key, body)
        if self.command == "DELETE":
            self.server.objects.pop(key, None)
            return self._answer(204, b"", {})
        content = self.server.objects.get(key)
        if content is None:
            return self._answer(404, error("NoSuchKey"), {})
        self._answer(200, content, {"ETag": _etag(content), "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT"})

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _serve  # noqa: N815

    def _put(self, key: str, body: bytes) -> None:
        server = self.server
        if server.conditions == "racy":
            holds = self._condition_holds(key)
            time.sleep(_SECONDS_OF_A_RACE)
            if holds:
                server.objects[key] = body
        else:
            with server.lock:
                holds = self._condition_holds(key)
                if holds:
                    server.objects[key] = body
        if holds:
            self._answer(200, b"", {"ETag": _etag(body)})
        else:
            self._answer(412, error("PreconditionFailed"), {})

    def _condition_holds(self, key: str) -> bool:
        there = self.server.objects.get(key)
        match = self.headers.get("If-Match")
        if self.server.conditions == "ignored":
            return True
        if self.headers.get("If-None-Match") and there is not None:
            return False
        return (
            match is None or self.server.conditions == "only-if-absent" or (there is not None and match == _etag(there))
        )

    def _list(self, query: dict[str, str]) -> None:
        prefix = query.get("prefix", "")
        token = bytes.fromhex(query.get("continuation-token", "")).decode()
        keys = self.server.keys_after(prefix, token or query.get("start-after", ""))
        page, more = keys[: self.server.page], len(keys) > self.server.page
        quoted = urllib.parse.quote if query.get("encoding-type") == "url" else escape
        rows = "".join(
            f"<Contents><Key>{quoted(key)}</Key><Size>{len(self.server.objects[key])}</Size>"
            f"<ETag>{escape(_etag(self.server.objects[key]))}</ETag>"
            "<LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
            for key in page
        )
        token = f"<NextContinuationToken>{page[-1].encode().hex()}</NextContinuationToken>" if more else ""
        encoding = "<EncodingType>url</EncodingType>" if query.get("encoding-type") == "url" else ""
        head = (
            f"<Name>b</Name><Prefix>{quoted(prefix)}</Prefix>{encoding}<IsTruncated>{str(more).lower()}</IsTruncated>"
        )
        self._answer(200, _xml("ListBucketResult", head + token + rows), {})

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if body.startswith(b"<?xml"):
            self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def error(code: str, message: str = "", more: str = "") -> bytes:
    """The body of a refusal."""
    return _xml("Error", f"<Code>{code}</Code><Message>{escape(message)}</Message><RequestId>1</RequestId>{more}")


def _xml(root: str, inner: str) -> bytes:
    return f'<?xml version="1.0"?><{root} xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{inner}</{root}>'.encode()


def _etag(content: bytes) -> str:
    return f'"{hashlib.md5(content).hexdigest()}"'


@contextmanager
def odd_s3() -> Iterator[OddS3]:
    """Run a server, which behaves well until it is told otherwise."""
    server = OddS3()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
