"""What the template of a worker says: variables, nodes, resources and volumes, as parameters of a pipeline."""

from __future__ import annotations

import posixpath
import re

from components.core.parameters import OTHER_NAMES
from pipelines.interop.sedna_plan import Plan
from pipelines.interop.sedna_schema import Template

HOST_LABEL = "kubernetes.io/hostname"
STEPS = "Kubeflow Pipelines makes the pods of the steps"
EDGE = "images/edge/worker.yaml describes the pod of the edge worker"
CLOUD = "images/cloud/server.yaml describes the pod of the cloud server"
CLOUD_PROGRAM, EDGE_PROGRAM = "cloud_", "edge_"  # as parameters of a rollout begin

_CODE = (
    "its code does not run here: the steps and the edge worker have container images of their own (docs/images.md), "
    "and a model of your own is an estimator plug-in (docs/extending.md)"
)
_OWN_IMAGE = re.compile(r"(^|/)edge-learning/[\w-]+(:|@|$)")
_SHM = "/dev/shm"
# What the variables of Sedna's examples are called here, besides the names that other tools share with them.
_VARIABLES = {**OTHER_NAMES, "epoches": "epochs"}
_READ_BY_CODE = "a variable that the code of the image read; this suite has no parameter of this name"
_WHY_NOT = {
    "num_class": "the data set says how many classes there are; `classes` names them",
    "BACKEND_TYPE": "the estimator brings its framework along",
    "unseen_save_url": "the edge worker uploads unseen images to hard-examples/ in the job's root",
}


class Worker:
    """One worker of a job.

    Args:
        place: in the job, such as ``trainSpec``.
        template: of its pod.
        plan: gets what cannot be carried over.
        pods: what makes such pods here, as the reason for what is lost of a pod.
    """

    def __init__(self, place: str, template: Template, plan: Plan, pods: str) -> None:
        self.place, self.plan, self.pods = place, plan, pods
        self.pod = template.spec
        self.container = self.pod.containers[0]
        self._env: dict[str, str] = {}
        for variable in self.container.env:
            if variable.model_extra:
                plan.lose(place, f"env {variable.name}", "a value that another object of the cluster holds")
            else:
                self._env[variable.name] = variable.value
        self._folders = {volume.name: volume.host_path.path for volume in self.pod.volumes if volume.host_path}
        self._used: set[str] = set()
        self._lose_what_has_no_place()

    def take(self, *names: str) -> str:
        """The value of the first variable that is set, which is then dealt with; empty text if none is."""
        return next((self._env.pop(name) for name in names if name in self._env), "")

    def on_host(self, path: str) -> str:
        """A path of the container as a path of the machine, by the volumes of the pod; any other address as it is."""
        # Sedna's tutorials write file://video/x.mp4 for /video/x.mp4.
        inside = "/" + path.removeprefix("file://").lstrip("/") if path.startswith("file://") else path
        if not inside.startswith("/"):
            return path
        mounts = sorted(self.container.volume_mounts, key=lambda mount: -len(mount.mount_path))
        for mount in mounts:
            below = posixpath.relpath(inside, mount.mount_path)
            if not below.startswith("..") and mount.name in self._folders:
                self._used.add(mount.name)
                return posixpath.normpath(posixpath.join(self._folders[mount.name], below))
        return inside

    def set_variables(self, also: dict[str, str] | None = None) -> None:
        """Make parameters of the variables that are left. The value of one that is lost may be a credential.

        Args:
            also: parameters by the names that this worker has for them.
        """
        names = _VARIABLES | (also or {})
        for name in list(self._env):
            value, parameter = self._env.pop(name), names.get(name, name)
            if parameter in self.plan.names:
                self.plan.put(parameter, self.on_host(value), self.place, f"env {name}={value}")
            else:
                self.plan.lose(self.place, f"env {name}", _WHY_NOT.get(name, _READ_BY_CODE))

    def lose_variables(self, reason: str) -> None:
        """Take down the variables that are left, unless a parameter has the same value already."""
        for name in list(self._env):
            value = self._env.pop(name)
            parameter = _VARIABLES.get(name, name)
            if self.plan.parameters.get(parameter, None) != value:
                self.on_host(value)
                self.plan.lose(self.place, f"env {name}", _WHY_NOT.get(name, reason))

    def set_resources(self, cpu: str, memory: str, gpus: str = "") -> None:
        """Make parameters of what the container may take, or else asks for."""
        resources = self.container.resources
        for name, value in (resources.requests | resources.limits).items():
            what = f"resources {name}={value}"
            if name == "cpu":
                self.plan.put(cpu, value, self.place, what)
            elif name == "memory":
                self.plan.put(memory, value, self.place, what)
            elif "/" in name and gpus:
                self.plan.put(gpus, value, self.place, what)
                self.plan.put("train_gpu_type", name, self.place, what)
            else:
                self.plan.lose(self.place, what, "steps have CPUs, memory and, for training, GPUs")

    def set_nodes(self, program: str = "") -> None:
        """Make parameters of the nodes that the pod may run on.

        Args:
            program: ``cloud_`` or ``edge_``, if the pod is none of a step.
        """
        labels = dict(self.pod.node_selector)
        if self.pod.node_name:
            labels[HOST_LABEL] = self.pod.node_name
        if labels:
            what = " ".join(f"{name}={value}" for name, value in labels.items())
            self.plan.put(f"{program}node_selector", labels, self.place, f"node {what}")
        if self.pod.tolerations:
            self.plan.put(f"{program}tolerations", list(self.pod.tolerations), self.place, "tolerations")

    def set_program(self, program: str) -> None:
        """Make parameters of what the rollout of joint inference can give a pod: its nodes, CPUs and memory.

        Args:
            program: ``cloud_`` or ``edge_``.
        """
        self.set_nodes(program)
        asked, allowed = self.container.resources.requests, self.container.resources.limits
        # A program requests CPUs without a limit, and its memory is both.
        kept = {"cpu": (allowed | asked).get("cpu"), "memory": (asked | allowed).get("memory")}
        for name, value in kept.items():
            if value:
                self.plan.put(f"{program}{name}", value, self.place, f"resources {name}={value}")
        for name, value in (*asked.items(), *allowed.items()):
            if value != kept.get(name):
                self.plan.lose(self.place, f"resources {name}={value}", self.pods)

    def lose_the_rest(self) -> None:
        """Take down what the pod says of nodes and resources, where it is no pod that a pipeline makes."""
        if self.pod.node_selector:
            self.plan.lose(self.place, "nodeSelector", self.pods)
        if self.pod.tolerations:
            self.plan.lose(self.place, "tolerations", self.pods)
        for name, value in (self.container.resources.requests | self.container.resources.limits).items():
            self.plan.lose(self.place, f"resources {name}={value}", self.pods)

    def lose_volumes(self) -> None:
        """Take down the volumes that no parameter or option refers to."""
        paths = {mount.name: mount.mount_path for mount in self.container.volume_mounts}
        for volume in self.pod.volumes:
            if volume.name in self._used:
                continue
            if paths.get(volume.name) == _SHM:
                reason = "compile --shm-size gives training its shared memory"
            elif volume.host_path:
                reason = "no parameter refers to this folder"
            else:
                reason = "steps read and write the job's store"
            self.plan.lose(self.place, f"volume {volume.name}", reason)

    def _lose_what_has_no_place(self) -> None:
        container, lose = self.container, self.plan.lose
        if not _OWN_IMAGE.search(container.image):
            lose(self.place, f"image {container.image}" if container.image else "command", _CODE)
        for name in sorted({*(self.pod.model_extra or {}), *(container.model_extra or {})} - {"name"}):
            lose(self.place, name, self.pods)
        if len(self.pod.containers) > 1:
            lose(self.place, f"{len(self.pod.containers) - 1} more containers", "a worker here is one program")
