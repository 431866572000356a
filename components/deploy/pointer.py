"""Tell the edge workers which release to run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from components.core.bundle import ONNX
from components.core.errors import ConflictError, InputError
from components.core.job.fleet import POINTER, SEDNA_POINTER, CanaryTarget, Pointer, Target
from components.core.job.job import Job
from components.core.job.registry import FOLDER
from components.core.job.state import STATE, State
from components.core.release import MODEL
from components.core.stores.base import Store


def publish_pointer(job: Job, state: State | None = None) -> Pointer | None:
    """Make the workers' pointers say what the job's state says; writes nothing where they do already.

    A run that was killed between its commit and this leaves them behind; the next call, by whomever, repairs them. Of
    several calls at once none can bring an older pointer back.

    Args:
        job: the job.
        state: as read; None reads it.

    Returns:
        What the pointer says; None where there is no champion yet.

    Raises:
        NotFoundError: the champion's bundle is not in the store.
        InputError: it is not the one that the job committed.
    """
    state = state or job.read()[0]
    contents = _contents(job, state)
    while True:
        found = {key: job.store.read_versioned(key) for key in contents}
        if all(one and one[0] == contents[key] for key, one in found.items()):
            break
        newest, _ = job.read()  # newer than what was found, so that no older pointer takes its place
        if newest != state:
            state, contents = newest, _contents(job, newest)
        if contents.keys() == found.keys() and _written(job.store, contents, found):
            break
    return Pointer.model_validate_json(contents[POINTER]) if contents else None


def is_current(job: Job, state: State) -> bool:
    """Whether the workers' pointers say what the job's state says, by one request.

    Our own pointer is written last, so that the other one is as new. Whether the files that they name are there is not
    looked at; :func:`publish_pointer` does that.

    Args:
        job: the job.
        state: as read.
    """
    if not state.history:
        return state.champion is None
    found = job.store.read_versioned(POINTER)
    try:
        pointer = Pointer.model_validate_json(found[0]) if found else None
    except ValidationError:
        return False
    if pointer is None or state.champion != state.history[-1].version:
        return False
    trial = (pointer.trial.version, tuple(pointer.trial.nodes)) if pointer.trial else None
    canary = (state.canary.version, tuple(state.canary.nodes)) if state.canary else None
    said = (pointer.generation, pointer.version, pointer.updated, trial)
    return said == (state.generation, state.champion, state.history[-1].at, canary)


def _written(store: Store, contents: Mapping[str, bytes], found: Mapping[str, tuple[bytes, str] | None]) -> bool:
    """Write what differs from what was found; False if somebody else has written meanwhile."""
    for key, before in found.items():
        try:
            if before is None:
                store.write(key, contents[key], if_absent=True)
            elif before[0] != contents[key]:
                store.write(key, contents[key], if_match=before[1])
        except ConflictError:
            return False
    return True


def _contents(job: Job, state: State) -> dict[str, bytes]:
    """What the pointers are to say, by their keys; nothing before the first champion."""
    last = state.history[-1].version if state.history else None
    if state.champion != last:
        raise InputError(
            f"{job.store.uri_of(STATE)} is damaged: the champion is {state.champion}, its history ends with {last}: "
            "restore it from a backup"
        )
    if last is None:
        return {}
    change = state.history[-1]
    target = _target(job, state, change.version)
    canary = None
    if state.canary:
        canary = CanaryTarget(**_target(job, state, state.canary.version), nodes=state.canary.nodes)
    several = "members" in target or bool(canary and canary.members)
    pointer = Pointer(
        **target, format=2 if several else 1, generation=state.generation, updated=change.at, trial=canary
    )
    contents = {}
    # KubeEdge Sedna's workers know one model: a release that has none called "model" is in our own pointer alone.
    if model := pointer.bundles().get(MODEL):
        contents[SEDNA_POINTER] = _sedna_json(job, model.version, change.at)
    contents[POINTER] = pointer.model_dump_json(indent=2).encode()  # last, see is_current
    return contents


def _target(job: Job, state: State, version: str) -> dict[str, Any]:
    release, bundles = job.registry.published(version, state.vouched.get(version))
    return Target.fields_of(version, bundles, release.routing)


def _sedna_json(job: Job, version: str, updated: datetime) -> bytes:
    """Sedna's ``model_config.json``: its workers load the path when the time differs from the one they know."""
    key = f"{FOLDER}{version}/{ONNX}"
    path = job.store.local_path(key)
    config = {"model_path": str(path or job.store.uri_of(key)), "model_update_time": updated.isoformat()}
    return json.dumps({"model_config": config}, indent=2).encode()
