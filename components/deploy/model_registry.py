"""The champion in Kubeflow Hub (Model Registry), for whoever looks for models there.

A job is a registered model, a release is a version of it, and each bundle of the release an artifact with its address.
The job's own state decides what is deployed: the registry is told afterwards, and a round never fails because of it.

Source: the REST API ``v1alpha3`` of Kubeflow Model Registry.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlencode

import urllib3
from pydantic import BaseModel, Field, ValidationError
from urllib3.exceptions import HTTPError

from components.core.errors import InputError, one_line
from components.core.job.job import Job
from components.core.job.registry import FOLDER
from components.core.job.state import State
from components.core.parameters import DeploySettings
from components.core.release import Release
from components.core.reports import page as reports
from components.core.stores.addresses import shown
from components.core.stores.base import Store
from components.core.stores.connections import open_pool, reason_of

log = logging.getLogger(__name__)

TOKEN_VARIABLE = "MODEL_REGISTRY_TOKEN"
API = "/api/model_registry/v1alpha3"
TIMEOUT = urllib3.Timeout(connect=3, read=5)  # seconds, of one request; nothing is tried again
MOST_BYTES = 1_000_000  # of an answer
ARTIFACT = "model-artifact"


Answer = TypeVar("Answer", bound=BaseModel)


class _Resource(BaseModel):
    """What is needed of a resource that the registry has."""

    id: str = Field(pattern=r"^[0-9]{1,20}$")
    name: str = ""


def register_champion(
    job: Job,
    state: State,
    chosen: DeploySettings,
    candidate: str = "",
    figures: Mapping[str, Any] | None = None,
    run_id: str = "",
) -> list[reports.Section]:
    """Register the champion, unless it is there; a registry that does not answer or refuses is a warning.

    Args:
        job: the job.
        state: as read.
        chosen: which registry, if any, and the model's name there.
        candidate: version that this run made; empty for none. The next two are of it.
        figures: what it scored, by name.
        run_id: of the run.

    Returns:
        What the report says of it; nothing without a registry or a champion.
    """
    if not chosen.model_registry or state.champion is None:
        return []
    name = chosen.registered_model or re.sub(r"[^\x20-\x7e]", "-", job.store.uri.rstrip("/").rpartition("/")[2])
    where = f"{shown(chosen.model_registry)}: model {name}, version {state.champion}"
    of_this_run = state.champion == candidate
    champion = _Champion(
        state.champion,
        next((change.why for change in reversed(state.history) if change.version == state.champion), ""),
        (figures or {}) if of_this_run else {},
        run_id if of_this_run else "",
    )
    try:
        release = job.registry.release(champion.version, state.vouched.get(champion.version))
        made = _register(_Server(chosen.model_registry), job.store, name, champion, release)
    except (InputError, HTTPError, OSError) as error:
        told = f"{where}: not registered, {reason_of(error) if isinstance(error, HTTPError) else error}"
        log.warning("warning: %s", told)
        return [reports.Section("Model registry", reports.note(told, "warn"))]
    log.info("%s: %s", where, "registered" if made else "was registered already")
    return [reports.Section("Model registry", reports.facts({"model": name, "version": champion.version}))]


@dataclass(frozen=True)
class _Champion:
    """What is told of a version."""

    version: str
    why: str
    figures: Mapping[str, Any]
    run_id: str


class _Server:
    """A model registry.

    Args:
        address: of the server, without the path of the API.
    """

    def __init__(self, address: str) -> None:
        self._base = address.rstrip("/") + API
        self._pool = open_pool(address)
        token = os.environ.get(TOKEN_VARIABLE, "").strip()
        self._headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})

    def find(self, path: str, **query: str) -> _Resource | None:
        """The resource of a name; None if there is none."""
        status, data = self._ask("GET", f"{path}?{urlencode(query)}")
        return None if status == 404 else _read(_Resource, data)

    def listed(self, path: str, **query: str) -> list[_Resource]:
        """The resources of a list, of which a name narrows down to one at most."""
        return _read(_Listed, self._ask("GET", f"{path}?{urlencode(query)}")[1]).items

    def make(self, path: str, body: Mapping[str, Any]) -> _Resource | None:
        """Make a resource; None if another run was quicker."""
        status, data = self._ask("POST", path, json.dumps(body).encode())
        return None if status == 409 else _read(_Resource, data)

    def _ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        answer = self._pool.once(
            method, self._base + path, body=body, headers=self._headers, timeout=TIMEOUT, preload_content=False,
            redirect=False,
        )  # fmt: skip
        try:
            data = answer.read(MOST_BYTES + 1)
        finally:
            answer.close()
        passable = {"GET": (404,), "POST": (409,)}[method]
        if not 200 <= answer.status < 300 and answer.status not in passable:
            hint = f": put {TOKEN_VARIABLE} into the secret of the store" if answer.status in (401, 403) else ""
            raise InputError(f"HTTP {answer.status} {answer.reason or ''}".rstrip() + hint)
        if len(data) > MOST_BYTES:
            raise InputError(f"an answer of more than {MOST_BYTES:,} bytes")
        return answer.status, data


class _Listed(BaseModel):
    items: list[_Resource]


def _read(kind: type[Answer], data: bytes) -> Answer:
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        raise InputError(f"this is no model registry ({one_line(error)})") from error


def _register(server: _Server, store: Store, name: str, champion: _Champion, release: Release) -> bool:
    """Make what is missing of model, version and artifacts, in this order; whether anything was."""
    job = store.uri
    model, is_new_model = _found_or_made(
        server,
        "registered_model",
        {"name": name},
        {"name": name, "description": f"models of the job {job}", "customProperties": _properties({}, {"job": job})},
    )
    version, is_new_version = _found_or_made(
        server,
        "model_version",
        {"name": champion.version, "parentResourceId": model.id},
        {
            "name": champion.version,
            "registeredModelId": model.id,
            "description": champion.why[:1000],
            "customProperties": _properties(champion.figures, {"job": job, "run": champion.run_id}),
        },
    )
    path = f"/model_versions/{version.id}/artifacts"
    missing = [role for role in release.members if not server.listed(path, name=role, artifactType=ARTIFACT)]
    for role in missing:
        member = release.members[role]
        server.make(
            path,
            {
                "artifactType": ARTIFACT,
                "name": role,
                "uri": store.uri_of(f"{FOLDER}{member.version}"),
                "modelFormatName": "onnx",
                "modelSourceKind": "pipelines",
                "modelSourceClass": "pipelinerun",
                "modelSourceId": champion.run_id,
                "customProperties": _properties({}, {"sha256": member.sha256}),
            },
        )
    return is_new_model or is_new_version or bool(missing)


def _found_or_made(
    server: _Server, kind: str, query: Mapping[str, str], body: Mapping[str, Any]
) -> tuple[_Resource, bool]:
    """A resource, and whether it was made just now."""
    if found := server.find(f"/{kind}", **query):
        return found, False
    if made := server.make(f"/{kind}s", body):
        return made, True
    if found := server.find(f"/{kind}", **query):
        return found, False
    raise InputError(f"it says of {body['name']} both that it is there and that it is not")


def _properties(numbers: Mapping[str, Any], texts: Mapping[str, str]) -> dict[str, Any]:
    """Numbers and texts in the form of the API."""
    made: dict[str, Any] = {
        name: {"metadataType": "MetadataDoubleValue", "double_value": float(value)}
        for name, value in numbers.items()
        if isinstance(value, int | float)
    }
    return made | {
        name: {"metadataType": "MetadataStringValue", "string_value": value} for name, value in texts.items() if value
    }
