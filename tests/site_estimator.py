"""A plug-in estimator that trains in milliseconds: it learns how bright its training images are, and nothing else.

The model finds coloured squares in images as bright as those it was trained on; in darker ones it finds none.
"""

import json

import numpy as np
from onnx import numpy_helper

from components.core.bundle import Bundle
from components.core.errors import InputError
from components.core.estimators.base import Epoch, estimators
from components.core.runtimes.letterbox import read_image
from tests.models import BUNDLE, colour_model, write_bundle
from tests.quick_estimator import Quick


@estimators.register("brightness")
class Brightness(Quick):
    """Learns the mean of its training images, 0..1; where it was trained before, the mean of both."""

    def load(self, model):
        super().load(model)
        self._learned = None if self._learned == "nothing" else float(self._learned)

    def train(self, train, val, *, folder, epochs, on_epoch, resume=None, **_):
        if not train.paths:
            raise InputError("nothing to train on")
        mean = float(np.mean([read_image(path).mean() for path in train.paths])) / 255
        self._learned = mean if self._learned is None else (self._learned + mean) / 2
        for name in ("last", "best"):
            (folder / f"{name}-epoch.pt").write_text(json.dumps({"learned": self._learned, "epoch": epochs}))
        files = folder / "last-epoch.pt", folder / "best-epoch.pt"
        on_epoch(Epoch(epochs, {"train/loss": 1.0}, *files, True))

    def predict(self, images, *, confidence_threshold, nms_threshold):
        return [self.model_of(images).predict([one], confidence=confidence_threshold, nms=nms_threshold)[0]
                for one in images]  # fmt: skip

    def model_of(self, _):
        from components.core.runtimes.base import open_detector

        return open_detector("onnx", self._folder)

    def save(self, folder, *, image_size, confidence_threshold, nms_threshold, lineage):
        graph = colour_model(*image_size)
        bright = self._learned if self._learned is not None else 1.0
        for tensor in graph.graph.initializer:
            if tensor.name == "bias":  # a square is as much redder than green and blue as its image is bright
                tensor.CopyFrom(numpy_helper.from_array(np.full(2, -bright, np.float32), "bias"))
            if tensor.name == "steep":
                tensor.CopyFrom(numpy_helper.from_array(np.float32(200), "steep"))
        folder.mkdir(parents=True)
        (folder / "model.pt").write_text(json.dumps({"learned": self._learned}))
        thresholds = {"confidence_threshold": confidence_threshold, "nms_threshold": nms_threshold}
        described = {"estimator": "brightness", "image_size": image_size, "files": {}, "lineage": lineage, **thresholds}
        write_bundle(folder, graph, Bundle(**{**vars(BUNDLE), **described}))
        return Bundle.read(folder)
