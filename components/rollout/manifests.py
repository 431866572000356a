"""What a cluster runs for joint inference, made of the manifests in ``images``: one source for both ways to apply them.

The cloud server is a Deployment with a HorizontalPodAutoscaler, or an InferenceService of KServe with the same pod; a
Service leads to either. The edge worker is a DaemonSet: one on every node that is labelled for it.
"""

from __future__ import annotations

import hashlib
import json
import re
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

import components
from components.core.errors import InputError
from components.core.kubernetes_objects import MANAGER, Object
from components.core.parameters import ServingSettings
from components.core.release import BIG, LITTLE

NAME, INSTANCE, MANAGED_BY, PART_OF = (
    f"app.kubernetes.io/{label}" for label in ("name", "instance", "managed-by", "part-of")
)
JOB = "edge-learning/job-root"  # the annotation that says which job an object belongs to
REVISION = "edge-learning/revision"  # the label that a new pod is known by where a status does not count new ones

_IMAGES = Path(components.__path__[0]).resolve().parent / "images"
_LONGEST = 40  # of a name, with room for what is put behind it within the 63 characters of a label
_PORT = 8080
# Of an InferenceService, beside its pod:
_SCALE = ("minReplicas", "maxReplicas", "scaleMetric", "scaleTarget", "deploymentStrategy")


@dataclass(frozen=True)
class Images:
    """The images of both programs."""

    cloud: str
    edge: str


def name_of(job_root: str, chosen: ServingSettings) -> str:
    """What the names of a job's objects begin with.

    Raises:
        InputError: the job's address has no such name in it.
    """
    if chosen.serving_name:
        return chosen.serving_name
    last = job_root.rstrip("/").rpartition("/")[2].lower()
    name = re.sub(r"[^a-z0-9]+", "-", last).lstrip("-0123456789")[:_LONGEST].rstrip("-")
    if not name:
        raise InputError(f"job_root={job_root} gives no name for Kubernetes objects: set serving_name")
    return name


def render(job_root: str, chosen: ServingSettings, images: Images, store_secret: str, namespace: str) -> list[Object]:
    """The objects that run both programs of a job, in the order in which they are applied.

    Args:
        job_root: of the job; pods have to reach it.
        chosen: the settings.
        images: of the programs, where the settings name none.
        store_secret: name of the secret with which cloud servers reach the store.
        namespace: that the objects are for.

    Raises:
        InputError: pods would not find the job or what edge workers look at, or the job's name cannot be used.
    """
    if not job_root.startswith("s3://"):
        raise InputError(f"job_root={job_root} is a folder, which pods cannot reach: serving needs s3://bucket/prefix")
    name = name_of(job_root, chosen)
    cloud = _cloud(name, job_root, chosen, chosen.cloud_image or images.cloud, store_secret)
    url = chosen.cloud_url or f"http://{name}-cloud.{namespace}:{_PORT}"
    edge = _edge(name, job_root, chosen, chosen.edge_image or images.edge, url)
    return [*cloud, edge]


def selector(thing: Object) -> dict[str, str]:
    """Labels of the pods that belong to an object."""
    labels = thing["metadata"]["labels"]
    return {name: labels[name] for name in (NAME, INSTANCE)}


def pod_of(workload: Object) -> Object:
    """A pod as a Deployment, a DaemonSet or an InferenceService makes it."""
    spec = workload["spec"]
    if "template" in spec:
        template = spec["template"]
    else:
        predictor = dict(spec["predictor"])
        metadata = {name: predictor.pop(name) for name in ("labels", "annotations")}
        template = {"metadata": metadata, "spec": {n: v for n, v in predictor.items() if n not in _SCALE}}
    metadata = template["metadata"] | {"name": f"{workload['metadata']['name']}-check"}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}


def _cloud(name: str, job_root: str, chosen: ServingSettings, image: str, store_secret: str) -> list[Object]:
    deployment, service, autoscaler = _manifests("cloud/server.yaml")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    container["image"] = image
    container["envFrom"] = [{"secretRef": {"name": secret}} for secret in (store_secret, chosen.cloud_secret)]
    container["resources"] = _resources(chosen.cloud_cpu, chosen.cloud_memory)
    _set_environment(container, CLOUD_JOB_ROOT=job_root, CLOUD_MEMBER=BIG)
    pod = deployment["spec"]["template"]["spec"]
    pod |= {"nodeSelector": chosen.cloud_node_selector, "tolerations": chosen.cloud_tolerations}
    deployment["spec"]["progressDeadlineSeconds"] = chosen.serving_timeout
    scale = {"minReplicas": chosen.cloud_replicas, "maxReplicas": chosen.cloud_max_replicas}
    autoscaler["spec"] |= scale
    autoscaler["spec"]["scaleTargetRef"]["name"] = f"{name}-cloud"
    for one in (deployment, service, autoscaler):
        _own(one, f"{name}-cloud", "cloud-server", name, job_root)
    service["spec"]["selector"] = selector(service)
    if chosen.serving == "kserve":
        return [service, _inference_service(name, job_root, deployment, autoscaler, scale)]
    return [service, deployment, autoscaler]


def _inference_service(
    name: str, job_root: str, deployment: Object, autoscaler: Object, scale: dict[str, int]
) -> Object:
    """The Deployment's pod in an InferenceService, which is scaled as the Deployment would be.

    Its name is that of the job alone, since KServe makes a Service of the same name.
    """
    template = deepcopy(deployment["spec"]["template"])
    template["spec"]["containers"][0]["name"] = "kserve-container"
    (metric,) = autoscaler["spec"]["metrics"]
    made: Object = {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"annotations": {"serving.kserve.io/deploymentMode": "RawDeployment"}},  # without Knative
        "spec": {
            "predictor": {
                **template["spec"],
                **scale,
                "scaleMetric": metric["resource"]["name"],
                "scaleTarget": metric["resource"]["target"]["averageUtilization"],
                "deploymentStrategy": deployment["spec"]["strategy"],
                "labels": _with_revision(template),
                "annotations": template["metadata"]["annotations"],
            }
        },
    }
    return _own(made, name, "cloud-server", name, job_root)


def _edge(name: str, job_root: str, chosen: ServingSettings, image: str, url: str) -> Object:
    (daemons,) = _manifests("edge/worker.yaml")
    (container,) = daemons["spec"]["template"]["spec"]["containers"]
    container["image"] = image
    container["envFrom"] = [{"secretRef": {"name": chosen.edge_secret}}]
    container["resources"] = _resources(chosen.edge_cpu, chosen.edge_memory)
    pod = daemons["spec"]["template"]["spec"]
    spool = next(one["value"] for one in container["env"] if one["name"] == "EDGE_SPOOL")
    source = chosen.edge_source
    if source and "://" not in source and not source.startswith(f"{spool}/"):
        folder = next(one["hostPath"]["path"] for one in pod["volumes"] if "hostPath" in one)
        raise InputError(
            f"edge_source={source}: of its node, a pod of edge workers sees only {folder}, as {spool}: give a stream, "
            f"or a video or folder in {spool}; a camera of the node needs a manifest of your own, see images/edge"
        )
    token = {"secretKeyRef": {"name": chosen.cloud_secret, "key": "CLOUD_TOKEN"}}
    _set_environment(
        container, EDGE_JOB_ROOT=job_root, EDGE_MEMBER=LITTLE, EDGE_CLOUD_URL=url, EDGE_CLOUD_TOKEN=token,
        EDGE_SOURCE=source or None, EDGE_SPOOL=f"{spool}/{name}",  # which jobs on one node do not share
    )  # fmt: skip
    pod |= {"nodeSelector": chosen.edge_node_selector, "tolerations": chosen.edge_tolerations}
    _own(daemons, f"{name}-edge", "edge-worker", name, job_root)
    template = daemons["spec"]["template"]
    template["metadata"]["labels"] = _with_revision(template)
    return daemons


def _with_revision(template: Object) -> dict[str, str]:
    """The labels of a pod, with one that is another whenever anything of the pod is."""
    revision = hashlib.sha256(json.dumps(template, sort_keys=True).encode()).hexdigest()[:16]
    return {**template["metadata"]["labels"], REVISION: revision}


def _manifests(path: str) -> list[Object]:
    text = (_IMAGES / path).read_text(encoding="utf-8")
    return list(yaml.safe_load_all(text))


def _own(thing: Object, name: str, program: str, instance: str, job_root: str) -> Object:
    """Give an object and its pods a name and labels that say whose they are."""
    ours = {NAME: program, INSTANCE: instance, MANAGED_BY: MANAGER, PART_OF: MANAGER}
    metadata = thing["metadata"]
    metadata |= {"name": name, "labels": ours, "annotations": metadata.get("annotations", {}) | {JOB: job_root}}
    if "template" in thing["spec"]:
        thing["spec"]["selector"]["matchLabels"] = selector(thing)
        thing["spec"]["template"]["metadata"]["labels"] = ours
    return thing


def _set_environment(container: Object, **values: Any) -> None:
    """Set variables: to text, to where the value comes from, or to nothing."""
    kept = [one for one in container["env"] if one["name"] not in values]
    for name, value in values.items():
        if value is not None:
            kept.append({"name": name, "value" if isinstance(value, str) else "valueFrom": value})
    container["env"] = kept


def _resources(cpu: str, memory: str) -> Object:
    return {"requests": {"cpu": cpu, "memory": memory}, "limits": {"memory": memory}}
