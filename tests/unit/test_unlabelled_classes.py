"""Classes that were not labelled in a sample: no background in training, and no mistakes in evaluation."""

import numpy as np
import polars as pl
import pytest
import torch

from components.core.detections import Detections
from components.core.estimators.yolo import Yolo
from components.core.manifest import Manifest
from components.core.metrics.detection import judgeable
from components.core.tasks.base import LocalSamples, open_task
from components.train.train import training_key
from tests.images import job_with_images


def test_predictions_of_unlabelled_classes_count_only_on_their_boxes():
    found = Detections.of([[0, 0, 10, 10], [0, 0, 10, 9], [50, 0, 60, 10], [50, 0, 60, 10]], [1, 1, 1, 0])
    truth = Detections.of([[0, 0, 10, 10]], [1])
    assert judgeable(found, truth, frozenset({1})).tolist() == [True, True, False, True]
    assert judgeable(found, Detections.none(), frozenset({1})).tolist() == [False, False, False, True]
    assert judgeable(found, truth, frozenset()).all()
    assert judgeable(Detections.none(), truth, frozenset({1})).tolist() == []


def test_a_model_is_not_worse_for_objects_that_nobody_labelled():
    box = {"class_id": 0, "x1": 0.0, "y1": 0.0, "x2": 10.0, "y2": 10.0}
    row = {"width": 100, "height": 100, "split": "test"}
    whole = {**row, "id": "whole", "annotations": [box, {**box, "class_id": 1, "x1": 40.0, "x2": 50.0}]}
    part = {**row, "id": "part", "annotations": [box]}
    found = Detections.of([[0, 0, 10, 10], [40, 0, 50, 10]], [0, 1], [0.9, 0.9])
    task = open_task("detection")

    def figures(unlabelled):
        samples = Manifest.of([whole, {**part, "unlabelled_classes": unlabelled}], ("red", "blue"))
        local = LocalSamples(samples, ())
        return task.metrics(samples, [task.result(local, index, found) for index in range(2)], 0.5).as_flat()

    assert figures(None)["precision[blue]"] == 0.5 and figures(None)["f1_micro"] < 1
    assert figures([1])["precision[blue]"] == 1 and figures([1])["f1_micro"] == 1
    # What was labelled stays judged.
    assert figures([0])["precision[blue]"] == 0.5


def test_what_was_not_labelled_decides_what_a_training_comes_to(tmp_path):
    manifest = job_with_images(tmp_path, {"train": 1})
    partial = Manifest(manifest.table.with_columns(unlabelled_classes=pl.lit([1], pl.List(pl.Int32))), ("red", "blue"))
    assert training_key(manifest, {}) != training_key(partial, {})


def test_an_unlabelled_class_has_no_loss_but_where_another_object_is(ultralytics):
    from components.core.estimators.yolo_unlabelled import LabelledBce

    bce = LabelledBce()
    logits = torch.zeros(1, 2, 2, requires_grad=True)
    targets = torch.tensor([[[0.0, 0.0], [1.0, 0.0]]])  # an anchor on background, and one on an object of class 0
    plain = bce(logits, targets)
    assert torch.equal(plain, torch.full((1, 2, 2), float(np.log(2))))
    bce.unlabelled = torch.tensor([[[False, True], [False, True]]])
    bce(logits, targets).sum().backward()
    assert logits.grad.tolist() == [[[0.5, 0.0], [-0.5, 0.5]]]


def test_a_region_is_where_its_box_is(ultralytics):
    from components.core.estimators.yolo_unlabelled import REGION, regions

    batch = {
        "img": torch.zeros(2, 3, 32, 64),
        "cls": torch.tensor([[1.0], [REGION + 1.0]]),
        "batch_idx": torch.tensor([0.0, 1.0]),
        "bboxes": torch.tensor([[0.5, 0.5, 1.0, 1.0], [0.25, 0.5, 0.5, 1.0]]),  # the region: the left half of image 1
    }
    found = regions(batch, 2, [16, 32])
    assert found.shape == (2, 2 * 4 + 2, 2)
    assert not found[0].any() and not found[1, :, 0].any()
    assert found[1, :, 1].tolist() == [True, True, False, False] * 2 + [True, False]


@pytest.fixture(scope="module")
def started(tmp_path_factory, ultralytics):
    """A detector of red and blue after its first epoch."""
    root = tmp_path_factory.mktemp("job")
    return root, fitted(root, job_with_images(root, {"train": 4, "val": 2}), root / "first", "yolov8n.yaml")


def fitted(root, manifest, folder, base):
    """Train for one epoch; returns the weights of the last one."""
    model, epochs = Yolo(), []
    model.load(base)
    local = {
        split: LocalSamples(manifest.split(split), open_task("detection").local(manifest.split(split), root).paths)
        for split in ("train", "val")
    }
    settings = {"epochs": 1, "image_size": (64, 64), "batch": 4, "patience": 0, "device": "cpu", "workers": 0}
    options = {"warmup_epochs": 0, "optimizer": "SGD", "lr0": 0.1, "mosaic": 0, "translate": 0, "scale": 0}
    model.train(*local.values(), folder=folder, seed=0, options=options, on_epoch=epochs.append, **settings)
    return epochs[-1].last


@pytest.mark.slow
def test_images_without_labels_of_a_class_leave_its_outputs_alone(started, tmp_path):
    root, base = started
    empty = job_with_images(root, {"train": 4, "val": 2}, seed=1).table.with_columns(
        annotations=pl.lit([], Manifest.of([], ()).table.schema["annotations"]),
    )

    def moved(unlabelled):
        table = empty.with_columns(unlabelled_classes=pl.lit(unlabelled, pl.List(pl.Int32)))
        last = fitted(root, Manifest(table, ("red", "blue")), tmp_path / str(unlabelled), str(base))
        before, after = (Yolo() for _ in range(2))
        before.load(base)
        after.load(last)
        return [
            not torch.equal(*(model._model.model.model[-1].cv3[0][-1].bias[number] for model in (before, after)))
            for number in (0, 1)
        ]

    assert moved(None) == [True, True]
    assert moved([1]) == [True, False]
