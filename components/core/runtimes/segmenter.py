"""Models that segment, and the way from their scores to a class for each pixel.

A network for semantic segmentation ends at its logits, at an eighth of the canvas or so: the largest of them is looked
for here, because Rockchip's compiler aborts on a network that does it itself, and because enlarging them on the board's
processor costs the NPU a sixth of the memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from components.core.bundle import Bundle
from components.core.errors import InputError
from components.core.masks import ClassMap, renumbering
from components.core.runtimes.base import Decoder, Infer, Network, decoders
from components.core.runtimes.golden import Finding, Outputs
from components.core.runtimes.letterbox import ImageArray, Placement, letterbox

_TINY = np.float32(1e-12)
MIN_SAME_PIXELS = 0.95  # of a board and the simulator; they differ where classes meet


class Look(NamedTuple):
    """What a segmenter sees in an image, and how sure it is.

    Attributes:
        classes: (H, W), the class of each pixel.
        probability: (H, W) float32, 0..1, of that class.
        entropy: of the classes, 0..1 (1: all are equally likely), mean over the pixels.
    """

    classes: ClassMap
    probability: NDArray[np.float32]
    entropy: float


class NetworkSegmenter(Network[ClassMap]):
    """A segmenter whose network is run by something else."""

    def predict(
        self, images: Sequence[ImageArray], *, confidence: float | None = None, nms: float | None = None
    ) -> list[ClassMap]:
        """Say what each pixel shows; the thresholds are for boxes. See :class:`Model`."""
        maps = []
        for image in images:
            canvas, placement = letterbox(image, self.bundle.image_size, self.bundle.pad)
            (logits,) = self.infer(canvas[None])
            maps.append(on_image(classes_of(logits, self.bundle.image_size), placement))
        return maps

    def look(self, image: ImageArray) -> Look:
        """Say what each pixel of an image, (H, W, 3) uint8 RGB, shows, and how sure that is."""
        canvas, placement = letterbox(image, self.bundle.image_size, self.bundle.pad)
        (logits,) = self.infer(canvas[None])
        classes = on_image(classes_of(logits, self.bundle.image_size), placement)
        likely = _softmax(logits[0])
        entropy = -(likely * np.log(np.maximum(likely, _TINY))).sum(axis=0) / np.log(max(len(likely), 2))
        probability, entropies = (_on_image(one, self.bundle.image_size, placement) for one in (likely.max(0), entropy))
        return Look(classes, probability, float(np.clip(entropies.mean(), 0, 1)))


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Probabilities (classes, h, w)."""
    raised = np.exp(logits - logits.max(axis=0))
    found: NDArray[np.float32] = raised / raised.sum(axis=0)
    return found


def _on_image(values: NDArray[np.float32], size: tuple[int, int], placement: Placement) -> NDArray[np.float32]:
    """Values (h, w) of a canvas of a size (height, width), enlarged, on the image that lies on it."""
    canvas = cv2.resize(np.ascontiguousarray(values, np.float32), size[::-1], interpolation=cv2.INTER_LINEAR)
    image = (placement.width, placement.height)
    return np.asarray(cv2.resize(_covered(canvas, placement), image, interpolation=cv2.INTER_LINEAR), np.float32)


def classes_of(logits: NDArray[np.float32], image_size: tuple[int, int]) -> ClassMap:
    """The class of each pixel of a canvas.

    The scores are enlarged, not the classes: a class between two others must not appear where they meet.

    Args:
        logits: (1, classes, h, w).
        image_size: height and width of the canvas.

    Returns:
        (height, width) uint8.

    Raises:
        InputError: a logit is not a finite number.
    """
    if not np.isfinite(logits).all():
        raise InputError(
            "the model gives logits that are not finite numbers (NaN or infinity): convert or train it again"
        )
    height, width = image_size
    best = np.full((height, width), -np.inf, np.float32)
    classes = np.zeros((height, width), np.uint8)
    for index, scores in enumerate(logits[0]):
        larger = cv2.resize(np.ascontiguousarray(scores), (width, height), interpolation=cv2.INTER_LINEAR)
        won = larger > best
        best[won] = larger[won]
        classes[won] = index
    return classes


def on_image(canvas: ClassMap, placement: Placement) -> ClassMap:
    """The classes of a canvas, (h, w), as those of the image that lies on it."""
    covered = _covered(canvas, placement)
    size = (placement.width, placement.height)
    return np.asarray(cv2.resize(covered, size, interpolation=cv2.INTER_NEAREST_EXACT), dtype=np.uint8)


def _covered(canvas: Any, placement: Placement) -> Any:
    """The part of a canvas on which the image lies."""
    across, down = placement.scale
    bottom = placement.top + round(placement.height * down)
    right = placement.left + round(placement.width * across)
    return canvas[placement.top : bottom, placement.left : right]


def alike(bundle: Bundle, expected: Outputs, given: Outputs) -> Finding:
    """Whether a board gives the pixels the classes that the toolkit's simulator does.

    Args:
        bundle: what the model is.
        expected: outputs of the simulator.
        given: outputs of the board for the same canvases.
    """
    shares = [
        float((classes_of(theirs[0], bundle.image_size) == classes_of(ours[0], bundle.image_size)).mean())
        for theirs, ours in zip(expected, given, strict=True)
    ]
    place = int(np.argmin(shares))
    reason = f"{shares[place]:.1%} of the pixels have the same class in image {place + 1}, the worst one"
    return Finding("pixels", shares[place] >= MIN_SAME_PIXELS, f"{reason}; the minimum is {MIN_SAME_PIXELS:.0%}")


@decoders.register("semantic")
class ClassDecoder(Decoder):
    """Of models that give each pixel a class."""

    def network(self, bundle: Bundle, infer: Infer) -> Network[Any]:
        """A segmenter."""
        return NetworkSegmenter(bundle, infer)

    def mask(self, found: Any) -> ClassMap | None:
        """All of it."""
        return np.asarray(found, dtype=np.uint8)

    def renumbered(self, found: Any, table: Sequence[int]) -> Any:
        """See :class:`Decoder`."""
        return renumbering(table)[found]

    def summary(self, found: Any, classes: Sequence[str]) -> dict[str, Any]:
        """The fraction of the pixels of each class."""
        fractions = ((name, float((found == index).mean())) for index, name in enumerate(classes))
        return {"pixels": {name: round(fraction, 4) for name, fraction in fractions if fraction}}

    def alike(self, bundle: Bundle, expected: Outputs, given: Outputs) -> Finding:
        """Whether the pixels have the same classes."""
        return alike(bundle, expected, given)
