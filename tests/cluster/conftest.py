"""A real Kubernetes API for tests: skipped where ``tests/cluster/build`` has not run."""

import uuid

import pytest
import yaml
from kubernetes import client

from tests.cluster.kube_apiserver import ApiServer, definitions, kube_apiserver, programs


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


def define(api_server: ApiServer, group: str) -> None:
    """Make the custom resources of a group known to the server; skips the test where they were not brought."""
    found = definitions(group)
    if not found:
        pytest.skip(f"no CustomResourceDefinition of {group}: run tests/cluster/build")
    api = client.ApiextensionsV1Api(api_server.client())
    for path in found:
        definition = yaml.safe_load(path.read_text(encoding="utf-8"))
        definition["spec"].pop("conversion", None)  # by a webhook that is not here
        name = definition["metadata"]["name"]
        if name in {one.metadata.name for one in api.list_custom_resource_definition().items}:
            continue
        api.create_custom_resource_definition(definition)
