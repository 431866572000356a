"""What every runtime can do, and the plug-in registry of runtimes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from components.core.bundle import Bundle
from components.core.detections import Detections
from components.core.plugins import Registry
from components.core.runtimes.letterbox import Picture, Placement, undo


class Detector(Protocol):
    """A bundle that has been loaded and can look at pictures."""

    @property
    def bundle(self) -> Bundle:
        """What the model is."""
        ...

    def predict(
        self, images: Sequence[Picture], *, confidence: float | None = None, nms: float | None = None
    ) -> list[Detections]:
        """Find objects.

        Args:
            images: (H, W, 3) uint8 RGB each, of any size.
            confidence: least score of a box; the bundle's own where None.
            nms: overlap (IoU) above which the lower of two boxes of a class is dropped; the bundle's own where None.

        Returns:
            The boxes of each picture in its own pixels, best score first, at most 300.
        """
        ...


runtimes: Registry[Callable[[Path, int], Detector]] = Registry(
    "runtime", ["components.core.runtimes.onnx", "components.core.runtimes.rknn"]
)


def open_detector(runtime: str, folder: Path, threads: int = 0) -> Detector:
    """Load a bundle into a runtime.

    Args:
        runtime: name of a plug-in, such as ``onnx``.
        folder: the bundle.
        threads: processor threads to use; 0 lets the runtime decide.

    Raises:
        InputError: no such runtime, or the bundle cannot run on it.
    """
    return runtimes.get(runtime)(folder, threads)


def on_picture(found: Detections, placement: Placement) -> Detections:
    """What was found on a canvas, in pixels of its picture; what lies wholly beside the picture is left out."""
    boxes = undo(found.boxes, placement)
    inside = np.flatnonzero((boxes[:, 2:] > boxes[:, :2]).all(axis=1))
    return Detections(boxes, found.scores, found.classes)[inside]
