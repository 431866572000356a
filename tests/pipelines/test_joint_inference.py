"""The pair of joint inference: trained, calibrated, released as one, and working together."""

import json
import threading

import pytest
from kfp import dsl

from components.convert.component import convert
from components.core.errors import InputError
from components.core.job.job import Job
from components.core.reports.page import read_sections
from components.ingest.component import ingest
from components.joint.component import calibrate, deploy_pair, setup_joint, train_big
from components.joint.pair_job import check_job
from components.prepare.component import prepare
from components.serving.worker import Cloud, Worker
from components.train.component import train
from pipelines.joint_inference import joint_inference
from tests import cloud
from tests.edge import deploy, folder_of_images, options
from tests.pipelines.test_helmet_detection import voc_zip

SETTINGS = {
    "estimator": "quick", "plugins": "tests.quick_estimator", "base_model": "nothing", "big_model": "nothing",
    "epochs": 1, "image_size": "64,96", "big_image_size": "96,96", "train_ratio": 0.3, "val_ratio": 0.4,
    "min_recall_of_cloud": 0, "max_offload": 0.6, "confidence": 0.8, "offload_miner": "Threshold",
    "joint_conditions": ["gain >= -1"],
}  # fmt: skip


def run(folder, data, run_id="run-1", **settings):
    """The steps in the order of the pipeline, through their own functions."""
    job = {"job_root": str(folder / "job"), "settings": SETTINGS | settings, "run_id": run_id}
    (folder / run_id).mkdir(parents=True)

    def new(kind, name):
        return kind(name=name, uri=str(folder / run_id / name), metadata={})

    pages = {name: new(dsl.HTML, f"{name}.html") for name in ("ingest", "prepare", "train", "big", "convert", "joint")}
    samples, manifest, quarantine = (new(dsl.Dataset, name) for name in ("samples", "manifest", "quarantine"))
    little, converted, big = (new(dsl.Model, name) for name in ("little", "converted", "big"))
    metrics, classes = new(dsl.Metrics, "metrics"), new(dsl.ClassificationMetrics, "classes")
    conversion, judgement, figures = (new(dsl.Artifact, name) for name in ("conversion", "judgement", "figures"))
    ingest.python_func(data_url=str(data), manifest=samples, quarantine=quarantine, report=pages["ingest"], **job)
    prepare.python_func(samples=samples, manifest=manifest, report=pages["prepare"], **job)
    train.python_func(manifest=manifest, model=little, report=pages["train"], **job)
    train_big.python_func(manifest=manifest, model=big, report=pages["big"], **job)
    convert.python_func(
        manifest=manifest, model=little, converted=converted, conversion=conversion,
        report=pages["convert"], **job,
    )  # fmt: skip
    pair = {"manifest": manifest, "little": converted, "big": big}
    calibrate.python_func(
        conversion=conversion,
        judgement=judgement,
        figures=figures,
        metrics=metrics,
        classification=classes,
        report=pages["joint"],
        **pair,
        **job,
    )
    deploy_pair.python_func(
        judgement=judgement, figures=figures, page=new(dsl.HTML, "page.html"), **pair, **job,
    )  # fmt: skip
    return metrics.metadata, json.loads((folder / run_id / "judgement").read_text()), folder / run_id / "page.html"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("joint")
    return folder, run(folder, voc_zip(folder / "data.zip", 60))


def test_the_pair_is_one_release_with_the_way_between_them(finished):
    folder, (_, judgement, _) = finished
    job = Job.open(str(folder / "job"))
    state, _ = job.read()
    release = job.registry.release(state.champion, state.vouched[state.champion])
    assert set(release.members) == {"little", "big"}
    assert len({member.sha256 for member in release.members.values()}) == 2
    assert release.routing == judgement["routing"]
    assert judgement["routing"]["parameters"]["of"] == "Threshold"


def test_the_report_has_edge_cloud_joint_and_oracle_and_the_curve(finished):
    _, (metrics, judgement, page) = finished
    assert judgement["promises"] == ["at most 60% of the frames sent, with confidence 0.8 (exact)"]
    assert metrics["gain"] == pytest.approx(metrics["map50"] - metrics["edge.map50"])
    assert 0 <= metrics["fraction"] <= 1
    titles = [section.title for section in read_sections(page)]
    assert titles[1:3] == ["Joint inference", "Gain per frame sent"]
    text = page.read_text()
    for words in ("edge only", "cloud only", "joint", "oracle router", "Mbit/s uplink"):
        assert words in text


def test_an_edge_worker_and_a_cloud_server_follow_the_release(finished, tmp_path):
    folder, (_, judgement, _) = finished
    root = str(folder / "job")
    with cloud.serving(cloud.options(tmp_path, job_root=root, member="big")) as server:
        images = folder_of_images(tmp_path / "images", 12)
        address = Cloud(f"http://127.0.0.1:{server.port}", timeout_s=20)
        worker = Worker(options(tmp_path, images, job_root=root, member="little", miner="EdgeOnly", cloud=address))
        assert worker.run(threading.Event())
        assert worker.slot.current.detector.bundle.image_size == (64, 96)
        assert server.active.current.detector.bundle.image_size == (96, 96)
    value = worker.metrics.value
    cutoff = judgement["routing"]["parameters"]["min_score"]
    assert value("joint_frames") == 12
    assert value("joint_sent") == value("joint_answered") == server.metrics.requests(200)
    # The miner of the release decides, not the one that the worker was started with, which calls nothing hard.
    assert (value("joint_sent") > 0) == (cutoff < 1)


def test_a_pair_that_does_not_meet_the_conditions_is_not_released(finished, tmp_path):
    folder, _ = finished
    _, judgement, _ = run(tmp_path, folder / "data.zip", joint_conditions=["gain >= 0.9"])
    assert judgement["outcome"] == "rejected"
    assert "gain >= 0.9" in judgement["reasons"][0]
    state, _ = Job.open(str(tmp_path / "job")).read()
    assert (state.round, state.champion) == (1, None)


def test_a_later_pair_is_compared_with_the_one_that_is_deployed(finished, tmp_path):
    folder, _ = finished
    run(tmp_path, folder / "data.zip", "first")
    conditions = {"joint_conditions": ["map50_delta >= 0", "fraction_delta <= 0"]}
    _, judgement, _ = run(tmp_path, folder / "data.zip", "second", **conditions)
    assert judgement["outcome"] == "promoted"
    _, judgement, _ = run(tmp_path, folder / "data.zip", "third", joint_conditions=["map50_delta >= 0.5"])
    assert judgement["outcome"] == "rejected"
    assert "map50_delta >= 0.5" in judgement["reasons"][0]
    state, _ = Job.open(str(tmp_path / "job")).read()
    assert (state.round, state.champion) == (3, state.history[-1].version)


def test_what_cannot_be_promised_ends_the_run_with_what_it_would_take(finished, tmp_path):
    folder, _ = finished
    with pytest.raises(SystemExit):
        run(tmp_path, folder / "data.zip", min_recall_of_cloud=0.99, confidence=0.95)


def test_the_pipeline_has_no_more_inputs_than_a_form_can_show():
    inputs = joint_inference.component_spec.inputs
    assert len(inputs) <= 18
    assert {"data_url", "job_root", "settings"} <= set(inputs)


def test_a_job_of_one_model_is_not_made_one_of_a_pair(finished, tmp_path):
    job = Job.open(str(tmp_path / "job"))
    check_job(str(tmp_path / "job"))
    deploy(job, "v1", tmp_path / "v1")
    with pytest.raises(InputError, match="champion v1 consists of model, .* give it a job_root of its own"):
        check_job(str(tmp_path / "job"))
    check_job(str(finished[0] / "job"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"min_recall_of_cloud": 0}, "no goal given"),
        ({"min_recall_of_cloud": 97}, "min_recall_of_cloud"),
        ({"offload_miner": "novelty"}, "unknown offload_miner 'novelty': choose from"),
        ({"big_model": "nowhere.pt", "estimator": "yolo", "base_model": "yolo11n.yaml"}, "nowhere.pt"),
    ],
)
def test_setup_tells_what_is_wrong_before_any_work(finished, tmp_path, capsys, given, message):
    folder, _ = finished
    settings = SETTINGS | {"max_offload": 0} | {"min_recall_of_cloud": 0.9} | given
    with pytest.raises((SystemExit, InputError)):
        setup_joint.python_func(
            data_url=str(folder / "data.zip"), job_root=str(tmp_path / "job"), node_selector={}, store_secret="s",
            tolerations=[],
            step_cpu="1", step_memory="1Gi",
            train_cpu="1", train_gpu_type="nvidia.com/gpu", train_gpus="0", train_memory="1Gi",
            cloud_image="cloud", edge_image="edge", settings=settings,
        )  # fmt: skip
    assert message in capsys.readouterr().out
