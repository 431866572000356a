"""A namespace of Kubernetes in small, in which Kubeflow Trainer trains: what a TrainJob asks for is done at once."""

import copy
import hashlib
from pathlib import Path

import numpy as np

from components.core.errors import OutOfReachError
from components.core.manifest import Manifest
from components.train import node
from tests.images import CLASSES, jpeg, squares

# The pod of a training step as Kubeflow Pipelines 2.16 and Argo make it, as far as it matters.
POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {
        "name": "helmets-x7-system-container-impl-1",
        "labels": {
            "pipeline/runid": "1f0c", "workflows.argoproj.io/workflow": "helmets-x7",
            "kueue.x-k8s.io/queue-name": "team-a",
        },
        "ownerReferences": [
            {
                "apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "name": "helmets-x7", "uid": "7c-1",
                "controller": True, "blockOwnerDeletion": True,
            }
        ],
    },
    "spec": {
        "serviceAccountName": "pipeline-runner",
        "activeDeadlineSeconds": 86400,
        "nodeSelector": {"kubernetes.io/arch": "amd64"},
        "tolerations": [
            {"key": "gpu", "operator": "Exists", "effect": "NoSchedule"},
            {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute"},
        ],
        "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
        "volumes": [
            {"name": "cache", "emptyDir": {"sizeLimit": "20Gi"}},
            {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "2Gi"}},
            {"name": "edge-learning-store", "secret": {"secretName": "edge-learning-store", "optional": True}},
            {"name": "kfp-launcher", "emptyDir": {}},
            {"name": "var-run-argo", "emptyDir": {}},
            {"name": "kube-api-access-x", "projected": {"sources": []}},
        ],
        "containers": [
            {"name": "wait", "image": "quay.io/argoproj/argoexec"},
            {
                "name": "main",
                "image": "registry.example.com/edge-learning/train:0.1.0",
                "command": ["/kfp-launcher/launch"],
                "env": [
                    {"name": "KFP_POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                    {"name": "EDGE_RUN", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['pipeline/runid']"}}},
                    {"name": "METADATA_GRPC_SERVICE_HOST", "value": "metadata-grpc-service.kubeflow"},
                    {"name": "ARGO_TEMPLATE", "value": "{}"},
                    {"name": "EDGE_CACHE_DIR", "value": "/cache"},
                    {
                        "name": "AWS_SECRET_ACCESS_KEY",
                        "valueFrom": {"secretKeyRef": {"name": "edge-learning-store", "key": "AWS_SECRET_ACCESS_KEY"}},
                    },
                ],
                "resources": {
                    "requests": {"cpu": "2", "memory": "8Gi"},
                    "limits": {"cpu": "2", "memory": "8Gi", "nvidia.com/gpu": "2"},
                },
                "securityContext": {"runAsUser": 1000, "runAsNonRoot": True},
                "volumeMounts": [
                    {"name": "cache", "mountPath": "/cache"},
                    {"name": "shm", "mountPath": "/dev/shm"},
                    {"name": "edge-learning-store", "mountPath": "/etc/edge-learning/store"},
                    {"name": "kfp-launcher", "mountPath": "/kfp-launcher"},
                    {"name": "kube-api-access-x", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"},
                ],
            },
        ],
    },
}  # fmt: skip


def samples(folder: Path, count: int) -> Manifest:
    """Labelled images of red and blue squares, one in four to choose the epoch by."""
    rng, rows = np.random.default_rng(1), []
    for number in range(count):
        image, boxes = squares(rng)
        path, data = folder / f"{number}.jpg", jpeg(image)
        path.write_bytes(data)
        rows.append(
            {
                "id": hashlib.sha256(data).hexdigest(), "uri": path.as_uri(), "width": 96, "height": 96,
                "split": "train" if number % 4 else "val", "group": str(number), "source": path.name, "round": 1,
                "annotations": [{"class_id": c, "x1": b[0], "y1": b[1], "x2": b[2], "y2": b[3]} for c, b in boxes],
            }
        )  # fmt: skip
    return Manifest.of(rows, CLASSES)


class FakeNamespace:
    """Keeps objects; a TrainJob trains in this process between two looks at it.

    Attributes:
        applied: every TrainJob that was asked for.
        ends: condition in which a TrainJob ends that is not trained here; empty to train it.
        away: how many requests are not answered.
    """

    name = "team"

    def __init__(self):
        self.jobs, self.applied, self.deleted = {}, [], []
        self.ends, self.away, self.lines = "", 0, []

    def read(self, kind, name):
        self._answer()
        if kind == "Pod":
            return copy.deepcopy(POD)
        return copy.deepcopy(self.jobs.get(name))

    def apply(self, manifest, *, owned):
        self._answer()
        self.applied.append(manifest)
        self.jobs[manifest["metadata"]["name"]] = copy.deepcopy(manifest)

    def delete(self, kind, name):
        self.deleted.append(name)
        self.jobs.pop(name, None)

    def pods(self, selector):
        (name,) = selector.values()
        phase = "Failed" if self.ends == "Failed" else "Running"
        terminated = {"terminated": {"reason": "OOMKilled", "exitCode": 137}}
        statuses = [{"name": "node", "state": terminated}] if phase == "Failed" else []
        return [{"metadata": {"name": f"{name}-node-0-0"}, "status": {"phase": phase, "containerStatuses": statuses}}]

    def log(self, pod, lines):
        return self.lines[-lines:]

    def work(self, _seconds=0.0):
        """What becomes of the TrainJobs while somebody sleeps."""
        for job in self.jobs.values():
            if self.ends:
                self._end(job, self.ends)
                continue
            command = job["spec"]["trainer"]["command"]
            try:
                node.run(*command[-2:])
            except Exception:
                self._end(job, "Failed")
            else:
                self._end(job, "Complete")

    @staticmethod
    def _end(job, kind):
        job["status"] = {"conditions": [{"type": kind, "status": "True", "reason": kind, "message": f"it is {kind}"}]}

    def _answer(self):
        if self.away:
            self.away -= 1
            raise OutOfReachError("the API server does not answer")
