"""The edge worker with models of other kinds than detection."""

import itertools
import json
import threading
from dataclasses import replace
from typing import ClassVar

import cv2
import numpy as np
import pytest
from onnx import helper, numpy_helper

from components.core.colours import PALETTE, rgb
from components.core.errors import InputError
from components.core.heads import SemanticHead
from components.core.job.hard_examples import read_sidecars
from components.core.job.job import Job
from components.core.masks import from_runs, runs_of
from components.core.runtimes.base import open_model
from components.serving import edge_worker
from components.serving.sinks.base import sinks
from components.serving.smoke_test import warm_up
from components.serving.worker import Worker
from tests.edge import deploy, folder_of_images, options
from tests.models import BUNDLE, model, port, write_bundle

SEGMENTS = replace(
    BUNDLE, task="segmentation", head=SemanticHead(stride=8), outputs=("logits",), classes=("ground", "red", "blue")
)


def segmenter(bias=0.0):
    """Logits (1, 3, 8, 12) by colour: grey is ground, red and blue are themselves."""
    weights = np.zeros((3, 3, 8, 8), np.float32)
    weights[1, 0], weights[2, 2] = 1 / 64, 1 / 64
    weights[1, 2], weights[2, 0] = -1 / 64, -1 / 64
    node = helper.make_node("Conv", ["images", "weights", "bias"], ["logits"], strides=[8, 8])
    constants = {"weights": weights, "bias": np.array([0.2, bias, bias], np.float32)}
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    return model([node], [port("images", 1, 3, 64, 96)], [port("logits", 1, 3, 8, 12)], initializers)


@pytest.fixture
def job(tmp_path):
    job = Job.open(str(tmp_path / "job"))
    deploy(job, "s1", tmp_path / "bundle", segmenter(), SEGMENTS)
    return job


def run(tmp_path, source, **others):
    assert Worker(options(tmp_path, source, **others)).run(threading.Event())


def test_a_champion_that_segments_runs_and_its_pixels_go_to_the_sinks(job, tmp_path):
    folder = folder_of_images(tmp_path / "images", 6)
    written = tmp_path / "found.jsonl"
    run(tmp_path, folder, sinks=(f"jsonl:{written}",))
    lines = [json.loads(line) for line in written.read_text().splitlines()]
    assert [line["frame"] for line in lines] == list(range(6))
    for line in lines:
        assert line["detections"] == []
        assert sum(line["pixels"].values()) == pytest.approx(1, abs=1e-3)
        assert 0.4 < line["pixels"]["ground"] < 1
    assert any("red" in line["pixels"] for line in lines)
    kept = list(read_sidecars(job.store))
    assert len(kept) == 6, "CloudOnly needs no boxes"
    assert {(one.model, one.kind, len(one.boxes), one.classes) for one in kept} == {
        ("s1", "hard", 0, ("ground", "red", "blue"))
    }


def test_masks_are_written_as_runs_and_as_images_of_three_kinds_and_a_sink_without_masks_says_so_once(
    job, tmp_path, monkeypatch, caplog
):
    @sinks.register("takes-none")
    class Fractions:
        needs_image = False
        seen: ClassVar = []

        def __init__(self, target):
            pass

        def write(self, result):
            self.seen.append(result)

        def close(self):
            pass

    folder, written, shown = folder_of_images(tmp_path / "images", 3), tmp_path / "found.jsonl", tmp_path / "shown"
    run(tmp_path, folder, sinks=(f"jsonl:{written}", f"masks:{shown}", "takes-none:x"))
    masks = open_model("onnx", tmp_path / "bundle").predict(
        [cv2.imread(str(path))[:, :, ::-1] for path in sorted(folder.iterdir())]
    )
    for line, mask in zip(map(json.loads, written.read_text().splitlines()), masks, strict=True):
        height, width = line["mask"]["size"]
        assert (from_runs(line["mask"]["runs"], height, width) == mask).all()
    for kind in ("color", "merge", "label"):
        assert len(list((shown / kind).iterdir())) == 3
    labels = [cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in sorted((shown / "label").iterdir())]
    assert all((label == mask).all() for label, mask in zip(labels, masks, strict=True))
    colour = cv2.imread(str(sorted((shown / "color").iterdir())[0]))[0, 0, ::-1]
    assert tuple(colour) == rgb(PALETTE[masks[0][0, 0]])
    assert [(one.mask, set(one.summary)) for one in Fractions.seen] == [(None, {"pixels"})] * 3
    assert caplog.text.count("sink takes-none:x takes no masks") == 1


def test_sednas_folder_for_masks_is_a_sink(monkeypatch):
    monkeypatch.delenv("INFERENCE_RESULT_DIR", raising=False)
    assert edge_worker._sedna_sink() == []
    monkeypatch.setenv("INFERENCE_RESULT_DIR", "/data/infer_results")
    assert edge_worker._sedna_sink() == ["masks:/data/infer_results"]


@pytest.mark.parametrize("mask", [[[0]], [[1, 1], [1, 0]], [[255, 3, 3], [3, 3, 255]]])
def test_the_runs_of_a_mask_are_read_back(mask):
    mask = np.array(mask, np.uint8)
    runs = runs_of(mask)
    assert (from_runs(runs, *mask.shape) == mask).all()
    assert sum(runs[1::2]) == mask.size
    assert all(first != second for first, second in itertools.pairwise(runs[::2]))
    with pytest.raises(ValueError, match="cannot reshape"):
        from_runs([*runs[:-1], runs[-1] + 1], *mask.shape)


def test_a_miner_that_judges_by_boxes_keeps_frames_by_chance_alone(job, tmp_path, caplog):
    folder = folder_of_images(tmp_path / "images", 40)
    run(tmp_path, folder, miner="entropy-sum", audit_ratio=0.3)
    kept = list(read_sidecars(job.store))
    assert 4 < len(kept) < 22
    assert {one.kind for one in kept} == {"audit"}
    assert {one.reason for one in kept} == {"the model gives no boxes to score"}
    assert "gives no boxes for the miner entropy-sum to score: only audit_ratio=0.3" in caplog.text


def test_a_model_whose_logits_are_not_numbers_fails_its_smoke_test(tmp_path):
    folder = write_bundle(tmp_path / "broken", segmenter(np.nan), SEGMENTS)
    with pytest.raises(InputError, match="the model gives logits that are not finite numbers"):
        warm_up(open_model("onnx", folder))
    warm_up(open_model("onnx", write_bundle(tmp_path / "whole", segmenter(), SEGMENTS)))
