"""What the cluster would not do without saying so: a cache that may not be written, and a pod that no node can hold."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from components.core.kubernetes_objects import Namespace, in_cluster
from components.core.parameters import TrainerSettings

logger = logging.getLogger(__name__)

_SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


TRAINJOB_ROLE = "images/trainjob-role.yaml"


def try_trainjob(place: TrainerSettings, namespace: Namespace | None = None) -> None:
    """With ``trainer=trainjob`` see as a dry run that the cluster takes a TrainJob of this step; else do nothing.

    Args:
        place: where the training is to run.
        namespace: of the TrainJob; None for that of this pod.

    Raises:
        InputError: Kubeflow Trainer is not there, has no such runtime, or the step may not ask for a TrainJob.
        OutOfReachError: the API server does not answer, or cannot now.
    """
    if place.trainer != "trainjob" or not (namespace or in_cluster()):
        return
    asked = {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "metadata": {"name": "edge-learning-setup"},
        "spec": {"runtimeRef": {"name": place.training_runtime}},
    }
    (namespace or Namespace.of_pod(role=TRAINJOB_ROLE)).apply(asked, owned=True, dry_run=True)


def warn_of_cluster(values: Mapping[str, Any]) -> None:
    """Warn of what would make later steps slow, or wait for ever; on a single machine do nothing.

    Args:
        values: inputs of the pipeline by name, as the table's ``ClusterInputs`` has them.
    """
    if not _SERVICE_ACCOUNT.is_file():
        return
    warn_of_cache(os.environ.get("EDGE_CACHE_DIR", ""))
    from kubernetes import client, config

    config.load_incluster_config()
    warn_of_nodes(client.CoreV1Api(), values)


def warn_of_cache(folder: str) -> None:
    """Warn if the cache of a cluster may not be written: the volume of a claim often belongs to root.

    Args:
        folder: where the cache is mounted; empty where there is none.
    """
    if folder and Path(folder).is_dir() and not os.access(folder, os.W_OK | os.X_OK):
        logger.warning(
            "warning: the cache %s may not be written by user %d, so that each step uses a folder that ends with it: "
            "give the volume to the user's group once, with images/cache-claim.yaml", folder, os.getuid(),
        )  # fmt: skip


def warn_of_nodes(api: Any, values: Mapping[str, Any]) -> None:
    """Warn if no node can hold what training asks for; its pod would wait for ever without a word.

    Args:
        api: a ``kubernetes.client.CoreV1Api``; one that may not list nodes gives no warning.
        values: as of :func:`warn_of_cluster`.
    """
    from kubernetes.client.exceptions import ApiException
    from urllib3.exceptions import HTTPError

    try:
        nodes = api.list_node(_request_timeout=10).items
    except (ApiException, HTTPError):
        return
    asked = {"cpu": values["train_cpu"], "memory": values["train_memory"]}
    if values["train_gpus"] != "0":
        asked[values["train_gpu_type"]] = values["train_gpus"]
    labels = values["node_selector"]
    chosen = [node for node in nodes if labels.items() <= (node.metadata.labels or {}).items()]
    if not any(_holds(node, asked) for node in chosen):
        wanted = ", ".join(f"{name}={quantity}" for name, quantity in asked.items())
        logger.warning(
            "warning: no node can hold what training asks for (%s), and its pod would wait for ever. %s. Give smaller "
            "train_cpu, train_memory or train_gpus, or another node_selector", wanted, _largest(chosen, asked, labels),
        )  # fmt: skip


def _holds(node: Any, asked: Mapping[str, str]) -> bool:
    from kubernetes.utils.quantity import parse_quantity

    has = node.status.allocatable or {}
    return all(parse_quantity(has.get(name, "0")) >= parse_quantity(quantity) for name, quantity in asked.items())


def _largest(nodes: Iterable[Any], asked: Iterable[str], labels: Mapping[str, str]) -> str:
    """What each chosen node has of what is asked for, at most three of them."""
    told = []
    for node in nodes:
        has = node.status.allocatable or {}
        told.append(f"{node.metadata.name} has " + ", ".join(f"{name}={has.get(name, 0)}" for name in asked))
    return "; ".join(told[:3]) or f"No node has the labels {dict(labels)}"
