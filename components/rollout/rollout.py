"""Rolls programs out on a cluster, waits until they run, and puts back what ran before where they do not.

What ran last, and well, is on record in a ConfigMap beside the programs: a rollout that fails is put back to it as a
whole, and what it no longer names is removed after the next one that succeeds. The record changes only if nobody else
changed it in the meantime, so that of two runs at once only one is recorded, and the other one puts nothing back.

A new model needs none of this: programs follow the job's pointer. A rollout brings new images and new settings.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

from components.core.errors import ConflictError, InputError, LostRaceError, OutOfReachError, may_pass
from components.core.kubernetes_objects import MANAGER, Namespace, Object, title
from components.rollout.manifests import INSTANCE, JOB, MANAGED_BY, PART_OF, REVISION, pod_of, selector
from components.rollout.progress import Progress, of_daemon_set, of_deployment, of_inference_service, reasons

log = logging.getLogger(__name__)

POLL_SECONDS = 2.0

_RECORD = "manifests"  # the key of the ConfigMap
_WORKLOADS = ("Deployment", "InferenceService", "DaemonSet")


class Rollout:
    """The programs of a job in a namespace.

    Args:
        namespace: where they run.
        name: that their names begin with.
        manifests: of :func:`components.rollout.manifests.render`; the first one says which job they belong to.
        timeout_s: seconds that all of them together may take.
        fraction: of the nodes of a DaemonSet that have to run it.
        sleep: waits between two looks, a number of seconds.
    """

    def __init__(
        self, namespace: Namespace, name: str, manifests: Sequence[Object], *, timeout_s: float, fraction: float,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:  # fmt: skip
        self._namespace, self._manifests = namespace, manifests
        self._job = manifests[0]["metadata"]["annotations"][JOB]
        self._record_name = f"{name}-rollout"
        self._labels = {INSTANCE: name, MANAGED_BY: MANAGER, PART_OF: MANAGER}
        self._timeout_s, self._fraction, self._sleep = timeout_s, fraction, sleep

    def check(self) -> None:
        """See that the rollout could be made: rights, kinds, forms, quotas, and that no object belongs to others.

        Every object and a pod of each workload is applied as a dry run: what a namespace admits shows with pods alone.

        Raises:
            InputError: it could not.
            OutOfReachError: the API server does not answer.
        """
        record = self._read("ConfigMap", self._record_name)
        for manifest in (self._record(self._manifests, record), *self._manifests):
            self._apply(manifest, dry_run=True)
            if manifest["kind"] in _WORKLOADS:
                self._namespace.apply(pod_of(manifest), owned=False, dry_run=True)
        self._namespace.pods(selector(self._manifests[0]))

    def run(self) -> None:
        """Apply every manifest, wait until all run, and record them; a second time nothing changes.

        Raises:
            InputError: an object belongs to others, or the API server refuses one, or what was applied does not run in
                time. What ran before was put back, and of a first rollout nothing is left.
            LostRaceError: another run rolled out at the same time.
            OutOfReachError: the API server does not answer.
        """
        record = self._read("ConfigMap", self._record_name)
        before = _recorded(record)
        absent = [one for one in self._manifests if self._read(one["kind"], one["metadata"]["name"]) is None]
        try:
            for manifest in self._manifests:
                self._apply(manifest)
            self._wait()
        except InputError as error:
            if may_pass(error):
                raise  # what was applied goes on, and the next try of the step waits for it again
            raise InputError(f"{error}; {self._put_back(before, absent, record)}") from error
        self._keep(record)
        self._remove(one for one in before if title(one) not in set(map(title, self._manifests)))

    def _apply(self, manifest: Object, *, dry_run: bool = False) -> Object:
        there = self._read(manifest["kind"], manifest["metadata"]["name"])
        try:
            return self._namespace.apply(manifest, owned=there is not None, dry_run=dry_run)
        except ConflictError as error:
            raise LostRaceError(f"{error}: another run rolls out at the same time") from error

    def _read(self, kind: str, name: str) -> Object | None:
        """An object of ours; None where there is none.

        Raises:
            InputError: there is one of somebody else.
        """
        found = self._namespace.read(kind, name)
        if found is not None:
            metadata = found["metadata"]
            owner = metadata.get("labels", {}).get(MANAGED_BY, "nobody that it names")
            job = metadata.get("annotations", {}).get(JOB, "")
            if owner != MANAGER or job != self._job:
                raise InputError(
                    f"{kind} {name} in namespace {self._namespace.name} belongs to {job or owner}, not to "
                    f"{self._job}: set another serving_name or serving_namespace, or delete it"
                )
        return found

    def _wait(self) -> None:
        end = time.monotonic() + self._timeout_s
        for manifest in self._manifests:
            if manifest["kind"] not in _WORKLOADS:
                continue
            said = ""
            while not (progress := self._progress(manifest, end)).done:
                over = time.monotonic() >= end
                if progress.failed or over:
                    pods = reasons(self._namespace.pods(selector(manifest)))
                    late = f" after {self._timeout_s:g} s" if over else ""
                    why = "; ".join(filter(None, (f"{progress.said}{late}", pods)))
                    raise InputError(f"{title(manifest)} in namespace {self._namespace.name} does not run: {why}")
                if progress.said != said:
                    log.info("%s: %s", title(manifest), progress.said)
                said = progress.said
                self._sleep(POLL_SECONDS)
            log.info("%s: %s", title(manifest), progress.said)

    def _progress(self, manifest: Object, end: float) -> Progress:
        try:
            return self._look(manifest)
        except OutOfReachError as error:
            if time.monotonic() >= end:
                raise
            return Progress(str(error))

    def _look(self, manifest: Object) -> Progress:
        kind, name = manifest["kind"], manifest["metadata"]["name"]
        found = self._namespace.read(kind, name)
        if found is None:
            return Progress("deleted by somebody else", failed=True)
        if kind == "Deployment":
            return of_deployment(found)
        revision = _revision(manifest)
        if _revision(found) != revision:
            raise LostRaceError(f"{title(manifest)} was changed: another run rolls out at the same time")
        if kind == "InferenceService":
            return of_inference_service(found, self._namespace.read("Deployment", f"{name}-predictor"), revision)
        new = selector(manifest) | {REVISION: revision}
        return of_daemon_set(found, lambda: self._namespace.pods(new), self._fraction)

    def _put_back(self, before: Sequence[Object], absent: Sequence[Object], record: Object | None) -> str:
        """Go back to what is on record, and say what came of it."""
        try:
            if _version(self._read("ConfigMap", self._record_name)) != _version(record):
                return "another run has rolled out in the meantime, so that nothing was put back"
            for manifest in before:
                self._apply(manifest)
            known = set(map(title, before))
            self._remove(one for one in absent if title(one) not in known)
        except InputError as error:
            return f"what ran before could not be put back: {error}"
        if before:
            return "what ran before was put back"
        return (
            "what was applied was removed, since nothing ran before" if absent else "nothing is on record to put back"
        )

    def _keep(self, record: Object | None) -> None:
        try:
            if record is None and self._read("ConfigMap", self._record_name) is not None:
                raise ConflictError(f"{self._record_name} was not there before")  # which applying alone does not tell
            self._namespace.apply(self._record(self._manifests, record), owned=record is not None)
        except ConflictError as error:
            raise LostRaceError(f"another run has rolled out at the same time: run this one again ({error})") from error

    def _record(self, manifests: Sequence[Object], record: Object | None) -> Object:
        version: dict[str, Any] = {} if record is None else {"resourceVersion": _version(record)}
        return {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": version | {"name": self._record_name, "labels": self._labels, "annotations": {JOB: self._job}},
            "data": {_RECORD: json.dumps(list(manifests), sort_keys=True)},
        }

    def _remove(self, things: Any) -> None:
        for one in things:
            if self._read(one["kind"], one["metadata"]["name"]) is not None:
                self._namespace.delete(one["kind"], one["metadata"]["name"])
                log.info("%s: removed", title(one))


def _recorded(record: Object | None) -> list[Object]:
    if record is None:
        return []
    try:
        found: list[Object] = json.loads(record["data"][_RECORD])
        return [one for one in found if title(one)]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{title(record)} is damaged: delete it, and what runs now counts as nothing") from error


def _revision(workload: Object) -> str:
    return str(pod_of(workload)["metadata"]["labels"].get(REVISION, ""))


def _version(thing: Object | None) -> str | None:
    return None if thing is None else str(thing["metadata"]["resourceVersion"])
