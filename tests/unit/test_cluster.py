"""What the pods of every step ask of a cluster, as the compiled pipelines say it."""

import os
import runpy
import subprocess
import sys

import pytest
import yaml

from components.core.errors import InputError
from components.core.parameters import ServingSettings
from pipelines import cluster
from pipelines.client import COMPILED

NAMES = sorted(path.stem for path in (COMPILED / "pipelines").glob("*.yaml"))
HOURS = 3600


def executors(path):
    """Each executor of a compiled pipeline: what its container is, and what Kubernetes is asked for."""
    spec, platform = yaml.safe_load_all(path.read_text(encoding="utf-8"))
    settings = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    return {name: (one["container"], settings[name]) for name, one in spec["deploymentSpec"]["executors"].items()}


def tasks(dag_or_spec):
    """Every task of a compiled pipeline that runs in a pod of its own, with its name."""
    dags = [dag_or_spec["root"]["dag"], *(one["dag"] for one in dag_or_spec["components"].values() if "dag" in one)]
    leaves = {name for name, one in dag_or_spec["components"].items() if "executorLabel" in one}
    return [
        (name, task) for dag in dags for name, task in dag["tasks"].items() if task["componentRef"]["name"] in leaves
    ]


@pytest.mark.parametrize("name", NAMES)
def test_every_pod_is_one_that_pod_security_restricted_admits(name):
    # The rest (seccompProfile, capabilities, no privilege escalation) is what Kubeflow Pipelines adds to every pod.
    for executor, (_, asked) in executors(COMPILED / "pipelines" / f"{name}.yaml").items():
        assert asked["securityContext"] == {"runAsNonRoot": True, "runAsUser": "1000"}, executor
        assert not any("hostPath" in key for key in asked), executor


@pytest.mark.parametrize("name", NAMES)
def test_every_pod_has_requests_and_limits_a_node_and_tolerations(name):
    for executor, (container, asked) in executors(COMPILED / "pipelines" / f"{name}.yaml").items():
        wanted = {"resourceCpuRequest", "resourceCpuLimit", "resourceMemoryRequest", "resourceMemoryLimit"}
        assert wanted <= container["resources"].keys(), executor
        assert "nodeSelectorJson" in asked["nodeSelector"], executor
        assert "tolerationJson" in asked["tolerations"][0], executor


@pytest.mark.parametrize("name", NAMES)
def test_every_task_is_tried_again_however_long_it_took_and_ends_at_some_time(name):
    path = COMPILED / "pipelines" / f"{name}.yaml"
    spec = next(yaml.safe_load_all(path.read_text(encoding="utf-8")))
    asked = {executor.removeprefix("exec-"): one for executor, (_, one) in executors(path).items()}
    for task, settings in tasks(spec):
        one_try = int(asked[task].get("activeDeadlineSeconds", 0))
        if task == "conclude":  # whose failure is the run's
            assert "retryPolicy" not in settings
            continue
        policy = settings["retryPolicy"]
        assert 0 < one_try <= 24 * HOURS, task
        assert policy["maxRetryCount"] == 2, task
        assert int(policy["backoffMaxDuration"].removesuffix("s")) > 3 * one_try, task
        assert "cachingOptions" not in settings or not settings["cachingOptions"].get("enableCache"), task
        if task in ("trigger", "setup", "setup-round", "setup-joint"):
            assert one_try <= 2 * HOURS, task


def test_a_rollout_ends_before_its_step_is_ended_and_can_put_back_what_ran():
    longest = next(one.le for one in ServingSettings.model_fields["serving_timeout"].metadata if hasattr(one, "le"))
    _, asked = executors(COMPILED / "pipelines" / "joint-inference.yaml")["exec-rollout"]
    assert longest + 300 < int(asked["activeDeadlineSeconds"])


@pytest.mark.parametrize("name", NAMES)
def test_no_claim_is_needed(name):
    assert not any("pvcMount" in asked for _, asked in executors(COMPILED / "pipelines" / f"{name}.yaml").values())


def test_a_claim_can_be_named_when_a_pipeline_is_compiled(tmp_path):
    words = ["compile", "--output", str(tmp_path), "--cache-pvc", "fast"]
    subprocess.run([sys.executable, "-m", "pipelines", *words], check=True, env=os.environ, capture_output=True)
    asked = executors(tmp_path / "pipelines" / "helmet-detection.yaml")
    mounts = asked["exec-train"][1]["pvcMount"]
    assert [(mount["mountPath"], mount["pvcNameParameter"]["runtimeValue"]["constant"]) for mount in mounts] == [
        ("/cache", "fast")
    ]


def test_heavy_steps_wait_in_a_queue_that_is_named_when_a_pipeline_is_compiled(tmp_path):
    words = ["compile", "--output", str(tmp_path), "--queue", "team-a", "--manifests", str(tmp_path / "objects")]
    done = subprocess.run(
        [sys.executable, "-m", "pipelines", *words], check=True, env=os.environ, capture_output=True, text=True
    )
    assert done.stdout.endswith(f"{len(NAMES)} manifests are in {tmp_path / 'objects'}\n")
    label = {"labels": {"kueue.x-k8s.io/queue-name": "team-a"}}
    made = executors(tmp_path / "pipelines" / "helmet-detection.yaml")
    labelled = {name for name, (_, asked) in made.items() if asked.get("podMetadata") == label}
    assert labelled == made.keys() - {"exec-report", "exec-conclude"}
    _, version = yaml.safe_load_all((tmp_path / "objects" / "helmet-detection.yaml").read_text(encoding="utf-8"))
    compiled = list(yaml.safe_load_all((tmp_path / "pipelines" / "helmet-detection.yaml").read_text(encoding="utf-8")))
    assert version["spec"]["platformSpec"] == compiled[1]


def test_no_step_waits_in_a_queue_by_default():
    asked = [one for name in NAMES for _, one in executors(COMPILED / "pipelines" / f"{name}.yaml").values()]
    assert not any("podMetadata" in one for one in asked)


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("EDGE_STEP_TIMEOUT", "1h", "should be a valid integer"),
        ("EDGE_STEP_TIMEOUT", "0", "should be greater than or equal to 1"),
        ("EDGE_SHM_SIZE", "4 GB", "must be a Kubernetes quantity such as 500m, 2 or 8Gi"),
        ("EDGE_CACHE_SIZE", "-1Gi", "must be a Kubernetes quantity such as 500m, 2 or 8Gi"),
        ("EDGE_CACHE_PVC", "my_claim", "must be a Kubernetes object name"),
        ("EDGE_QUEUE", "Team A", "must be a Kubernetes object name"),
    ],
)
def test_what_kubernetes_would_refuse_is_told_when_a_pipeline_is_compiled(monkeypatch, variable, value, said):
    monkeypatch.setenv(variable, value)
    with pytest.raises(InputError, match=f"{variable}='{value}': .*{said}"):
        runpy.run_path(cluster.__file__)


def test_an_empty_variable_is_one_that_is_not_set(monkeypatch):
    monkeypatch.setenv("EDGE_STEP_TIMEOUT", "")
    assert runpy.run_path(cluster.__file__)["STEP_TIMEOUT"] == cluster.STEP_TIMEOUT
