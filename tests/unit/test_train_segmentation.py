"""Training a model for semantic segmentation, with ultralytics' own network."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import polars as pl
import pytest

from components.core.bundle import Bundle
from components.core.cache import fetch_blobs, fetch_masks
from components.core.errors import InputError
from components.core.estimators.segmentation import Segmentation
from components.core.heads import SemanticHead
from components.core.runtimes.base import open_model
from components.core.runtimes.letterbox import read_image
from components.core.tasks.base import LocalSamples
from components.train.train import digest_of, train
from tests.images import job_with_images
from tests.tiny_segmenter import CLASSES, job_with_masks

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ultralytics")]

QUICK = {
    "estimator": "segmentation", "base_model": "yolo26n-sem.yaml", "epochs": 2, "image_size": "64,96", "batch": 4,
    "device": "cpu", "workers": 0,
}  # fmt: skip


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    root = tmp_path_factory.mktemp("job")
    return root, job_with_masks(root, {"train": 8, "val": 4, "test": 4})


@pytest.fixture(scope="module")
def trained(job):
    root, manifest = job
    return train(manifest, root / "model", job_root=str(root), **QUICK)


def local(job, split):
    root, manifest = job
    samples = manifest.split(split)
    return LocalSamples(samples, fetch_blobs(samples, root / "here"), fetch_masks(samples, root / "here"))


def test_a_bundle_that_segments_comes_out(job, trained):
    root, _ = job
    bundle = Bundle.read(root / "model")
    assert (bundle.task, bundle.estimator, bundle.classes) == ("segmentation", "segmentation", CLASSES)
    assert bundle.head == SemanticHead(stride=8)
    assert set(bundle.files) == {"model.pt", "model.onnx"}
    assert [section.title for section in trained.sections] == ["Training", "Predictions on validation images"]
    assert all(name in trained.sections[1].body for name in CLASSES)


def test_it_gives_logits_and_not_the_largest_of_them(job, trained):
    root, _ = job
    graph = onnx.load(root / "model" / "model.onnx").graph
    (output,) = graph.output
    assert (output.name, [d.dim_value for d in output.type.tensor_type.shape.dim]) == ("logits", [1, 3, 8, 12])
    assert output.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert "ArgMax" not in {node.op_type for node in graph.node}


def test_the_exported_model_says_what_the_trained_one_says(job, trained):
    root, _ = job
    model = Segmentation()
    model.load(root / "model")
    images = [read_image(path) for path in local(job, "test").paths]
    ours = open_model("onnx", root / "model").predict(images)
    theirs = model.predict(images, confidence_threshold=0.25, nms_threshold=0.7)
    assert [one.shape for one in theirs] == [(96, 96)] * 4
    # Ultralytics enlarges the scores of the image once more, ours the classes: they differ at the edges alone.
    assert np.mean([(a == b).mean() for a, b in zip(ours, theirs, strict=True)]) > 0.95


def test_its_evaluation_is_that_of_the_masks(job, trained):
    root, _ = job
    model = Segmentation()
    model.load(root / "model" / "model.pt")
    metrics = model.evaluate(local(job, "test"), confidence_threshold=0.25, nms_threshold=0.7)
    assert (metrics.images, metrics.pixels) == (4, 4 * 96 * 96)
    assert 0 <= metrics.miou <= metrics.pixel_accuracy <= 1


def test_masks_reach_the_trainer_as_they_are(job, tmp_path):
    samples = {split: local(job, split) for split in ("train", "val")}
    model = Segmentation()
    model._lay_out(tmp_path, samples["train"], samples["val"])
    laid = sorted((tmp_path / "masks" / "train").iterdir())
    assert [path.stem for path in laid] == sorted(samples["train"].manifest.table["id"])
    assert {path.stat().st_ino for path in laid} == {path.stat().st_ino for path in samples["train"].masks}


def test_another_mask_is_another_training(job):
    _, manifest = job
    masks = manifest.table["mask"].to_list()
    turned = replace(manifest, table=manifest.table.with_columns(mask=pl.Series(masks[1:] + masks[:1])))
    assert digest_of(turned) != digest_of(manifest)


def test_what_cannot_be_learned_from_is_told(job, tmp_path):
    root, manifest = job
    with pytest.raises(
        InputError, match="have no boxes, which detection learns from: .* fits these labels: segmentation"
    ):
        train(manifest, tmp_path / "m", job_root=str(root), **{**QUICK, "estimator": "yolo"})
    boxes = job_with_images(tmp_path / "boxes", {"train": 2, "val": 2})
    with pytest.raises(InputError, match="have no masks, which segmentation learns from"):
        train(boxes, tmp_path / "m", job_root=str(tmp_path / "boxes"), **QUICK)
    with pytest.raises(InputError, match="is not for semantic segmentation"):
        train(manifest, tmp_path / "m", job_root=str(root), **{**QUICK, "base_model": "yolo11n.yaml"})
    with pytest.raises(InputError, match="has no detection head"):
        train(boxes, tmp_path / "m", job_root=str(tmp_path / "boxes"), **{**QUICK, "estimator": "yolo"})
    single = replace(manifest, classes=("ground",))
    with pytest.raises(InputError, match="add a class for the background"):
        train(single, tmp_path / "m", job_root=str(root), **QUICK)
    assert not Path(tmp_path / "m").exists()
