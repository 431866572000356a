"""How far a rollout is, read from the status of an object, as ``kubectl rollout status`` reads it.

https://kubernetes.io/docs/concepts/workloads/controllers/deployment/#deployment-status
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from components.core.kubernetes_objects import Object

_STARTING = ("ContainerCreating", "PodInitializing", "")
_SHOWN_PODS, _SHOWN_LETTERS = 3, 300


@dataclass(frozen=True)
class Progress:
    """How far a rollout is.

    Attributes:
        done: it is over, and well.
        failed: it is over, and not well.
        said: what there is to say of it, as a part of a sentence.
    """

    said: str
    done: bool = False
    failed: bool = False


def of_deployment(deployment: Object) -> Progress:
    """The rollout of a Deployment: every pod is of the new kind and available, and none of the old kind is left."""
    wanted, status = deployment["spec"].get("replicas", 1), deployment.get("status", {})
    if status.get("observedGeneration", 0) < deployment["metadata"]["generation"]:
        return Progress("not looked at by its controller yet")
    for condition in status.get("conditions", ()):
        if condition["type"] == "Progressing" and condition.get("reason") == "ProgressDeadlineExceeded":
            return Progress(_with_refusal(condition["message"].rstrip("."), status), failed=True)
    updated, there = status.get("updatedReplicas", 0), status.get("replicas", 0)
    available = min(status.get("availableReplicas", 0), updated)
    said = f"{available} of {wanted} new pods are available"
    if there > updated:
        return Progress(f"{said}, {there - updated} old ones are left")
    return Progress(_with_refusal(said, status), done=updated >= wanted and available >= wanted)


def of_daemon_set(daemons: Object, new_pods: Callable[[], Iterable[Object]], fraction: float) -> Progress:
    """The rollout of a DaemonSet; nodes at the edge are often away, so that a fraction of them is enough.

    Args:
        daemons: the DaemonSet.
        new_pods: lists its new pods; asked where its status, which does not count those that are new and available,
            leaves it open whether they are enough.
        fraction: of its nodes that have to run a new pod which is available.
    """
    status = daemons.get("status", {})
    if status.get("observedGeneration", 0) < daemons["metadata"]["generation"]:
        return Progress("not looked at by its controller yet")
    wanted, updated = status.get("desiredNumberScheduled", 0), status.get("updatedNumberScheduled", 0)
    if not wanted:
        labels = daemons["spec"]["template"]["spec"].get("nodeSelector", {})
        return Progress(f"no node that may be used has the labels {labels}, so that no edge worker runs yet", done=True)
    enough = math.ceil(fraction * wanted - 1e-9)
    available = min(updated, status.get("numberAvailable", 0))
    if available >= enough:
        available = sum(map(_is_ready, new_pods()))
    return Progress(f"{available} of {wanted} nodes run a new pod", done=available >= enough)


def of_inference_service(service: Object, deployment: Object | None, revision: str) -> Progress:
    """The rollout of an InferenceService, which shows only in the Deployment that KServe makes of it.

    Its own status has no generation that could be compared.

    Args:
        service: the InferenceService.
        deployment: of its predictor; None as long as there is none.
        revision: the label of the pods that are to run.
    """
    failure = service.get("status", {}).get("modelStatus", {}).get("lastFailureInfo", {}).get("message", "")
    labels = deployment["spec"]["template"]["metadata"].get("labels", {}) if deployment else {}
    if deployment is None or revision not in labels.values():
        return Progress(": ".join(filter(None, ("not taken up by KServe yet", failure))))
    # Of the Deployment that KServe makes, Kubernetes chooses after how long it counts as failed.
    progress = replace(of_deployment(deployment), failed=False)
    conditions = {one["type"]: one for one in service.get("status", {}).get("conditions", ())}
    ready = conditions.get("Ready", {})
    if progress.done and ready.get("status") != "True":
        return Progress(": ".join(filter(None, ("not ready", ready.get("message", "") or failure))))
    return progress


def reasons(pods: Iterable[Object]) -> str:
    """Why pods do not run, in their own words, such as ``pair-cloud-x: ImagePullBackOff (...)``; empty if they do.

    Where none of them has a reason, as of a volume that its node lacks, how far they are and where to look.
    """
    pods = list(pods)
    for told in (_reason, _stage):
        found: dict[str, str] = {}
        for pod in pods:
            if reason := told(pod):
                found.setdefault(reason, pod["metadata"]["name"])
        if found:
            return "; ".join(f"pod {name}: {reason}" for reason, name in list(found.items())[:_SHOWN_PODS])
    return ""


def _is_ready(pod: Object) -> bool:
    ready = [one["status"] for one in pod.get("status", {}).get("conditions", ()) if one["type"] == "Ready"]
    return ready == ["True"] and "deletionTimestamp" not in pod["metadata"]


def _reason(pod: Object) -> str:
    status = pod.get("status", {})
    for container in (*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())):
        waiting = container.get("state", {}).get("waiting", {})
        ended = container.get("state", {}).get("terminated") or container.get("lastState", {}).get("terminated") or {}
        if waiting.get("reason", "") not in _STARTING or (ended and not container.get("ready")):
            # What a container said at its end is worth more than that it is started again later.
            said = _last_line(ended.get("message", "")) or waiting.get("message", "")
            code = f"exit code {ended['exitCode']}" if "exitCode" in ended else ""
            more = ", ".join(filter(None, (code, said)))
            reason = waiting.get("reason") or ended.get("reason", "")
            return f"{reason} ({more[:_SHOWN_LETTERS]})" if more else str(reason)
    for condition in status.get("conditions", ()):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return f"{condition.get('reason', '')} ({condition.get('message', '')[:_SHOWN_LETTERS]})"
    return ""


def _stage(pod: Object) -> str:
    if _is_ready(pod):
        return ""
    for container in pod.get("status", {}).get("containerStatuses", ()):
        state = container.get("state", {})
        if "waiting" in state:
            return f"{state['waiting'].get('reason', 'waiting')} (kubectl describe pod says what it waits for)"
        if "running" in state:
            return "runs, but is not ready (kubectl logs says why)"
    return ""


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1].strip() if lines else ""


def _with_refusal(said: str, status: dict[str, Any]) -> str:
    """What is said of a rollout, with why the cluster admits no pod, where it does not."""
    for condition in status.get("conditions", ()):
        if condition["type"] == "ReplicaFailure" and condition["status"] == "True":
            return f"{said}: {condition['message'][:_SHOWN_LETTERS]}"
    return said
