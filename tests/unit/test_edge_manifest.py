"""What images/edge hands to operators fits what the worker understands, shows and does."""

import fnmatch
import json
import re
import threading
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from components.core.job.job import Job
from components.core.runtimes.rknn import NEEDED
from components.core.stores.files import FileStore
from components.images import VERSION
from components.serving import worker as worker_module
from components.serving.edge_worker import app
from components.serving.worker import Worker
from tests.edge import deploy, folder_of_images, options

EDGE = Path(__file__).resolve().parents[2] / "images" / "edge"
MANIFESTS = ("worker.yaml", "camera.yaml")
TEXT = (EDGE / "worker.yaml").read_text()
OPTIONS = {f"EDGE_{option.name.upper()}": option for option in get_command(app).params}


def pod(text=TEXT):
    return yaml.safe_load(text)["spec"]["template"]["spec"]


@pytest.fixture(params=MANIFESTS)
def manifest(request):
    return (EDGE / request.param).read_text()


def test_every_setting_is_an_option_of_the_worker_and_the_required_ones_are_there(manifest):
    (container,) = pod(manifest)["containers"]
    given = {entry["name"] for entry in container["env"]}
    assert given | set(re.findall(r"EDGE_[A-Z_]+", manifest)) <= OPTIONS.keys()
    required = {name for name, option in OPTIONS.items() if option.required}
    assert required <= given | set(re.findall(r"--from-literal=(EDGE_[A-Z_]+)", manifest))


def test_it_runs_the_worker_of_this_version_and_asks_it_how_it_is(manifest):
    (container,) = pod(manifest)["containers"]
    assert container["image"] == f"edge-learning/edge:{VERSION}"
    assert container["command"] == ["python", "-m", "components.serving.edge_worker"]
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"
    env = {entry["name"]: entry for entry in container["env"]}
    assert container["ports"][0]["containerPort"] == int(env["EDGE_PORT"]["value"])
    assert env["EDGE_HOST"]["valueFrom"]["fieldRef"]["fieldPath"] == "status.podIP"  # of either protocol
    assert env["EDGE_IDLE_AT_END"]["value"] == "true"  # a program that ends is started again


def test_a_pod_may_do_what_a_worker_needs_and_no_more(manifest):
    """Pod Security's level "restricted", but for the volume of worker.yaml, of which the file says so."""
    spec = pod(manifest)
    assert "initContainers" not in spec
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    (container,) = spec["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip
    assert {entry["secretRef"]["name"] for entry in container["envFrom"]} <= {"edge-worker-store", "gate-1-camera"}
    kinds = {kind for volume in spec["volumes"] for kind in volume if kind != "name"}
    assert kinds - {"emptyDir"} <= (
        {"hostPath"} if "pod-security.kubernetes.io/enforce=privileged" in manifest else set()
    )


def test_what_has_to_outlive_a_pod_lies_on_the_node():
    (container,) = pod()["containers"]
    spool = next(entry["value"] for entry in container["env"] if entry["name"] == "EDGE_SPOOL")
    mounted = next(mount for mount in container["volumeMounts"] if spool.startswith(mount["mountPath"]))
    volume = next(volume for volume in pod()["volumes"] if volume["name"] == mounted["name"])
    assert volume["hostPath"]["path"] in re.search(r"install -d -o 1000 -g 1000 (\S+)", TEXT)[1]


def test_a_camera_has_a_volume_and_a_name_of_its_own():
    text = (EDGE / "camera.yaml").read_text()
    (container,) = pod(text)["containers"]
    (claim,) = yaml.safe_load(text)["spec"]["volumeClaimTemplates"]
    assert {"name": claim["metadata"]["name"], "mountPath": "/data"} in container["volumeMounts"]
    node = next(entry for entry in container["env"] if entry["name"] == "EDGE_NODE")
    assert node["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.name"


def test_what_is_marked_for_the_npu_gives_the_container_all_that_it_needs():
    board = pod(TEXT.replace("# NPU: ", "").replace("[GROUP]", "[44]"))
    (container,) = board["containers"]
    assert container["securityContext"]["privileged"] is True
    assert board["securityContext"]["supplementalGroups"] == [44]
    assert {"name": "EDGE_RUNTIME", "value": "rknn"} in container["env"]
    library = str(NEEDED[0])
    mount = next(mount for mount in container["volumeMounts"] if mount["mountPath"] == library)
    volume = next(volume for volume in board["volumes"] if volume["name"] == mount["name"])
    assert volume["hostPath"]["path"] == library


def spied(method, action, uses):
    """A method of a store that writes down which action it needs on which object."""
    original = getattr(FileStore, method)

    def called(store, key="", *rest, **named):
        uses.add((action, f"{store.uri}/{key}"))
        return original(store, key, *rest, **named)

    return called


def test_a_worker_does_nothing_to_the_store_that_its_policy_does_not_allow(tmp_path, monkeypatch):
    uses, root = set(), Job.open(str(tmp_path / "job")).store.uri
    actions = {
        "read_versioned": "GetObject", "stat": "GetObject", "write": "PutObject", "download": "GetObject",
        "delete": "DeleteObject", "list": "ListBucket",
    }  # fmt: skip
    for method, action in actions.items():
        monkeypatch.setattr(FileStore, method, spied(method, action, uses))
    deploy(Job.open(str(tmp_path / "job")), "v1", tmp_path / "bundle")
    monkeypatch.setattr(worker_module, "STUCK_UPLOAD_SECONDS", 5.0)
    uses.clear()
    Worker(options(tmp_path, folder_of_images(tmp_path / "images", 12))).run(threading.Event())
    allowed = {
        (action.removeprefix("s3:"), resource.removeprefix("arn:aws:s3:::jobs/helmet/"))
        for statement in json.loads((EDGE / "policy.json").read_text())["Statement"]
        for action in statement["Action"]
        for resource in statement["Resource"]
    }
    wanting = [
        (action, uri) for action, uri in uses
        if not any(action == may and fnmatch.fnmatchcase(uri, f"{root}/{where}") for may, where in allowed)
    ]  # fmt: skip
    assert not wanting
    assert ("PutObject", f"{root}/status/edge-1.json") in uses
    writable = {resource for action, resource in allowed if action == "PutObject"}
    assert writable == {"hard-examples/*", "status/*"}


@pytest.mark.parametrize("name", ["alerts.yaml", "dashboard.json"])
def test_every_metric_that_is_looked_at_is_one_that_a_worker_shows(tmp_path, name):
    worker = Worker(options(tmp_path, folder_of_images(tmp_path / "images", 1)))
    worker.metrics.show_model("v1", ["red"])
    shown = {sample.name for metric in worker.metrics.registry.collect() for sample in metric.samples}
    content = yaml.safe_load((EDGE / name).read_text())  # JSON is YAML, too
    asked = re.findall(r"\bedge_[a-z0-9_]+", json.dumps(content))
    assert len(set(asked)) > 10
    assert set(asked) <= shown
