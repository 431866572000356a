"""A TrainJob as a real API server takes it, with the definitions of Kubeflow Trainer; the test plays its controller."""

import copy
from pathlib import Path

import pytest
import yaml
from kubernetes import client

from components.core.errors import InputError
from components.core.kubernetes_objects import Namespace
from components.core.parameters import TrainerSettings, read
from components.setup.cluster import TRAINJOB_ROLE, try_trainjob
from components.train import node
from components.train.place import ROLE, train_in_trainjob
from tests.cluster.kube_apiserver import STEP, definitions
from tests.trainjobs import POD, samples

ROLE_FILE = Path(__file__).resolve().parents[2] / ROLE
GROUP, VERSION, PLURAL = "trainer.kubeflow.org", "v1alpha1", "trainjobs"
PLACE = read(TrainerSettings, {"trainer": "trainjob"})
TRAINING = {
    "estimator": "quick", "base_model": "nothing", "epochs": 2, "image_size": "96", "batch": 8, "patience": 0,
    "device": "cpu", "workers": 0, "seed": 0, "estimator_options": {}, "experiment_labels": "",
    "confidence_threshold": 0.25, "nms_threshold": 0.7, "plugin_modules": "tests.quick_estimator",
}  # fmt: skip


@pytest.fixture
def step(api_server, namespace, monkeypatch):
    """The namespace as the step sees it, whose pod is there."""
    if not definitions(GROUP):
        pytest.skip("no CustomResourceDefinitions of Kubeflow Trainer: run tests/cluster/build")
    api_server.define(GROUP)
    pod = copy.deepcopy(POD)
    for container in pod["spec"]["containers"]:
        container["securityContext"] = {
            "runAsUser": 1000, "runAsNonRoot": True, "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        }  # fmt: skip
    client.CoreV1Api(api_server.client()).create_namespaced_pod(namespace, pod)
    monkeypatch.setenv("KFP_POD_NAME", pod["metadata"]["name"])
    return Namespace(api_server.client(STEP), namespace, ROLE)


@pytest.fixture
def rights(api_server, namespace):
    """Those of the file that the documentation names."""
    role, binding = yaml.safe_load_all(ROLE_FILE.read_text(encoding="utf-8"))
    api = client.RbacAuthorizationV1Api(api_server.client())
    api.create_namespaced_role(namespace, role)
    binding["subjects"] = [{"kind": "User", "name": "system:serviceaccount:kubeflow:pipeline-runner"}]
    api.create_namespaced_role_binding(namespace, binding)


def test_a_trainjob_is_taken_as_it_is_and_gone_when_its_model_is_there(api_server, namespace, step, rights, tmp_path):
    custom = client.CustomObjectsApi(api_server.client())
    seen = []

    def controller(_seconds):
        for job in custom.list_namespaced_custom_object(GROUP, VERSION, namespace, PLURAL)["items"]:
            seen.append(job)
            node.run(*job["spec"]["trainer"]["command"][-2:])
            done = {
                "type": "Complete", "status": "True", "reason": "JobsCompleted", "message": "",
                "lastTransitionTime": "2026-11-28T00:00:00Z",
            }  # fmt: skip
            custom.patch_namespaced_custom_object_status(
                GROUP, VERSION, namespace, PLURAL, job["metadata"]["name"], {"status": {"conditions": [done]}}
            )

    root = str(tmp_path / "job")
    trained = train_in_trainjob(step, PLACE, samples(tmp_path, 8), tmp_path / "model", root, 1, TRAINING, controller)
    assert len(trained.history) == 2
    (job,) = seen
    assert job["spec"]["runtimeRef"]["kind"] == "ClusterTrainingRuntime"  # which the definition adds
    (patch,) = job["spec"]["runtimePatches"]
    (replicated,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    pod = replicated["template"]["spec"]["template"]["spec"]
    assert {one["name"] for one in pod["volumes"]} == {"cache", "shm", "edge-learning-store"}
    assert pod["nodeSelector"] == {"kubernetes.io/arch": "amd64"}
    assert job["spec"]["trainer"]["resourcesPerNode"]["limits"]["nvidia.com/gpu"] == "2"
    assert custom.list_namespaced_custom_object(GROUP, VERSION, namespace, PLURAL)["items"] == []


def test_a_step_without_the_rights_is_told_which(step, tmp_path):
    with pytest.raises(InputError, match=f"give the step's service account the rights of {ROLE}"):
        train_in_trainjob(step, PLACE, samples(tmp_path, 8), tmp_path / "model", str(tmp_path / "job"), 1, TRAINING)


def test_setup_tries_a_trainjob_and_leaves_none(api_server, namespace, step, rights):
    try_trainjob(PLACE, step)
    custom = client.CustomObjectsApi(api_server.client())
    assert custom.list_namespaced_custom_object(GROUP, VERSION, namespace, PLURAL)["items"] == []


def test_setup_says_before_work_which_rights_a_step_lacks(step):
    assert TRAINJOB_ROLE == ROLE
    with pytest.raises(InputError, match=f"give the step's service account the rights of {ROLE}"):
        try_trainjob(PLACE, step)
