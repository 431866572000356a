"""A real S3 service for one slow test: Ceph's gateway with a cluster of one monitor and one disk in memory."""

import shutil
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import urllib3

from components.core.processes import end

PROGRAMS = ("radosgw", "radosgw-admin", "ceph", "ceph-mon", "ceph-osd", "ceph-authtool", "monmaptool")
DEBIAN_PACKAGES = "radosgw ceph-mon ceph-osd ceph-common"
CONFIGURATION = """
[global]
fsid = {fsid}
mon host = {monitor}
keyring = {folder}/keyring
run dir = {folder}
admin socket = {folder}/$name.asok
log file = {folder}/$name.log
osd objectstore = memstore
memstore device bytes = 1073741824
osd pool default size = 1
osd pool default pg num = 8
osd crush chooseleaf type = 0
mon allow pool size one = true
mon data avail crit = 1
[mon]
mon data = {folder}/mon
[osd]
osd data = {folder}/osd
[client.rgw]
rgw frontends = beast endpoint=127.0.0.1:{port} tcp_nodelay=1
"""


def missing_programs() -> list[str]:
    return [program for program in PROGRAMS if shutil.which(program) is None]


@contextmanager
def radosgw(folder: Path, access_key: str, secret_key: str) -> Iterator[str]:
    """Run the gateway with one user as long as the body runs; yields its address."""
    monitor, second, port = _free_ports(3)
    fsid, disk = str(uuid.uuid4()), str(uuid.uuid4())
    monitor_at = f"[v2:127.0.0.1:{monitor}/0,v1:127.0.0.1:{second}/0]"
    configuration, keyring = folder / "ceph.conf", folder / "keyring"
    configuration.write_text(CONFIGURATION.format(fsid=fsid, monitor=monitor_at, folder=folder, port=port))
    (folder / "osd").mkdir()

    def do(program: str, *arguments: object, configured: bool = True) -> None:
        _run(program, *(("-c", configuration) if configured else ()), *arguments)

    do(
        "ceph-authtool",
        "--create-keyring",
        keyring,
        "--gen-key",
        "-n",
        "mon.",
        "--cap",
        "mon",
        "allow *",
        configured=False,
    )
    for name in ("client.admin", "client.rgw", "osd.0"):
        capabilities = [part for kind in ("mon", "osd", "mgr") for part in ("--cap", kind, "allow *")]
        do("ceph-authtool", keyring, "--gen-key", "-n", name, *capabilities, configured=False)
    do("monmaptool", "--create", "--fsid", fsid, "--addv", "a", monitor_at, folder / "monmap", configured=False)
    do("ceph-mon", "--mkfs", "-i", "a", "--monmap", folder / "monmap", "--keyring", keyring)
    with ExitStack() as running:

        def start(program: str, *arguments: str) -> None:
            running.enter_context(_running(folder, program, "-c", str(configuration), "-f", *arguments))

        start("ceph-mon", "-i", "a")
        do("ceph", "osd", "new", disk, "0")
        do("ceph-osd", "--mkfs", "-i", "0", "--osd-uuid", disk)
        start("ceph-osd", "-i", "0")
        do("ceph", "osd", "crush", "add", "osd.0", "1.0", "root=default", "host=here")
        start("radosgw", "-n", "client.rgw")
        do(
            "radosgw-admin",
            "user",
            "create",
            "--uid=test",
            "--display-name=test",
            f"--access-key={access_key}",
            f"--secret={secret_key}",
        )
        address = f"http://127.0.0.1:{port}"
        _wait_for(address)
        yield address


def _run(*command: object) -> None:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed: {done.stderr[-1000:]}")


@contextmanager
def _running(folder: Path, *command: str) -> Iterator[None]:
    with (folder / f"{command[0]}.out").open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        yield
    finally:
        end(process)


def _free_ports(count: int) -> list[int]:
    with ExitStack() as opened:
        probes = [opened.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def _wait_for(address: str) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        try:
            urllib3.request("GET", address, retries=False, timeout=5)
            return
        except urllib3.exceptions.HTTPError:
            time.sleep(0.2)
    raise RuntimeError(f"no answer from {address}")
