"""What a task asks of a cluster: volumes, secrets, resources. All of it is ignored when a pipeline runs locally."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from kfp import dsl, kubernetes

CACHE_FOLDER = "/cache"  # the images point EDGE_CACHE_DIR here

# KFP has no parameter for the size of a memory-backed volume, so it is fixed when the pipeline is compiled.
SHM_SIZE = os.environ.get("EDGE_SHM_SIZE", "2Gi")

STEP_TIMEOUT = int(os.environ.get("EDGE_STEP_TIMEOUT", str(24 * 3600)))  # seconds; KFP has no parameter for it, either

STORE_FOLDER = "/etc/edge-learning/store"  # where the secret's keys lie as files, for what is named by a path

# The keys of the secret that become environment variables; each may be left out. Those of a role (AWS_ROLE_ARN,
# AWS_WEB_IDENTITY_TOKEN_FILE) are not among them: a cluster that gives roles sets them itself, unless they are taken.
CREDENTIALS = (
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_ENDPOINT_URL_STS",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_PROFILE",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_CA_BUNDLE",
    "SSL_CERT_FILE",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
)


def use_store(task: dsl.PipelineTask, secret: Any) -> dsl.PipelineTask:
    """Give a task the secret with the store's credentials: as ``CREDENTIALS`` and as files in ``STORE_FOLDER``."""
    keys = {name: name for name in CREDENTIALS}
    kubernetes.use_secret_as_env(task, secret_name=secret, secret_key_to_env=keys, optional=True)
    kubernetes.use_secret_as_volume(task, secret_name=secret, mount_path=STORE_FOLDER, optional=True)
    return task


def use_cache(task: dsl.PipelineTask, claim: Any) -> dsl.PipelineTask:
    """Mount the cache volume of the job."""
    kubernetes.mount_pvc(task, pvc_name=claim, mount_path=CACHE_FOLDER)
    return task


def use_retries(task: dsl.PipelineTask) -> dsl.PipelineTask:
    """Let a task that was evicted, that hangs, or whose node or store failed, try again twice, where it was."""
    kubernetes.set_timeout(task, seconds=STEP_TIMEOUT)
    return task.set_retry(num_retries=2, backoff_duration="30s", backoff_factor=2.0, backoff_max_duration="300s")


def use_training_node(task: dsl.PipelineTask, given: Mapping[str, Any]) -> dsl.PipelineTask:
    """Give a training task its CPUs, memory, GPUs, shared memory and node."""
    task.set_cpu_request(given["train_cpu"]).set_memory_request(given["train_memory"])
    task.set_accelerator_limit(given["train_gpus"]).set_accelerator_type(given["train_gpu_type"])
    kubernetes.empty_dir_mount(task, volume_name="shm", mount_path="/dev/shm", medium="Memory", size_limit=SHM_SIZE)
    kubernetes.add_node_selector_json(task, node_selector_json=given["node_selector"])
    kubernetes.add_toleration_json(task, toleration_json=given["tolerations"])
    return task
