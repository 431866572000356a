"""The commands with kubectl that the pages show, on a real API server; what a controller makes is put there first."""

import shutil
import subprocess

import pytest
import yaml
from kubernetes import client

from tests.cluster.kube_apiserver import ADMIN
from tests.test_commands import ALL, REPOSITORY, Command

NODE = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "board-1"}}
APPLIED = [one for one in ALL if one.words[0] == "kubectl" and ("apply" in one.words or "label" in one.words)]
APPLIED += [one for one in ALL if one.words[:3] == ("kubectl", "create", "secret")]


@pytest.fixture
def kubectl(api_server, namespace, tmp_path):
    """Runs kubectl as an administrator, in a namespace."""
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    cluster = {"server": api_server.host, "certificate-authority": str(api_server.ca)}
    config = {
        "apiVersion": "v1", "kind": "Config", "current-context": "test",
        "clusters": [{"name": "test", "cluster": cluster}], "users": [{"name": "test", "user": {"token": ADMIN}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": namespace}}],
    }  # fmt: skip
    (tmp_path / "config").write_text(yaml.safe_dump(config))

    def kubectl(*words: str) -> str:
        command = ["kubectl", "--kubeconfig", str(tmp_path / "config"), *words]
        done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return kubectl


@pytest.mark.parametrize("command", [one for one in APPLIED if "poller.yaml" not in one.words], ids=str)
def test_a_command_runs(kubectl, api_server, namespace, tmp_path, command: Command):
    shutil.copytree(REPOSITORY / "images", tmp_path / "images")
    for name in ("company-ca.pem", "edge-worker.env"):
        (tmp_path / name).write_text("EDGE_CLOUD_TOKEN=1\n")
    if "NODE" in command.words:
        client.CoreV1Api(api_server.client()).create_node(NODE)
    named = {"NAMESPACE": namespace, "NODE": "board-1", "...": ""}
    said = kubectl(*filter(None, (named.get(word, word) for word in command.words[1:])))
    assert "created" in said or "labeled" in said
