"""What a loaded model can do, and the plug-in registry of runtimes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from components.core.bundle import Bundle
from components.core.detections import Detections
from components.core.errors import InputError
from components.core.masks import ClassMap
from components.core.plugins import Registry
from components.core.runtimes.letterbox import ImageArray

Canvas = NDArray[np.uint8]  # (1, height, width, 3) RGB, 0..255


# Runs a network on one canvas, and gives the outputs that its bundle names, float32, in the bundle's order.
Infer = Callable[[Canvas], Sequence[NDArray[np.float32]]]


class Detector(Protocol):
    """A bundle that has been loaded and can look at images."""

    @property
    def bundle(self) -> Bundle:
        """What the model is."""
        ...

    def predict(
        self, images: Sequence[ImageArray], *, confidence: float | None = None, nms: float | None = None
    ) -> list[Detections]:
        """Find objects.

        Args:
            images: (H, W, 3) uint8 RGB each, of any size.
            confidence: least score of a box; the bundle's own where None.
            nms: overlap (IoU) above which the lower of two boxes of a class is dropped; the bundle's own where None.

        Returns:
            The boxes of each image in its own pixels, best score first, at most 300.
        """
        ...


class Segmenter(Protocol):
    """A bundle that has been loaded and can say of each pixel what it shows."""

    @property
    def bundle(self) -> Bundle:
        """What the model is."""
        ...

    def segment(self, images: Sequence[ImageArray]) -> list[ClassMap]:
        """Say what each pixel shows.

        Args:
            images: (H, W, 3) uint8 RGB each, of any size.

        Returns:
            For each image (H, W) uint8, index into the bundle's classes.
        """
        ...


runtimes: Registry[Callable[[Path, int], Detector | Segmenter]] = Registry(
    "runtime", ["components.core.runtimes.onnx", "components.core.runtimes.rknn"]
)


def open_detector(runtime: str, folder: Path, threads: int = 0) -> Detector:
    """Load a bundle that finds objects into a runtime.

    Args:
        runtime: name of a plug-in, such as ``onnx``.
        folder: the bundle.
        threads: processor threads to use; 0 lets the runtime decide.

    Raises:
        NoRuntimeError: this machine lacks what the runtime needs; no other model would run either.
        InputError: no such runtime, the bundle cannot run on it, or its model segments.
    """
    model = runtimes.get(runtime)(folder, threads)
    if not hasattr(model, "predict"):
        raise InputError(f"model {folder}: it is for {model.bundle.task}, and here one for detection is needed")
    return model  # type: ignore[return-value]


def open_segmenter(runtime: str, folder: Path, threads: int = 0) -> Segmenter:
    """Load a bundle that segments into a runtime.

    Args:
        runtime: name of a plug-in, such as ``onnx``.
        folder: the bundle.
        threads: processor threads to use; 0 lets the runtime decide.

    Raises:
        InputError: no such runtime, the bundle cannot run on it, or its model finds objects.
    """
    model = runtimes.get(runtime)(folder, threads)
    if not hasattr(model, "segment"):
        raise InputError(f"model {folder}: it is for {model.bundle.task}, and here one for segmentation is needed")
    return model  # type: ignore[return-value]
