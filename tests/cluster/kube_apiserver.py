"""A real kube-apiserver with etcd: there are no controllers and no nodes, so a test plays their part in a status."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import urllib3
import yaml
from kubernetes import client

from components.core.processes import end

ADMIN, STEP = "token-of-the-administrator", "token-of-the-step"
STEP_ACCOUNT = "system:serviceaccount:kubeflow:pipeline-runner"  # who runs the steps of a pipeline
_TOKENS = f'{ADMIN},admin,1,"system:masters"\n{STEP},{STEP_ACCOUNT},2,"system:serviceaccounts,system:authenticated"\n'
_PROGRAMS = ("kube-apiserver", "etcd")


@dataclass(frozen=True)
class ApiServer:
    """A server that runs."""

    host: str
    ca: Path
    _defined: set[str] = field(default_factory=set)

    def client(self, token: str = ADMIN) -> client.ApiClient:
        """Who holds the token."""
        configuration = client.Configuration()
        configuration.host, configuration.ssl_ca_cert = self.host, str(self.ca)
        configuration.api_key["authorization"] = f"Bearer {token}"
        configuration.proxy = None
        return client.ApiClient(configuration)

    def define(self, group: str) -> None:
        """Make the custom resources of a group known, as :func:`definitions` finds them; conversions are left out."""
        api = client.ApiextensionsV1Api(self.client())
        for path in definitions(group):
            name = f"{path.stem.removeprefix(f'{group}_')}.{group}"
            if name in self._defined:
                continue
            definition = yaml.load(path.read_text(encoding="utf-8"), yaml.CSafeLoader)  # of a megabyte
            definition["spec"].pop("conversion", None)  # by a webhook that is not here
            api.create_custom_resource_definition(definition)
            end = time.monotonic() + 60
            while not _established(api.read_custom_resource_definition(name)):
                assert time.monotonic() < end, f"{name} is not established"
                time.sleep(0.05)
            self._defined.add(name)


def folder() -> Path:
    """Where ``tests/cluster/build`` puts programs and definitions, unless it is told otherwise."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("EDGE_TEST_KUBERNETES") or cache / "edge-learning-tests" / "kubernetes")


def programs() -> dict[str, str] | None:
    """The paths of the programs, from the folder or from PATH; None where one is absent."""
    found = {name: shutil.which(name, path=f"{folder()}{os.pathsep}{os.environ['PATH']}") for name in _PROGRAMS}
    return {name: path for name, path in found.items() if path} if all(found.values()) else None


def definitions(group: str) -> list[Path]:
    """The CustomResourceDefinitions of a group such as ``serving.kserve.io``; empty where they were not brought."""
    return sorted((folder() / "crds").glob(f"{group}_*.yaml"))


def _established(definition: client.V1CustomResourceDefinition) -> bool:
    conditions = definition.status.conditions or ()
    return any(one.type == "Established" and one.status == "True" for one in conditions)


@contextmanager
def kube_apiserver(where: Path) -> Iterator[ApiServer]:
    """Run the server as long as the body runs.

    Args:
        where: an empty folder for its data and logs.
    """
    paths = programs()
    assert paths, "see programs()"
    etcd, peers, port = _free_ports(3)
    key, tokens = where / "key.pem", where / "tokens.csv"
    subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True, capture_output=True)
    tokens.write_text(_TOKENS)
    store, among = f"http://127.0.0.1:{etcd}", f"http://127.0.0.1:{peers}"
    with (
        _running(
            where, paths["etcd"], "--data-dir", str(where / "etcd"), "--unsafe-no-fsync",
            "--listen-client-urls", store, "--advertise-client-urls", store, "--listen-peer-urls", among,
            "--initial-advertise-peer-urls", among, "--initial-cluster", f"default={among}",
        ),
        _running(
            where, paths["kube-apiserver"], f"--etcd-servers={store}", f"--cert-dir={where / 'certs'}",
            f"--secure-port={port}", "--bind-address=127.0.0.1", "--advertise-address=127.0.0.1",
            "--service-account-issuer=https://tests.local", f"--service-account-signing-key-file={key}",
            f"--service-account-key-file={key}", "--api-audiences=tests.local", f"--token-auth-file={tokens}",
            "--service-cluster-ip-range=10.0.0.0/24", "--authorization-mode=RBAC",
            "--disable-admission-plugins=ServiceAccount",  # whose controller is not here
        ) as server,
    ):  # fmt: skip
        running = ApiServer(f"https://127.0.0.1:{port}", where / "certs" / "apiserver.crt")
        _wait_until_ready(running, server, where / "kube-apiserver.log")
        yield running


@contextmanager
def _running(where: Path, *command: str) -> Iterator[subprocess.Popen[bytes]]:
    with (where / f"{Path(command[0]).name}.log").open("wb") as output:
        process = subprocess.Popen(command, cwd=where, stdout=output, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        end(process)


def _wait_until_ready(running: ApiServer, process: subprocess.Popen[bytes], log: Path) -> None:
    http = urllib3.PoolManager(cert_reqs="CERT_NONE", retries=False)
    urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
    end = time.monotonic() + 120
    while time.monotonic() < end and process.poll() is None:
        try:
            answer = http.request("GET", f"{running.host}/readyz", headers={"Authorization": f"Bearer {ADMIN}"})
            if answer.status == 200:
                return
        except urllib3.exceptions.HTTPError:
            pass
        time.sleep(0.1)
    raise RuntimeError(f"kube-apiserver did not start:\n{log.read_text(errors='replace')[-2000:]}")


def _free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()
