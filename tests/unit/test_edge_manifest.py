"""The Kubernetes object for edge workers says what the worker understands."""

from pathlib import Path

import yaml
from typer.main import get_command

from components.core.runtimes.rknn import NEEDED
from components.images import VERSION
from components.serving.edge_worker import app

MANIFEST = Path(__file__).resolve().parents[2] / "images" / "edge" / "worker.yaml"


TEXT = MANIFEST.read_text()


def pod(text=TEXT):
    return yaml.safe_load(text)["spec"]["template"]["spec"]


def test_every_setting_is_an_option_of_the_worker_and_the_required_ones_are_there():
    options = {f"EDGE_{option.name.upper()}": option for option in get_command(app).params}
    (container,) = pod()["containers"]
    given = {entry["name"] for entry in container["env"]}
    assert given <= options.keys()
    assert {name for name, option in options.items() if option.required} <= given


def test_it_runs_the_worker_of_this_version_and_asks_it_how_it_is():
    for container in (*pod()["containers"], *pod()["initContainers"]):
        assert container["image"] == f"edge-learning/edge:{VERSION}"
    (container,) = pod()["containers"]
    assert container["command"] == ["python", "-m", "components.serving.edge_worker"]
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"
    port = next(entry["value"] for entry in container["env"] if entry["name"] == "EDGE_PORT")
    assert container["ports"][0]["containerPort"] == int(port)


def test_what_has_to_outlive_a_pod_lies_on_the_node():
    (container,) = pod()["containers"]
    spool = next(entry["value"] for entry in container["env"] if entry["name"] == "EDGE_SPOOL")
    mounted = next(mount for mount in container["volumeMounts"] if spool.startswith(mount["mountPath"]))
    volume = next(volume for volume in pod()["volumes"] if volume["name"] == mounted["name"])
    assert "hostPath" in volume


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
