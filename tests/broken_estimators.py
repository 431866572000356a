"""Plug-in estimators whose models look whole and do not run."""

import os

from components.core.bundle import Bundle
from components.core.detections import Detections
from components.core.estimators.base import estimators
from tests.models import colour_model
from tests.quick_estimator import Quick


class _Unseen(Quick):
    """Saves another model than the one it trained, and never loads it itself, so that nobody does before the judge."""

    model = b""

    def save(self, folder, **settings):
        saved = super().save(folder, **settings)
        (folder / "model.onnx").write_bytes(self.model)
        return Bundle(**{**vars(saved), "files": {}}).write(folder)

    def predict(self, images, **_):
        return [Detections.none() for _ in images]


@estimators.register("damaged")
class Damaged(_Unseen):
    """Its model is none."""

    model = b"this is no model"


@estimators.register("other-outputs")
class OtherOutputs(_Unseen):
    """Its model is for smaller images than its bundle says."""

    model = colour_model(32, 32).SerializeToString()


@estimators.register("crashing")
class Crashing(Quick):
    """Ends the process when its model is loaded, as a native library that crashes does."""

    def predict(self, images, **_):
        os._exit(139)
