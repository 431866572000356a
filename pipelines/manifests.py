"""Compiled pipelines as Kubernetes objects, for a server that keeps its pipelines as such, and for GitOps.

Kubeflow Pipelines from 2.14 on, installed in its Kubernetes-native API mode, takes the kinds ``Pipeline`` and
``PipelineVersion`` of ``pipelines.kubeflow.org/v2beta1`` in place of an upload.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from components.core.documents import read_yaml_documents
from components.core.stores.transfer import landing
from components.core.version import VERSION
from pipelines.client import Package

API = "pipelines.kubeflow.org/v2beta1"


def write_manifests(packages: Iterable[Package], folder: Path) -> list[Path]:
    """Write a file for each compiled pipeline, with the pipeline and its version.

    Args:
        packages: from ``client.read_package``.
        folder: gets ``<name>.yaml``; made if it is not there.

    Returns:
        The files written.
    """
    made = {
        folder / f"{package.name}.yaml": yaml.safe_dump_all(manifests(package), sort_keys=False, width=120)
        for package in packages
    }
    for path, text in made.items():
        with landing(path) as file:
            file.write(text.encode())
    return list(made)


def manifests(package: Package) -> list[dict[str, Any]]:
    """The pipeline and its version.

    Argo CD makes the version after the pipeline that it belongs to, and keeps it when another one takes its place in
    the file, since schedules may still use it.
    """
    spec, *platform = read_yaml_documents(package.path.read_text(encoding="utf-8"), str(package.path))
    name, description = package.name, spec["pipelineInfo"].get("description", "")
    tags = {"edge-learning": VERSION}
    return [
        {
            "apiVersion": API,
            "kind": "Pipeline",
            "metadata": {"name": name},
            "spec": {"displayName": name, "description": description, "tags": tags},
        },
        {
            "apiVersion": API,
            "kind": "PipelineVersion",
            "metadata": {
                "name": f"{name}-{package.version}",
                "annotations": {
                    "argocd.argoproj.io/sync-wave": "1",
                    "argocd.argoproj.io/sync-options": "Prune=false",
                },
            },
            "spec": {
                "pipelineName": name,
                "displayName": package.version,
                "description": description,
                "tags": tags,
                "pipelineSpec": spec,
                **({"platformSpec": platform[0]} if platform else {}),
            },
        },
    ]
