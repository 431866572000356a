"""How good the class maps of a model are, and how they compare with those of the model it was made from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from components.convert.measure import WITH_ITS_DATA
from components.core.bundle import Bundle
from components.core.errors import InputError
from components.core.manifest import Manifest
from components.core.masks import ClassMap, read_mask, renumbering
from components.core.metrics.segmentation import (
    Counts,
    SegmentationMetrics,
    confusion,
    evaluate_segmentation,
    miou_delta_interval,
)


@dataclass(frozen=True)
class MeasuredMasks:
    """One model on the check images.

    Attributes:
        metrics: over their labelled pixels.
        matrices: of each image, true class by found class.
    """

    metrics: SegmentationMetrics
    matrices: Sequence[Counts]

    def images_with(self, class_id: int) -> int:
        """In how many of the images a class is to be seen."""
        return sum(bool(one[class_id].any()) for one in self.matrices)

    def figures(self) -> dict[str, float]:
        """The main figures by name."""
        return {"miou": self.metrics.miou, "pixel_accuracy": self.metrics.pixel_accuracy}


def measure_masks(
    samples: Manifest, masks: Sequence[Path], predictions: Iterable[ClassMap], bundle: Bundle
) -> MeasuredMasks:
    """Measure predictions against the masks.

    Args:
        samples: that have a mask.
        masks: of each sample in table order.
        predictions: of each sample, (H, W), in the model's classes.
        bundle: gives the classes.

    Raises:
        InputError: a class of the model has no labels, or no pixel is labelled.
    """
    places = renumbering(bundle.places(samples.classes, "the model", WITH_ITS_DATA))
    try:
        matrices = [
            confusion(read_mask(mask), places[found], len(samples.classes))
            for mask, found in zip(masks, predictions, strict=True)
        ]
        return MeasuredMasks(evaluate_segmentation(matrices, samples.classes), matrices)
    except ValueError as error:
        raise InputError(f"the masks of the check images: {error}") from error


def miou_change(converted: MeasuredMasks, reference: MeasuredMasks) -> tuple[float, float]:
    """The 95 % interval of the change in mean IoU, both models being measured on the same images."""
    return miou_delta_interval(converted.matrices, reference.matrices)
