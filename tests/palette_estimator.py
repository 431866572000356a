"""A plug-in estimator that trains in milliseconds: it learns which of its classes have boxes, and how to tell them.

The model finds squares in the colours of the classes that its training samples have, whatever the base knew.
"""

import json

import numpy as np
from onnx import numpy_helper

from components.core.bundle import Bundle
from components.core.estimators.base import Epoch, estimators
from tests.models import BUNDLE, colour_model, write_bundle
from tests.quick_estimator import Quick

CHANNELS = {"red": 0, "blue": 2}


@estimators.register("palette")
class Palette(Quick):
    """Learns the classes that it sees boxes of; a class without a box in the training samples is forgotten."""

    def train(self, train, val, *, folder, epochs, on_epoch, resume=None, **_):
        classes = train.manifest.classes
        seen = sorted({classes[number] for truth in train.manifest.truths() for number in truth.classes})
        self._learned = {"classes": list(classes), "seen": seen}
        for name in ("last", "best"):
            (folder / f"{name}-epoch.pt").write_text(json.dumps({"learned": self._learned, "epoch": epochs}))
        on_epoch(Epoch(epochs, {"train/loss": 1.0}, folder / "last-epoch.pt", folder / "best-epoch.pt", True))

    def save(self, folder, *, image_size, confidence_threshold, nms_threshold, lineage):
        classes = self._learned["classes"]
        graph = colour_model(*image_size, channels=[CHANNELS[name] for name in classes])
        for tensor in graph.graph.initializer:
            if tensor.name == "bias":
                bias = [-0.5 if name in self._learned["seen"] else -5.0 for name in classes]
                tensor.CopyFrom(numpy_helper.from_array(np.float32(bias), "bias"))
            if tensor.name == "steep":
                tensor.CopyFrom(numpy_helper.from_array(np.float32(200), "steep"))
        folder.mkdir(parents=True)
        (folder / "model.pt").write_text(json.dumps({"learned": self._learned}))
        thresholds = {"confidence_threshold": confidence_threshold, "nms_threshold": nms_threshold}
        described = {"estimator": "palette", "image_size": image_size, "files": {}, "lineage": lineage, **thresholds,
                     "classes": tuple(classes)}  # fmt: skip
        write_bundle(folder, graph, Bundle(**{**vars(BUNDLE), **described}))
        return Bundle.read(folder)
