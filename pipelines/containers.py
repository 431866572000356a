"""Steps as containers on this machine: their images, and what of this machine they get to see."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from components.core.cache import cache_folder
from components.core.errors import InputError
from components.core.stores.addresses import folder_at

# Parameters that may be paths.
FOLDERS = ("data_url", "test_url", "feed_url", "base_model", "initial_model", "big_model", "prelabel_job")
_PREFIXES = ("AWS_", "EDGE_")  # of variables that steps get, beside those of the cluster's secret
_FILES = ("AWS_CA_BUNDLE", "AWS_SHARED_CREDENTIALS_FILE", "AWS_WEB_IDENTITY_TOKEN_FILE", "SSL_CERT_FILE")
_LABEL = "edge-learning-run"  # by which the containers of a run are found
_SHARED_MEMORY = "2g"  # Docker's own 64 MB are too little for processes that load images


def docker_runner(pipeline: Any, arguments: Mapping[str, Any], folder: Path) -> Any:
    """A runner that gives each step a container of its image, as the user who runs it.

    Steps see the folders that the arguments name at the same paths, the job's own and its cache to write to and all
    others to read, this machine's network, and the environment variables that stores and this suite are set up with.

    Args:
        pipeline: from ``pipelines.registry``.
        arguments: its parameters, paths absolute.
        folder: where KFP keeps its artifacts; it is mounted by KFP itself.

    Raises:
        InputError: no Docker engine answers, an image is neither here nor can it be pulled, or the pipeline is to start
            programs that have to outlive their step.
    """
    if arguments.get("serving", "none") != "none":
        raise InputError(
            f"--runner docker: serving={arguments['serving']} starts programs that would end with the container of "
            "their step: omit one of the two"
        )
    _bring_images(pipeline)
    from docker.types import Mount  # type: ignore[import-untyped]
    from kfp import local

    cache = cache_folder(arguments["job_root"]).absolute()
    written = _outermost({*_here(arguments["job_root"]), cache})
    for path in (folder, *written):
        path.mkdir(parents=True, exist_ok=True)  # what is not there the engine would make, as root
    named = [path for address in _addresses(arguments) for path in _here(address) if path.exists()]
    read = {path if path.is_dir() else path.parent for path in named} - written
    # Here, because the module reads what `compile` puts into the environment.
    from pipelines.cluster import CREDENTIALS

    environment = {
        name: value for name, value in os.environ.items() if name.startswith(_PREFIXES) or name.upper() in CREDENTIALS
    }
    read |= {path for name in _FILES for path in _here(environment.get(name, "")) if path.is_file()}
    return local.DockerRunner(
        environment=environment | {"EDGE_CACHE_DIR": str(cache)},
        mounts=[Mount(str(path), str(path), type="bind", read_only=path in read) for path in sorted(read | written)],
        labels={_LABEL: uuid.uuid4().hex},
        network_mode="host",  # a store on this machine has the same address inside
        shm_size=_SHARED_MEMORY,
        user=f"{os.getuid()}:{os.getgid()}",
    )


def end_containers(runner: Any) -> None:
    """End the containers that a runner of :func:`docker_runner` has started and that still run."""
    import docker  # type: ignore[import-untyped]
    from docker.errors import DockerException  # type: ignore[import-untyped]

    label = f"{_LABEL}={runner.container_run_args['labels'][_LABEL]}"
    with contextlib.suppress(DockerException):  # an engine that is gone, a container that ended meanwhile
        for container in docker.from_env().containers.list(filters={"label": label}):
            with contextlib.suppress(DockerException):
                container.kill()


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
        raise InputError("--runner docker: no Docker engine is running: start one, or omit the option") from error
    executors = pipeline.pipeline_spec.deployment_spec["executors"]
    for image in sorted({executor["container"]["image"] for executor in executors.values()}):
        try:
            engine.images.get(image)
        except ImageNotFound:
            try:
                engine.images.pull(image)
            except APIError as error:
                reason = f"{image} is not available locally and cannot be pulled"
                raise InputError(f"--runner docker: {reason}: build it with images/build.sh") from error


def _addresses(arguments: Mapping[str, Any]) -> Iterator[str]:
    """What the parameters, and the algorithms of a benchmark among them, name as folders or files."""
    for name in FOLDERS:
        yield str(arguments.get(name, ""))
    algorithms = arguments.get("algorithms")
    for algorithm in algorithms if isinstance(algorithms, list) else []:
        base_models = algorithm.get("base_model", "") if isinstance(algorithm, Mapping) else ""
        yield from map(str, base_models if isinstance(base_models, list) else [base_models])


def _here(address: str) -> list[Path]:
    """The path of this machine that an address means; none if it means another place, or no path at all."""
    return [folder_at(address)] if address.startswith(("/", "file://")) else []


def _outermost(paths: set[Path]) -> set[Path]:
    """Those that lie in none of the others: between two mounts nothing can be linked."""
    return {path for path in paths if paths.isdisjoint(path.parents)}
