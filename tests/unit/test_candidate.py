"""The last round's candidate, brought back to be evaluated again."""

import pytest

from components.core.bundle import Bundle
from components.core.job.job import Job
from components.core.manifest import Manifest
from components.core.runtimes.golden import golden_file
from components.core.runtimes.rockchip import rknn_file
from components.deploy.candidate import Candidate
from components.deploy.deploy import deploy
from components.train.candidate import last_candidate
from tests.models import BUNDLE, colour_model, write_bundle


@pytest.fixture
def job(tmp_path):
    """A job whose last round rejected a candidate that had been converted."""
    manifest = tmp_path / "manifest.parquet"
    Manifest.of([], BUNDLE.classes).write(manifest)
    job = Job.open(str(tmp_path / "job"))
    folder = write_bundle(tmp_path / "model", colour_model())
    for name in (rknn_file("rk3588"), golden_file("rk3588"), "notes.txt"):
        (folder / name).write_text(name)
    Bundle(**vars(BUNDLE) | {"lineage": {"epochs": 5, "rknn": {"rk3588": {"precision": "int8"}}}}).write(folder)
    deploy(
        job.store.uri, Candidate.of_one(folder), manifest, outcome="rejected", why="worse", round_number=1,
        run_id="run-1", cursor="", champion=None,
    )  # fmt: skip
    return job


def test_it_is_deployed_with_the_thresholds_that_it_is_judged_by(job, tmp_path):
    found = last_candidate(job.store.uri, tmp_path / "out", confidence_threshold=0.6, nms_threshold=0.4).bundle
    assert (found.confidence_threshold, found.nms_threshold) == (0.6, 0.4)
    assert Bundle.read(tmp_path / "out") == found


def test_what_it_was_converted_to_is_not_taken_for_the_result_of_another_conversion(job, tmp_path):
    given = {"confidence_threshold": BUNDLE.confidence_threshold, "nms_threshold": BUNDLE.nms_threshold}
    found = last_candidate(job.store.uri, tmp_path / "out", **given).bundle
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["model.json", "model.onnx", "notes.txt"]
    assert set(found.files) == {"model.onnx", "notes.txt"}
    assert found.lineage == {"epochs": 5}
    assert Bundle.read(tmp_path / "out") == found
