"""Where a training runs: here, or in a TrainJob of Kubeflow Trainer that this step asks for and waits for.

Samples and model travel through the job's store. The name of a TrainJob follows from the job, the round, the samples
and the parameters, so a step that is tried again, or the next run of the round, finds the one that runs: nothing is
trained twice. It resumes from its last epoch as any training does.
"""

from __future__ import annotations

import hashlib
import logging
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from components.core import plugins
from components.core.errors import InputError, LostRaceError, OutOfReachError, may_pass
from components.core.estimators.base import check_place
from components.core.kubernetes_objects import Namespace, Object, title
from components.core.manifest import Manifest
from components.core.parameters import TrainerSettings
from components.core.stores.open import open_store
from components.train.checkpoint import Checkpoints
from components.train.train import Trained, deciding_settings, train, training_key
from components.train.trainjob import condition, pod_name, render, standing
from components.train.work_area import Result, WorkArea

log = logging.getLogger(__name__)

MODULE = "components.train.node"
ROLE = "images/trainjob-role.yaml"
POLL_SECONDS = 10.0
PATIENCE_SECONDS = 600.0  # for which the API server or the store may be out of reach
SHOWN_LINES = 20  # of the log of a node that failed


def train_at(
    place: TrainerSettings,
    manifest: Manifest,
    output: Path,
    *,
    job_root: str,
    round_number: int | None = None,
    **training: Any,
) -> Trained:
    """Train a model where the parameters say, and write it as a bundle.

    Args:
        place: where.
        manifest: as :func:`components.train.train.train` takes it, like all others.
        output: folder of the bundle; created.
        job_root: the job's store.
        round_number: of the round; None outside of rounds.
        training: what else it takes.

    Raises:
        InputError: it cannot be trained, or not there.
        OutOfReachError: the cluster or the store does not answer, or the TrainJob failed in a way that may pass.
        LostRaceError: another run has taken the result.
    """
    plugins.load(training.get("plugin_modules", ""))
    check_place(training["estimator"], place)
    if place.trainer == "step":
        return train(manifest, output, job_root=job_root, round_number=round_number, **training)
    namespace = Namespace.of_pod(role=ROLE)
    return train_in_trainjob(namespace, place, manifest, output, job_root, round_number, training)


def train_in_trainjob(
    namespace: Namespace,
    place: TrainerSettings,
    manifest: Manifest,
    output: Path,
    job_root: str,
    round_number: int | None,
    training: dict[str, Any],
    sleep: Callable[[float], None] = time.sleep,
) -> Trained:
    """Let a TrainJob train; arguments and errors as of :func:`train_at`.

    Args:
        namespace: of the step's pod.
        place: where.
        manifest: samples with splits.
        output: folder of the bundle; created.
        job_root: the job's store.
        round_number: of the round; None outside of rounds.
        training: arguments of :func:`components.train.train.train`.
        sleep: waits for some seconds.
    """
    deciding = deciding_settings(job_root, **training)
    asked = {**training, "base_model": deciding["base_model"]}
    key = training_key(manifest, asked, round_number)
    store = open_store(job_root)
    area, checkpoints = WorkArea(store, key), Checkpoints(store, training_key(manifest, deciding, round_number))
    name = "train-" + hashlib.sha256(f"{store.uri} {key}".encode()).hexdigest()[:16]
    found = area.result()
    if found is None:
        waiting = _Waiting(namespace, name, area, checkpoints, training["epochs"], sleep)
        if not waiting.finds_one():
            with tempfile.TemporaryDirectory() as scratch:
                area.ask(manifest, round_number, asked, Path(scratch))
            pod = namespace.read("Pod", pod_name())
            if pod is None:
                raise InputError(f"trainer=trainjob: no pod {pod_name()!r} in namespace {namespace.name}")
            namespace.apply(render(name, pod, place, MODULE, [job_root, key], place.train_nodes > 1), owned=True)
            log.info("TrainJob %s is made: %d nodes", name, place.train_nodes)
        found = waiting.for_result()
    try:
        if found.error:
            raise InputError(found.error)
        trained = area.take(found, output)
    except InputError as error:
        if not may_pass(error):  # else the next try finds the result
            _clear(namespace, name, area)
        raise
    _clear(namespace, name, area)
    return trained


def _clear(namespace: Namespace, name: str, area: WorkArea) -> None:
    """Remove what is not needed any more; a step with its model here does not fail for what is out of reach now."""
    try:
        namespace.delete("TrainJob", name)
        area.clear()
    except OutOfReachError as error:
        log.warning("TrainJob %s or its work area is left behind: %s", name, error)


class _Waiting:
    """Waits for the TrainJob of a training."""

    def __init__(
        self,
        namespace: Namespace,
        name: str,
        area: WorkArea,
        checkpoints: Checkpoints,
        epochs: int,
        sleep: Callable[[float], None],
    ) -> None:
        self._namespace, self._name, self._area = namespace, name, area
        self._checkpoints, self._epochs, self._sleep = checkpoints, epochs, sleep

    def finds_one(self) -> bool:
        """Whether the TrainJob is there already; one that has failed, or is being deleted, is out of the way then."""
        waited = 0.0
        while (job := self._namespace.read("TrainJob", self._name)) is not None:
            is_leaving = "deletionTimestamp" in job["metadata"]
            if not is_leaving and not condition(job, "Failed") and not condition(job, "Complete"):
                log.info("%s of an earlier try goes on", title(job))
                return True
            if not is_leaving:
                self._namespace.delete("TrainJob", self._name)
            if waited >= PATIENCE_SECONDS:
                raise OutOfReachError(f"{title(job)} was deleted {waited:.0f} s ago and is still there")
            self._sleep(POLL_SECONDS)
            waited += POLL_SECONDS
        return False

    def for_result(self) -> Result:
        """Wait for what comes of it, and say how it goes."""
        silence, told = 0.0, ""
        while True:
            try:
                job = self._namespace.read("TrainJob", self._name)
                found = self._area.result()  # after the TrainJob: the result is there before it ends
                pods = self._pods() if job else []
                said = self._said(job, pods) if job else ""
                silence = 0.0
            except OutOfReachError:
                if silence >= PATIENCE_SECONDS:
                    raise
                silence += POLL_SECONDS
                self._sleep(POLL_SECONDS)
                continue
            if found:
                return found
            if job is None:
                raise LostRaceError(
                    f"TrainJob {self._name} is gone without a result: another run has taken it, or it was deleted; "
                    "run this again"
                )
            if ended := condition(job, "Failed") or condition(job, "Complete"):
                failure = self._failure(job, ended, pods)
                self._namespace.delete("TrainJob", self._name)
                raise failure
            if said != told:
                told = said
                log.info("%s: %s", title(job), said)
            self._sleep(POLL_SECONDS)

    def _said(self, job: Object, pods: list[Object]) -> str:
        done = self._checkpoints.epochs()
        return standing(job, pods) + (f"; epoch {done}/{self._epochs} is done" if done else "")

    def _failure(self, job: Object, ended: Object, pods: list[Object]) -> OutOfReachError:
        """Why it ended without a result, with the last lines of a node that failed."""
        failed = next((pod for pod in pods if pod.get("status", {}).get("phase") == "Failed"), None)
        shown = failed or (pods[0] if pods else None)
        lines = self._namespace.log(shown["metadata"]["name"], SHOWN_LINES) if shown else []
        for line in lines:
            log.info("%s: %s", shown["metadata"]["name"] if shown else "", line)
        reasons = {
            (one.get("state") or {}).get("terminated", {}).get("reason")
            for one in (failed or {}).get("status", {}).get("containerStatuses") or ()
        } - {None, "Error", "Completed"}
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        said = "; ".join(filter(None, [ended.get("message") or ended.get("reason", ""), *sorted(reasons), last]))
        return OutOfReachError(f"{title(job)} ended without a model: {said}")

    def _pods(self) -> list[Object]:
        return self._namespace.pods({"jobset.sigs.k8s.io/jobset-name": self._name})
