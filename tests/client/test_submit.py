import datetime
import ipaddress
import json
import logging
import re
import ssl
import traceback
import urllib.error
import urllib.request
from dataclasses import replace

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from kfp.client import Client
from typer.testing import CliRunner

from components.core.errors import InputError
from components.core.job.tries import note_sure_failure
from components.core.stores.addresses import shown
from components.report.report import keep
from pipelines.__main__ import app
from pipelines.client import (
    COMPILED,
    Server,
    check_arguments,
    connect,
    describe,
    follow,
    parse_arguments,
    read_package,
    submit,
)
from pipelines.schedule import Timing, schedule
from tests.client.fake_api import FakeApi

ARGUMENTS = {"data_url": "s3://images/voc.zip", "job_root": "s3://jobs/helmet"}
SECRET = "a-token-that-no-message-may-show"


@pytest.fixture(scope="module")
def package():
    return read_package("helmet-detection")


def test_a_run_is_made_in_an_experiment_of_its_own(api, cluster):
    said = []
    run = submit(cluster, "helmet-detection", ARGUMENTS | {"epochs": 3}, tell=said.append)

    made = api.runs[run.id]
    experiment = api.experiments[made["experiment_id"]]
    assert experiment["display_name"] == "helmet-detection"
    assert made["runtime_config"]["parameters"] == ARGUMENTS | {"settings": {"train": {"epochs": 3}}}
    assert made["display_name"].startswith("helmet-detection 20")
    assert run.url == f"{api.url}/#/runs/details/{run.id}"
    (version,) = api.versions.values()
    assert said == [f"run {run.id} of helmet-detection {version['display_name']}: {run.url}"]


def test_the_second_run_uses_the_same_experiment(api, cluster):
    first, second = (submit(cluster, "helmet-detection", ARGUMENTS, experiment="mine", tell=len) for _ in range(2))
    assert len(api.experiments) == 1
    assert api.runs[first.id]["experiment_id"] == api.runs[second.id]["experiment_id"]


def test_what_is_sent_is_the_committed_file(api, cluster):
    run = submit(cluster, "helmet-detection", ARGUMENTS, tell=len)
    spec, platform = yaml.safe_load_all((COMPILED / "pipelines" / "helmet-detection.yaml").read_text())
    (version,) = api.versions.values()
    assert api.runs[run.id]["pipeline_version_reference"] == {
        "pipeline_id": version["pipeline_id"], "pipeline_version_id": version["pipeline_version_id"],
    }  # fmt: skip
    assert list(yaml.safe_load_all(version["_package"])) == [spec, platform]


def test_caching_stays_as_compiled(api, cluster):
    run = submit(cluster, "helmet-detection", ARGUMENTS, tell=len)
    tasks = api.spec_of(api.runs[run.id])["root"]["dag"]["tasks"]
    assert {"setup", "train", "report"} <= tasks.keys()
    assert all(task["cachingOptions"] == {} for task in tasks.values())


def test_a_package_can_be_given_by_its_path(api, cluster, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_bytes((COMPILED / "pipelines" / "helmet-detection.yaml").read_bytes())
    assert submit(cluster, str(path), ARGUMENTS, tell=len).id in api.runs


def test_a_name_is_looked_up_in_the_folder_of_the_users_own_images(api, tmp_path):
    folder = tmp_path / "pipelines"
    folder.mkdir()
    compiled = (COMPILED / "pipelines" / "helmet-detection.yaml").read_text()
    (folder / "helmet-detection.yaml").write_text(compiled.replace("edge-learning/train:", "example.com/train:"))
    given = [word for name, value in ARGUMENTS.items() for word in ("-p", f"{name}={value}")]
    words = ["submit", "helmet-detection", "--host", api.url, "--package-dir", str(tmp_path), *given]
    assert CliRunner().invoke(app, words).exit_code == 0
    (run,) = api.runs.values()
    assert "example.com/train:" in json.dumps(api.spec_of(run))


def test_nothing_of_kfp_is_printed(cluster, capsys):
    submit(cluster, "helmet-detection", ARGUMENTS, tell=len)
    assert capsys.readouterr() == ("", "")


def test_options_reach_the_server(api, cluster):
    options = {"name": "by hand", "service_account": "trainer", "pipeline_root": "s3://artifacts"}
    made = api.runs[submit(cluster, "helmet-detection", ARGUMENTS, tell=len, **options).id]
    assert (made["display_name"], made["service_account"]) == ("by hand", "trainer")
    assert made["runtime_config"]["pipeline_root"] == "s3://artifacts"


def test_an_archived_experiment_is_refused(api, cluster):
    run = submit(cluster, "helmet-detection", ARGUMENTS, tell=len)
    api.experiments[api.runs[run.id]["experiment_id"]]["storage_state"] = "ARCHIVED"
    with pytest.raises(InputError, match="experiment 'helmet-detection' is archived: restore it"):
        submit(cluster, "helmet-detection", ARGUMENTS, tell=len)


def test_an_experiment_that_appears_meanwhile_is_used(api, cluster, monkeypatch):
    found = type(cluster)._find_experiment
    answers = [None]
    monkeypatch.setattr(type(cluster), "_find_experiment", lambda *args: answers.pop() if answers else found(*args))
    cluster.client.create_experiment("helmet-detection")
    run = submit(cluster, "helmet-detection", ARGUMENTS, tell=len)
    assert len(api.experiments) == 1
    assert api.runs[run.id]["experiment_id"] in api.experiments


# Parameters.


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"epochs": -1}, r"^1 parameter is wrong: epochs=-1: "),
        ({"epochs": "3 or 4"}, r"^1 parameter is wrong: epochs='3 or 4': must be a whole number >= 0 and <= 100000$"),
        ({"epochs": 2.5}, r"^1 parameter is wrong: epochs=2.5: "),
        ({"train_ratio": float("nan")}, "train_ratio=nan"),
        ({"batch": True}, "^1 parameter is wrong: batch=True: must be a whole number >= 1 and <= 4096$"),
        ({"train_ratio": True}, "^1 parameter is wrong: train_ratio=True: must be a number > 0 and < 1$"),
        ({"image_size": 650}, "^1 parameter is wrong: image_size='650': 650 is not a multiple of 32 "),
        ({"tolerations": "none"}, "^1 parameter is wrong: tolerations='none': must be a list"),
        ({"settings": {"train": {"epochs": -1}}}, r"^1 parameter is wrong: epochs=-1: "),
        (
            {"settings": {"train": {"epochs": 3, "batches": 1}}},
            "batches is not a parameter of this pipeline: did you mean",
        ),
        ({"epoch": 3}, "epoch is not a parameter of this pipeline: did you mean epochs?"),
        ({"data_url": "voc.zip"}, "data_url='voc.zip' is a local path: on a cluster use s3://"),
        ({"job_root": "jobs/x"}, "job_root='jobs/x' is a local path"),
        ({"experiment_labels": "a=" + "x" * 100_000}, "^the parameters take 100\\d+ bytes, but at most 98304 fit"),
    ],
)
def test_a_wrong_parameter_is_told_before_anything_is_sent(api, cluster, given, complaint):
    before = len(api.requests)
    with pytest.raises(InputError, match=complaint):
        submit(cluster, "helmet-detection", ARGUMENTS | given)
    assert len(api.requests) == before


def test_a_name_that_only_the_images_may_know_is_warned_of(api, monkeypatch, tmp_path):
    monkeypatch.setattr(Client, "_LOCAL_KFP_CONTEXT", str(tmp_path / "context.json"))
    words = ["submit", "helmet-detection", "--host", api.url]
    words += [word for name, value in ARGUMENTS.items() for word in ("-p", f"{name}={value}")]
    said = CliRunner().invoke(app, [*words, "-p", "estimator=foo"])
    assert said.exit_code == 0
    assert re.search(
        r"warning: estimator: .*'foo'.* \(setup ends the run unless the container images have it\)", said.output
    )
    assert "warning" not in CliRunner().invoke(app, [*words, "-p", "estimator=foo", "-p", "plugins=ours"]).output
    assert "warning" not in CliRunner().invoke(app, [*words, "-p", "estimator=fpn"]).output


def test_all_mistakes_are_told_at_once(package):
    with pytest.raises(InputError) as told:
        check_arguments(package, {"epochs": -1, "seeds": 3, "job_root": "s3://jobs/x"})
    message = str(told.value)
    assert message.startswith("3 parameters are wrong: ")
    assert "data_url is required" in message
    assert "epochs=-1" in message
    assert "seeds is not a parameter of this pipeline: did you mean seed?" in message
    assert message.count("data_url") == 1


def test_paths_of_this_machine_are_refused_wherever_a_round_takes_an_address():
    given = {"feed_url": "feed", "job_root": "s3://jobs/helmet", "prelabel_job": "jobs/large"}
    with pytest.raises(InputError) as told:
        check_arguments(read_package("incremental-round"), given)
    assert str(told.value) == (
        "2 parameters are wrong: feed_url='feed' is a local path: on a cluster use s3://bucket/prefix; "
        "prelabel_job='jobs/large' is a local path: on a cluster use s3://bucket/prefix"
    )
    check_arguments(read_package("incremental-round"), given | {"feed_url": "/data/feed", "prelabel_job": ""})


def test_a_test_set_on_this_machine_is_refused():
    given = {**ARGUMENTS, "algorithms": [{"name": "yolo"}], "test_url": "data/test.zip"}
    with pytest.raises(InputError, match=r"test_url='data/test\.zip' is a local path: on a cluster use s3://"):
        check_arguments(read_package("benchmark"), given)


def test_words_become_values_of_the_files_types(package):
    words = ["epochs=3", "image_size=640", "train_ratio=0.5", 'node_selector={"a": "b"}', "tolerations=[]"]
    values = parse_arguments(package, words, ARGUMENTS | {"epochs": 9})
    assert values == ARGUMENTS | {
        "epochs": 3,
        "image_size": "640",
        "train_ratio": 0.5,
        "node_selector": {"a": "b"},
        "tolerations": [],
    }
    check_arguments(package, values)


def test_a_pipeline_without_our_parameters_is_checked_against_its_file(package):
    inputs = {"count": {"parameterType": "NUMBER_INTEGER"}, "flag": {"parameterType": "BOOLEAN", "isOptional": True}}
    mine = replace(package, inputs=inputs)
    check_arguments(mine, {"count": 2.0})
    with pytest.raises(
        InputError, match="^2 parameters are wrong: count is required; flag='perhaps': must be true or false$"
    ):
        check_arguments(mine, {"flag": "perhaps"})
    with pytest.raises(InputError, match="^1 parameter is wrong: other is not a parameter of this pipeline"):
        check_arguments(mine, {"count": 1, "other": 1})


# Packages.


def test_a_file_that_is_not_there_is_told():
    with pytest.raises(InputError, match=r"nowhere/helmet-detection\.yaml: cannot be read \(.*No such file"):
        read_package("nowhere/helmet-detection.yaml")


@pytest.mark.parametrize("pipeline", ["helmet", "../components/train"])
def test_an_unknown_pipeline_is_told_with_those_there_are(pipeline):
    with pytest.raises(InputError, match=r"unknown pipeline .*choose from .*helmet-detection"):
        read_package(pipeline)


@pytest.mark.parametrize("text", ["a: [", "just text", "a: 1\n", "schemaVersion: 2.0.0\n"])
def test_a_file_that_is_no_pipeline_is_told(tmp_path, text):
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=r"x\.yaml is not a valid compiled pipeline: "):
        read_package(str(path))


def test_comments_do_not_change_a_packages_digest(package, tmp_path):
    path = tmp_path / "same.yaml"
    path.write_text("# another first line\n" + package.path.read_text())
    assert read_package(str(path)).digest == package.digest
    path.write_text(package.path.read_text().replace("epochs: 100.0", "epochs: 99.0"))
    assert read_package(str(path)).digest != package.digest


# Following a run.


def test_waiting_tells_what_steps_do_and_returns_the_state(api, cluster):
    api.run_seconds = 30
    said = []
    run = submit(cluster, "helmet-detection", ARGUMENTS, wait=True, tell=said.append)
    assert run.state == "SUCCEEDED"
    assert said[-1] == "run SUCCEEDED"


def test_steps_are_told_once_for_every_change(api, cluster):
    run = submit(cluster, "helmet-detection", ARGUMENTS, tell=len)
    tasks = [
        {"task_id": "9", "display_name": "helmet-x7k2p", "state": "RUNNING"},
        {"task_id": "0", "display_name": "root-driver", "state": "SUCCEEDED", "pod_name": "helmet-x7k2p-driver-1"},
        {"task_id": "1", "display_name": "setup", "state": "SUCCEEDED"},
        {"task_id": "8", "display_name": "setup", "state": "SUCCEEDED"},  # the server changes ids
        {"task_id": "3", "display_name": "executor(0)", "state": "FAILED", "pod_name": "helmet-x7k2p-impl-3"},
        {"task_id": "4", "display_name": "plan-driver", "state": "FAILED"},
        {"task_id": "2", "display_name": "train", "state": "FAILED", "error": {"code": 2, "message": "out of\nmemory"}},
    ]
    api.runs[run.id]["run_details"] = {"task_details": tasks}
    said = []
    follow(cluster, run.id, tell=said.append)
    assert said == [
        "setup SUCCEEDED", "plan (before it started) FAILED", "train FAILED: out of memory", "run SUCCEEDED",
    ]  # fmt: skip


def finished(api, cluster, tmp_path, state):
    """A finished run of a job on this machine, whose step train is as the run."""
    job_root = str(tmp_path / "job")
    run = submit(cluster, "helmet-detection", ARGUMENTS | {"job_root": job_root}, tell=len)
    tasks = [
        {"task_id": "2", "display_name": "train", "state": state},
        {"task_id": "3", "display_name": "executor(2)", "state": state, "pod_name": "helmet-x7k2p-impl-3"},
    ]
    api.runs[run.id] |= {"state": state, "run_details": {"task_details": tasks}}
    return run, job_root


def test_a_failed_run_ends_with_its_step_its_reason_and_its_log(api, cluster, tmp_path, monkeypatch):
    run, job_root = finished(api, cluster, tmp_path, "FAILED")
    log = [f"log: {run.url}, step train, Logs", "  or: kubectl logs helmet-x7k2p-impl-3 -c main"]
    assert list(describe(cluster, run.id)) == ["train failed", *log]
    monkeypatch.setenv("EDGE_RUN", run.id)
    note_sure_failure(job_root, "train", "no such class")
    assert list(describe(cluster, run.id)) == ["train failed: no such class", *log]
    monkeypatch.setenv("EDGE_RUN", "another")
    note_sure_failure(job_root, "train", "a fault of another run")
    assert list(describe(cluster, run.id)) == ["train failed", *log]


def test_of_several_failures_the_reason_and_the_pod_are_those_of_the_last_one(api, cluster, tmp_path, monkeypatch):
    run, job_root = finished(api, cluster, tmp_path, "FAILED")
    tasks = [
        ("train", ""), ("train-big", ""), ("executor(1)", "helmet-x7k2p-impl-9"),
        ("executor(0)", "helmet-x7k2p-impl-3"), ("executor(0)", "helmet-x7k2p-impl-8"),
    ]  # fmt: skip
    minutes = [1, 2, 20, 3, 4]
    api.runs[run.id]["run_details"] = {
        "task_details": [
            {
                "task_id": str(minute), "display_name": name, "state": "FAILED", "pod_name": pod,
                "start_time": f"2026-01-31T08:{minute:02}:00Z",
            }
            for (name, pod), minute in zip(tasks, minutes, strict=True)
        ]
    }  # fmt: skip
    monkeypatch.setenv("EDGE_RUN", run.id)
    note_sure_failure(job_root, "train", "no such class")
    assert list(describe(cluster, run.id)) == [
        "train-big failed: train: no such class", f"log: {run.url}, step train-big, Logs",
        "  or: kubectl logs helmet-x7k2p-impl-9 -c main",
    ]  # fmt: skip
    note_sure_failure(job_root, "train_big", "no such model")
    assert next(iter(describe(cluster, run.id))) == "train-big failed: no such model"


def test_a_run_that_succeeded_ends_with_its_figures_and_its_report(api, cluster, tmp_path):
    run, job_root = finished(api, cluster, tmp_path, "SUCCEEDED")
    page = tmp_path / "page.html"
    page.write_text("<html></html>")
    kept = keep(str(page), job_root, "Helmet detection", {"map50": 0.5}, run.id)
    assert list(describe(cluster, run.id)) == ["  map50  0.5", f"report: {shown(kept)}"]


@pytest.mark.parametrize("state", ["FAILED", "CANCELED", "SKIPPED"])
def test_waiting_ends_with_every_last_state(api, cluster, state):
    run = submit(cluster, "helmet-detection", ARGUMENTS, tell=len)
    api.runs[run.id] |= {"state": state, "error": {"code": 2, "message": "the reason"}}
    said = []
    assert follow(cluster, run.id, tell=said.append).state == state
    assert said == [f"run {state}: the reason"]


def test_waiting_outlasts_a_restart_of_the_server(api, cluster, monkeypatch):
    run = submit(cluster, "helmet-detection", ARGUMENTS, tell=len)
    api.refuse = ("GET", "/runs/", 503, "upstream connect error")

    def sleep(seconds):
        api.advance(seconds)
        if api.requests[-3:] == [f"GET /apis/v2beta1/runs/{run.id}"] * 3:
            api.refuse = None

    monkeypatch.setattr("pipelines.client.time.sleep", sleep)
    assert follow(cluster, run.id, tell=len).state == "SUCCEEDED"


def test_waiting_gives_up_and_says_that_the_run_goes_on(api, cluster):
    run = submit(cluster, "helmet-detection", ARGUMENTS, tell=len)
    api.refuse = ("GET", "/runs/", 503, "upstream connect error")
    before = len(api.requests)
    with pytest.raises(InputError, match=f"503.*upstream connect error; .*it continues: {run.url}"):
        follow(cluster, run.id, tell=len)
    assert len(api.requests) - before == 10


def test_an_expired_session_is_told_and_not_waited_out(api, cluster):
    run = submit(cluster, "helmet-detection", ARGUMENTS, tell=len)
    api.login_page = True
    with pytest.raises(InputError, match="does not answer like a Kubeflow Pipelines API"):
        follow(cluster, run.id, tell=len)


# The connection.


def test_a_server_that_is_not_there():
    with pytest.raises(InputError, match=r"^http://127\.0\.0\.1:1 cannot be reached: Failed to .*Connection refused$"):
        connect(Server("http://127.0.0.1:1"))


def test_a_host_without_an_address():
    with pytest.raises(
        InputError, match=r"^http://nowhere\.invalid cannot be reached: Failed to resolve 'nowhere\.invalid'"
    ):
        connect(Server("http://nowhere.invalid"))


@pytest.mark.parametrize(
    "host",
    ["localhost:8080", "kubeflow.example.com", "ftp://x", "http://", "http://[::1", "http://x:http", "http://x:99999"],
)
def test_a_host_without_http(host):
    with pytest.raises(InputError, match=r"is not a valid address: write http://\.\.\. or https://\.\.\."):
        connect(Server(host))


def test_no_host():
    with pytest.raises(InputError, match="no server given: set --host"):
        connect(Server.from_environment())


def test_a_password_in_the_host_is_refused_and_not_repeated():
    with pytest.raises(InputError, match="a user name or password") as told:
        connect(Server(f"http://ann:{SECRET}@localhost"))
    assert SECRET not in str(told.value)


def test_a_path_without_an_api(api):
    with pytest.raises(InputError, match="has no Kubeflow Pipelines API at this path"):
        connect(Server(f"{api.url}/elsewhere"))


def test_a_login_page(api):
    api.login_page = True
    with pytest.raises(InputError, match="does not answer like a Kubeflow Pipelines API"):
        connect(Server(api.url))


@pytest.mark.parametrize("path", ["/experiments$", "/upload_version$", "/runs$", "/recurringruns$"])
def test_a_server_that_gives_no_answer_is_not_waited_for_for_ever(api, cluster, monkeypatch, path):
    monkeypatch.setattr("pipelines.client.TIMEOUT", (5, 1))
    api.silent = ("POST", path)
    with pytest.raises(InputError, match=r"cannot be reached: .*Read timed out\. \(read timeout=1\)"):
        schedule(cluster, "helmet-detection", ARGUMENTS, Timing.of(every="1d"))
        submit(cluster, "helmet-detection", ARGUMENTS)


def test_a_server_that_refuses_a_run(api, cluster):
    api.refuse = ("POST", "/runs", 400, "Invalid input error:\n  the   cause")
    with pytest.raises(InputError, match=r"refused the request \(400 Bad Request\): Invalid input error: the cause$"):
        submit(cluster, "helmet-detection", ARGUMENTS)


def test_the_end_of_a_long_reason_is_told(api, cluster):
    api.refuse = ("POST", "/runs", 500, "Failed: " * 200 + "the cause")
    with pytest.raises(InputError, match=r": \.\.\. .*the cause$") as told:
        submit(cluster, "helmet-detection", ARGUMENTS)
    assert len(str(told.value)) < 600


def test_a_token_lets_in(monkeypatch):
    with FakeApi(token=SECRET) as api:
        with pytest.raises(InputError, match=r"rejected the login \(401\): set KF_PIPELINES_TOKEN"):
            connect(Server(api.url))
        assert len(api.requests) == 1, "kfp would have asked five times"
        monkeypatch.setenv("KF_PIPELINES_TOKEN", f"{SECRET}\n")
        monkeypatch.setenv("KF_PIPELINES_ENDPOINT", api.url)
        assert submit(connect(Server.from_environment()), "helmet-detection", ARGUMENTS, tell=len).id in api.runs


def test_cookies_let_in(monkeypatch):
    with FakeApi(cookie=f"authservice_session={SECRET}") as api:
        monkeypatch.setenv("KF_PIPELINES_COOKIES", f"authservice_session={SECRET}")
        assert submit(connect(Server.from_environment(api.url)), "helmet-detection", ARGUMENTS, tell=len).id in api.runs


def test_a_token_file_is_read_again(tmp_path, monkeypatch):
    path = tmp_path / "token"
    monkeypatch.setenv("KF_PIPELINES_TOKEN", "an old one, which the file replaces")
    with FakeApi(token=SECRET) as api:
        path.write_text(SECRET)
        cluster = connect(Server.from_environment(api.url, token_file=str(path)))
        api.token = "the next one"
        with pytest.raises(InputError, match="401"):
            submit(cluster, "helmet-detection", ARGUMENTS, tell=len)
        path.write_text("the next one\n")
        assert submit(cluster, "helmet-detection", ARGUMENTS, tell=len).id in api.runs


def test_a_token_file_that_is_empty(tmp_path):
    path = tmp_path / "token"
    path.write_text("\n")
    with FakeApi(token=SECRET) as api:
        server = Server(api.url, token_file=str(path))
        with pytest.raises(InputError, match=r"token_file='.*token': the file is empty: write the token to it"):
            connect(server)
        path.write_text(SECRET)
        cluster = connect(server)
        path.write_text("")  # as while a projected token is being replaced
        assert submit(cluster, "helmet-detection", ARGUMENTS, tell=len).id in api.runs


@pytest.mark.parametrize("secret", ["token", "cookies"])
def test_line_ends_of_a_secret(secret):
    value = SECRET if secret == "token" else f"authservice_session={SECRET}"
    with FakeApi(**{secret.removesuffix("s"): value}) as api:
        assert connect(Server(api.url, **{secret: f"{value}\n"})).namespace is None
        with pytest.raises(InputError, match=f"the {secret} contains a line break") as told:
            connect(Server(api.url, **{secret: f"{value}\nmore"}))
        assert SECRET not in str(told.value)


def test_a_server_behind_a_proxy(api, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", api.url.replace("://", "://joe:a%20word@"))
    monkeypatch.setenv("NO_PROXY", "")
    cluster = connect(Server("http://kubeflow.example.invalid"))
    assert submit(cluster, "helmet-detection", ARGUMENTS, tell=len).id in api.runs
    monkeypatch.setenv("NO_PROXY", "kubeflow.example.invalid")
    with pytest.raises(InputError, match="cannot be reached"):
        connect(Server("http://kubeflow.example.invalid"))


@pytest.mark.parametrize("option", ["token_file", "ca_cert"])
def test_a_file_that_is_missing(option):
    with pytest.raises(InputError, match=f"{option}='/nowhere': no such file"):
        connect(Server("https://localhost", **{option: "/nowhere"}))


def test_secrets_are_in_no_message_and_no_log(caplog, capsys):
    caplog.set_level(logging.DEBUG)
    with FakeApi(token="another") as api:
        server = Server(api.url, token=SECRET, cookies=f"session={SECRET}")
        with pytest.raises(InputError) as told:
            connect(server)
    shown = "".join(traceback.format_exception(told.value)) + repr(server) + caplog.text + str(capsys.readouterr())
    assert "401" in shown
    assert SECRET not in shown
    assert "a-session-that-no-message-may-show" not in shown


def test_several_users_need_a_namespace():
    with FakeApi(namespaces=("ann",)) as api:
        with pytest.raises(
            InputError, match="has several users with their own namespaces: give yours with --namespace"
        ):
            connect(Server(api.url))
        run = submit(connect(Server(api.url, namespace="ann")), "helmet-detection", ARGUMENTS, tell=len)
        assert api.experiments[api.runs[run.id]["experiment_id"]]["namespace"] == "ann"


@pytest.mark.parametrize("namespace", ["bob", "kubeflow"])
def test_a_namespace_of_somebody_else(namespace):
    with (
        FakeApi(namespaces=("ann",)) as api,
        pytest.raises(InputError, match=r"denied access \(403\): .*not authorized"),
    ):
        submit(connect(Server(api.url, namespace=namespace)), "helmet-detection", ARGUMENTS)


def test_a_certificate_has_to_be_trusted(tmp_path):
    with FakeApi() as api:
        path = _certificate(tmp_path)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        api._server.socket = context.wrap_socket(api._server.socket, server_side=True)
        url = api.url.replace("http", "https")
        with pytest.raises(InputError, match="its certificate is not trusted: give its CA certificate"):
            connect(Server(url))
        connect(Server(url, ca_cert=str(path)))
        with pytest.warns(Warning, match="Unverified HTTPS request"):
            connect(Server(url, verify_tls=False))


def test_the_page_may_be_elsewhere(api):
    cluster = connect(Server(f"{api.url}/", ui_host="https://kubeflow.example.com/pipeline/"))
    assert cluster.run_url("7") == "https://kubeflow.example.com/pipeline/#/runs/details/7"


def test_the_fake_takes_nothing_the_real_one_refuses(api, cluster):
    """The tests are only as good as the server they run against."""
    experiment = cluster.experiment("e")
    whole = {"experiment_id": experiment, "display_name": "n", "pipeline_spec": {"schemaVersion": "2.1.0", "root": {}}}
    schedule = whole | {"max_concurrency": "1", "trigger": {"periodic_schedule": {"interval_second": "60"}}}
    assert _status(api, "recurringruns", schedule) == 200
    both = schedule["trigger"] | {"cron_schedule": {"cron": "0 * * * * *"}}
    for wrong, status in [
        ({"max_concurrency": "11"}, 400),
        ({"max_concurrency": "0"}, 400),
        ({"trigger": both}, 400),
        ({"trigger": {}}, 400),
        ({"experiment_id": "nowhere"}, 404),
        ({"display_name": ""}, 500),
        ({"pipeline_spec": None}, 400),
        ({"surprise": 1}, 400),
    ]:
        assert _status(api, "recurringruns", schedule | wrong) == status, wrong
    assert _status(api, "runs", whole) == 200
    assert _status(api, "experiments", {"display_name": "e"}) == 409


def _status(api, kind, body):
    content = json.dumps(body).encode()
    request = urllib.request.Request(f"{api.url}/apis/v2beta1/{kind}", content, method="POST")
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def _certificate(folder):
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    builder = builder.add_extension(x509.SubjectAlternativeName([address]), critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    signed = builder.sign(key, hashes.SHA256())
    path = folder / "server.pem"
    path.write_bytes(
        signed.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return path
