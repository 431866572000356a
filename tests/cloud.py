"""What the tests of the cloud server share: one in a thread, and questions to it."""

import json
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from time import monotonic, sleep

from components.core.wire import JPEG
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
    """A server in a thread, and what ends it."""
    server = CloudServer(chosen)
    thread = Thread(target=server.run, daemon=True)
    thread.start()
    end = monotonic() + 60
    try:
        while ask(server.port, "/readyz" if ready else "/healthz")[0] != 200:
            assert monotonic() < end, "the server is not ready in time"
            sleep(0.05)
        yield server
    finally:
        server.stop()
        thread.join(20)
        assert not thread.is_alive()


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
