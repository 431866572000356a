"""What a model that finds objects can do, and the plug-in registry of runtimes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from components.core.bundle import Bundle, SemanticHead
from components.core.detections import Detections
from components.core.runtimes.base import Infer
from components.core.runtimes.decode import decode
from components.core.runtimes.letterbox import ImageArray, Placement, letterbox, undo


class NetworkDetector:
    """A detector whose network is run by something else.

    Args:
        bundle: what the model is.
        infer: runs it on one canvas.
    """

    def __init__(self, bundle: Bundle, infer: Infer) -> None:
        if isinstance(bundle.head, SemanticHead):
            raise ValueError("the outputs of a model that segments are not boxes")
        self.bundle = bundle
        self._head = bundle.head
        self.infer = infer

    def predict(
        self, images: Sequence[ImageArray], *, confidence: float | None = None, nms: float | None = None
    ) -> list[Detections]:
        """Find objects; see :class:`Detector`."""
        least = self.bundle.confidence_threshold if confidence is None else confidence
        overlap = self.bundle.nms_threshold if nms is None else nms
        return [self._predict_one(image, least, overlap) for image in images]

    def _predict_one(self, image: ImageArray, confidence: float, nms: float) -> Detections:
        canvas, placement = letterbox(image, self.bundle.image_size, self.bundle.pad)
        outputs = self.infer(canvas[None])
        return on_image(decode(outputs, self._head, confidence=confidence, nms=nms), placement)


def on_image(found: Detections, placement: Placement) -> Detections:
    """What was found on a canvas, in pixels of its image; what lies wholly beside the image is left out."""
    boxes = undo(found.boxes, placement)
    inside = np.flatnonzero((boxes[:, 2:] > boxes[:, :2]).all(axis=1))
    return Detections(boxes, found.scores, found.classes)[inside]
