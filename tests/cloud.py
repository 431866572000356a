"""What the tests of the cloud server share: one in a thread, and questions to it."""

import json
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from time import monotonic, sleep

import numpy as np

from components.core.detections import Detections
from components.core.wire import JPEG, Answer, image_size
from components.serving.cloud_server import CloudServer, Options


def options(tmp_path: Path, **others) -> Options:
    """A server that answers everybody, unless told otherwise."""
    chosen = {
        "job_root": str(tmp_path / "job"), "node": "cloud-1", "folder": tmp_path / "cloud", "port": 0,
        "anonymous": True, "poll_s": 0.1, "threads": 1,
    } | others  # fmt: skip
    return Options(**chosen)


@contextmanager
def serving(chosen: Options, *, ready: bool = True):
    """A server in a thread, and what ends it. One that speaks TLS counts as ready when it has a model."""
    server = CloudServer(chosen)
    thread = Thread(target=server.run, daemon=True)
    thread.start()
    end = monotonic() + 60
    try:
        while not (_is_up(server, "/readyz" if ready else "/healthz") if not chosen.tls_cert else server.active.coming):
            assert monotonic() < end, "the server is not ready in time"
            sleep(0.05)
        yield server
    finally:
        server.stop()
        thread.join(20)
        assert not thread.is_alive()


def _is_up(server: CloudServer, path: str) -> bool:
    return ask(server.port, path)[0] == 200


def ask(port: int, path: str, data: bytes | None = None, kind: str = JPEG, **headers: str):
    """Status, headers and body (JSON where it is) of an answer; POST where there is data."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    if data is not None:
        given["Content-Type"] = kind
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data, given)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.headers, _read(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, error.headers, _read(error.read())
    except urllib.error.URLError as error:
        return 0, {}, str(error)


def _read(body: bytes):
    try:
        return json.loads(body)
    except ValueError:
        return body.decode()


class FakeClock:
    """A clock that is set by hand."""

    start = now = 1000.0

    def __call__(self):
        return self.now


class Fake:
    """A cloud that answers as it is told, and keeps what it was sent."""

    def __init__(self):
        self.sent, self.headers = [], []
        self.status, self.body, self.extra, self.pause = 200, None, {}, 0.0

    def answer(self, data):
        width, height = image_size(data)
        found = Detections.of([[2, 2, 8, 8]], [0], [0.8])
        return Answer.of(found, np.zeros((height, width, 3)), "big-1", "0" * 64, ("blue", "red")).encode()


@contextmanager
def fake_cloud():
    fake = Fake()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            data = self.rfile.read(int(self.headers["Content-Length"]))
            fake.sent.append(data)
            fake.headers.append(dict(self.headers))
            time.sleep(fake.pause)
            body = fake.answer(data) if fake.body is None else fake.body
            self.send_response(fake.status)
            for name, value in fake.extra.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    fake.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
