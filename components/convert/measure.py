"""How good the predictions of a model are, and how they compare with those of the model it was made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from components.core.bundle import Bundle
from components.core.detections import Detections
from components.core.manifest import Manifest
from components.core.metrics.bootstrap import delta_interval
from components.core.metrics.detection import DetectionMetrics, Matches, evaluate_detections, match
from components.core.runtimes.decode import MAX_DETECTIONS

WITH_ITS_DATA = "convert with the data that the model was trained for"


@dataclass(frozen=True)
class Measured:
    """One model on the check images.

    Attributes:
        metrics: at the confidence that the model is deployed with.
        matches: of all images, at IoU 0.5.
        max_score: the highest score of any box in any image, 0..1.
    """

    metrics: DetectionMetrics
    matches: Matches
    max_score: float

    def figures(self) -> dict[str, float]:
        """The main figures by name."""
        return {
            "map50": self.metrics.map50,
            "map50_95": self.metrics.map50_95,
            "f1_macro": self.metrics.f1_macro,
            "max_score": self.max_score,
        }


def measure(samples: Manifest, predictions: Sequence[Detections], bundle: Bundle) -> Measured:
    """Measure predictions against the labels.

    Args:
        samples: labelled.
        predictions: of each sample in table order, in the model's classes, with scores from 0.001.
        bundle: gives the classes and the deployed confidence.

    Raises:
        InputError: a class of the model has no labels, or there is no box to measure by.
    """
    places = bundle.places(samples.classes, "the model", WITH_ITS_DATA)
    found = [Detections.of(one.boxes, [places[index] for index in one.classes], one.scores) for one in predictions]
    metrics = evaluate_detections(
        samples.truths(),
        found,
        samples.classes,
        list(samples.table.select("width", "height").iter_rows()),
        confidence_threshold=bundle.confidence_threshold,
        max_detections=MAX_DETECTIONS,
    )
    matches = match(samples.truths(), found, len(samples.classes))
    return Measured(metrics, matches, float(max((one.scores.max() for one in found if len(one)), default=0.0)))


def map50_change(converted: Measured, reference: Measured) -> tuple[float, float]:
    """The 95 % interval of the change in mAP50, both models being measured on the same images."""
    return delta_interval([converted.matches], [reference.matches], max_detections=MAX_DETECTIONS)
