"""What images/cloud hands to operators fits what the cloud server understands and shows."""

import re
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from components.core.version import VERSION
from components.serving.cloud_server import TOKEN, app

TEXT = (Path(__file__).resolve().parents[2] / "images" / "cloud" / "server.yaml").read_text(encoding="utf-8")
OPTIONS = {f"CLOUD_{option.name.upper()}": option for option in get_command(app).params}


@pytest.fixture
def parts():
    return {part["kind"]: part for part in yaml.safe_load_all(TEXT)}


@pytest.fixture
def container(parts):
    (container,) = parts["Deployment"]["spec"]["template"]["spec"]["containers"]
    return container


def test_every_setting_is_an_option_of_the_server_and_the_required_ones_are_there(container):
    given = {entry["name"] for entry in container["env"]}
    assert given <= OPTIONS.keys()
    assert {name for name, option in OPTIONS.items() if option.required} <= given
    assert re.findall(r"--from-literal=(\w+)", TEXT) == [TOKEN]


def test_it_runs_the_server_of_this_version_and_asks_it_how_it_is(container):
    assert container["image"] == f"edge-learning/cloud:{VERSION}"
    assert container["command"] == ["python", "-m", "components.serving.cloud_server"]
    assert container["startupProbe"]["httpGet"]["path"] == "/readyz"
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"
    env = {entry["name"]: entry for entry in container["env"]}
    assert container["ports"][0]["containerPort"] == int(env["CLOUD_PORT"]["value"])


def test_service_and_autoscaler_are_of_the_deployment(parts):
    deployment = parts["Deployment"]
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == parts["Service"]["spec"]["selector"] == labels
    assert parts["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"] == {
        "apiVersion": deployment["apiVersion"],
        "kind": "Deployment",
        "name": deployment["metadata"]["name"],
    }


def test_a_pod_may_do_no_more_than_pod_security_s_level_restricted_allows(parts, container):
    pod = parts["Deployment"]["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    assert all("hostPath" not in volume for volume in pod["volumes"])
