"""Every promise of ``Estimator``, tried on a few drawn images."""

from __future__ import annotations

import hashlib
import logging
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
from numpy.typing import NDArray

from components.core.bundle import Bundle
from components.core.errors import InputError
from components.core.estimators.base import Epoch, Estimator
from components.core.manifest import Manifest
from components.core.plugins import Registry
from components.core.runtimes.base import open_model
from components.core.runtimes.letterbox import read_image
from components.core.tasks.base import LocalSamples

logger = logging.getLogger(__name__)


CLASSES = ("red", "blue")
COLOURS = ((200, 30, 30), (30, 30, 200))
WIDTH, HEIGHT = 112, 88  # of the images; they fill no square canvas
COUNTS = {"train": 8, "val": 4}
EPOCHS = 2
SEED = 7
LEAST_CONFIDENCE = 1e-6  # two epochs teach little, and there must be boxes to compare
THRESHOLDS = {"confidence_threshold": 0.3, "nms_threshold": 0.6}
LINEAGE = {"drawn": "squares"}
SCORE_TOLERANCE = 0.01


ImageArray = NDArray[np.uint8]


def draw_samples(folder: Path) -> dict[str, LocalSamples]:
    """Draw red and blue squares on grey noise, and in every fourth image of the training split nothing at all."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(SEED)
    samples = {}
    for split, count in COUNTS.items():
        rows, paths = [], []
        for index in range(count):
            image, boxes = _draw(rng, 0 if split == "train" and index % 4 == 3 else 2)
            paths.append(folder / f"{split}-{index}.png")
            cv2.imwrite(str(paths[-1]), image[:, :, ::-1])
            identity = _digest(paths[-1])
            rows.append(
                {
                    "id": identity, "uri": paths[-1].as_uri(), "width": WIDTH, "height": HEIGHT, "split": split,
                    "group": identity, "source": paths[-1].name, "round": 0, "annotations": boxes,
                }
            )  # fmt: skip
        samples[split] = LocalSamples(Manifest.of(rows, CLASSES), paths)
    return samples


class StopError(Exception):
    """Ends an examination, or a training in the midst."""


@dataclass
class Examination:
    """One estimator and what is wrong with it."""

    classes: ClassVar[tuple[str, ...]] = CLASSES

    name: str
    make: Callable[[], Estimator[Any]]
    base_model: str
    image_size: tuple[int, int]
    options: dict[str, Any]
    folder: Path
    samples: Mapping[str, LocalSamples]
    problems: list[str] = field(default_factory=list)

    @staticmethod
    def draw_samples(folder: Path) -> dict[str, LocalSamples]:
        """What to train on and to look at."""
        return draw_samples(folder)

    def run(self) -> None:
        """Try every promise in turn."""
        try:
            self._refusals()
            whole = self._whole_training()
            model = self.loaded(whole[-1].best)
            self.predictions(model)
            self._bundle(model)
            self._broken_off_training(whole)
        except StopError:
            pass

    def _refusals(self) -> None:
        """What is wrong must be said to be wrong, and what is right must not."""
        with self.step("check"):
            complaints = self.make().check(self.base_model, self.options)
        self.expect(not complaints, f"check: rejects the test settings: {'; '.join(complaints)}")
        for name, content in (("missing.pt", None), ("junk.pt", b"PK\x03\x04 not a model")):
            path = self.folder / name
            if content:
                path.write_bytes(content)
            self._refuses(f"load: accepts {name}, which is not a model", partial(self.make().load, path))
            path.unlink(missing_ok=True)
        unknown = {**self.options, "no_such_option": 1}
        with self.step("check"):
            complaints = self.make().check(self.base_model, unknown)
        if not complaints:
            self._refuses(
                "train: accepts the unknown option no_such_option: report it in check, or raise InputError",
                lambda: self._train("refused", _Recorder(self.folder / "refused", self.problems), options=unknown),
            )

    def _whole_training(self) -> list[Epoch]:
        recorder = _Recorder(self.folder / "whole", self.problems)
        with self.step("train"):
            self._train("whole", recorder)
        self._epochs("train", recorder.epochs, 1)
        return recorder.epochs

    def _broken_off_training(self, whole: Sequence[Epoch]) -> None:
        """The same training ended after an epoch, as a failing store or a kill does, and resumed elsewhere."""
        recorder = _Recorder(self.folder / "begun", self.problems, keep=self.folder / "kept")
        with self.step("interrupted train"):
            try:
                self._train("begun", recorder)
            except StopError:
                pass
            else:
                self.problems.append(
                    "train: continues after on_epoch raised an error: let errors from on_epoch propagate"
                )
        if recorder.epochs[0].values != whole[0].values:
            logger.warning("%s: the same seed gives a different first epoch", self.name)
        again = _Recorder(self.folder / "resumed", self.problems)
        (self.folder / "kept").rename(self.folder / "resumed")
        with self.step("train with resume"):
            self._train("resumed", again, resume=self.folder / "resumed" / "last.pt")
        self._epochs("train with resume", again.epochs, 2)
        self.predictions(self.loaded(again.epochs[-1].best))

    def loaded(self, model: Path) -> Estimator[Any]:
        """An estimator that has taken over a model."""
        with self.step(f"load of {model.name}"):
            estimator = self.make()
            estimator.load(model)
        return estimator

    def predictions(self, model: Estimator[Any]) -> None:
        """What a model says of the images, one result for each."""
        with self.step("predict"):
            none = model.predict([], confidence_threshold=0.5, nms_threshold=0.5)
            found = self.all_found(model)
        self.expect(len(none) == 0, "predict: returns results for an empty list of images")
        count = len(self.images())
        if not self.expect(len(found) == count, f"predict: {len(found)} results for {count} images"):
            raise StopError
        self.results(model, found)

    def results(self, model: Estimator[Any], found: Sequence[Any]) -> None:
        """Whether results are what those of the kind of task have to be.

        Args:
            model: that was asked.
            found: of each image, without suppression.
        """

    def _bundle(self, model: Estimator[Any]) -> None:
        """The saved model must be a bundle that says what it is, runs elsewhere and comes back the same."""
        folder = self.folder / "model"
        with self.step("save"):
            saved = model.save(folder, image_size=self.image_size, **THRESHOLDS, lineage=LINEAGE)
        with self.step("save: the bundle cannot be read"):
            bundle = Bundle.read(folder)
        self.expect(saved == bundle, "save: the returned bundle differs from model.json")
        expected = {"classes": self.classes, "image_size": self.image_size, "estimator": self.name, **THRESHOLDS}
        for name, value in expected.items():
            given = getattr(bundle, name)
            self.expect(given == value, f"save: {name} in model.json is {given!r}, expected {value!r}")
        self.expect(LINEAGE.items() <= bundle.lineage.items(), "save: the given lineage is not in model.json")
        self.expect("model.pt" in bundle.files, "save: writes no model.pt to resume training from")
        with self.step("predict after save"):
            found = self.all_found(model)
        with self.step("the bundle in the runtime onnx"):
            run = self.run_bundle(folder)
        self.same("save: the onnx runtime gives results that differ from the estimator", found, run)
        again = self.loaded(folder)
        with self.step("predict after load of a bundle"):
            refound = self.all_found(again)
        self.same("load: predictions change after save and load", found, refound)
        with self.step("save after load of a bundle"):
            again.save(self.folder / "model-again", image_size=self.image_size, **THRESHOLDS, lineage=LINEAGE)
            Bundle.read(self.folder / "model-again")

    def _train(self, folder: str, on_epoch: Callable[[Epoch], None], **changed: Any) -> None:
        (self.folder / folder).mkdir(exist_ok=True)
        estimator = self.make()
        if "resume" not in changed:
            estimator.load(self.base_model)
        settings = {
            "folder": self.folder / folder,
            "epochs": EPOCHS,
            "image_size": self.image_size,
            "batch": 4,
            "patience": 0,
            "device": "cpu",
            "workers": 0,
            "seed": SEED,
            "options": self.options,
        }
        estimator.train(self.samples["train"], self.samples["val"], on_epoch=on_epoch, **{**settings, **changed})

    def _epochs(self, step: str, epochs: Sequence[Epoch], first: int) -> None:
        numbers = [epoch.number for epoch in epochs]
        expected = list(range(first, EPOCHS + 1))
        self.expect(numbers == expected, f"{step}: reports epochs {numbers}, expected {expected}")
        ends = [epoch.number for epoch in epochs if epoch.finished]
        self.expect(ends == numbers[-1:], f"{step}: finished is set at epochs {ends}, expected only at the last")
        if not epochs:
            raise StopError

    def same(self, complaint: str, expected: Sequence[Any], found: Sequence[Any]) -> None:
        """Expect two results to be the same but for rounding."""
        if len(expected) != len(found):
            self.problems.append(f"{complaint}: on {len(found)} images instead of {len(expected)}")
            return
        for index, (one, other) in enumerate(zip(expected, found, strict=True)):
            difference = self.difference(one, other)
            if difference:
                self.problems.append(f"{complaint}: in image {index + 1}, {difference}")
                return

    def difference(self, expected: Any, found: Any) -> str:
        """How two results for one image differ; empty if they are the same but for rounding."""
        one, other = np.asarray(expected), np.asarray(found)
        if one.shape != other.shape:
            return f"{other.shape} values instead of {one.shape}"
        apart = float(np.abs(one - other).max(initial=0.0))
        return "" if apart < SCORE_TOLERANCE else f"values differ by {apart:.3f}"

    def run_bundle(self, folder: Path) -> list[Any]:
        """What a bundle finds in the runtime that runs everywhere."""
        return open_model("onnx", folder).predict(self.images(), confidence=LEAST_CONFIDENCE, nms=1.0)

    def all_found(self, model: Estimator[Any]) -> list[Any]:
        """Without suppression, in which rounding decides between equals."""
        return model.predict(self.images(), confidence_threshold=LEAST_CONFIDENCE, nms_threshold=1.0)

    def images(self) -> list[ImageArray]:
        """The images that are looked at."""
        return [read_image(path) for path in self.samples["val"].paths]

    def _refuses(self, complaint: str, act: Callable[[], None]) -> None:
        try:
            act()
        except InputError:
            return
        except Exception as error:
            self.problems.append(f"{complaint}: raises {type(error).__name__} instead of InputError")
        else:
            self.problems.append(complaint)

    def expect(self, kept: bool, complaint: str) -> bool:
        """Note a complaint unless a promise is kept."""
        if not kept:
            self.problems.append(complaint)
        return kept

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Try one method; one that fails ends the examination."""
        try:
            yield
        except StopError:
            raise
        except Exception as error:
            logger.debug("%s", name, exc_info=True)
            self.problems.append(f"{name}: {type(error).__name__}: {error}")
            raise StopError from error
        if Path.cwd() != self.folder / "here":
            self.problems.append(f"{name}: changes the working directory")
            os.chdir(self.folder / "here")


class _Recorder:
    """Listens to a training, and where it is to be broken off keeps its checkpoint and ends it.

    Args:
        folder: that the training was given.
        problems: where to tell what is wrong.
        keep: a folder for the first epoch's checkpoint.
    """

    def __init__(self, folder: Path, problems: list[str], keep: Path | None = None) -> None:
        self.epochs: list[Epoch] = []
        self._folder = folder
        self._problems = problems
        self._keep = keep

    def __call__(self, epoch: Epoch) -> None:
        """Take note of one epoch."""
        self.epochs.append(epoch)
        for name, path in (("last", epoch.last), ("best", epoch.best)):
            if not path.is_file():
                self._problems.append(f"train: the checkpoint {name} of epoch {epoch.number} does not exist: {path}")
                raise StopError
            if self._folder not in path.resolve().parents:
                self._problems.append(f"train: the checkpoint {name} is outside the given folder: {path}")
        wrong = [name for name, value in epoch.values.items() if not _is_figure(value)]
        if wrong:
            self._problems.append(f"train: figures of epoch {epoch.number} are not finite numbers: {', '.join(wrong)}")
        if self._keep:
            self._keep.mkdir()
            shutil.copy(epoch.last, self._keep / "last.pt")
            shutil.copy(epoch.best, self._keep / "best.pt")
            raise StopError


def _draw(rng: np.random.Generator, squares: int) -> tuple[ImageArray, list[dict[str, int]]]:
    """One image, (HEIGHT, WIDTH, 3) RGB, and its boxes; the squares stand side by side."""
    image = rng.integers(90, 150, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    boxes = []
    for index in range(squares):
        side = int(rng.integers(20, 40))
        x = int(rng.integers(0, WIDTH // squares - side)) + index * WIDTH // squares
        y = int(rng.integers(0, HEIGHT - side))
        class_id = int(rng.integers(0, len(CLASSES)))
        image[y : y + side, x : x + side] = COLOURS[class_id]
        boxes.append({"class_id": class_id, "x1": x, "y1": y, "x2": x + side, "y2": y + side})
    return image, boxes


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _is_figure(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


examinations: Registry[type[Examination]] = Registry(
    "examination", ["components.core.estimators.examination_boxes", "components.core.estimators.examination_masks"]
)


def examination_of(task: str) -> type[Examination]:
    """The examination of estimators of a kind of task; the general one where the kind has none."""
    return examinations.get(task) if task in examinations.names() else Examination
