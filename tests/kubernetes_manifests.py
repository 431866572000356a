"""What a manifest has to be: of the schema of Kubernetes, and its pods as Pod Security's level "restricted" asks."""

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # a module that leaves Python in a later version
    import kubernetes_validate

from components.rollout import manifests as rollout

VERSION = "1.34"
_VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}


def check(manifest: dict) -> None:
    """Raise if a manifest is not of the schema, or has a field that there is not."""
    if manifest["kind"] == "InferenceService":
        manifest = rollout.pod_of(manifest)  # of KServe's schema is the rest, see tests/cluster
    kubernetes_validate.validate(manifest, VERSION, strict=True)


def pod_of(manifest: dict) -> dict | None:
    """The specification of a manifest's pods; None if it has none."""
    spec = manifest.get("spec", {})
    return (
        spec.get("template", {}).get("spec") or spec.get("predictor") or (spec if manifest["kind"] == "Pod" else None)
    )


def not_restricted(pod: dict) -> list[str]:
    """Which rules of the level "restricted" a pod breaks.

    https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted
    """
    found = [f"volume {v['name']}" for v in pod.get("volumes", ()) if not (set(v) - {"name"}) <= _VOLUMES]
    found += [name for name in ("hostNetwork", "hostPID", "hostIPC") if pod.get(name)]
    for container in (*pod.get("initContainers", ()), *pod["containers"]):
        own = pod.get("securityContext", {}) | container.get("securityContext", {})
        rules = {
            "runAsNonRoot": own.get("runAsNonRoot") is True,
            "runAsUser": own.get("runAsUser") != 0,
            "seccompProfile": own.get("seccompProfile", {}).get("type") in ("RuntimeDefault", "Localhost"),
            "allowPrivilegeEscalation": own.get("allowPrivilegeEscalation") is False,
            "capabilities": "ALL" in own.get("capabilities", {}).get("drop", ())
            and set(own["capabilities"].get("add", ())) <= {"NET_BIND_SERVICE"},
            "privileged": not own.get("privileged"),
            "hostPort": not any(port.get("hostPort") for port in container.get("ports", ())),
        }
        found += [f"{container['name']}: {rule}" for rule, kept in rules.items() if not kept]
    return found
