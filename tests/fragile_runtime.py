"""A runtime whose models can have the faults that a bundle's lineage names.

With ``FRAGILE_RUNTIME=missing`` in the environment it is not there at all.
"""

import os
import signal
from pathlib import Path

import numpy as np

from components.core.detections import Detections
from components.core.errors import NoRuntimeError
from components.core.runtimes.base import runtimes
from components.core.runtimes.onnx import open_onnx


@runtimes.register("fragile")
class Fragile:
    """ONNX Runtime, and one fault: ``crash`` or ``print`` on loading, ``raise`` or ``nan`` once it is warmed up."""

    def __init__(self, folder: Path, threads: int = 0) -> None:
        if os.environ.get("FRAGILE_RUNTIME") == "missing":
            raise NoRuntimeError("runtime fragile: there is no device here")
        self.detector = open_onnx(folder, threads)
        self.bundle = self.detector.bundle
        self.fault, self.after = self.bundle.lineage.get("fault"), self.bundle.lineage.get("after", 0)
        self.seen = -1  # the first image is that of the warm-up
        if self.fault == "print":
            os.write(1, b"not \xff UTF-8\n" * 100_000)
        if self.fault == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)

    def predict(self, images, *, confidence=None, nms=None):
        self.seen += 1
        if self.seen and self.seen > self.after and self.fault == "raise":
            raise RuntimeError("the device does not answer")
        if self.seen and self.seen > self.after and self.fault == "nan":
            return [Detections.of([[np.nan] * 4], [0], [0.9])]
        return self.detector.predict(images, confidence=confidence, nms=nms)
