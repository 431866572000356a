"""The Kubernetes manifest of a poller: one pod that looks at a feed, in place of four for every look."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from components.core import parameters
from components.core.documents import read_yaml_documents
from components.core.errors import InputError
from components.core.stores.transfer import landing
from components.trigger.poller import TOKEN_VARIABLE, Order
from pipelines import cluster as pods
from pipelines.arguments import sort_into_place
from pipelines.client import Cluster, check_arguments, checked_address, read_package

ROUND_OF = {"incremental-learning": "incremental-round", "lifelong-learning": "lifelong-round"}
DIGEST = "edge-learning/order"  # the annotation by which Kubernetes makes a new pod of a changed ConfigMap
IN_CLUSTER = "http://ml-pipeline.kubeflow:8888"  # where the distribution and the standalone installation have the API
_FOLDER = "/etc/edge-learning/poller"
_TOKENS = "/var/run/secrets/kubeflow/pipelines"
_LONGEST_NAME = 38  # of what names the Deployment and the ConfigMap


def write_manifest(
    cluster: Cluster,
    path: Path,
    pipeline: str,
    arguments: Mapping[str, Any],
    *,
    every_seconds: float,
    name: str = "",
    api: str = IN_CLUSTER,
    experiment: str = "",
    service_account: str = "",
    pipeline_root: str = "",
) -> str:
    """Upload the pipeline of a round, and write a manifest of what starts it when there is work.

    Args:
        cluster: from ``client.connect``.
        path: of the manifest.
        pipeline: name or path of one that polls, a key of ``ROUND_OF``; the one of a round lies beside it.
        arguments: parameters by name.
        every_seconds: from one look to the next.
        name: of the poller, and the beginning of its runs' names; by default the pipeline's.
        api: address of Kubeflow Pipelines as pods reach it.
        experiment: group of its runs; by default named like the pipeline.
        service_account: that the poller and the pods of its runs run as; empty for the namespace's default.
        pipeline_root: where KFP keeps artifacts; empty for the server's default.

    Returns:
        A line that says what to do with it.

    Raises:
        InputError: the pipeline does not poll, or the arguments, the name or the server forbid it.
    """
    api = checked_address(api, "poller host")
    package = read_package(pipeline)
    if package.name not in ROUND_OF:
        raise InputError(f"--poller: {package.name} does not poll a feed: choose from {', '.join(ROUND_OF)}")
    name = name or package.name
    word = re.sub("[^a-z0-9]+", "-", name.lower()).strip("-")
    if not 0 < len(word) <= _LONGEST_NAME:
        raise InputError(
            f"name {name!r}: a poller's name has at most {_LONGEST_NAME} characters, among them a letter a-z or a digit"
        )
    label = f"edge-poller-{word}"
    of_round = read_package(ROUND_OF[package.name], package.path.parent.parent)
    check_arguments(package, arguments)
    parameters.check_repeated(arguments)
    given = sort_into_place(package.face, arguments)
    spec = read_yaml_documents(package.path.read_text(encoding="utf-8"), str(package.path))[0]
    container = spec["deploymentSpec"]["executors"]["exec-trigger"]["container"]
    values = {row: kind.get("defaultValue") for row, kind in package.inputs.items()} | given
    with cluster.explained():
        version, group = cluster.version(of_round), cluster.experiment(experiment or package.name)
    order = Order(
        api=api,
        every_seconds=every_seconds,
        name=name,
        inputs={row: values[row] for row in ("feed_url", "job_root", "settings")},
        run={
            "experiment_id": group,
            "pipeline_version_reference": {"pipeline_id": version.pipeline, "pipeline_version_id": version.id},
            "runtime_config": {"parameters": given, **({"pipeline_root": pipeline_root} if pipeline_root else {})},
            **({"service_account": service_account} if service_account else {}),
        },
    )
    files = {"poller.json": order.model_dump_json(indent=2), "trigger.py": container["command"][3]}
    digest = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
    metadata = {"name": label, "labels": {"app": label}}
    if cluster.namespace:
        metadata["namespace"] = cluster.namespace
    documents = [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": files},
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": metadata,
            "spec": {
                "replicas": 1,
                "strategy": {"type": "Recreate"},
                "selector": {"matchLabels": {"app": label}},
                "template": {
                    "metadata": {"labels": {"app": label}, "annotations": {DIGEST: digest}},
                    "spec": _pod(container["image"], label, values, service_account),
                },
            },
        },
    ]
    with landing(path) as file:
        file.write(yaml.safe_dump_all(documents, sort_keys=False, width=1000).encode())
    return f"{path}: a poller that starts {of_round.name} {version.name}: kubectl apply -f {path}"


def _pod(image: str, label: str, values: Mapping[str, Any], service_account: str) -> dict[str, Any]:
    """The pod, as Pod Security's level "restricted" admits it."""
    secret = values["store_secret"]
    keys = [
        {"name": key, "valueFrom": {"secretKeyRef": {"name": secret, "key": key, "optional": True}}}
        for key in pods.CREDENTIALS
    ]
    token = {"audience": "pipelines.kubeflow.org", "expirationSeconds": 3600, "path": "token"}
    return {
        "serviceAccountName": service_account or "default",
        "automountServiceAccountToken": False,
        "nodeSelector": values["node_selector"],
        "tolerations": values["tolerations"],
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": pods.USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [
            {
                "name": "poller",
                "image": image,
                "command": ["python3", "-m", "components.trigger.poller", _FOLDER],
                "terminationMessagePolicy": "FallbackToLogsOnError",
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                },
                "env": [{"name": TOKEN_VARIABLE, "value": f"{_TOKENS}/token"}, *keys],
                "resources": {
                    "requests": {"cpu": pods.SMALL_CPU, "memory": pods.SMALL_MEMORY},
                    "limits": {"cpu": pods.SMALL_CPU_LIMIT, "memory": pods.SMALL_MEMORY_LIMIT},
                },
                "volumeMounts": [
                    {"name": "order", "mountPath": _FOLDER, "readOnly": True},
                    {"name": "store", "mountPath": pods.STORE_FOLDER, "readOnly": True},
                    {"name": "token", "mountPath": _TOKENS, "readOnly": True},
                    {"name": "cache", "mountPath": pods.CACHE_FOLDER},
                    {"name": "tmp", "mountPath": "/tmp"},
                ],
            }
        ],
        "volumes": [
            {"name": "order", "configMap": {"name": label}},
            {"name": "store", "secret": {"secretName": secret, "optional": True}},
            {"name": "token", "projected": {"sources": [{"serviceAccountToken": token}]}},
            {"name": "cache", "emptyDir": {"sizeLimit": pods.CACHE_SIZE}},
            {"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}},
        ],
    }
