"""The examination of estimators: those of the suite pass, and each kind of broken one is caught."""

import logging
import os
import re
import shutil
import socket
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from components.core.detections import Detections
from components.core.errors import InputError
from components.core.estimators.base import Epoch, estimators
from components.core.estimators.conformance import check_estimator
from components.core.estimators.examination import draw_samples
from components.core.estimators.examination_boxes import differences
from components.core.estimators.yolo import Yolo
from tests.quick_estimator import Quick

LIGHT = "fasterrcnn_mobilenet_v3_large_320_fpn"


def problems(name, folder, base_model="nothing", **options):
    return check_estimator(name, base_model=base_model, image_size=(64, 96), options=options, folder=folder)


@pytest.fixture
def examine(tmp_path, monkeypatch):
    """Examine a class of estimators under the name ``quick``."""

    def examine(kind):
        estimators.get("quick")
        monkeypatch.setitem(estimators._entries, "quick", kind)
        return problems("quick", tmp_path / "exam")

    return examine


@pytest.mark.parametrize(
    ("name", "base_model", "options"),
    [
        ("yolo", "yolov8n.yaml", {}),
        ("fpn", LIGHT, {"samples_per_image": 8}),
        ("quick", "nothing", {}),
        ("segmentation", "yolo26n-sem.yaml", {}),
    ],
)
def test_the_estimators_of_the_suite_conform(tmp_path, caplog, name, base_model, options):
    before = Path.cwd(), socket.getaddrinfo, socket.socket.connect
    with caplog.at_level(logging.WARNING, "components.core.estimators.conformance"):
        assert problems(name, tmp_path / "exam", base_model, **options) == []
    assert "same seed" not in caplog.text
    assert (Path.cwd(), socket.getaddrinfo, socket.socket.connect) == before


class Forgetful(Quick):
    """Trains from the start when it should go on."""

    def train(self, *samples, resume=None, **settings):
        if resume:
            self.load(resume)
        super().train(*samples, **settings)


class OffByOne(Quick):
    """Counts epochs from 0."""

    def train(self, *samples, on_epoch, **settings):
        super().train(*samples, on_epoch=lambda epoch: on_epoch(replace(epoch, number=epoch.number - 1)), **settings)


class Early(Quick):
    """Tells of an epoch before its checkpoint is written."""

    def train(self, *samples, folder, on_epoch, **settings):
        on_epoch(Epoch(1, {}, folder / "last-epoch.pt", folder / "best-epoch.pt", False))


class Endless(Quick):
    """Never says that it has finished."""

    def train(self, *samples, on_epoch, **settings):
        super().train(*samples, on_epoch=lambda epoch: on_epoch(replace(epoch, finished=False)), **settings)


class Deaf(Quick):
    """Goes on when on_epoch failed."""

    def train(self, *samples, on_epoch, **settings):
        def quietly(epoch):
            with suppress(Exception):
                on_epoch(epoch)

        super().train(*samples, on_epoch=quietly, **settings)


class Littering(Quick):
    """Writes a log where it stands."""

    def train(self, *samples, **settings):
        Path("training.log").write_text("began")
        super().train(*samples, **settings)


class AtHome(Quick):
    """Writes its settings into the user's home."""

    def load(self, model):
        (Path.home() / ".quick").write_text("x")
        super().load(model)


class Wandering(Quick):
    """Leaves the working directory."""

    def load(self, model):
        os.chdir(Path(__file__).parent)
        super().load(model)


class Repairing(Quick):
    """Writes to the images, which are the store's."""

    def train(self, train, val, **settings):
        train.paths[0].write_bytes(train.paths[0].read_bytes() + b" ")
        super().train(train, val, **settings)


class Talkative(Quick):
    """Sends usage figures, and does not mind if it cannot."""

    def train(self, *samples, **settings):
        with suppress(OSError):
            socket.create_connection(("usage.invalid", 443))
        super().train(*samples, **settings)


class Direct(Quick):
    """Talks to an address without looking a name up."""

    def load(self, model):
        with socket.socket() as line, suppress(OSError):
            line.connect(("192.0.2.1", 9))
        super().load(model)


class Swapped(Quick):
    """Gives boxes as y1, x1, y2, x2."""

    def predict(self, images, **thresholds):
        return [replace(one, boxes=one.boxes[:, [1, 0, 3, 2]]) for one in super().predict(images, **thresholds)]


class OnCanvas(Quick):
    """Gives boxes in pixels of a canvas twice as large as the image."""

    def predict(self, images, **thresholds):
        return [replace(one, boxes=2 * one.boxes) for one in super().predict(images, **thresholds)]


class Sure(Quick):
    """Gives scores in percent."""

    def predict(self, images, **thresholds):
        return [replace(one, scores=100 * one.scores) for one in super().predict(images, **thresholds)]


class Generous(Quick):
    """Does not mind the confidence."""

    def predict(self, images, *, confidence_threshold, nms_threshold):
        return super().predict(images, confidence_threshold=0.0, nms_threshold=nms_threshold)


class Merging(Quick):
    """Gives one result for all images."""

    def predict(self, images, **thresholds):
        return super().predict(images, **thresholds)[:1]


class Blind(Quick):
    """Finds nothing."""

    def predict(self, images, **thresholds):
        return [Detections.none() for _ in images]


class Different(Quick):
    """Is surer of itself than its export is."""

    def predict(self, images, **thresholds):
        return [replace(one, scores=one.scores**0.5) for one in super().predict(images, **thresholds)]


class Undescribed(Quick):
    """Writes a bundle and changes it after it was described."""

    def save(self, folder, **settings):
        bundle = super().save(folder, **settings)
        (folder / "model.onnx").write_bytes(b"newer")
        return bundle


class Stubborn(Quick):
    """Takes whatever size, thresholds and lineage it likes."""

    def save(self, folder, *, lineage, confidence_threshold, **settings):
        return super().save(folder, lineage={}, confidence_threshold=0.9, **settings)


class Careless(Quick):
    """Takes any option."""

    def check(self, base_model, options):
        return []


class Trusting(Quick):
    """Takes any file for a model."""

    def load(self, model):
        self._folder, self._learned = None, "a" * 64


class Complaining(Quick):
    """Finds fault with everything."""

    def check(self, base_model, options):
        return ["no"]


class Raising(Quick):
    """Fails."""

    def save(self, folder, **settings):
        raise KeyError("weights")


BROKEN = {
    Forgetful: r"train with resume: reports epochs \[1, 2\], expected \[2\]",
    OffByOne: r"train: reports epochs \[0, 1\], expected \[1, 2\]",
    Early: "train: the checkpoint last of epoch 1 does not exist",
    Endless: r"train: finished is set at epochs \[\], expected only at the last",
    Deaf: "train: continues after on_epoch raised an error",
    Littering: "writes into the working directory: training.log",
    AtHome: "writes into the home directory: .quick",
    Wandering: "changes the working directory",
    Repairing: "modifies its input images",
    Talkative: "contacts usage.invalid",
    Direct: "contacts 192.0.2.1",
    Swapped: "predict: boxes reach beyond their image",
    OnCanvas: "predict: boxes reach beyond their image",
    Sure: "predict: scores are not in 0..1",
    Generous: "predict: returns boxes below the confidence threshold",
    Merging: "predict: 1 results for 4 images",
    Blind: "predict: no box with a score",
    Different: "save: the onnx runtime gives results that differ from the estimator",
    Undescribed: "save: the bundle cannot be read: InputError: .*SHA-256",
    Stubborn: "save: confidence_threshold in model.json is 0.9, expected 0.3",
    Careless: "train: accepts the unknown option no_such_option",
    Trusting: "load: accepts junk.pt, which is not a model",
    Complaining: "check: rejects the test settings: no",
    Raising: "save: KeyError: 'weights'",
}


@pytest.mark.parametrize("kind", BROKEN, ids=lambda kind: kind.__name__)
def test_a_broken_estimator_is_caught(examine, kind):
    found = examine(kind)
    assert any(re.search(BROKEN[kind], line) for line in found), found


def test_a_training_that_cannot_be_repeated_is_only_warned_of(examine, caplog):
    class Moody(Quick):
        def train(self, *samples, on_epoch, **settings):
            values = {"train/loss": float(np.random.default_rng().random())}
            super().train(*samples, on_epoch=lambda epoch: on_epoch(replace(epoch, values=values)), **settings)

    assert examine(Moody) == []
    assert "quick: the same seed gives a different first epoch" in caplog.text


def test_the_folder_must_be_new_and_the_name_known(tmp_path):
    (tmp_path / "x").touch()
    with pytest.raises(InputError, match="is not empty: give a new one"):
        problems("quick", tmp_path)
    with pytest.raises(InputError, match="unknown estimator 'quik'"):
        problems("quik", tmp_path / "new")


def test_results_differ_by_more_than_rounding():
    one = Detections.of([[0, 0, 10, 10], [20, 20, 30, 30]], [0, 1], [0.9, 0.5])
    near = Detections.of([[20.1, 20, 30, 30.2], [0, 0, 10, 10], [5, 5, 9, 9]], [1, 0, 1], [0.502, 0.899, 0.2])
    assert differences(one, near) == ""
    assert differences(one, one[:1]) == "no blue at [20.0, 20.0, 30.0, 30.0] with score 0.500"
    assert "no red" in differences(one, replace(near, classes=np.array([1, 1, 1], np.int32)))
    assert differences(one[1:], near) == "the best score is 0.899, not 0.500"
    assert differences(Detections.none(), Detections.none()) == ""


def test_the_best_weights_of_a_yolo_stay_when_a_resumed_training_is_worse(tmp_path):
    import torch

    samples = draw_samples(tmp_path / "images")
    kept, seen = tmp_path / "kept", []

    def fit(folder, on_epoch, resume=None):
        folder.mkdir(exist_ok=True)
        model = Yolo()
        if resume is None:
            model.load("yolov8n.yaml")
        model.train(
            samples["train"], samples["val"], folder=folder, epochs=2, image_size=(64, 96), batch=4, patience=0,
            device="cpu", workers=0, seed=0, options={}, on_epoch=on_epoch, resume=resume,
        )  # fmt: skip

    def keep(epoch):
        kept.mkdir()
        shutil.copy(epoch.last, kept / "last.pt")
        shutil.copy(epoch.best, kept / "best.pt")
        raise InterruptedError

    with pytest.raises(InterruptedError):
        fit(tmp_path / "begun", keep)
    held = torch.load(kept / "last.pt", weights_only=False)
    torch.save({**held, "best_fitness": 0.9}, kept / "last.pt")  # no epoch will be better
    fit(kept, lambda epoch: seen.append((epoch.number, epoch.best.read_bytes())), resume=kept / "last.pt")
    assert seen == [(2, (kept / "best.pt").read_bytes())]
