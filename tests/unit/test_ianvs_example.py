"""The class of ianvs' page, ported: it is registered in a user's own file and runs in a benchmark."""

import zipfile

import numpy as np
import pytest

from components.benchmark.algorithms import check_algorithms, plan_cases, read_algorithms
from components.benchmark.case import Steps, run_case
from components.benchmark.stream import make_stream
from components.core import plugins
from components.core.errors import InputError
from components.core.estimators.base import estimators
from components.mine.pool import Candidate
from components.mine.score_pool import score_pool
from components.prepare.replay import draw
from components.train.train import train
from tests.images import job_with_images

PORTED = {
    "estimator": "BasicIL-FPN", "base_model": "fasterrcnn_mobilenet_v3_large_320_fpn", "initial_epochs": 1,
    "epochs": 1, "image_size": 64, "batch": 2, "estimator_options": {"learning_rate": 0.001, "max_iteration": 1},
    "miner": "IBT", "miner_parameters": {"threshold_img": 0.9, "threshold_box": 0.9}, "replay_ratio": 0,
    "min_gain": -1,
}  # fmt: skip


@pytest.fixture(autouse=True)
def registered():
    plugins.load("tests.ianvs.basicil_fpn")


def test_its_hyperparameters_keep_their_names():
    check_algorithms(read_algorithms([PORTED]))
    with pytest.raises(InputError, match="lr is not one of learning_rate, momentum, max_iteration"):
        check_algorithms(read_algorithms([{**PORTED, "estimator_options": {"lr": 1}}]))


@pytest.mark.slow
def test_it_goes_through_the_rounds_of_a_benchmark(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGE_CACHE_DIR", str(tmp_path / "cache"))
    manifest = job_with_images(tmp_path / "job", {"": 16}, size=64)
    stream = make_stream(
        manifest, None, stream="order", rounds=2, stream_pattern="", stream_order="", train_ratio=0.5, val_ratio=0.25,
        seed=0,
    )  # fmt: skip
    (case,) = plan_cases(read_algorithms([PORTED]), [0], {})
    steps = Steps(train, draw, Candidate, score_pool, lambda *_, **__: [])
    places = {"folder": tmp_path / "case", "job_root": str(tmp_path / "job")}
    row = run_case(case, stream, steps, **places, device="cpu", workers=0)
    first, second = row.rounds
    assert first.trained == 4 and first.accepted
    # Five steps at this rate teach it nothing, and IBT sees no sure box: every image is hard.
    assert second.inferred == 4 and second.transferred == second.trained == 4
    assert 0 <= row.figures["f1_ianvs"] <= 1 and row.figures["model_mb"] > 10

    # The page keeps checkpoints in a zip file: the first model as one of these is a base model, too.
    (bundle,) = (path.parent for path in (tmp_path / "cache").rglob("benchmark/*/model.pt"))
    with zipfile.ZipFile(tmp_path / "model.zip", "w") as archive:
        archive.write(bundle / "model.pt", "model.ckpt")
    model = estimators.get("BasicIL-FPN")()
    model.load(tmp_path / "model.zip")
    (found,) = model.predict([np.zeros((64, 64, 3), np.uint8)], confidence_threshold=0.01, nms_threshold=0.7)
    assert set(found.classes) <= {0, 1}
