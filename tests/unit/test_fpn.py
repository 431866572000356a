"""The Faster R-CNN estimator: trained for an epoch or two at the smallest size, exported, measured, resumed."""

import os
import pickle
import shutil
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from components.core.bundle import Bundle
from components.core.errors import InputError
from components.core.estimators.base import estimators
from components.core.estimators.fpn import Fpn, State, learning_rate
from components.core.heads import BoxesHead
from components.core.manifest import Manifest
from components.core.rules.conditions import Condition
from components.core.runtimes.base import open_detector
from components.core.runtimes.letterbox import read_image
from components.core.tasks.base import LocalSamples
from components.evaluate.compare import compare
from components.evaluate.evaluate import evaluate
from components.evaluate.gate import Outcome, judge
from components.evaluate.predictor import open_predictor
from components.train.train import train
from tests.images import job_with_images
from tests.models import BUNDLE, colour_model, write_bundle

LIGHT = "fasterrcnn_mobilenet_v3_large_320_fpn"
OPTIONS = {"anchor_sizes": [16, 32], "samples_per_image": 8}
QUICK = {
    "estimator": "fpn", "base_model": LIGHT, "epochs": 2, "image_size": "64,96", "batch": 4, "device": "cpu",
    "workers": 0, "estimator_options": OPTIONS,
}  # fmt: skip


def with_negatives(manifest: Manifest) -> Manifest:
    """The manifest with nothing to see in its first training image."""
    rows = list(manifest.rows())
    rows[0] = {**rows[0], "annotations": []}
    return Manifest.of(rows, manifest.classes)


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    root = tmp_path_factory.mktemp("job")
    return root, with_negatives(job_with_images(root, {"train": 8, "val": 4, "test": 4}))


@pytest.fixture(scope="module")
def trained(job):
    root, manifest = job
    return train(manifest, root / "model", job_root=str(root), **QUICK)


def samples(job, split):
    root, manifest = job
    chosen = manifest.split(split)
    return LocalSamples(chosen, [root / "blobs" / i[:2] / f"{i}.jpg" for i in chosen.table["id"]])


def fit(job, folder, resume=None, base=LIGHT, stop_after=None, keep=None, **changed):
    """Train an estimator itself; returns it and its epochs."""
    model, seen = Fpn(), []

    def on_epoch(epoch):
        seen.append(epoch)
        if epoch.number == stop_after:
            keep.mkdir()
            shutil.copy(epoch.last, keep / "last.pt")
            shutil.copy(epoch.best, keep / "best.pt")
            raise InterruptedError

    folder.mkdir(exist_ok=True)
    if resume is None:
        model.load(base)
    settings = {
        "epochs": 2, "image_size": (64, 96), "batch": 4, "patience": 0, "device": "cpu", "workers": 0, "seed": 1,
        "options": OPTIONS,
    }  # fmt: skip
    with suppress(InterruptedError):
        model.train(
            samples(job, "train"), samples(job, "val"), folder=folder, on_epoch=on_epoch, resume=resume,
            **{**settings, **changed},
        )  # fmt: skip
    return model, seen


def contents(path: Path) -> dict:
    import torch

    return torch.load(path, weights_only=True)


def test_a_bundle_comes_out(job, trained):
    bundle = Bundle.read(job[0] / "model")
    assert bundle.head == BoxesHead()
    assert (bundle.estimator, bundle.classes, bundle.image_size) == ("fpn", ("red", "blue"), (64, 96))
    assert set(bundle.files) == {"model.pt", "model.onnx"}
    assert [epoch["epoch"] for epoch in trained.history] == [1, 2]
    assert {"train/classifier", "train/objectness", "metrics/mAP50(B)", "metrics/mAP50-95(B)"} <= set(
        trained.history[0]
    )
    assert trained.history[1]["train/classifier"] < trained.history[0]["train/classifier"]


def test_the_exported_model_finds_what_the_trained_one_finds(job, trained):
    model = estimators.get("fpn")()
    model.load(job[0] / "model")
    images = [*(read_image(path) for path in samples(job, "val").paths), np.zeros((40, 130, 3), np.uint8)]
    ours = open_detector("onnx", job[0] / "model").predict(images, confidence=1e-6, nms=0.5)
    theirs = model.predict(images, confidence_threshold=1e-6, nms_threshold=0.5)
    for mine, reference in zip(ours, theirs, strict=True):
        assert len(mine) > 10
        assert mine.scores[0] == pytest.approx(reference.scores[0], abs=1e-4)
        assert np.allclose(mine.boxes[0], reference.boxes[0], atol=0.05)
        assert mine.classes[0] == reference.classes[0]


def test_it_is_evaluated_compared_and_judged_like_any_other(job, trained, tmp_path):
    root, manifest = job
    settings = {"confidence_threshold": 0.25, "cache_folder": root / "cache"}
    candidate = open_predictor(root / "model", nms_threshold=0.5)
    found = evaluate(manifest, candidate, **settings)
    model = estimators.get("fpn")()
    model.load(root / "model")
    own = model.evaluate(samples(job, "test"), confidence_threshold=0.25, nms_threshold=0.5)
    assert found.metrics.images == own.images == 4
    assert found.metrics.map50 == pytest.approx(own.map50, abs=0.02)
    champion = write_bundle(tmp_path / "champion", colour_model(), replace(BUNDLE, nms_threshold=0.5))
    test = manifest.split("test")
    comparison = compare(
        {"candidate": candidate, "champion": open_predictor(champion, nms_threshold=0.5)},
        {"core": test, "recent": test.where()},
        **settings,
    )
    judged = judge(
        comparison, now=datetime.now(UTC), conditions=Condition.parse("map50 >= 1.5")
    )  # which nothing scores
    assert judged.outcome == Outcome.REJECTED


def test_a_broken_off_training_comes_to_the_same_weights(job, tmp_path):
    _, whole = fit(job, tmp_path / "whole", epochs=3)
    fit(job, tmp_path / "begun", epochs=3, stop_after=2, keep=tmp_path / "kept")
    _, rest = fit(job, tmp_path / "kept", epochs=3, resume=tmp_path / "kept" / "last.pt")
    assert [epoch.number for epoch in rest] == [3]
    assert rest[-1].finished
    assert rest[-1].values == whole[-1].values
    expected, found = contents(whole[-1].last), contents(rest[-1].last)
    assert all(np.array_equal(found["weights"][name], tensor) for name, tensor in expected["weights"].items())


def test_the_best_weights_stay_when_a_resumed_training_is_worse(job, tmp_path):
    import torch

    fit(job, tmp_path / "begun", stop_after=1, keep=tmp_path / "kept")
    held = contents(tmp_path / "kept" / "last.pt")
    held["training"]["score"] = 2.0  # no epoch can be better
    torch.save(held, tmp_path / "kept" / "last.pt")
    _, rest = fit(job, tmp_path / "kept", resume=tmp_path / "kept" / "last.pt")
    before, after = contents(tmp_path / "kept" / "best.pt"), contents(rest[-1].best)
    assert all(np.array_equal(after["weights"][name], tensor) for name, tensor in before["weights"].items())


def test_patience_ends_a_training_without_progress(job, tmp_path):
    _, seen = fit(job, tmp_path / "t", epochs=9, patience=1, options={**OPTIONS, "lr": 1e-9})
    assert len(seen) < 9
    assert [epoch.finished for epoch in seen] == [False] * (len(seen) - 1) + [True]


def test_state_keeps_the_first_of_equal_epochs():
    state = State().after(1, 0.5, {}).after(2, 0.5, {})
    assert (state.epoch, state.best, state.score) == (2, 1, 0.5)
    assert state.after(3, 0.6, {}).best == 3


def test_the_rate_rises_and_falls():
    assert learning_rate(0.5, 10, 1) == 0.5
    assert learning_rate(1, 10, 1) == pytest.approx(1)
    assert learning_rate(10, 10, 1) == pytest.approx(0.01)
    assert learning_rate(0.5, 1, 0) == pytest.approx(0.505)


def test_it_trains_on_from_a_bundle_and_for_other_classes(job, trained, tmp_path):
    root, manifest = job
    base = str(root / "model")
    before = contents(root / "model" / "model.pt")["weights"]
    frozen = {"options": {"freeze": 17, "lr": 1e-6, "samples_per_image": 8}, "epochs": 1}
    model, _ = fit(job, tmp_path / "same", base=base, **frozen)
    model.save(tmp_path / "out", image_size=(64, 96), confidence_threshold=0.3, nms_threshold=0.5, lineage={})
    after = contents(tmp_path / "out" / "model.pt")["weights"]
    name = "parts.roi_heads.box_predictor.cls_score.weight"
    assert np.allclose(before[name], after[name], atol=1e-4)
    backbone = [key for key in before if key.startswith("parts.backbone.body.")]
    assert len(backbone) > 100
    assert all(np.array_equal(before[key], after[key]) for key in backbone)
    assert any(not np.array_equal(before[key], after[key]) for key in before)
    renamed = root, Manifest(manifest.table, ("crimson", "navy", "green"))
    model, _ = fit(renamed, tmp_path / "other", base=base, **frozen)
    bundle = model.save(tmp_path / "3", image_size=(64, 96), confidence_threshold=0.3, nms_threshold=0.5, lineage={})
    assert bundle.classes == ("crimson", "navy", "green")


def test_a_resnet_trains_too(job, tmp_path):
    options = {"samples_per_image": 8, "anchor_sizes": [8, 16, 32, 64, 128]}
    model, seen = fit(job, tmp_path / "t", base="fasterrcnn_resnet50_fpn", epochs=1, options=options)
    assert seen[0].values["train/objectness"] > 0
    model.save(tmp_path / "m", image_size=(64, 96), confidence_threshold=0.3, nms_threshold=0.5, lineage={})
    assert open_detector("onnx", tmp_path / "m").bundle.head == BoxesHead()


def test_mixed_precision_learns_as_full_precision_does(job, tmp_path):
    _, full = fit(job, tmp_path / "full", epochs=1)
    model, mixed = fit(job, tmp_path / "mixed", epochs=1, options={**OPTIONS, "amp": True})
    for name in ("train/objectness", "train/classifier"):  # the others depend on which proposals are drawn
        assert mixed[0].values[name] == pytest.approx(full[0].values[name], rel=0.2), name
    assert mixed[0].values != full[0].values
    assert {weight.dtype for weight in contents(mixed[0].last)["weights"].values()} == {torch.float32, torch.int64}
    model.save(tmp_path / "m", image_size=(64, 96), confidence_threshold=0.3, nms_threshold=0.5, lineage={})
    assert open_detector("onnx", tmp_path / "m").bundle.head == BoxesHead()


def test_mixed_precision_does_not_round_places():
    from components.core.estimators.faster_rcnn import FasterRcnn

    torch.manual_seed(0)
    network = FasterRcnn("fasterrcnn_resnet18_fpn", 2, (8, 16, 32, 64, 128)).eval()
    canvas = torch.rand(1, 3, 320, 320)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        boxes, scores, _ = network(canvas)
    assert boxes.dtype == scores.dtype == torch.float32
    inside = boxes[(boxes > 256) & (boxes < 320)]  # where bfloat16 knows every second number
    assert len(inside) > 100
    assert (inside % 2 != 0).float().mean() > 0.9


def test_a_mirrored_image_has_mirrored_boxes(job):
    from components.core.estimators.canvases import Canvases

    chosen = samples(job, "val")
    canvases = Canvases(chosen, (64, 96), [(0, False), (0, True)])
    plain, mirrored = canvases[0], canvases[1]
    assert np.array_equal(mirrored[0].numpy(), plain[0].numpy()[:, :, ::-1])
    for pixels, truth in (plain, mirrored):
        assert len(truth["labels"])
        for (x1, y1, x2, y2), label in zip(truth["boxes"].numpy(), truth["labels"], strict=True):
            inside = pixels.numpy()[:, round(y1) + 2 : round(y2) - 2, round(x1) + 2 : round(x2) - 2]
            red, _, blue = np.median(inside, axis=(1, 2))
            assert (red > blue) == (label == 1)


def test_images_with_nothing_to_see_are_learned_from():
    import torch

    from components.core.estimators.faster_rcnn import FasterRcnn

    torch.manual_seed(0)
    network = FasterRcnn(LIGHT, 2, (16, 32))
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    losses = network.losses(torch.rand(2, 3, 64, 96), [nothing, nothing])
    assert losses["loss_objectness"] > 0.1
    assert losses["loss_classifier"] > 0.1
    assert losses["loss_box_reg"] == losses["loss_rpn_box_reg"] == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"lr0": 0.1}, "lr0 is not an option of fpn: choose from lr, momentum, .*anchor_sizes"),
        ({"lr": -1, "flip": 2}, "lr=-1: .*greater than 0.*flip=2: "),
        ({"anchor_sizes": []}, "anchor_sizes=.*at least 1"),
    ],
)
def test_wrong_options_are_told_before_any_work(job, tmp_path, options, words):
    (complaint,) = Fpn().check(LIGHT, options)
    with pytest.raises(InputError, match=words):
        fit(job, tmp_path / "t", options=options)
    assert complaint.startswith("estimator_options: ")
    assert not list((tmp_path / "t").iterdir())


def test_anchors_must_suit_the_architecture_and_the_base(job, trained, tmp_path):
    assert "a ResNet has 5 scales" in Fpn().check("fasterrcnn_resnet50_fpn", {"anchor_sizes": [8, 16]})[0]
    with pytest.raises(InputError, match=r"anchor_sizes=\[24.0\], but the base model has \[16.0, 32.0\]"):
        fit(job, tmp_path / "t", base=str(job[0] / "model"), options={"anchor_sizes": [24]})


def test_anchors_are_as_small_as_the_canvas_by_default(job, tmp_path):
    fit(job, tmp_path / "t", epochs=1, image_size=(80, 160), options={"samples_per_image": 8})
    content = contents(tmp_path / "t" / "last-epoch.pt")
    assert content["anchor_sizes"] == pytest.approx([3.2, 6.4, 12.8, 25.6, 51.2])


def test_what_cannot_be_trained_is_told(job, tmp_path):
    with pytest.raises(InputError, match="image_size=32,96: fpn needs sides of 64 or more"):
        fit(job, tmp_path / "t", image_size=(32, 96))
    with pytest.raises(InputError, match="device=7: this machine has"):
        fit(job, tmp_path / "t", device="7")
    root, manifest = job
    empty = Manifest.of([{**row, "annotations": []} for row in manifest.rows()], manifest.classes)
    with pytest.raises(InputError, match="none of the 4 validation samples has a box"):
        fit((root, empty), tmp_path / "t")
    with pytest.raises(InputError, match="the loss became NaN or infinite in epoch 1: set a smaller lr"):
        fit(job, tmp_path / "t", options={**OPTIONS, "lr": 1e30, "warmup_epochs": 0})
    with pytest.raises(InputError, match="has no weights yet"):
        untrained = Fpn()
        untrained.load(LIGHT)
        untrained.predict([np.zeros((8, 8, 3), np.uint8)], confidence_threshold=0.5, nms_threshold=0.5)


class Trap:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_base_of_another_kind_is_refused_and_never_executed(job, trained, tmp_path):
    import torch

    (tmp_path / "trap.pt").write_bytes(pickle.dumps(Trap(str(tmp_path / "sprung")), protocol=2))
    (tmp_path / "junk.pt").write_bytes(b"PK\x03\x04 half a file")
    torch.save({"estimator": "other"}, tmp_path / "other.pt")
    torch.save({**contents(job[0] / "model" / "model.pt"), "weights": {}}, tmp_path / "empty.pt")
    expected = {
        "trap.pt": "not a model of the estimator fpn",
        "junk.pt": "not a model of the estimator fpn",
        "other.pt": "of the estimator other, not fpn",
        "empty.pt": "damaged",
        "missing.pt": "neither a .pt file",
    }
    for name, words in expected.items():
        with pytest.raises(InputError, match=words):
            Fpn().load(tmp_path / name)
    assert not (tmp_path / "sprung").exists()
    assert "to train from scratch, choose from" in Fpn().check("yolo11n.yaml", {})[0]


def test_a_class_that_stays_keeps_its_outputs_when_others_come():
    import torch

    from components.core.estimators.faster_rcnn import FasterRcnn

    network = FasterRcnn("fasterrcnn_mobilenet_v3_large_320_fpn", 2, (32, 64, 128, 256, 512))
    head = network.parts.roi_heads.box_predictor
    scores, boxes = (
        torch.cat([layer.weight.detach().clone(), layer.bias.detach().clone()[:, None]], dim=1)
        for layer in (head.cls_score, head.bbox_pred)
    )
    network.replace_classes([1, None, 0])  # the second class comes first now, then a new one, then the first
    head = network.parts.roi_heads.box_predictor
    now_scores, now_boxes = (
        torch.cat([layer.weight.detach(), layer.bias.detach()[:, None]], dim=1)
        for layer in (head.cls_score, head.bbox_pred)
    )
    assert (len(now_scores), len(now_boxes)) == (4, 16)
    assert torch.equal(now_scores[[0, 1, 3]], scores[[0, 2, 1]])
    assert torch.equal(now_boxes.reshape(4, 4, -1)[[0, 1, 3]], boxes.reshape(3, 4, -1)[[0, 2, 1]])


def test_background_may_be_of_a_class_that_was_not_labelled():
    from components.core.estimators.faster_rcnn import classification_loss

    logits = torch.tensor([[1.0, 2.0, 3.0], [0.5, 0.1, 0.2]], requires_grad=True)
    labels = torch.tensor([0, 1])
    plain = classification_loss(logits, labels, torch.zeros(2, 3, dtype=torch.bool))
    assert plain.item() == pytest.approx(torch.nn.functional.cross_entropy(logits, labels).item())
    unlabelled = torch.tensor([[False, False, True], [False, False, True]])
    loss = classification_loss(logits, labels, unlabelled)
    either, other = np.exp(1) + np.exp(3), np.exp(2)
    known = torch.nn.functional.cross_entropy(logits[1:], labels[1:]).item()  # an object is no other class
    assert loss.item() == pytest.approx((-np.log(either / (either + other)) + known) / 2)


def test_a_model_learns_from_samples_without_labels_of_a_class(job, trained, tmp_path):
    root, manifest = job
    table = manifest.table.with_columns(unlabelled_classes=pl.lit([1], pl.List(pl.Int32)))
    options = QUICK | {"epochs": 1, "base_model": str(root / "model")}
    found = train(Manifest(table, manifest.classes), tmp_path / "model", job_root=str(root), **options)
    assert found.bundle.classes == manifest.classes


def test_a_small_resnet_is_trained_and_exported(job, tmp_path):
    base = "fasterrcnn_resnet18_fpn"
    options = {"anchor_sizes": [8, 16, 32, 64, 128], "samples_per_image": 8}
    model, epochs = fit(job, tmp_path / "training", base=base, epochs=1, options=options)
    assert len(epochs) == 1
    bundle = model.save(
        tmp_path / "model", image_size=(64, 96), confidence_threshold=0.25, nms_threshold=0.5, lineage={}
    )
    assert bundle.head == BoxesHead()
    again = Fpn()
    again.load(tmp_path / "model")
    image = read_image(samples(job, "val").paths[0])
    (ours,) = open_detector("onnx", tmp_path / "model").predict([image], confidence=1e-6, nms=0.5)
    (theirs,) = again.predict([image], confidence_threshold=1e-6, nms_threshold=0.5)
    assert len(theirs) > 10
    assert ours.scores[0] == pytest.approx(theirs.scores[0], abs=1e-4)


@pytest.mark.parametrize(("image_size", "told"), [((96, 96), True), ((160, 160), False)])
def test_objects_smaller_than_the_finest_scale_are_told(image_size, told, job, tmp_path, caplog):
    fit(job, tmp_path / "training", epochs=1, image_size=image_size)  # of 96 pixels, with objects of 17 to 28
    assert ("smaller than 32 pixels" in caplog.text) is told
