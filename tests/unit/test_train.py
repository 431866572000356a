"""Training through the estimator, the component's logic and its checkpoints. Two or three real epochs each."""

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import polars as pl
import pytest

from components.core.bundle import Bundle
from components.core.cache import own_folder
from components.core.errors import InputError, OutOfReachError
from components.core.estimators import yolo
from components.core.estimators.ultralytics_model import Base, check_base_loaded
from components.core.estimators.ultralytics_model import _Follower as Follower
from components.core.manifest import Manifest
from components.core.runtimes.base import open_detector
from components.core.runtimes.letterbox import read_image
from components.core.tasks.base import LocalSamples
from components.train.train import deciding_settings, train, training_key
from tests.images import job_with_images

SIZES = {"train": 16, "val": 6, "test": 6}
QUICK = {"epochs": 2, "image_size": "64,96", "batch": 8, "device": "cpu", "workers": 0, "base_model": "yolov8n.yaml"}

# Trains in a process of its own; argument 1 is a JSON object with the manifest, the output folder and the settings.
SCRIPT = """
import json, logging, sys
from pathlib import Path
from components.core.manifest import Manifest
from components.train.train import train
logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
given = json.loads(sys.argv[1])
train(Manifest.read(given["manifest"]), Path(given["output"]), **given["settings"])
"""


@pytest.fixture(scope="module")
def job(tmp_path_factory) -> tuple[Path, Manifest]:
    root = tmp_path_factory.mktemp("job")
    manifest = job_with_images(root, SIZES)
    manifest.write(root / "manifest.parquet")
    return root, manifest


@pytest.fixture(scope="module")
def trained(job):
    root, manifest = job
    return train(manifest, root / "model", job_root=str(root), **QUICK, experiment_labels="site=north")


def images(job, split="val"):
    root, manifest = job
    samples = manifest.split(split)
    return LocalSamples(samples, [root / "blobs" / i[:2] / f"{i}.jpg" for i in samples.table["id"]])


def test_a_bundle_comes_out_and_nothing_else_stays(job, trained):
    root, _ = job
    bundle = Bundle.read(root / "model")
    assert set(bundle.files) == {"model.pt", "model.onnx"}
    assert bundle.classes == ("red", "blue")
    assert bundle.lineage["experiment_labels"] == {"site": "north"}
    assert [epoch["epoch"] for epoch in trained.history] == [1, 2]
    assert [section.title for section in trained.sections] == ["Training", "Predictions on validation images"]
    assert not list(root.rglob("*.pt.*")) and not list((root / "checkpoints").rglob("*.pt"))
    assert not any((own_folder(str(root)) / "training").iterdir())


def test_height_and_width_reach_the_exported_model(job, trained):
    root, _ = job
    graph = onnx.load(root / "model" / "model.onnx").graph
    assert [d.dim_value for d in graph.input[0].type.tensor_type.shape.dim] == [1, 3, 64, 96]
    assert [output.name for output in graph.output] == ["box0", "cls0", "box1", "cls1", "box2", "cls2"]
    assert trained.bundle.image_size == (64, 96)


def test_the_exported_model_finds_what_the_trained_one_finds(job, trained):
    root, _ = job
    model = yolo.Yolo()
    model.load(root / "model")
    decoded = [read_image(path) for path in images(job).paths]
    # Two epochs teach nothing, and suppression among equals differs; the best box of each image must not.
    ours = open_detector("onnx", root / "model").predict(decoded, confidence=1e-6, nms=0.7)
    theirs = model.predict(decoded, confidence_threshold=1e-6, nms_threshold=0.7)
    for mine, reference in zip(ours, theirs, strict=True):
        assert mine.scores[0] == pytest.approx(reference.scores[0], abs=1e-6)
        assert np.allclose(mine.boxes[0], reference.boxes[0], atol=0.01)


def test_the_five_methods_agree_with_the_evaluator(job, trained):
    root, _ = job
    model = yolo.Yolo()
    model.load(root / "model" / "model.pt")
    metrics = model.evaluate(images(job, "test"), confidence_threshold=0.25, nms_threshold=0.7)
    assert 0 <= metrics.map50 <= 1
    assert metrics.images == SIZES["test"]


def test_a_base_that_did_not_reach_the_model_is_an_error(job, trained, tmp_path):
    root, manifest = job
    settings = {**QUICK, "base_model": str(root / "model"), "epochs": 1}
    with pytest.raises(InputError, match="the base model was not loaded"):
        train(manifest, tmp_path / "m", job_root=str(root), **settings, estimator_options={"pretrained": False})


def test_a_base_that_was_loaded_is_trained_on(job, trained, tmp_path):
    root, manifest = job
    settings = {**QUICK, "base_model": str(root / "model"), "epochs": 1}
    again = train(manifest, tmp_path / "m", job_root=str(root), **settings)
    assert again.bundle.files["model.onnx"] != trained.bundle.files["model.onnx"]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"base_model": "yolo11n.pt"}, "no such file, and models are not downloaded by name"),
        ({"base_model": "yolo99n.yaml"}, "neither a file nor an architecture"),
        ({"base_model": "model.tflite"}, "expected .pt weights"),
        ({"base_model": "yolo11n-seg.yaml"}, r"head for masks, key points or turned boxes \(Segment\): give a plain"),
        ({"base_model": "yolo11n-pose.yaml"}, r"head for masks, key points or turned boxes \(Pose\): give a plain"),
        ({"base_model": "yolo11n-obb.yaml"}, r"head for masks, key points or turned boxes \(OBB\): give a plain"),
        ({"estimator": "yollo"}, "unknown estimator 'yollo': choose from .*yolo"),
        ({"device": "7"}, "device=7: this machine has 0 GPUs: use auto or cpu"),
        ({"device": "0,1"}, "device=0,1: on several GPUs ultralytics trains in processes of its own.*give one of them"),
        ({"estimator_options": {"lr": 1, "epochs": 3}}, "lr is not a training setting.*epochs is set by epochs"),
        ({"estimator_options": {"cfg": "settings.yaml"}}, "cfg is set by the pipeline"),
        ({"estimator_options": {"lr0": 0.002}}, "lr0 has no effect while ultralytics chooses the optimizer: give one"),
        ({"estimator_options": {"single_cls": True}}, "single_cls is set by classes, as in classes=hat:object,person:"),
    ],
)
def test_what_cannot_be_trained_is_told(job, tmp_path, changed, words):
    root, manifest = job
    with pytest.raises(InputError, match=words):
        train(manifest, tmp_path / "m", job_root=str(root), **{**QUICK, **changed})
    assert not (tmp_path / "m").exists()


def test_weights_that_are_none_are_told(job, tmp_path):
    root, manifest = job
    (tmp_path / "half.pt").write_bytes(b"PK\x03\x04 half a file")
    with pytest.raises(InputError, match=r"half\.pt: ultralytics cannot read this model"):
        train(manifest, tmp_path / "m", job_root=str(root), **{**QUICK, "base_model": str(tmp_path / "half.pt")})


def weights_of(folder):
    import torch

    model = torch.load(folder / "model.pt", weights_only=False)
    return (model.get("ema") or model["model"]).float().state_dict()


def test_a_base_with_the_classes_in_another_order_is_trained_on(job, trained, tmp_path):
    root, manifest = job
    rows = [
        {**row, "annotations": [{**box, "class_id": 1 - box["class_id"]} for box in row["annotations"]]}
        for row in manifest.rows()
    ]
    turned = Manifest.of(rows, ("blue", "red"))
    settings = QUICK | {"base_model": str(root / "model" / "model.pt"), "epochs": 1}
    assert train(turned, tmp_path / "model", job_root=str(tmp_path), **settings).bundle.classes == ("blue", "red")


def test_a_model_does_not_keep_the_state_of_its_optimizer(job, trained, tmp_path):
    import torch

    root, _ = job
    content = torch.load(root / "model" / "model.pt", weights_only=False)
    torch.save(content | {"optimizer": {"state": torch.zeros(10_000_000)}}, tmp_path / "epoch.pt")
    model = yolo.Yolo()
    model.load(tmp_path / "epoch.pt")
    model.save(tmp_path / "m", image_size=(64, 96), confidence_threshold=0.25, nms_threshold=0.7, lineage={})
    sizes = [(folder / "model.pt").stat().st_size for folder in (root / "model", tmp_path / "m")]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.01)


def test_no_epochs_take_the_base_model_as_it_is(job, trained, tmp_path, caplog):
    import torch

    root, manifest = job
    settings = QUICK | {"base_model": str(root / "model" / "model.pt"), "epochs": 0}
    turned = Manifest(manifest.table, ("blue", "red", "green"))
    done = train(turned, tmp_path / "model", job_root=str(root), **settings)
    assert done.bundle.classes == ("red", "blue")  # the model's own; who evaluates goes by names
    assert done.bundle.lineage["epochs"] == 0
    assert done.history == []
    assert "Nothing was trained" in done.sections[0].body
    assert "the model has no class green" in caplog.text
    before, after = weights_of(root / "model"), weights_of(tmp_path / "model")
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not list((root / "checkpoints").rglob("*.json"))


def test_no_epochs_need_no_labels_to_train_on(job, trained, tmp_path):
    root, manifest = job
    settings = QUICK | {"base_model": str(root / "model"), "epochs": 0}
    done = train(manifest.split("test"), tmp_path / "model", job_root=str(root), **settings)
    assert [section.title for section in done.sections] == ["Training"]


def test_a_base_model_that_is_used_at_another_size_is_reported(job, trained, tmp_path, caplog):
    root, manifest = job
    settings = QUICK | {"base_model": str(root / "model" / "model.pt"), "epochs": 0, "image_size": "64"}
    train(manifest, tmp_path / "model", job_root=str(root), **settings)
    assert "was trained at 96 pixels and is exported at 64" in caplog.text


def test_no_epochs_without_weights_or_with_other_classes_are_refused(job, trained, tmp_path):
    root, manifest = job
    with pytest.raises(InputError, match="epochs=0 uses base_model unchanged, but yolov8n.yaml has no trained weights"):
        train(manifest, tmp_path / "model", job_root=str(root), **QUICK | {"epochs": 0})
    settings = QUICK | {"base_model": str(root / "model"), "epochs": 0}
    with pytest.raises(InputError, match="predicts blue, which has no labels .*: rename the data's classes"):
        train(Manifest(manifest.table, ("red", "green")), tmp_path / "model", job_root=str(root), **settings)


def test_outputs_of_classes_may_move_by_name_and_nothing_else_may_differ():
    import torch

    names = ("head", "helmet", "vest")
    weights = {"body": torch.arange(24.0).reshape(4, 6), "cls": torch.arange(9.0).reshape(3, 3)}
    base = Base(weights, names)
    check_base_loaded(base, base)
    check_base_loaded(base, Base(weights | {"cls": weights["cls"][[2, 0, 1]]}, ("vest", "Head", "helmet")))
    new = weights["cls"][[0, 2, 1]].clone()
    new[1] = -5  # a class that the base does not know
    check_base_loaded(base, Base(weights | {"cls": new}, ("head", "gloves", "helmet")))
    more = torch.cat([weights["cls"][[0, 2]], -torch.ones(2, 3)])
    check_base_loaded(base, Base(weights | {"cls": more}, ("head", "vest", "gloves", "boots")))
    with pytest.raises(InputError, match="the base model was not loaded"):
        check_base_loaded(base, Base(weights | {"cls": more}, ("vest", "head", "gloves", "boots")))
    for other, called in ((weights["cls"][[2, 0, 1]], names), (weights["cls"], ("vest", "boots", "head"))):
        with pytest.raises(InputError, match="the base model was not loaded"):
            check_base_loaded(base, Base(weights | {"cls": -other}, called))
    with pytest.raises(InputError, match="the base model was not loaded"):
        check_base_loaded(base, Base(weights | {"body": weights["body"] + 1}, ("vest", "head", "helmet")))


def test_a_base_is_found_in_a_network_that_is_compiled():
    import torch

    network = torch.nn.Conv2d(3, 4, 3)
    weights = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    trainer = SimpleNamespace(model=torch.compile(network), data={"names": {0: "helmet"}})
    Follower(1, print, Base(weights, ("helmet",))).on_train_start(trainer)
    torch.nn.init.zeros_(network.weight)
    with pytest.raises(InputError, match="the base model was not loaded"):
        Follower(1, print, Base(weights, ("helmet",))).on_train_start(trainer)


def test_a_model_that_learns_from_another_one_is_trained_on_and_resumed(job, trained, tmp_path):
    root, manifest = job
    weights = str(root / "model" / "model.pt")
    settings = QUICK | {"base_model": weights, "estimator_options": {"distill_model": weights}, "round_number": 3}
    first, again = (
        train(manifest, tmp_path / name, job_root=str(tmp_path), **settings).bundle for name in ("first", "again")
    )
    assert first.files["model.onnx"] == again.files["model.onnx"]  # the second is the checkpoint of the first


def test_a_base_from_elsewhere_must_have_its_digest(job, tmp_path):
    root, manifest = job
    (tmp_path / "base.pt").write_bytes(b"something else")
    settings = {**QUICK, "base_model": f"file://{tmp_path}/base.pt#sha256={'0' * 64}"}
    with pytest.raises(InputError, match=r"base\.pt"):
        train(manifest, tmp_path / "m", job_root=str(root), **settings)


@pytest.mark.parametrize("epochs", [0, 1])
def test_a_base_from_elsewhere_without_a_digest_is_not_fetched(job, tmp_path, epochs):
    # Ultralytics would fetch it by itself.
    root, manifest = job
    settings = {**QUICK, "epochs": epochs, "base_model": "http://127.0.0.1:9/base.pt"}
    with pytest.raises(InputError, match="a remote model needs a checksum"):
        train(manifest, tmp_path / "m", job_root=str(root), **settings)


def test_two_runs_of_one_training_do_not_mix(job, tmp_path):
    _, manifest = job
    settings = {"estimator": "yolo", "base_model": "yolov8n.yaml", "epochs": 2, "image_size": "64,96", "batch": 8,
                "patience": 50, "seed": 9, "estimator_options": {}}  # fmt: skip
    folder = own_folder(str(tmp_path / "j")) / "training" / training_key(manifest, settings)
    folder.mkdir(parents=True)
    with folder.with_suffix(".lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="another run is training the same model"):
            train(manifest, tmp_path / "m", job_root=str(tmp_path / "j"), **QUICK, seed=9)


def test_two_tasks_with_the_same_samples_are_two_trainings(job, tmp_path):
    """A job of lifelong learning with one task trains it and the shared model on the same samples, at the same time."""
    _, manifest = job
    given = {**QUICK, "epochs": 1, "seed": 9}
    more = {"estimator": "yolo", "patience": 50, "about": {"task": "shared"}}
    deciding = deciding_settings(str(tmp_path / "j"), **given, **more)
    folder = own_folder(str(tmp_path / "j")) / "training" / training_key(manifest, deciding)
    folder.mkdir(parents=True)
    with folder.with_suffix(".lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="another run is training the same model"):
            train(manifest, tmp_path / "m", job_root=str(tmp_path / "j"), **given, about={"task": "shared"})
        trained = train(manifest, tmp_path / "m", job_root=str(tmp_path / "j"), **given, about={"task": "day"})
    assert trained.bundle.lineage["task"] == "day"


def test_layout_links_images_and_leaves_blobs_alone(tmp_path):
    manifest = job_with_images(tmp_path / "job", {"train": 4, "val": 2})
    paths = [Path(uri.removeprefix("file://")) for uri in manifest.split("train").table["uri"]]
    val = [Path(uri.removeprefix("file://")) for uri in manifest.split("val").table["uri"]]
    for _ in range(2):  # laying out again replaces what was there
        yolo.lay_out(
            tmp_path / "work", LocalSamples(manifest.split("train"), paths), LocalSamples(manifest.split("val"), val)
        )
    laid = sorted((tmp_path / "work" / "images" / "train").iterdir())
    assert len(laid) == 4
    assert {path.stat().st_ino for path in laid} == {path.stat().st_ino for path in paths}
    row = next(manifest.split("train").rows())
    first = (tmp_path / "work" / "labels" / "train" / f"{row['id']}.txt").read_text().split("\n")[0].split()
    box = row["annotations"][0]
    assert int(first[0]) == box["class_id"]
    centre_x, width = float(first[1]) * 96, float(first[3]) * 96
    assert centre_x - width / 2 == pytest.approx(box["x1"], abs=0.01)
    assert centre_x + width / 2 == pytest.approx(box["x2"], abs=0.01)


def start(given: dict, tmp_path: Path, head: str = "", **environment: str) -> subprocess.Popen:
    repository = Path(__file__).resolve().parents[2]
    return subprocess.Popen(
        [sys.executable, "-c", head + SCRIPT, json.dumps(given)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(repository), "PYTHONUNBUFFERED": "1", **environment},
    )  # fmt: skip


def test_a_killed_training_goes_on_with_at_most_one_epoch_lost(job, tmp_path):
    root, _ = job
    settings = {**QUICK, "job_root": str(tmp_path / "killed"), "epochs": 4, "seed": 3}
    given = {"manifest": str(root / "manifest.parquet"), "output": str(tmp_path / "out"), "settings": settings}
    first = start(given, tmp_path)
    seen = []
    for line in first.stdout:
        seen += re.findall(r"^epoch (\d+)/4  ", line)
        if seen == ["1", "2"]:
            os.kill(first.pid, signal.SIGKILL)
            break
    first.wait()
    assert not (tmp_path / "out").exists()
    second = start(given, tmp_path)
    output = second.communicate(timeout=300)[0]
    assert second.returncode == 0, output
    assert re.findall(r"^epoch (\d+)/4  ", output, re.MULTILINE) in (["3", "4"], ["4"])
    assert "resuming" in output
    assert Bundle.read(tmp_path / "out").lineage["epochs"] == 4
    assert not list((tmp_path / "killed" / "checkpoints").rglob("*.pt"))


QUICKER = QUICK | {"estimator": "quick", "base_model": "nothing", "plugin_modules": "tests.quick_estimator"}


def test_a_round_that_is_run_again_after_its_training_does_not_train_again(job, tmp_path, caplog):
    _, manifest = job
    given = {**QUICKER, "job_root": str(tmp_path / "job"), "round_number": 3}
    with caplog.at_level("INFO"):
        first = train(manifest, tmp_path / "first", **given)
        assert caplog.text.count("epoch 1/2") == 1
        again = train(manifest, tmp_path / "again", **given)
    assert "an earlier run finished training after epoch 2" in caplog.text
    assert caplog.text.count("epoch 1/2") == 1
    assert again.history == first.history
    assert again.bundle.files == first.bundle.files


def test_a_store_that_goes_away_when_the_model_is_there_costs_no_training(job, tmp_path, monkeypatch, caplog):
    def away(*_):
        raise OutOfReachError("the store cannot be reached")

    _, manifest = job
    monkeypatch.setattr("components.core.stores.files.FileStore.list", away)
    train(manifest, tmp_path / "model", job_root=str(tmp_path / "job"), **QUICKER)
    assert Bundle.read(tmp_path / "model").estimator == "quick"
    assert "checkpoints are left behind: the store" in caplog.text


def test_the_mask_decides_what_a_training_comes_to(job):
    _, manifest = job
    masks = [Manifest(manifest.table.with_columns(mask=pl.lit(uri)), manifest.classes) for uri in
             ("file:///a/1.png", "s3://b/1.png", "file:///a/2.png")]  # fmt: skip
    first, elsewhere, other = (training_key(masked, {}) for masked in masks)
    assert first == elsewhere, "wherever it lies"
    assert len({training_key(manifest, {}), first, other}) == 3


def test_weights_are_known_by_their_digest_wherever_they_lie(job):
    _, manifest = job
    first, signed_again, other = (
        training_key(manifest, {"base_model": f"https://b.example.com/m.pt?{query}#sha256={digest * 64}"})
        for query, digest in (("sig=1", "a"), ("sig=2", "a"), ("sig=1", "b"))
    )
    assert first == signed_again != other


def test_a_checkpoint_that_was_tampered_with_is_not_unpickled(job, tmp_path, caplog):
    _, manifest = job
    settings = {**QUICK, "epochs": 1}
    key = training_key(
        manifest,
        {"estimator": "yolo", "base_model": "yolov8n.yaml", "epochs": 1, "image_size": "64,96", "batch": 8,
         "patience": 50, "seed": 0, "estimator_options": {}},
    )  # fmt: skip
    folder = tmp_path / "j" / "checkpoints" / key
    folder.mkdir(parents=True)
    digest = "a" * 64
    (folder / f"{digest}.pt").write_bytes(b"not what the digest says")
    record = {"last": digest, "best": digest, "finished": True, "history": [{"epoch": 1.0}]}
    (folder / "checkpoint.json").write_text(json.dumps(record))
    with caplog.at_level("WARNING"):
        result = train(manifest, tmp_path / "m", job_root=str(tmp_path / "j"), **settings)
    assert "cannot use the checkpoint of an earlier run" in caplog.text
    assert "train/box_loss" in result.history[0]


def test_training_contacts_nobody_and_writes_nowhere_else(job, tmp_path):
    root, _ = job
    guard = (
        "import socket\n"
        "def refuse(*a, **k): print('CONTACT', a, flush=True); raise OSError('no network')\n"
        "socket.getaddrinfo = refuse\nsocket.create_connection = refuse\n"
        "connect = socket.socket.connect\n"
        "socket.socket.connect = lambda s, a: refuse(a) if s.family != socket.AF_UNIX else connect(s, a)\n"
    )
    home, here = tmp_path / "home", tmp_path / "here"
    home.mkdir()
    here.mkdir()
    settings = {**QUICK, "epochs": 1, "job_root": str(tmp_path / "j")}
    given = {"manifest": str(root / "manifest.parquet"), "output": str(tmp_path / "out"), "settings": settings}
    process = start(given, here, guard, HOME=str(home), MPLCONFIGDIR=str(tmp_path / "mpl"))
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output
    assert "CONTACT" not in output
    assert not list(here.iterdir())
    assert not list(home.rglob("*ltralytics*")) and not list(home.rglob("*.pt"))
