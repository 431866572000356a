"""Put compiled pipelines into a server, so that its pages show them with a name, a description and a version."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pipelines.client import COMPILED, Cluster, compiled_in, read_package


def upload(cluster: Cluster, pipelines: list[str], folder: Path = COMPILED) -> Iterator[str]:
    """Put pipelines into a server; one that is there with the same content stays as it is.

    Args:
        cluster: from ``client.connect``.
        pipelines: names or paths, see ``client.read_package``; empty for all in ``folder``.
        folder: of compiled pipelines.

    Yields:
        A line for each pipeline.

    Raises:
        InputError: there is no such pipeline, or none at all, or the server forbids it.
    """
    for package in [read_package(name, folder) for name in pipelines or compiled_in(folder)]:
        with cluster.explained():
            version = cluster.version(package)
        change = "is uploaded" if version.is_new else "was there already"
        yield f"{package.name} {version.name} {change}: {cluster.version_url(version)}"
