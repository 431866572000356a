"""What a task asks of a cluster: store, cache, CPUs and memory, node, user, time. Ignored when a pipeline runs locally.

Each task is of one of three sizes: :func:`small_step` moves manifests and pages, :func:`heavy_step` loads a model or
many images, :func:`training_step` trains. KFP takes some settings only when a pipeline is compiled; they come from
environment variables, which ``python -m pipelines compile`` has options for.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Any

from kfp import dsl, kubernetes
from pydantic import Field, TypeAdapter, ValidationError

from components.core.errors import InputError
from components.core.job.tries import POD_VARIABLE, RUN_VARIABLE
from components.core.parameters.table import ObjectName, Quantity


def _from_environment(variable: str, default: Any, kind: Any) -> Any:
    """What a variable says; the default where it is absent or empty.

    Raises:
        InputError: Kubernetes would refuse the value, and only when a step is to start.
    """
    text = os.environ.get(variable)
    try:
        return TypeAdapter(kind).validate_python(text) if text else default
    except ValidationError as error:
        said = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise InputError(f"{variable}={text!r}: {said}") from error


CACHE_FOLDER = "/cache"  # the images point EDGE_CACHE_DIR here
CACHE_CLAIM = _from_environment("EDGE_CACHE_PVC", "", ObjectName)  # of a volume; else a folder that ends with the step
CACHE_SIZE = _from_environment("EDGE_CACHE_SIZE", "20Gi", Quantity)  # of that folder, at most

QUEUE = _from_environment("EDGE_QUEUE", "", ObjectName)  # of Kueue, where the heavy steps wait for their turn
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"

SHM_SIZE = _from_environment("EDGE_SHM_SIZE", "2Gi", Quantity)

STEP_TIMEOUT = _from_environment("EDGE_STEP_TIMEOUT", 24 * 3600, Annotated[int, Field(ge=1)])  # seconds, of one try
QUICK_TIMEOUT = min(2 * 3600, STEP_TIMEOUT)  # a poll that hangs would block all later ones

SMALL_CPU, SMALL_CPU_LIMIT = "100m", "1"
SMALL_MEMORY, SMALL_MEMORY_LIMIT = "512Mi", "2Gi"

TRIES = 3
USER = 1000  # of the images

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
    "MODEL_REGISTRY_TOKEN",
    "LABEL_STUDIO_API_KEY",
)


def use_store(task: dsl.PipelineTask, secret: Any) -> dsl.PipelineTask:
    """Give a task the secret with the store's credentials: as ``CREDENTIALS`` and as files in ``STORE_FOLDER``."""
    keys = {name: name for name in CREDENTIALS}
    kubernetes.use_secret_as_env(task, secret_name=secret, secret_key_to_env=keys, optional=True)
    kubernetes.use_secret_as_volume(task, secret_name=secret, mount_path=STORE_FOLDER, optional=True)
    return task


def use_cache(task: dsl.PipelineTask) -> dsl.PipelineTask:
    """Give a task a folder for the cache of the job: of its own, or on the volume that ``EDGE_CACHE_PVC`` names."""
    if CACHE_CLAIM:
        return kubernetes.mount_pvc(task, pvc_name=CACHE_CLAIM, mount_path=CACHE_FOLDER)
    return kubernetes.empty_dir_mount(task, volume_name="cache", mount_path=CACHE_FOLDER, size_limit=CACHE_SIZE)


def use_retries(task: dsl.PipelineTask, seconds: int = STEP_TIMEOUT, tries: int = TRIES) -> dsl.PipelineTask:
    """Let a task that failed, was evicted or hangs try again, where it was; a failure that is sure ends it at once.

    Argo counts the longest backoff from the start of the first try, so it has to leave time for every try. A pod that
    is deleted, or lost with its node, is not tried again: KFP cannot ask for that.

    By the run's id and the number of the try a step knows an earlier try. KFP fills placeholders into inputs, but not
    into variables, so both come from the pod: the API server, and the controller of recurring runs, give every pod the
    label (``SetPodMetadataLabels`` in backend/src/apiserver/template/v2_template.go and in the controller's
    scheduled_workflow.go), and Argo names the node.

    Args:
        task: the task.
        seconds: time limit of one try.
        tries: how many there are.
    """
    kubernetes.set_timeout(task, seconds=seconds)
    kubernetes.use_field_path_as_env(task, RUN_VARIABLE, "metadata.labels['pipeline/runid']")
    kubernetes.use_field_path_as_env(task, POD_VARIABLE, "metadata.annotations['workflows.argoproj.io/node-name']")
    if tries == 1:
        return task
    return task.set_retry(
        num_retries=tries - 1,
        backoff_duration="30s",
        backoff_factor=2.0,
        backoff_max_duration=f"{tries * seconds + 600}s",
    )


def use_queue(task: dsl.PipelineTask) -> dsl.PipelineTask:
    """Let a task's pod wait in the queue of Kueue that ``EDGE_QUEUE`` names, until its quota has room for it."""
    return kubernetes.add_pod_label(task, QUEUE_LABEL, QUEUE) if QUEUE else task


def small_step(task: dsl.PipelineTask, given: Mapping[str, Any], tries: int = TRIES) -> dsl.PipelineTask:
    """Settings of a task that moves manifests and pages, and loads no model.

    Args:
        task: the task.
        given: the pipeline's inputs by name.
        tries: how often it is tried.
    """
    _use_resources(task, (SMALL_CPU, SMALL_CPU_LIMIT), (SMALL_MEMORY, SMALL_MEMORY_LIMIT))
    return _use_cluster(use_retries(task, QUICK_TIMEOUT, tries), given)


def heavy_step(task: dsl.PipelineTask, given: Mapping[str, Any], seconds: int = STEP_TIMEOUT) -> dsl.PipelineTask:
    """Settings of a task that loads a model or many images.

    Args:
        task: the task.
        given: the pipeline's inputs by name.
        seconds: time limit of one try.
    """
    _use_resources(task, (given["step_cpu"],) * 2, (given["step_memory"],) * 2)
    return _use_cluster(use_cache(use_queue(use_retries(task, seconds))), given)


def training_step(task: dsl.PipelineTask, given: Mapping[str, Any]) -> dsl.PipelineTask:
    """Settings of a task that trains; the arguments are those of :func:`small_step`."""
    _use_resources(task, (given["train_cpu"],) * 2, (given["train_memory"],) * 2)
    task.set_accelerator_limit(given["train_gpus"]).set_accelerator_type(given["train_gpu_type"])
    kubernetes.empty_dir_mount(task, volume_name="shm", mount_path="/dev/shm", medium="Memory", size_limit=SHM_SIZE)
    return _use_cluster(use_cache(use_queue(use_retries(task))), given)


def _use_cluster(task: dsl.PipelineTask, given: Mapping[str, Any]) -> dsl.PipelineTask:
    """The settings of every task."""
    use_store(task, given["store_secret"])
    kubernetes.add_node_selector_json(task, node_selector_json=given["node_selector"])
    kubernetes.add_toleration_json(task, toleration_json=given["tolerations"])
    kubernetes.set_security_context(task, run_as_user=USER, run_as_non_root=True)
    # Every step reads or writes the store, which KFP's cache key does not see.
    return task.set_caching_options(False)


def _use_resources(task: dsl.PipelineTask, cpu: tuple[Any, Any], memory: tuple[Any, Any]) -> None:
    """Set what a task requests, and its limit."""
    task.set_cpu_request(cpu[0]).set_cpu_limit(cpu[1])
    task.set_memory_request(memory[0]).set_memory_limit(memory[1])
