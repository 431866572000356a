"""A Label Studio server for the demo and for tests, in a process and an environment of its own."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from components.core.errors import InputError
from components.core.processes import end

USER = "demo@example.com"
FIRST_START_SECONDS = 900.0  # it makes its database: 50 seconds where the processor has little else to do, or minutes


@dataclass(frozen=True)
class Server:
    """A server that runs.

    Attributes:
        address: of it.
        token: of its only user, a legacy token.
        password: of that user.
    """

    address: str
    token: str
    password: str


def check_program(program: Path) -> None:
    """Make sure that there is a Label Studio.

    Raises:
        InputError: there is none.
    """
    if not program.is_file():
        raise InputError(f"{program}: no Label Studio there: run make demo-labelling, which installs it")


@contextmanager
def label_studio(program: Path, folder: Path, document_root: Path, port: int = 0) -> Iterator[Server]:
    """Run a server, on this machine only, while the body runs.

    Args:
        program: the command ``label-studio``.
        folder: for its database and its log.
        document_root: the folder below which it serves local files: that of the job.
        port: that it listens on; 0: any.

    Raises:
        InputError: there is no such program, the port is in use, or it does not start.
    """
    check_program(program)
    folder.mkdir(parents=True, exist_ok=True)
    document_root.mkdir(parents=True, exist_ok=True)
    port = free_port(port)
    server = Server(f"http://127.0.0.1:{port}", secrets.token_hex(20), secrets.token_urlsafe(12))
    command = [str(program), "start", "--no-browser", "--internal-host", "127.0.0.1", "--port", str(port)]
    log = folder / "server.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [*command, "--log-level", "WARNING"], stdout=output, stderr=subprocess.STDOUT,
            env=_environment(server, folder, document_root),
        )  # fmt: skip
    try:
        _await(server.address, process, log)
        yield server
    finally:
        end(process)


def _environment(server: Server, folder: Path, document_root: Path) -> Mapping[str, str]:
    """What the server is to know; nothing leaves the machine."""
    return os.environ | {
        "LABEL_STUDIO_BASE_DATA_DIR": str(folder / "data"),
        "LABEL_STUDIO_USERNAME": USER,
        "LABEL_STUDIO_PASSWORD": server.password,
        "LABEL_STUDIO_USER_TOKEN": server.token,
        "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
        "LABEL_STUDIO_DISABLE_SIGNUP_WITHOUT_LINK": "true",
        "LOCAL_FILES_SERVING_ENABLED": "true",
        "LOCAL_FILES_DOCUMENT_ROOT": str(document_root),
        "LATEST_VERSION_CHECK": "false",
        "COLLECT_ANALYTICS": "false",
        "SENTRY_DSN": "",
        "FRONTEND_SENTRY_DSN": "",
    }


def _await(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    end, direct = time.monotonic() + FIRST_START_SECONDS, urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while time.monotonic() < end and process.poll() is None:
        try:
            with direct.open(f"{address}/health", timeout=5):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.5)
    raise InputError(f"Label Studio did not start: see {log}")


def free_port(wanted: int) -> int:
    """A port that nothing listens on; asked for a port in use, the server would quietly take another."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError as error:
            raise InputError(f"port {wanted} cannot be used ({error.strerror}): give another with --port") from error
        return int(probe.getsockname()[1])
