"""What a model that finds objects can do, and the plug-in registry of runtimes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from components.core.bundle import Bundle, SemanticHead
from components.core.detections import Detections
from components.core.errors import InputError
from components.core.plugins import Registry
from components.core.runtimes.decode import decode
from components.core.runtimes.letterbox import Picture, Placement, letterbox, undo

if TYPE_CHECKING:
    from components.core.runtimes.segmenter import Segmenter

Canvas = NDArray[np.uint8]  # (1, height, width, 3) RGB, 0..255
# Runs a network on one canvas, and gives the outputs that its bundle names, float32, in the bundle's order.
Infer = Callable[[Canvas], Sequence[NDArray[np.float32]]]


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


class NetworkDetector:
    """A detector whose network is run by something else.

    Args:
        bundle: what the model is.
        infer: runs it on one canvas.
    """

    def __init__(self, bundle: Bundle, infer: Infer) -> None:
        if isinstance(bundle.head, SemanticHead):
            raise ValueError("the outputs of a model that segments are no boxes")
        self.bundle = bundle
        self._head = bundle.head
        self.infer = infer

    def predict(
        self, images: Sequence[Picture], *, confidence: float | None = None, nms: float | None = None
    ) -> list[Detections]:
        """Find objects; see :class:`Detector`."""
        least = self.bundle.confidence_threshold if confidence is None else confidence
        overlap = self.bundle.nms_threshold if nms is None else nms
        return [self._predict_one(image, least, overlap) for image in images]

    def _predict_one(self, image: Picture, confidence: float, nms: float) -> Detections:
        canvas, placement = letterbox(image, self.bundle.image_size, self.bundle.pad)
        outputs = self.infer(canvas[None])
        return on_picture(decode(outputs, self._head, confidence=confidence, nms=nms), placement)


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


def on_picture(found: Detections, placement: Placement) -> Detections:
    """What was found on a canvas, in pixels of its picture; what lies wholly beside the picture is left out."""
    boxes = undo(found.boxes, placement)
    inside = np.flatnonzero((boxes[:, 2:] > boxes[:, :2]).all(axis=1))
    return Detections(boxes, found.scores, found.classes)[inside]
