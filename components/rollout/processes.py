"""Both programs of joint inference as processes of this machine: a cloud server, and an edge worker that asks it."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import secrets
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from components.core.errors import InputError
from components.core.processes import direct_on_this_machine, lasting_environment, module_command
from components.core.release import BIG, LITTLE

CLOUD, EDGE = "cloud-server", "edge-worker"

_RECORD = "processes.json"
_POLL_SECONDS = 0.1
_STOP_SECONDS = 45.0  # more than either program takes to end in order


@dataclass(frozen=True)
class Pair:
    """A cloud server and an edge worker that run.

    Attributes:
        folder: where they keep models, examples and logs.
        cloud_url: where the cloud server answers.
        edge_url: where the edge worker shows ``/healthz``, ``/readyz`` and ``/metrics``.
        wanted: digest of what they were started with.
    """

    folder: Path
    cloud_url: str
    edge_url: str
    wanted: str

    def log(self, program: str) -> Path:
        """Where ``cloud-server`` or ``edge-worker`` writes what it says."""
        return self.folder / f"{program}.log"

    def describe(self) -> str:
        """One line for people: where both answer, where they write, and how to end them."""
        numbers = " ".join(str(_pid(self.folder, program)) for program in (EDGE, CLOUD))
        return (
            f"cloud server at {self.cloud_url} (log: {self.log(CLOUD)}), edge worker at {self.edge_url} "
            f"(log: {self.log(EDGE)}); to end them: kill {numbers}"
        )

    def stop(self) -> None:
        """End both, the edge worker first; what is under way is finished."""
        for program in (EDGE, CLOUD):
            _end(self.folder, program)


@contextmanager
def pair(
    job_root: str, source: str, folder: Path, *, timeout_s: float = 120.0, cloud_options: Sequence[str] = (),
    edge_options: Sequence[str] = (),
) -> Iterator[Pair]:  # fmt: skip
    """Both programs as long as the body runs; arguments and errors are those of :func:`start`."""
    running = start(
        job_root, source, folder, timeout_s=timeout_s, cloud_options=cloud_options, edge_options=edge_options
    )
    try:
        yield running
    finally:
        running.stop()


def start(
    job_root: str, source: str, folder: Path, *, timeout_s: float = 120.0, cloud_options: Sequence[str] = (),
    edge_options: Sequence[str] = (),
) -> Pair:  # fmt: skip
    """Start both programs, and wait until both are ready; they outlive this process.

    Programs that run already with the same arguments are left alone, and others in the same folder are replaced. They
    share a token that is made here and lies in their environments alone. A new model needs no start: both follow the
    job's pointer.

    Args:
        job_root: the job; it has a pair as champion.
        source: what the edge worker looks at, as its ``--source``: a folder, a video, a camera or a stream.
        folder: for what both keep, and their logs; made if it is not there.
        timeout_s: seconds until both have to be ready.
        cloud_options: further options of ``components.serving.cloud_server``.
        edge_options: further options of ``components.serving.edge_worker``.

    Returns:
        The pair, whose ``stop`` ends both.

    Raises:
        InputError: one of them ends or is not ready in time; the message has the last line of its log, and neither is
            left behind.
    """
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    wanted = hashlib.sha256(json.dumps([job_root, source, *cloud_options, "|", *edge_options]).encode()).hexdigest()
    with _one_at_a_time(folder):
        running = running_in(folder)
        if running and running.wanted == wanted and _ready(running.cloud_url) and _ready(running.edge_url):
            return running
        for program in (EDGE, CLOUD):
            _end(folder, program)
        return _start(job_root, source, folder, wanted, timeout_s, (cloud_options, edge_options))


def running_in(folder: Path) -> Pair | None:
    """The pair that was started in a folder; None if none was. One of its programs may have ended since."""
    try:
        found = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
        return Pair(folder, found["cloud_url"], found["edge_url"], found["wanted"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _start(
    job_root: str,
    source: str,
    folder: Path,
    wanted: str,
    timeout_s: float,
    options: tuple[Sequence[str], Sequence[str]],
) -> Pair:
    ports, token, end = _free_ports(2), secrets.token_urlsafe(32), time.monotonic() + timeout_s
    # Everybody on this machine may read command lines, and the address of a camera may hold its password.
    secret = {"CLOUD_TOKEN": token, "EDGE_CLOUD_TOKEN": token, "EDGE_SOURCE": source}
    cloud_url, edge_url = (f"http://127.0.0.1:{port}" for port in ports)
    running = Pair(folder, cloud_url, edge_url, wanted)
    commands = {
        CLOUD: [
            "components.serving.cloud_server", "--job-root", job_root, "--member", BIG, "--folder", str(folder / CLOUD),
            "--port", str(ports[0]), *options[0],
        ],
        EDGE: [
            "components.serving.edge_worker", "--job-root", job_root, "--member", LITTLE,
            "--spool", str(folder / EDGE), "--cloud-url", cloud_url, "--port", str(ports[1]), "--idle-at-end",
            *options[1],
        ],
    }  # fmt: skip
    try:
        for program, url in ((CLOUD, cloud_url), (EDGE, edge_url)):
            process = _launch(folder, program, commands[program], secret)
            _wait_until_ready(running.log(program), program, process, url, end, timeout_s)
        _write(running)
    except BaseException:
        running.stop()
        raise
    return running


def _launch(folder: Path, program: str, command: Sequence[str], secret: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """A program in a session of its own; a lock that it holds as long as it lives has its process id in it."""
    environment = {**lasting_environment(), **direct_on_this_machine(), **secret}
    module, *arguments = command
    with _lock(folder, program).open("ab") as lock, (folder / f"{program}.log").open("ab") as log:
        if not _locked(lock):
            raise InputError(f"{folder}: a {program} runs there already: end it, or give another folder")
        process = subprocess.Popen(
            [*module_command(module), *arguments], env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True, pass_fds=[lock.fileno()],
        )  # fmt: skip
        lock.truncate(0)
        lock.write(str(process.pid).encode())
        return process


def _wait_until_ready(
    log: Path, program: str, process: subprocess.Popen[bytes], url: str, end: float, timeout_s: float
) -> None:
    while not _ready(url):
        ended = process.poll() is not None
        if ended or time.monotonic() >= end:
            what = "ended" if ended else f"is not ready after {timeout_s:g} s"
            raise InputError(f"the {program} {what}: {_last_line(log)} (log: {log})")
        time.sleep(_POLL_SECONDS)


def _ready(url: str) -> bool:
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"{url}/readyz", timeout=5) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def _end(folder: Path, program: str) -> None:
    """End a program if it runs: in order, and after some time at once."""
    with _lock(folder, program).open("ab") as lock:
        for number, patience in ((signal.SIGTERM, _STOP_SECONDS), (signal.SIGKILL, 5.0)):
            end = time.monotonic() + patience
            pid = _pid(folder, program)
            if pid is None or _locked(lock):
                return
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
            while time.monotonic() < end and not _locked(lock):
                time.sleep(_POLL_SECONDS)


def _pid(folder: Path, program: str) -> int | None:
    """The process of a program, which lives as long as its lock is held."""
    try:
        return int(_lock(folder, program).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _lock(folder: Path, program: str) -> Path:
    return folder / f"{program}.lock"


def _locked(lock: BinaryIO) -> bool:
    """Whether the lock is ours now, so that no program holds it."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    with (folder / "start.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _write(running: Pair) -> None:
    path = running.folder / _RECORD
    text = json.dumps(asdict(running) | {"folder": str(running.folder)}, indent=2)
    path.with_suffix(".new").write_text(text, encoding="utf-8")
    path.with_suffix(".new").replace(path)


def _last_line(log: Path) -> str:
    with contextlib.suppress(OSError), log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 4096))
        lines = file.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"
    return "it said nothing"


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
