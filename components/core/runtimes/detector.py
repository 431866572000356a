"""Models that find objects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from components.core.bundle import Bundle
from components.core.detections import Detections, iou
from components.core.heads import BoxesHead, SplitHead
from components.core.runtimes.base import Decoder, Infer, Network, decoders
from components.core.runtimes.decode import candidates, decode
from components.core.runtimes.golden import Finding, Outputs
from components.core.runtimes.letterbox import ImageArray, Placement, letterbox, undo

MAX_SCORE_CHANGE = 0.1  # 26 steps of 1/255
MIN_OVERLAP = 0.7  # a box of 16 pixels may be 2.8 pixels beside the other, one of 100 pixels 17


class NetworkDetector(Network[Detections]):
    """A detector whose network is run by something else.

    Args:
        bundle: what the model is.
        infer: runs it on one canvas.
        head: the bundle's.
    """

    def __init__(self, bundle: Bundle, infer: Infer, head: SplitHead | BoxesHead) -> None:
        super().__init__(bundle, infer)
        self.head = head

    def predict(
        self, images: Sequence[ImageArray], *, confidence: float | None = None, nms: float | None = None
    ) -> list[Detections]:
        """Find objects; see :class:`Model`."""
        least = self.bundle.confidence_threshold if confidence is None else confidence
        overlap = self.bundle.nms_threshold if nms is None else nms
        return [self._predict_one(image, least, overlap) for image in images]

    def _predict_one(self, image: ImageArray, confidence: float, nms: float) -> Detections:
        canvas, placement = letterbox(image, self.bundle.image_size, self.bundle.pad)
        outputs = self.infer(canvas[None])
        return on_image(decode(outputs, self.head, confidence=confidence, nms=nms), placement)


def on_image(found: Detections, placement: Placement) -> Detections:
    """What was found on a canvas, in pixels of its image; what lies wholly beside the image is left out."""
    boxes = undo(found.boxes, placement)
    inside = np.flatnonzero((boxes[:, 2:] > boxes[:, :2]).all(axis=1))
    return Detections(boxes, found.scores, found.classes)[inside]


def alike(bundle: Bundle, head: SplitHead | BoxesHead, expected: Outputs, given: Outputs) -> Finding:
    """Whether a board finds the boxes that the toolkit's simulator does; see :mod:`components.serving.agreement`.

    Args:
        bundle: what the model is.
        head: the bundle's.
        expected: outputs of the simulator.
        given: outputs of the board for the same canvases.
    """
    confidence = bundle.confidence_threshold
    count, lost, changes = 0, list[str](), [0.0]
    for place, (theirs, ours) in enumerate(zip(expected, given, strict=True)):
        count += len(decode(theirs, head, confidence=confidence, nms=bundle.nms_threshold))
        for kept, other, where in ((theirs, ours, "on the board"), (ours, theirs, "on the simulator")):
            found = decode(kept, head, confidence=confidence, nms=bundle.nms_threshold)
            near = candidates(other, head, max(confidence - MAX_SCORE_CHANGE, 0.0))
            for one in (found[slice(index, index + 1)] for index in range(len(found))):
                change = _change(one, near)
                if change > MAX_SCORE_CHANGE:
                    lost.append(f"{_described(one, bundle)} of image {place + 1} has no match {where}")
                else:
                    changes.append(change)
    total = f"the simulator finds {count} at the deployed confidence, {confidence:g}"
    if lost:
        return Finding("boxes", False, f"{lost[0]}{f', and {len(lost) - 1} more' if lost[1:] else ''}; {total}")
    if not count:
        return Finding("boxes", True, f"{total}, and so does the board: only the differences count")
    return Finding("boxes", True, f"{total}, and so does the board; scores change by {max(changes):.3f} at most")


def _change(one: Detections, others: Detections) -> float:
    """The change in score to the most alike box of the same class in the same place; infinite where there is none."""
    near = others[(others.classes == one.classes[0]) & (iou(one.boxes, others.boxes)[0] >= MIN_OVERLAP)]
    return float(np.abs(near.scores - one.scores[0]).min(initial=np.inf))


def _described(one: Detections, bundle: Bundle) -> str:
    x1, y1, x2, y2 = one.boxes[0].round().astype(int)
    return f"{bundle.classes[one.classes[0]]} {one.scores[0]:.2f} at {x1},{y1} to {x2},{y2}"


class BoxDecoder(Decoder):
    """Of models that give boxes."""

    def network(self, bundle: Bundle, infer: Infer) -> Network[Any]:
        """A detector."""
        return NetworkDetector(bundle, infer, _head(bundle))

    def boxes(self, found: Any) -> Detections:
        """All of it."""
        return cast(Detections, found)

    def renumbered(self, found: Any, table: Sequence[int]) -> Any:
        """See :class:`Decoder`."""
        return found.renumbered(table)

    def fault(self, found: Any) -> str:
        """See :class:`Decoder`."""
        right = np.isfinite(found.boxes).all() and ((found.scores >= 0) & (found.scores <= 1)).all()
        return "" if right else "boxes are not finite, or scores are outside 0..1"

    def alike(self, bundle: Bundle, expected: Outputs, given: Outputs) -> Finding:
        """Whether the boxes are the same."""
        return alike(bundle, _head(bundle), expected, given)


decoders.register("boxes")(BoxDecoder)


@decoders.register("split")
class GridDecoder(BoxDecoder):
    """Of models that give boxes for each cell of a grid."""

    def blank_fault(self, found: Any) -> str:
        """Every cell of the grid gives boxes of score 0 and above."""
        if not len(found):
            return "all boxes lie outside the image, or all scores are below 0"
        return self.fault(found)


def _head(bundle: Bundle) -> SplitHead | BoxesHead:
    return cast(SplitHead | BoxesHead, bundle.head)
