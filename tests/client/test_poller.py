"""A poller: its manifest, its looks at a feed, and the rounds that it starts."""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
from datetime import timedelta

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from components.core.errors import InputError
from components.trigger.poller import Order, Poller
from pipelines.__main__ import app
from pipelines.client import COMPILED, Server, connect, read_package
from pipelines.poller import write_manifest
from tests.client.fake_api import FakeApi
from tests.images import jpeg
from tests.small_image import REPOSITORY, packages

SETTINGS = {
    "classes": "0:helmet", "data_format": "yolo", "min_samples": 2, "train_ratio": 0.4, "val_ratio": 0.2,
    "trigger_conditions": ["num_of_samples >= 12"],
}  # fmt: skip


@pytest.fixture
def given(tmp_path):
    (tmp_path / "feed").mkdir()
    return {"feed_url": str(tmp_path / "feed"), "job_root": str(tmp_path / "job"), **SETTINGS}


@pytest.fixture
def order(api, cluster, given, tmp_path):
    """The folder of a poller, as its ConfigMap mounts it."""
    (tmp_path / "poller").mkdir()
    config, _ = made(cluster, given, tmp_path / "poller.yaml", api=api.url)
    for name, content in config["data"].items():
        (tmp_path / "poller" / name).write_text(content)
    return tmp_path / "poller"


def made(cluster, given, path, **options):
    write_manifest(cluster, path, "incremental-learning", given, **{"every_seconds": 60, "name": "gate 1"} | options)
    return list(yaml.safe_load_all(path.read_text()))


def arrive(feed, count=12):
    random = np.random.default_rng(0)
    for number in range(count):
        (feed / f"{number}.jpg").write_bytes(jpeg(random.integers(0, 255, (48, 64, 3), dtype=np.uint8)))
        (feed / f"{number}.txt").write_text("0 0.5 0.5 0.2 0.2\n")


def test_a_round_is_started_when_there_is_work_and_none_is_in_progress(api, order, given, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    poller, go_on = Poller(order), threading.Event()
    assert poller.poll(go_on) == ""
    assert "trigger | wait: num_of_samples >= 12: have 0, need >= 12" in caplog.text
    assert not api.runs
    arrive(tmp_path / "feed")
    run = api.runs[poller.poll(go_on)]
    assert run["display_name"].startswith("gate 1 20")
    parameters = run["runtime_config"]["parameters"]
    assert (parameters["feed_url"], parameters["job_root"]) == (given["feed_url"], given["job_root"])
    assert parameters["settings"]["trigger"] == {"trigger_conditions": ["num_of_samples >= 12"]}
    assert api.spec_of(run)["pipelineInfo"]["name"] == "incremental-round"
    caplog.clear()
    assert Poller(order).poll(go_on) == "", "also after a restart"
    assert f"run {run['run_id']} is in progress" in caplog.text and "trigger |" not in caplog.text
    api.advance(api.run_seconds)
    assert poller.poll(go_on) not in ("", run["run_id"])


def add_runs(api, poller, names, *states):
    """Runs of the poller's experiment, one a second, which the server lists newest first."""
    made = []
    for name in names:
        api.now += timedelta(seconds=1)
        body = {"experiment_id": poller.order.run["experiment_id"], "runtime_config": {}, "display_name": name}
        made.append(api._add_run(**body))
        made[-1]["state"] = states[len(made) % len(states)]
    return made


def test_a_run_in_progress_is_found_among_many_others(api, order):
    """Newer ones of the same experiment are in progress too, or have finished."""
    poller = Poller(order)
    (own,) = add_runs(api, poller, ["gate 1 2026-11-28 08:00:00"], "RUNNING")
    add_runs(api, poller, [f"by hand {number}" for number in range(900)], "RUNNING", "FAILED", "SUCCEEDED")
    api.requests.clear()
    assert poller.in_progress() == own["run_id"]
    assert api.requests == ["GET /apis/v2beta1/runs"] * 2, "those that have finished are not listed"
    own["state"] = "SUCCEEDED"
    assert poller.in_progress() == ""
    add_runs(api, poller, ["gate 1 b 2026-11-28 09:00:00", "gate 1 by hand"], "RUNNING")
    assert poller.in_progress() == "", "those of another poller are not its own"


def test_an_old_run_that_was_retried_is_in_progress(api, order):
    poller = Poller(order)
    first, *_ = add_runs(api, poller, [f"gate 1 2026-11-28 08:00:{number:02}" for number in range(40)], "SUCCEEDED")
    assert poller.in_progress() == ""
    first["state"] = "RUNNING"
    assert poller.in_progress() == first["run_id"]


def test_an_idle_look_asks_kubeflow_for_its_runs_and_nothing_else(api, order):
    api.requests.clear()
    Poller(order).poll(threading.Event())
    assert api.requests == ["GET /apis/v2beta1/runs"]


def test_a_look_may_say_what_is_no_utf_8(order, caplog):
    caplog.set_level(logging.INFO)
    (order / "trigger.py").write_text(
        "import os\nfrom kfp import dsl\n\n"
        "def trigger(feed_url: str, job_root: str, settings: dict, report: dsl.Output[dsl.HTML]) -> str:\n"
        "    os.write(1, b'trigger | skipped caf\\xe9.jpg\\n')\n    return 'WAIT'\n"
    )
    assert Poller(order).look() == "WAIT"
    assert "skipped caf\ufffd.jpg" in caplog.text


def test_a_look_that_fails_is_told_and_the_next_one_goes_on(api, order, tmp_path, caplog):
    poller = Poller(order)
    found = Order.model_validate_json((order / "poller.json").read_bytes())
    poller.order = found.model_copy(update={"inputs": found.inputs | {"feed_url": str(tmp_path / "gone")}})
    assert poller.poll(threading.Event()) == ""
    assert "trigger error: " in caplog.text or "the look ended with exit code 1" in caplog.text
    poller.order = found
    arrive(tmp_path / "feed")
    assert poller.poll(threading.Event()) in api.runs


@pytest.mark.parametrize(
    ("refusal", "message"),
    [
        (("GET", "/runs$", 403, "not allowed"), r"refused the request \(403\): .*not allowed"),
        (("POST", "/runs$", 400, "no such version"), r"refused the request \(400\): .*no such version"),
    ],
)
def test_what_the_server_says_is_told_in_one_line(api, order, tmp_path, refusal, message):
    arrive(tmp_path / "feed")
    api.refuse = refusal
    with pytest.raises(InputError, match=message):
        Poller(order).poll(threading.Event())


def test_a_server_that_is_gone_does_not_end_the_poller(order, monkeypatch, caplog):
    monkeypatch.setenv("EDGE_STORE_PATIENCE", "0.1")
    found = json.loads((order / "poller.json").read_text())
    (order / "poller.json").write_text(json.dumps(found | {"api": "http://127.0.0.1:9", "every_seconds": 0.05}))
    stop = threading.Event()
    threading.Timer(2, stop.set).start()
    Poller(order).run(stop)
    assert caplog.text.count("poller error: http://127.0.0.1:9: ") >= 1


@pytest.mark.parametrize(("content", "message"), [("{}", "api: Field required"), ("", "Invalid JSON")])
def test_an_order_that_cannot_be_read_is_told(tmp_path, content, message):
    (tmp_path / "poller.json").write_text(content)
    with pytest.raises(InputError, match=f"is not the order of a poller: .*{message}"):
        Poller(tmp_path)


def test_the_program_runs_in_the_small_image_and_ends_when_it_is_told_to(api, order, tmp_path):
    arrive(tmp_path / "feed")
    found = json.loads((order / "poller.json").read_text())
    (order / "poller.json").write_text(json.dumps(found | {"every_seconds": 0.1}))
    links = packages(tmp_path / "packages")
    environment = os.environ | {"PYTHONPATH": f"{links}:{REPOSITORY}", "EDGE_CACHE_DIR": str(tmp_path / "cache")}
    words = [sys.executable, "-S", "-m", "components.trigger.poller", str(order)]
    with subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True, cwd=tmp_path) as program:
        lines = []
        for line in program.stdout:
            lines.append(line)
            if "is in progress" in line:
                break
        program.send_signal(signal.SIGTERM)
        rest = program.stdout.read()
    assert program.returncode == 0, rest
    assert len(api.runs) == 1
    assert any("trigger | run: " in line for line in lines)


def test_the_pod_is_one_that_pod_security_restricted_admits(cluster, given, tmp_path):
    config, deployment = made(cluster, given, tmp_path / "poller.yaml", service_account="default-editor")
    assert config["metadata"]["name"] == deployment["metadata"]["name"] == "edge-poller-gate-1"
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"] == {
        "runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"},
    }  # fmt: skip
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip
    assert {"requests", "limits"} == container["resources"].keys()
    assert (pod["serviceAccountName"], pod["nodeSelector"]) == ("default-editor", {"kubernetes.io/arch": "amd64"})
    names = {row["name"] for row in container["env"]}
    assert {"KF_PIPELINES_SA_TOKEN_PATH", "AWS_SECRET_ACCESS_KEY", "HTTPS_PROXY"} <= names
    assert {one["name"] for one in pod["volumes"]} == {one["name"] for one in container["volumeMounts"]}
    spec = yaml.safe_load((COMPILED / "components" / "trigger.yaml").read_text())
    assert container["image"] == spec["deploymentSpec"]["executors"]["exec-trigger"]["container"]["image"]


def test_the_verb_writes_the_manifest_and_uploads_the_round(api, given, tmp_path):
    path = tmp_path / "poller.yaml"
    words = ["schedule", "incremental-learning", "--host", api.url, "--every", "1m", "--poller", str(path)]
    words += ["--poller-host", "http://pipelines.example:8888", "-p", "feed_url=s3://feed", "-p", "job_root=s3://job"]
    said = CliRunner().invoke(app, words)
    version = read_package("incremental-round").version
    assert said.stdout == f"{path}: a poller that starts incremental-round {version}: kubectl apply -f {path}\n"
    order = Order.model_validate_json(next(yaml.safe_load_all(path.read_text()))["data"]["poller.json"])
    assert (order.api, order.every_seconds, order.name) == ("http://pipelines.example:8888", 60, "incremental-learning")
    assert not api.recurringruns
    assert [one["display_name"] for one in api.pipelines.values()] == ["incremental-round"]


def test_a_pod_takes_up_what_is_changed_in_its_config_map_and_nothing_else_replaces_it(cluster, given, tmp_path):
    """Kubernetes makes a new pod when the template of the Deployment differs, and only then."""

    def template(**changed):
        _, deployment = made(cluster, given | changed, tmp_path / "poller.yaml")
        return deployment["spec"]["template"]

    assert template() == template()
    assert template() != template(trigger_conditions=["num_of_samples >= 99"])


def test_a_manifest_of_several_users_is_for_the_namespace(given, tmp_path):
    with FakeApi(namespaces=("ann",)) as api:
        documents = made(connect(Server(api.url, namespace="ann")), given, tmp_path / "poller.yaml")
    assert {one["metadata"]["namespace"] for one in documents} == {"ann"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["helmet-detection", "--every", "1m", "-p", "data_url=s3://b/a.zip"], "helmet-detection does not poll a feed"),
        (["incremental-learning", "--cron", "0 0 * * * *", "-p", "feed_url=s3://f"], "--poller polls at an interval"),
        (["incremental-learning", "--every", "1m", "-p", "feed_url=s3://f", "--name", "n" * 60], "at most 38 char"),
        (["incremental-learning", "--every", "1m", "-p", "feed_url=s3://f", "--name", "工地"], "a letter a-z or"),
        (
            ["incremental-learning", "--every", "1m", "-p", "feed_url=s3://f", "-p", "force_train=true"],
            "force_train would run a round at every poll",
        ),
        (["incremental-learning", "--every", "1m"], "feed_url"),
        (
            ["incremental-learning", "--every", "1m", "-p", "feed_url=s3://f", "--poller-host", "ml-pipeline:8888"],
            "poller host 'ml-pipeline:8888' is not a valid address: write http://",
        ),
        (
            ["incremental-learning", "--every", "1m", "-p", "feed_url=s3://f", "--poller-host", "http://me:word@x"],
            "the poller host must not contain a user name or password",
        ),
    ],
)
def test_what_cannot_be_is_told_and_nothing_is_written(api, tmp_path, words, message):
    path = tmp_path / "poller.yaml"
    asked = ["schedule", *words, "--host", api.url, "-p", "job_root=s3://job", "--poller", str(path)]
    said = CliRunner().invoke(app, asked)
    assert said.exit_code == 1
    assert message in said.stderr
    assert not path.exists()
