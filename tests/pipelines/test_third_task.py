"""A kind of task that the suite does not have, from one module: rounds of incremental learning for it."""

import json

import numpy as np
import pytest

from components.core.bundle import Bundle
from components.core.estimators.conformance import check_estimator
from components.core.job.job import Job
from components.core.reports.page import read_sections
from components.core.runtimes.base import decoder_of
from tests import classification  # noqa: F401 - registers the kind, its head and its estimator
from tests.images import jpeg
from tests.one_poll import poll

SIZE = 96
COLOURS = {0: (150, 100, 100), 1: (100, 100, 150)}


def arrive(feed, first, count, noise):
    """Let images arrive in a Sedna index, each with a box around all of it that has its class."""
    (feed / "images").mkdir(parents=True, exist_ok=True)
    (feed / "classes.txt").write_text("red\nblue\n")
    rng = np.random.default_rng(first)
    for number in range(first, first + count):
        tint = np.array(COLOURS[number % 2]) + rng.normal(0, noise, 3)
        image = np.clip(tint + rng.integers(-20, 20, (SIZE, SIZE, 3)), 0, 255).astype(np.uint8)
        (feed / "images" / f"{number:04}.jpg").write_bytes(jpeg(image))
        with (feed / "train_data.txt").open("a") as index:
            index.write(f"images/{number:04}.jpg 0,0,{SIZE},{SIZE},{number % 2}\n")


def one_round(tmp_path, number, **options):
    folder = tmp_path / "runs" / str(number)
    poll(
        feed_url=str(tmp_path / "feed" / "train_data.txt"), job_root=str(tmp_path / "job"), folder=str(folder),
        run_id=f"run-{number}", estimator="mean-colour", plugins="tests.classification", **options,
    )  # fmt: skip
    return json.loads((folder / "judgement").read_text()), folder


def test_a_classifier_is_trained_evaluated_gated_and_promoted(tmp_path):
    arrive(tmp_path / "feed", 0, 16, noise=40)
    first, folder = one_round(tmp_path, 1, gate="accuracy >= 0.5")
    assert first["outcome"] == "promoted", first
    job = Job.open(str(tmp_path / "job"))
    champion = job.read()[0].champion
    bundle = Bundle.read(tmp_path / "job" / "bundles" / champion)
    assert (bundle.task, bundle.head.kind, bundle.estimator) == ("classification", "scores", "mean-colour")
    titles = [section.title for section in read_sections(folder / "train.html")]
    assert "Predictions on validation images" in titles

    arrive(tmp_path / "feed", 16, 24, noise=10)
    second, folder = one_round(tmp_path, 2, gate="accuracy_delta >= -0.2")
    assert second["outcome"] == "promoted", second
    conditions = next(check for check in second["checks"] if check["question"] == "conditions")
    assert conditions["reason"].startswith("accuracy_delta >= -0.2 (have ")
    page = (folder / "judge.html").read_text()
    assert "mean recall" in page and "accuracy, recent" in page
    state = job.read()[0]
    assert state.round == 2
    assert state.champion not in (None, champion)


def test_a_bundle_of_a_kind_that_is_not_loaded_can_be_kept_and_passed_on(tmp_path):
    arrive(tmp_path / "feed", 0, 16, noise=40)
    one_round(tmp_path, 1, gate="accuracy >= 0.5")
    champion = Job.open(str(tmp_path / "job")).read()[0].champion
    folder = tmp_path / "job" / "bundles" / champion
    described = json.loads((folder / "model.json").read_text())
    described["head"]["kind"] = "unheard-of"
    described["task"] = "counting"
    (folder / "model.json").write_text(json.dumps(described))
    bundle = Bundle.read(folder)
    again = tmp_path / "again"
    again.mkdir()
    for name in bundle.files:
        (again / name).write_bytes((folder / name).read_bytes())
    bundle.write(again)
    assert json.loads((again / "model.json").read_text()) == described
    with pytest.raises(Exception, match="unknown head 'unheard-of' of the model: add the module that registers it"):
        decoder_of(bundle).network(bundle, None)


def test_its_estimator_can_be_examined(tmp_path):
    problems = check_estimator("mean-colour", base_model="nothing", image_size=(64, 96), folder=tmp_path / "exam")
    assert problems == []
