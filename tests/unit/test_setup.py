import os
from types import SimpleNamespace

import pytest
from kubernetes import client

from components.core import parameters
from components.core.errors import InputError
from components.core.job.job import Job
from components.joint.component import setup_joint
from components.lifelong.component import setup_lifelong
from components.setup.cluster import try_trainjob, warn_of_cache, warn_of_nodes
from components.setup.component import setup, setup_round
from components.setup.setup import check_one_model, check_run
from tests.edge import deploy
from tests.knowledge_base import release
from tests.odd_s3 import odd_s3

PHASES = parameters.WORKFLOWS["helmet-detection"]


ASKED = {
    "train_cpu": "2", "train_memory": "8Gi", "train_gpus": "0", "train_gpu_type": "nvidia.com/gpu",
    "node_selector": {"kubernetes.io/arch": "amd64"},
}  # fmt: skip


def nodes_with(*allocatable, arch="amd64"):
    """An API of Kubernetes that lists nodes with certain resources."""
    nodes = [
        client.V1Node(
            metadata=client.V1ObjectMeta(name=f"node-{number}", labels={"kubernetes.io/arch": arch}),
            status=client.V1NodeStatus(allocatable=resources),
        )
        for number, resources in enumerate(allocatable)
    ]
    return SimpleNamespace(list_node=lambda **_: client.V1NodeList(items=nodes))


LARGE, SMALL = {"cpu": "4", "memory": "16Gi"}, {"cpu": "1930m", "memory": "16Gi"}


@pytest.mark.parametrize(
    ("api", "asked", "message"),
    [
        (nodes_with(SMALL, LARGE), {}, ""),
        (nodes_with(SMALL), {}, "(cpu=2, memory=8Gi), and its pod would wait for ever. node-0 has cpu=1930m"),
        (
            nodes_with(LARGE),
            {"train_gpus": "1"},
            "nvidia.com/gpu=1), and its pod would wait for ever",
        ),
        (nodes_with(LARGE | {"nvidia.com/gpu": "1"}), {"train_gpus": "1"}, ""),
        (nodes_with(LARGE, arch="arm64"), {}, "No node has the labels {'kubernetes.io/arch': 'amd64'}"),
    ],
)
def test_training_that_fits_no_node_is_warned_of(caplog, api, asked, message):
    warn_of_nodes(api, ASKED | asked)
    assert message in caplog.text
    assert bool(caplog.text) == bool(message)


def test_who_may_not_list_nodes_is_not_warned(caplog):
    def forbidden(**_):
        raise client.exceptions.ApiException(403, "Forbidden")

    warn_of_nodes(SimpleNamespace(list_node=forbidden), ASKED)
    assert caplog.text == ""


def test_a_trainjob_is_tried_where_it_is_to_train_and_nowhere_else():
    asked = []

    def apply(manifest, **how):
        asked.append((manifest, how))

    namespace = SimpleNamespace(apply=apply)
    try_trainjob(parameters.read(parameters.TrainerSettings, {}), namespace)
    assert asked == []
    try_trainjob(
        parameters.read(parameters.TrainerSettings, {"trainer": "trainjob", "training_runtime": "torch-ours"}),
        namespace,
    )
    ((manifest, how),) = asked
    assert how["dry_run"]
    assert (manifest["kind"], manifest["spec"]) == ("TrainJob", {"runtimeRef": {"name": "torch-ours"}})


def test_a_cache_that_may_not_be_written_is_warned_of(tmp_path, caplog, monkeypatch):
    warn_of_cache(str(tmp_path))
    assert caplog.text == ""
    monkeypatch.setattr(os, "access", lambda *_: False)
    warn_of_cache(str(tmp_path))
    assert "images/cache-claim.yaml" in caplog.text


def test_a_right_run_passes_and_leaves_nothing_in_the_store(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "one.jpg").write_bytes(b"x")
    check_run({"data_url": str(tmp_path / "data"), "job_root": str(tmp_path / "job")}, PHASES)
    assert not [path for path in (tmp_path / "job").rglob("*") if path.is_file() and not path.name.startswith(".")]


def test_a_test_set_that_is_not_there_is_told_by_its_parameter(tmp_path):
    values = {"data_url": str(tmp_path), "job_root": str(tmp_path / "job"), "test_url": str(tmp_path / "gone")}
    with pytest.raises(InputError, match="test_url: .*gone: no such file or folder"):
        check_run(values, parameters.WORKFLOWS["benchmark"])


def test_everything_wrong_is_told_at_once(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    values = {
        "data_url": str(tmp_path / "gone.zip"),
        "job_root": str(tmp_path / "file" / "job"),
        "base_model": "https://example.com/x.pt",
        "epochs": -1,
    }
    with pytest.raises(InputError) as caught:
        check_run(values, PHASES)
    message = str(caught.value)
    for words in ("epochs=-1", "base_model=", "append #sha256=", "gone.zip", "job_root: "):
        assert words in message
    assert "\n" not in message


def test_a_job_that_is_to_prelabel_must_have_a_champion(tmp_path):
    (tmp_path / "one.jpg").write_bytes(b"x")
    values = {"data_url": str(tmp_path), "job_root": str(tmp_path / "job")}
    with pytest.raises(InputError, match=r"prelabel_job: .*other: the job has no champion"):
        check_run({**values, "prelabel_job": str(tmp_path / "other")}, [*PHASES, parameters.MineSettings])
    check_run({**values, "prelabel_job": ""}, [*PHASES, parameters.MineSettings])


CLUSTER = {
    "node_selector": {}, "store_secret": "s", "tolerations": [], "step_cpu": "1", "step_memory": "1Gi",
    "train_cpu": "1", "train_gpu_type": "nvidia.com/gpu", "train_gpus": "0", "train_memory": "1Gi",
}  # fmt: skip
PROGRAMS = {"setup-joint": {"cloud_image": "cloud", "edge_image": "edge"}}


@pytest.mark.parametrize(
    ("step", "fed"),
    [(setup, "data_url"), (setup_round, "feed_url"), (setup_joint, "data_url"), (setup_lifelong, "feed_url")],
)
def test_a_trainjob_outside_of_a_cluster_is_refused_before_work(tmp_path, capsys, step, fed):
    (tmp_path / "one.jpg").write_bytes(b"x")
    given = {fed: str(tmp_path), "job_root": str(tmp_path / "job"), "settings": {"trainer": "trainjob"}}
    with pytest.raises((SystemExit, InputError)):
        step.python_func(**given, **CLUSTER, **PROGRAMS.get(step.name, {}))
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("setup error:")]
    assert "trainer=trainjob needs a cluster with Kubeflow Trainer: use trainer=step here" in line
    assert line.endswith("(nothing was started)")


@pytest.mark.parametrize(("step", "fed"), [(setup, "data_url"), (setup_round, "feed_url")])
def test_a_job_that_releases_several_models_is_refused(tmp_path, capsys, step, fed):
    (tmp_path / "one.jpg").write_bytes(b"x")
    job_root = str(tmp_path / "job")
    check_one_model(job_root)
    job = Job.open(job_root)
    deploy(job, "v1", tmp_path / "v1")
    check_one_model(job_root)
    release(job, tmp_path, "first", {"shared": "s1", "site-a": "a1"})
    with pytest.raises((SystemExit, InputError)):
        step.python_func(**{fed: str(tmp_path)}, job_root=job_root, settings={}, **CLUSTER)
    words = "its champion first consists of shared, site-a, and this pipeline releases one model: give it a job_root of"
    assert words in capsys.readouterr().out


def test_further_checks_are_made_together_once_the_parameters_are_of_the_right_form(tmp_path):
    made = []

    def complain(word: str) -> None:
        made.append(word)
        raise InputError(word)

    (tmp_path / "one.jpg").write_bytes(b"x")
    values = {"data_url": str(tmp_path), "job_root": str(tmp_path / "job")}
    with pytest.raises(InputError, match="first; second"):
        check_run(values, PHASES, [lambda: complain("first"), lambda: complain("second")])
    made.clear()
    with pytest.raises(InputError, match=r"gone.*; third"):
        check_run({**values, "data_url": str(tmp_path / "gone")}, PHASES, [lambda: complain("third")])
    made.clear()
    with pytest.raises(InputError, match="epochs"):
        check_run({**values, "epochs": -1}, PHASES, [lambda: complain("first")])
    assert made == []


def test_a_store_that_would_lose_rounds_is_found_out(tmp_path, s3, monkeypatch):
    (tmp_path / "one.jpg").write_bytes(b"x")
    check_run({"data_url": str(tmp_path), "job_root": s3}, PHASES)
    with odd_s3() as server:
        server.conditions = "ignored"
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.address)
        with pytest.raises(InputError, match=r"job_root: s3://.* ignores If-None-Match: .*nothing was started"):
            check_run({"data_url": str(tmp_path), "job_root": s3}, PHASES)


@pytest.mark.parametrize(
    ("step", "fed"),
    [(setup, "data_url"), (setup_round, "feed_url"), (setup_joint, "data_url"), (setup_lifelong, "feed_url")],
)
def test_chips_for_a_model_that_cannot_be_converted_are_refused_before_it_is_trained(tmp_path, capsys, step, fed):
    (tmp_path / "one.jpg").write_bytes(b"x")
    settings = {"estimator": "fpn", "targets": "rk3588"}
    given = {fed: str(tmp_path), "job_root": str(tmp_path / "job"), "settings": settings}
    with pytest.raises((SystemExit, InputError)):
        step.python_func(**given, **CLUSTER, **PROGRAMS.get(step.name, {}))
    words = "targets=rk3588, estimator=fpn: it outputs decoded boxes (as fpn does), which Rockchip's toolkit cannot"
    assert words in capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"base_model": "candidate"}, "base_model=candidate: a task's model starts from that of the champion"),
        ({"base_model": "gone.pt"}, "base_model=gone.pt: no such file"),
        (
            {"keep_conditions": ["gains >= 0"]},
            "keep_conditions: error: gains >= 0 (no metric 'gains': choose from gain,",
        ),
        ({"keep_conditions": ["min(score) >= 0"]}, "keep_conditions: error: min(score) >= 0 (score is a single number"),
    ],
)
def test_what_models_of_tasks_cannot_be_made_or_chosen_by_is_refused_before_work(tmp_path, capsys, settings, words):
    (tmp_path / "one.jpg").write_bytes(b"x")
    with pytest.raises((SystemExit, InputError)):
        setup_lifelong.python_func(feed_url=str(tmp_path), job_root=str(tmp_path / "job"), settings=settings, **CLUSTER)
    assert words in capsys.readouterr().out
