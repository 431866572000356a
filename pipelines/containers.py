"""Steps as containers on this machine: their images, and what of this machine they get to see."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.core.cache import cache_folder
from components.core.errors import InputError
from components.core.store import open_store

FOLDERS = ("data_url", "feed_url", "base_model", "initial_model")  # parameters that may be paths
_HANDED_ON = ("AWS_", "EDGE_")
_SHARED_MEMORY = "2g"  # Docker's own 64 MB are too little for processes that load pictures


def docker_runner(pipeline: Any, arguments: Mapping[str, Any], folder: Path) -> Any:
    """A runner that gives each step a container of its image, as the user who runs it.

    Steps see the folders that the arguments name at the same paths, the job's own and its cache to write to and all
    others to read, this machine's network, and the environment variables that stores and this suite are set up with.

    Args:
        pipeline: from ``pipelines.registry``.
        arguments: its parameters, paths absolute.
        folder: where KFP keeps its artifacts; it is mounted by KFP itself.

    Raises:
        InputError: no Docker engine answers, or an image is neither here nor can it be pulled.
    """
    from docker.types import Mount
    from kfp import local

    _bring_images(pipeline)
    cache = cache_folder(arguments["job_root"]).resolve()
    written = [cache, *_here(arguments["job_root"])]
    for path in (folder, *written):
        path.mkdir(parents=True, exist_ok=True)  # what is not there the engine would make, as root
    read = {path if path.is_dir() else path.parent for name in FOLDERS for path in _here(arguments.get(name, ""))}
    environment = {name: value for name, value in os.environ.items() if name.startswith(_HANDED_ON)}
    return local.DockerRunner(
        environment=environment | {"EDGE_CACHE_DIR": str(cache)},
        mounts=[
            *(Mount(str(path), str(path), type="bind", read_only=True) for path in sorted(read - set(written))),
            *(Mount(str(path), str(path), type="bind") for path in written),
        ],
        network_mode="host",  # a store on this machine has the same address inside
        shm_size=_SHARED_MEMORY,
        user=f"{os.getuid()}:{os.getgid()}",
    )


def _bring_images(pipeline: Any) -> None:
    """Pull the images that are not here, before any step runs."""
    try:
        import docker
        from docker.errors import APIError, DockerException, ImageNotFound
    except ImportError as error:
        raise InputError("--runner docker needs the Python package docker: pip install docker") from error
    try:
        engine = docker.from_env()
        engine.ping()
    except DockerException as error:
        raise InputError("--runner docker: no Docker engine answers here: start one, or leave the option out") from error
    executors = pipeline.pipeline_spec.deployment_spec["executors"]
    for image in sorted({executor["container"]["image"] for executor in executors.values()}):
        try:
            engine.images.get(image)
        except ImageNotFound:
            try:
                engine.images.pull(image)
            except APIError as error:
                reason = f"{image} is not here and cannot be pulled"
                raise InputError(f"--runner docker: {reason}: build it with images/build.sh") from error


def _here(address: str) -> list[Path]:
    """The place of this machine's disks that an address means; none if it lies elsewhere."""
    path = open_store(address).local_path("") if address else None
    return [path.resolve()] if path and path.exists() else []
