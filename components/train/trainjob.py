"""A TrainJob of Kubeflow Trainer: what is asked of it, and where it stands.

It gets what the step that asks for it has: image, environment, volumes, node selector, tolerations, service account
and security, and its resources unless others are given. Of the step's pod these are what the pipeline asked for; what
Kubeflow Pipelines and Argo add for themselves is left out.

Source: the API ``trainer.kubeflow.org/v1alpha1`` as of Kubeflow Trainer 2.2, where ``runtimePatches`` took the place of
``podTemplateOverrides``.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from components.core.errors import InputError
from components.core.job.tries import POD_VARIABLE, RUN_VARIABLE
from components.core.kubernetes_objects import MANAGER, Object
from components.core.parameters import TrainerSettings

NODE = "node"  # how the runtimes of Kubeflow Trainer call the job of the trainer, and its container
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
_MAIN = "main"  # how Argo calls the container of a step
_PASSED_LABELS = (QUEUE_LABEL, "pipeline/runid")
_VOLUMES = ("secret", "configMap", "persistentVolumeClaim")
_OF_RUNNERS = re.compile(r"(KFP|ARGO|METADATA|ML_PIPELINE|KUBERNETES|PET)_.*")
_NO_DEVICE = re.compile(r"cpu|memory|ephemeral-storage|hugepages-.*")


def pod_name() -> str:
    """The name of the pod that this process runs in."""
    return os.environ.get("KFP_POD_NAME") or socket.gethostname()


def render(
    name: str, pod: Object, place: TrainerSettings, module: str, arguments: Sequence[str], distributed: bool
) -> Object:
    """A TrainJob that runs a module of this suite.

    Args:
        name: of the TrainJob.
        pod: of the step that asks.
        place: nodes, resources and runtime.
        module: what to run.
        arguments: its arguments.
        distributed: whether all nodes train one model together, by ``torchrun``; else there is one node.

    Raises:
        InputError: the step's pod has no container that could be passed on.
    """
    spec = pod["spec"]
    container = _container(spec)
    resources = _resources(container, place)
    processes = max(1, _devices(resources)) if distributed else 1
    starter = ["-m", "torch.distributed.run", "--module"] if distributed else ["-m"]
    volumes = [one for one in spec.get("volumes", ()) if _is_asked_for(one)]
    mounts = [one for one in container.get("volumeMounts", ()) if one["name"] in {volume["name"] for volume in volumes}]
    patched = {
        "serviceAccountName": spec.get("serviceAccountName"),
        "nodeSelector": spec.get("nodeSelector"),
        "tolerations": [one for one in spec.get("tolerations", ()) if not _is_added_by_kubernetes(one)],
        "imagePullSecrets": spec.get("imagePullSecrets"),
        "securityContext": spec.get("securityContext"),
        "volumes": volumes,
        "containers": [
            _filled({"name": NODE, "volumeMounts": mounts, "securityContext": container.get("securityContext")})
        ],
    }
    metadata = pod["metadata"]
    return {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "metadata": _filled(
            {
                "name": name,
                "labels": {key: value for key, value in metadata.get("labels", {}).items() if key in _PASSED_LABELS},
                "ownerReferences": [
                    {key: owner[key] for key in ("apiVersion", "kind", "name", "uid")}
                    for owner in metadata.get("ownerReferences", ())[:1]
                ],
            }
        ),
        "spec": _filled(
            {
                "runtimeRef": {"name": place.training_runtime},
                "activeDeadlineSeconds": spec.get("activeDeadlineSeconds"),
                "trainer": _filled(
                    {
                        "image": container["image"],
                        "command": ["python3", *starter, module, *arguments],
                        "env": [one for one in container.get("env", ()) if _is_passed(one)],
                        "numNodes": place.train_nodes,
                        "numProcPerNode": processes,
                        "resourcesPerNode": resources,
                    }
                ),
                "runtimePatches": [
                    {
                        "manager": MANAGER,
                        "trainingRuntimeSpec": {
                            "template": {
                                "spec": {
                                    "replicatedJobs": [
                                        {"name": NODE, "template": {"spec": {"template": {"spec": _filled(patched)}}}}
                                    ]
                                }
                            }
                        },
                    }
                ],
            }
        ),
    }


def condition(job: Object, kind: str) -> Object | None:
    """A condition of a TrainJob that holds, such as ``Complete``; None if it does not."""
    found = (job.get("status") or {}).get("conditions") or ()
    return next((one for one in found if one["type"] == kind and one["status"] == "True"), None)


def standing(job: Object, pods: Sequence[Object]) -> str:
    """Where a TrainJob stands that has not ended, as a part of a sentence."""
    if found := condition(job, "Suspended"):
        queue = job["metadata"].get("labels", {}).get(QUEUE_LABEL)
        return f"suspended ({found.get('message') or found['reason']})" + (f", in the queue {queue}" if queue else "")
    waiting = [reason for pod in pods if (reason := _why_waiting(pod))]
    running = sum(pod.get("status", {}).get("phase") == "Running" for pod in pods)
    nodes = job["spec"]["trainer"].get("numNodes", 1)
    return f"{running} of {nodes} nodes run" + (f"; {waiting[0]}" if waiting else "")


def _container(spec: Object) -> Object:
    found = next((one for one in spec["containers"] if one["name"] == _MAIN), None)
    if found is None:
        names = ", ".join(one["name"] for one in spec["containers"])
        raise InputError(f"trainer=trainjob: the pod of this step has no container {_MAIN!r}, only {names}")
    return dict(found)


def _resources(container: Object, place: TrainerSettings) -> Object:
    if place.node_resources:
        wanted = {name: str(quantity) for name, quantity in place.node_resources.items()}
        return {"requests": wanted, "limits": wanted}
    given = container.get("resources") or {}
    return {kind: given[kind] for kind in ("requests", "limits") if given.get(kind)}


def _devices(resources: Object) -> int:
    """How many GPUs or the like there are in a node; beside GPUs what else is asked for, such as RDMA, is none."""
    limits = resources.get("limits", {})
    devices = [name for name in limits if not _NO_DEVICE.fullmatch(name)]
    gpus = [name for name in devices if "gpu" in name]
    return sum(int(Decimal(str(limits[name]))) for name in gpus or devices)


def _is_asked_for(volume: Object) -> bool:
    """Whether the pipeline asked for a volume: those that the runners add have no size, or hold their own tokens."""
    folder = volume.get("emptyDir") or {}
    return any(kind in volume for kind in _VOLUMES) or "sizeLimit" in folder


def _is_passed(entry: Object) -> bool:
    """Whether a variable is of the pipeline; a field of the pod would be another one there."""
    is_of_a_field = "fieldRef" in (entry.get("valueFrom") or {})
    return not (is_of_a_field or entry["name"] in (RUN_VARIABLE, POD_VARIABLE) or _OF_RUNNERS.fullmatch(entry["name"]))


def _is_added_by_kubernetes(toleration: Object) -> bool:
    return str(toleration.get("key", "")).startswith("node.kubernetes.io/")


def _why_waiting(pod: Object) -> str:
    """Why a pod does not run yet; empty if it does, or just starts."""
    status = pod.get("status", {})
    for found in status.get("conditions") or ():
        if found["type"] == "PodScheduled" and found["status"] == "False":
            return str(found.get("message", ""))[:300]
    for one in status.get("containerStatuses") or ():
        waiting = (one.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") not in (None, "ContainerCreating", "PodInitializing"):
            return f"{waiting['reason']}: {waiting.get('message', '')}"[:300]
    return ""


def _filled(content: dict[str, Any]) -> dict[str, Any]:
    """The content without what is empty."""
    return {name: value for name, value in content.items() if value not in (None, {}, [], "")}
