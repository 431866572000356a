"""A real Kubernetes API for tests: skipped where ``tests/cluster/build`` has not run."""

import uuid

import pytest
from kubernetes import client

from tests.cluster.kube_apiserver import ApiServer, kube_apiserver, programs


@pytest.fixture(scope="session")
def api_server(tmp_path_factory):
    """A kube-apiserver, one for each test process."""
    if programs() is None:
        pytest.skip("no kube-apiserver and etcd: run tests/cluster/build, or name a folder in EDGE_TEST_KUBERNETES")
    with kube_apiserver(tmp_path_factory.mktemp("kubernetes")) as server:
        yield server


@pytest.fixture
def namespace(api_server: ApiServer):
    """The name of an empty namespace that enforces Pod Security's level "restricted"."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    client.CoreV1Api(api_server.client()).create_namespace({"metadata": {"name": name, "labels": labels}})
    return name
