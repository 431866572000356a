"""Tell the edge workers which model to run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable

from components.core.bundle import DESCRIPTION
from components.core.errors import ConflictError
from components.core.job.fleet import POINTER, SEDNA_POINTER, CanaryTarget, Pointer, PublishedFile, Target
from components.core.job.job import Job
from components.core.job.state import State
from components.core.stores.open import Store


def publish_pointer(job: Job) -> Pointer | None:
    """Make the workers' pointers say what the job's state says; writes nothing where they do already.

    A run that was killed between its commit and this leaves them behind; the next call, by whomever, repairs them. Of
    several calls at once none can bring an older pointer back.

    Returns:
        What the pointer says; None where there is no champion yet.

    Raises:
        NotFoundError: the champion's bundle is not in the store.
    """
    state, _ = job.read()
    if state.champion is None:
        return None
    _follow(job, POINTER, _pointer_json)
    _follow(job, SEDNA_POINTER, _sedna_json)
    return Pointer.model_validate_json(job.store.read(POINTER))


def _follow(job: Job, key: str, content: Callable[[Store, State], bytes]) -> None:
    """Make one object follow the state.

    What is there is read before the state, and replaced only if it is still there: whoever writes has read a state that
    is newer than the last one written.
    """
    while True:
        found = job.store.read_versioned(key)
        wanted = content(job.store, job.read()[0])
        if found and found[0] == wanted:
            return
        try:
            if found:
                job.store.write(key, wanted, if_match=found[1])
            else:
                job.store.write(key, wanted, if_absent=True)
        except ConflictError:
            continue
        return


def _pointer_json(store: Store, state: State) -> bytes:
    change = state.history[-1]
    trial = None
    if state.canary:
        trial = CanaryTarget(**_target(store, state.canary.version).model_dump(), nodes=state.canary.nodes)
    pointer = Pointer(**_target(store, change.version).model_dump(), move=state.moves, updated=change.at, trial=trial)
    return pointer.model_dump_json(indent=2).encode()


def _target(store: Store, version: str) -> Target:
    prefix = f"bundles/{version}/"
    description = store.read(prefix + DESCRIPTION)
    digests = {**json.loads(description)["files"], DESCRIPTION: hashlib.sha256(description).hexdigest()}
    sizes = {info.key.removeprefix(prefix): info.size for info in store.list(prefix)}
    files = {name: PublishedFile(sha256=digest, size=sizes[name]) for name, digest in sorted(digests.items())}
    return Target(version=version, uri=store.uri_of(prefix.rstrip("/")), files=files)


def _sedna_json(store: Store, state: State) -> bytes:
    """Sedna's ``model_config.json``: its workers load the path when the time differs from the one they know."""
    change = state.history[-1]
    key = f"bundles/{change.version}/model.onnx"
    path = store.local_path(key)
    config = {"model_path": str(path or store.uri_of(key)), "model_update_time": change.at.isoformat()}
    return json.dumps({"model_config": config}, indent=2).encode()
