"""The cache volume of a job on a cluster.

KFP's own ``CreatePVC`` makes a new claim in every run, and does not run locally. This makes the claim once, by name,
and finds it again afterwards.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from components.core.errors import InputError

logger = logging.getLogger(__name__)

_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


def ensure_volume(name: str, size: str) -> None:
    """Make a persistent volume claim unless there is one of that name; outside a cluster do nothing.

    Args:
        name: of the claim.
        size: as a Kubernetes quantity; an existing claim keeps its size.

    Raises:
        InputError: the cluster refuses, with what it said.
    """
    if not _NAMESPACE_FILE.is_file():
        logger.info("not on a cluster: no volume is needed")
        return
    from kubernetes import client, config

    config.load_incluster_config()
    ensure_claim(client.CoreV1Api(), _NAMESPACE_FILE.read_text().strip(), name, size)


def ensure_claim(api: Any, namespace: str, name: str, size: str) -> None:
    """Make the claim through a given ``kubernetes.client.CoreV1Api``; see ``ensure_volume``."""
    from kubernetes.client.exceptions import ApiException

    try:
        api.read_namespaced_persistent_volume_claim(name, namespace)
        logger.info("the volume claim %s is there", name)
        return
    except ApiException as error:
        if error.status not in (403, 404):  # 403: who may not look may be allowed to make one
            said = f"{error.status} {error.reason}"
            raise InputError(f"cache_pvc={name}: the cluster does not answer whether there is one ({said})") from error
        may_look = error.status == 404
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "labels": {"app.kubernetes.io/managed-by": "edge-learning"}},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}},
    }
    try:
        api.create_namespaced_persistent_volume_claim(namespace, claim)
        logger.info("made the volume claim %s of %s", name, size)
    except ApiException as error:
        if error.status != 409:  # 409: there is one already
            verbs = "create" if may_look else "get"  # the claim may be there, unseen
            raise InputError(
                f"cache_pvc={name}: the cluster refused to make the claim ({error.status} {error.reason}): let the "
                f"pipeline's service account {verbs} persistentvolumeclaims in {namespace}, or make the claim by hand"
            ) from error
        logger.info("the volume claim %s is there", name)
