"""Put compiled pipelines into a server, so that its pages show them with a name, a description and a version."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path

from kfp_server_api import V2beta1Pipeline

from components.core.documents import read_yaml_documents
from components.core.version import VERSION
from pipelines.client import COMPILED, TIMEOUT, Cluster, equals, read_package


def upload(cluster: Cluster, pipelines: list[str], folder: Path = COMPILED) -> Iterator[str]:
    """Put pipelines into a server; one that is there in the same version stays as it is.

    Args:
        cluster: from ``client.connect``.
        pipelines: names or paths, see ``client.read_package``; empty for all in ``folder``.
        folder: of compiled pipelines.

    Yields:
        A line for each pipeline.

    Raises:
        InputError: there is no such pipeline, or the server forbids it.
    """
    names = pipelines or sorted(path.stem for path in (folder / "pipelines").glob("*.yaml"))
    for package in [read_package(name, folder) for name in names]:
        path, version = str(package.path), package.version
        document = read_yaml_documents(package.path.read_text(encoding="utf-8"), path)[0]
        description = document["pipelineInfo"].get("description", "")
        with cluster.explained(), redirect_stdout(io.StringIO()):  # kfp prints links of its own
            found = _find(cluster, package.name) or _make(cluster, package.name, description)
            request = cluster.client.pipelines.pipeline_service_list_pipeline_versions
            listed = cluster.pages(request, "pipeline_versions", pipeline_id=found)
            is_there = version in {one.display_name for one in listed}
            if not is_there:
                cluster.client.upload_pipeline_version(path, version, pipeline_id=found, description=description)
        yield f"{package.name} {version} {'was there already' if is_there else 'is uploaded'}: {cluster.ui}/#/pipelines"


def _find(cluster: Cluster, name: str) -> str:
    """The id of a pipeline; empty if it is not there."""
    request = cluster.client.pipelines.pipeline_service_list_pipelines
    query = {"filter": equals("display_name", name), "namespace": cluster.namespace or ""}
    return next((str(one.pipeline_id) for one in cluster.pages(request, "pipelines", **query)), "")


def _make(cluster: Cluster, name: str, description: str) -> str:
    """Make a pipeline that has no version yet, with the suite's version as a tag."""
    wanted = V2beta1Pipeline(
        display_name=name, description=description, namespace=cluster.namespace, tags={"edge-learning": VERSION}
    )
    made = cluster.client.pipelines.pipeline_service_create_pipeline(wanted, _request_timeout=TIMEOUT)
    return str(made.pipeline_id)
