"""Objects of a Kubernetes namespace: read, applied by the server, deleted; what goes wrong is one line.

Objects are applied by the server (https://kubernetes.io/docs/reference/using-api/server-side-apply/), so that fields
which others manage, such as the replicas that an autoscaler sets, stay as they are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.core.errors import ConflictError, InputError, OutOfReachError

Object = dict[str, Any]  # as YAML or JSON has it

MANAGER = "edge-learning"  # of the fields that are applied here

_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_RESOURCES = {  # by kind, where the API has them
    "ConfigMap": "api/v1/namespaces/{}/configmaps",
    "DaemonSet": "apis/apps/v1/namespaces/{}/daemonsets",
    "Deployment": "apis/apps/v1/namespaces/{}/deployments",
    "HorizontalPodAutoscaler": "apis/autoscaling/v2/namespaces/{}/horizontalpodautoscalers",
    "InferenceService": "apis/serving.kserve.io/v1beta1/namespaces/{}/inferenceservices",
    "Pod": "api/v1/namespaces/{}/pods",
    "Service": "api/v1/namespaces/{}/services",
    "TrainJob": "apis/trainer.kubeflow.org/v1alpha1/namespaces/{}/trainjobs",
}
_APPLY = "application/apply-patch+yaml"
_REQUEST_SECONDS = 30
_BUSY = (0, 408, 429)


def in_cluster() -> bool:
    """Whether this process runs in a pod that may talk to its cluster."""
    return (_ACCOUNT / "namespace").is_file()


def title(thing: Mapping[str, Any]) -> str:
    """What messages call an object: its kind and name."""
    return f"{thing['kind']} {thing['metadata']['name']}"


class Namespace:
    """The objects of a namespace.

    Args:
        api: a ``kubernetes.client.ApiClient``.
        name: of the namespace.
        role: file with the rights that are needed here, for the advice of an error.
    """

    def __init__(self, api: Any, name: str, role: str = "images/rollout-role.yaml") -> None:
        self._api, self.name, self._role = api, name, role

    @classmethod
    def of_pod(cls, name: str = "", role: str = "images/rollout-role.yaml") -> Namespace:
        """A namespace as the service account of this pod sees it.

        Args:
            name: of the namespace; empty for the pod's own.
            role: as of the class.

        Raises:
            InputError: the pod has no service account that could be used.
        """
        from kubernetes import client, config

        configuration = client.Configuration()
        try:
            own = (_ACCOUNT / "namespace").read_text(encoding="utf-8").strip()
            config.load_incluster_config(configuration)
        except (OSError, config.ConfigException) as error:
            raise InputError(f"the service account of this pod cannot be used ({error})") from error
        return cls(client.ApiClient(configuration), name or own, role)

    def read(self, kind: str, name: str) -> Object | None:
        """An object; None where there is none.

        Raises:
            InputError: the API server refuses.
            OutOfReachError: it does not answer, or cannot now.
        """
        return self._ask("GET", f"{kind} {name}", self._path(kind, name), may_be_absent=True)

    def pods(self, selector: Mapping[str, str]) -> list[Object]:
        """The pods with the labels; errors as of :meth:`read`."""
        labels = ",".join(f"{name}={value}" for name, value in selector.items())
        found = self._ask("GET", "Pods", self._path("Pod"), {"labelSelector": labels})
        return list((found or {})["items"])

    def log(self, pod: str, lines: int) -> list[str]:
        """The last lines that a pod printed; errors as of :meth:`read`."""
        path = f"{self._path('Pod', pod)}/log"
        found = self._ask("GET", f"log of Pod {pod}", path, {"tailLines": str(lines)}, may_be_absent=True, kind="str")
        return str(found or "").splitlines()

    def apply(self, manifest: Object, *, owned: bool, dry_run: bool = False) -> Object:
        """Make an object what a manifest says, as far as the manifest says it.

        Args:
            manifest: of the object. One with a ``resourceVersion`` is applied to that version alone.
            owned: whether fields of the manifest that others changed are set all the same.
            dry_run: whether the server only says what would come of it.

        Returns:
            The object as it is now.

        Raises:
            ConflictError: the object is another version by now, or others manage its fields.
            InputError: the API server refuses: a wrong manifest, a missing right, an unknown kind.
            OutOfReachError: it does not answer, or cannot now.
        """
        asked = {"fieldManager": MANAGER, "force": json.dumps(owned)} | ({"dryRun": "All"} if dry_run else {})
        path = self._path(manifest["kind"], manifest["metadata"]["name"])
        return self._ask("PATCH", title(manifest), path, asked, manifest) or {}

    def delete(self, kind: str, name: str) -> None:
        """Delete an object, and what belongs to it; errors as of :meth:`read`."""
        asked = {"propagationPolicy": "Background"}
        self._ask("DELETE", f"{kind} {name}", self._path(kind, name), asked, may_be_absent=True)

    def _path(self, kind: str, name: str = "") -> str:
        return f"/{_RESOURCES[kind].format(self.name)}" + (f"/{name}" if name else "")

    def _ask(
        self, verb: str, what: str, path: str, asked: Mapping[str, str] | None = None, body: Object | None = None, *,
        may_be_absent: bool = False, kind: str = "object",
    ) -> Object | None:  # fmt: skip
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        headers = {"Accept": "application/json" if kind == "object" else "*/*"} | (
            {"Content-Type": _APPLY} if body else {}
        )
        place = f"{what} in namespace {self.name}"
        try:
            answer: Object = self._api.call_api(
                path, verb, query_params=list((asked or {}).items()), header_params=headers, body=body,
                auth_settings=["BearerToken"], response_type=kind, _return_http_data_only=True,
                _request_timeout=_REQUEST_SECONDS,
            )  # fmt: skip
            return answer
        except HTTPError as error:
            raise OutOfReachError(f"{place}: the API server does not answer ({error})") from error
        except ApiException as error:
            said = _said(error)
            if error.status == 409:
                raise ConflictError(f"{place}: {said}") from error
            if error.status in _BUSY or error.status >= 500:
                raise OutOfReachError(f"{place}: the API server cannot answer now ({said})") from error
            if error.status == 404 and may_be_absent and "could not find the requested resource" not in said:
                return None
            raise InputError(f"{place}: {_advice(error.status, said, self._role)}") from error


def _said(error: Any) -> str:
    """The message of the API server."""
    try:
        return str(json.loads(error.body)["message"])
    except (ValueError, KeyError, TypeError):
        return str(error.reason)


def _advice(status: int, said: str, role: str) -> str:
    if status == 403 and 'User "' in said:  # others are forbidden by quotas and policies, which say so
        return f"{said}: give the step's service account the rights of {role}"
    if status == 404:
        return f"{said}: the cluster lacks this kind of object, or the namespace"
    return said
