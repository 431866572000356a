"""Starts both programs of joint inference: on the cluster that the step runs in, or else on this machine."""

from __future__ import annotations

import logging
import os

from components.core.cache import own_folder
from components.core.errors import InputError
from components.core.job.job import Job
from components.core.kubernetes_objects import Namespace, in_cluster
from components.core.parameters import ServingSettings
from components.core.stores.open import open_store
from components.rollout import processes
from components.rollout.manifests import Images, name_of, render
from components.rollout.rollout import Rollout

log = logging.getLogger(__name__)


def check(job_root: str, chosen: ServingSettings, images: Images, store_secret: str, fraction: float) -> None:
    """See that both programs could be started, before any work is done; the arguments are those of :func:`serve`.

    Raises:
        InputError: they could not.
    """
    if chosen.serving == "none":
        return
    if in_cluster():
        _rollout(job_root, chosen, images, store_secret, fraction).check()
    else:
        _source(chosen)


def serve(job_root: str, chosen: ServingSettings, images: Images, store_secret: str, fraction: float) -> None:
    """Start both programs, or bring them to other images and settings, if the job has a champion.

    Args:
        job_root: the job.
        chosen: whether, where and how.
        images: of both programs, where the settings name none.
        store_secret: name of the Kubernetes secret with the store's credentials, for cloud servers.
        fraction: of the edge nodes that have to run a new pod.

    Raises:
        InputError: they do not run; on a cluster what ran before was put back.
        LostRaceError: another run rolls out at the same time.
        OutOfReachError: the cluster does not answer.
    """
    if chosen.serving == "none":
        log.info("serving=none: no program is started")
        return
    if Job.open(job_root).read()[0].champion is None:
        log.info("no program is started, since the job has no champion that it could serve")
        return
    if in_cluster():
        _rollout(job_root, chosen, images, store_secret, fraction).run()
        return
    folder = open_store(job_root).local_path("programs") or own_folder(job_root) / "programs"
    log.info("%s", processes.start(job_root, _source(chosen), folder, timeout_s=chosen.serving_timeout).describe())


def _rollout(job_root: str, chosen: ServingSettings, images: Images, store_secret: str, fraction: float) -> Rollout:
    namespace = Namespace.of_pod(chosen.serving_namespace)
    manifests = render(job_root, chosen, images, store_secret, namespace.name)
    name = name_of(job_root, chosen)
    return Rollout(namespace, name, manifests, timeout_s=chosen.serving_timeout, fraction=fraction)


def _source(chosen: ServingSettings) -> str:
    source = chosen.edge_source or os.environ.get("EDGE_SOURCE", "")
    if not source:
        raise InputError(
            f"serving={chosen.serving} starts an edge worker on this machine: set edge_source, or EDGE_SOURCE in the "
            "environment, to the folder, video, camera or stream it is to look at"
        )
    return source
