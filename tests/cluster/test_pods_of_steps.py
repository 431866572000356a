"""The pods of all steps, and the poller's, in a namespace with a quota: what a kube-apiserver says of them (dry run).

Pods are put together as the driver of Kubeflow Pipelines does (backend/src/v2/driver/driver.go and k8s.go): the step's
container with what the compiled pipeline asks for, and Argo's own containers around it, which ask for nothing.
"""

import re

import pytest
import yaml
from kubernetes import client
from kubernetes.client import ApiException

from pipelines.client import COMPILED, Server, connect
from pipelines.poller import write_manifest
from tests.client.fake_api import FakeApi

NAMES = sorted(path.stem for path in (COMPILED / "pipelines").glob("*.yaml"))
HARD = {"requests.cpu": "64", "limits.cpu": "64", "requests.memory": "256Gi", "limits.memory": "256Gi", "pods": "100"}
# What a LimitRange gives to the containers of Argo, and to all what the kfp SDK cannot ask for.
DEFAULTS = {"cpu": "500m", "memory": "512Mi", "ephemeral-storage": "30Gi"}
HARDENED = {
    "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"},
}  # fmt: skip


def quota(api, namespace, hard):
    """A quota that counts, as the controller that is not here would make it."""
    core = client.CoreV1Api(api.client())
    wanted = {"metadata": {"name": "team"}, "spec": {"hard": hard}}
    core.create_namespaced_resource_quota(namespace, wanted)
    status = {"status": {"hard": hard, "used": dict.fromkeys(hard, "0")}}
    core.patch_namespaced_resource_quota_status("team", namespace, status)


def limit_range(api, namespace):
    limits = [{"type": "Container", "default": DEFAULTS, "defaultRequest": {**DEFAULTS, "cpu": "50m"}}]
    wanted = {"metadata": {"name": "team"}, "spec": {"limits": limits}}
    client.CoreV1Api(api.client()).create_namespaced_limit_range(namespace, wanted)


def pods(name):
    """The pod of every step of a pipeline, with default parameters."""
    spec, platform = yaml.safe_load_all((COMPILED / "pipelines" / f"{name}.yaml").read_text(encoding="utf-8"))
    inputs = spec["root"]["inputDefinitions"]["parameters"]
    given = {row: kind.get("defaultValue") for row, kind in inputs.items()}

    def value(words):
        found = re.fullmatch(r"\{\{\$\.inputs\.parameters\['pipelinechannel--(\w+)'\]\}\}", str(words))
        return str(given[found[1]]) if found else str(words)

    asked = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    for executor, described in spec["deploymentSpec"]["executors"].items():
        container, more = described["container"], asked[executor]
        resources = {}
        for kind in ("Request", "Limit"):
            amounts = {row: value(container["resources"][f"resource{row.title()}{kind}"]) for row in ("cpu", "memory")}
            resources[f"{kind.lower()}s"] = amounts
        secret = value(given["store_secret"])
        volumes = [
            {"name": one["volumeName"], "emptyDir": {"sizeLimit": one["sizeLimit"], "medium": one.get("medium", "")}}
            for one in more.get("emptyDirMounts", [])
        ]
        volumes += [{"name": secret, "secret": {"secretName": secret, "optional": True}}]
        fields = [
            {"name": one["name"], "valueFrom": {"fieldRef": {"fieldPath": one["fieldPath"]}}}
            for one in more.get("fieldPathAsEnv", [])
        ]
        user = {"runAsNonRoot": more["securityContext"]["runAsNonRoot"], "runAsUser": USER}
        main = {
            "name": "main", "image": container["image"], "command": ["true"], "resources": resources, "env": fields,
            "securityContext": HARDENED | user,
            "volumeMounts": [
                {"name": one["volumeName"], "mountPath": one["mountPath"]} for one in more.get("emptyDirMounts", [])
            ],
        }  # fmt: skip
        argo = {"image": "quay.io/argoproj/argoexec:v3.7.8", "securityContext": HARDENED | user}
        yield {
            "metadata": {"generateName": f"{executor}-"},
            "spec": {
                "restartPolicy": "Never",
                "activeDeadlineSeconds": int(more["activeDeadlineSeconds"]),
                "initContainers": [{"name": "init", **argo}],
                "containers": [{"name": "wait", **argo}, main],
                "volumes": volumes,
                "nodeSelector": given["node_selector"],
                "tolerations": given["tolerations"],
            },
        }


USER = 1000


def dry_run(api, namespace, pod):
    return client.CoreV1Api(api.client()).create_namespaced_pod(namespace, pod, dry_run="All")


@pytest.mark.parametrize("name", NAMES)
def test_the_pods_of_all_steps_are_admitted_by_quota_limit_range_and_pod_security(api_server, namespace, name):
    quota(api_server, namespace, HARD | {"requests.ephemeral-storage": "1Ti", "limits.ephemeral-storage": "1Ti"})
    limit_range(api_server, namespace)
    made = [dry_run(api_server, namespace, pod) for pod in pods(name)]
    assert made
    for pod in made:
        for container in (*pod.spec.init_containers, *pod.spec.containers):
            assert {"cpu", "memory", "ephemeral-storage"} <= container.resources.limits.keys()


def test_a_quota_without_a_limit_range_refuses_the_containers_of_argo_and_none_of_the_steps(api_server, namespace):
    quota(api_server, namespace, HARD)
    pod = next(pods("helmet-detection"))
    with pytest.raises(ApiException, match=r"must specify limits.cpu for: init,wait; limits.memory for: init,wait"):
        dry_run(api_server, namespace, pod)
    pod["spec"]["containers"] = pod["spec"]["containers"][1:]
    del pod["spec"]["initContainers"]
    assert dry_run(api_server, namespace, pod)


def test_training_that_is_larger_than_the_quota_is_refused(api_server, namespace):
    quota(api_server, namespace, HARD | {"limits.memory": "6Gi"})
    limit_range(api_server, namespace)
    (train,) = [pod for pod in pods("helmet-detection") if pod["metadata"]["generateName"] == "exec-train-"]
    with pytest.raises(ApiException, match="exceeded quota: team, requested: limits.memory="):
        dry_run(api_server, namespace, train)


def test_the_poller_is_admitted(api_server, namespace, tmp_path):
    quota(api_server, namespace, HARD)
    with FakeApi(namespaces=(namespace,)) as kubeflow:
        cluster = connect(Server(kubeflow.url, namespace=namespace))
        given = {"feed_url": "s3://feed", "job_root": "s3://job"}
        write_manifest(cluster, tmp_path / "poller.yaml", "incremental-learning", given, every_seconds=60)
    config, deployment = yaml.safe_load_all((tmp_path / "poller.yaml").read_text())
    core, apps = client.CoreV1Api(api_server.client()), client.AppsV1Api(api_server.client())
    core.create_namespaced_config_map(namespace, config, dry_run="All")
    apps.create_namespaced_deployment(namespace, deployment, dry_run="All", field_validation="Strict")
    template = deployment["spec"]["template"]
    pod = {"metadata": {"generateName": "poller-", **template["metadata"]}, "spec": template["spec"]}
    assert dry_run(api_server, namespace, pod)
