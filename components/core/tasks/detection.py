"""Detection: boxes around objects, and their classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal, cast

import numpy as np

from components.core.detections import Detections
from components.core.manifest import Manifest, truth
from components.core.metrics.bootstrap import delta_interval, map50_interval
from components.core.metrics.confusion import Confusion, CurvePoint, confidence_curve, confusion_of_boxes
from components.core.metrics.detection import DetectionMetrics, Matches, evaluate_detections, judgeable, match
from components.core.reports import page as reports
from components.core.reports.page import Section
from components.core.runtimes.decode import MAX_DETECTIONS
from components.core.runtimes.letterbox import ImageArray
from components.core.tasks import detection_report as report
from components.core.tasks.base import Figures, LocalSamples, Measurement, Task, listed, tasks

IOU_THRESHOLDS = tuple(np.linspace(0.5, 0.95, 10).tolist())  # COCO's
_BOXES_OF_CHANCE = 2  # so many boxes at the edge of the confidence are no evidence


@tasks.register("detection")
class Detection(Task[Detections, Detections]):
    """Models that find objects."""

    name: ClassVar[str] = "detection"
    label_column: ClassVar[Literal["annotations", "mask"]] = "annotations"
    labels: ClassVar[str] = "boxes"
    figures: ClassVar[Figures] = Figures(
        overall={"map50": "mAP50", "map50_95": "mAP50-95"},
        of_class={"ap50": "AP50", "ap50_95": "AP50-95", "precision": "precision", "recall": "recall"},
        truths="labelled boxes",
        converted=("f1", "F1"),
        converted_overall={"f1_macro": "F1"},
        predictions="boxes",
        further=("recall_macro", "precision_macro", "false_positives_per_image", "f1_macro"),
    )
    gives_boxes: ClassVar[bool] = True

    def has_truth(self, samples: Manifest) -> bool:
        """Whether any sample has a box."""
        return not samples.boxes().is_empty()

    def renumbered(self, found: Detections, table: Sequence[int]) -> Detections:
        """See :class:`Task`."""
        return found.renumbered(table)

    def result(self, samples: LocalSamples, index: int, found: Detections) -> Detections:
        """The boxes themselves, without those of unlabelled classes, which may be right and have no label."""
        row = samples.manifest.table.row(index, named=True)
        unlabelled = frozenset(row["unlabelled_classes"] or ())
        return found[judgeable(found, truth(row["annotations"]), unlabelled)] if unlabelled else found

    def metrics(self, samples: Manifest, results: Sequence[Detections], confidence: float) -> DetectionMetrics:
        """See :class:`Task`; average precision looks at up to 300 predictions per image and class."""
        return evaluate_detections(
            samples.truths(),
            results,
            samples.classes,
            list(samples.table.select("width", "height").iter_rows()),
            confidence_threshold=confidence,
            max_detections=MAX_DETECTIONS,
        )

    def interval(self, measured: Measurement[Detections]) -> tuple[float, float]:
        """Of mAP50."""
        return map50_interval(_matches(measured), max_detections=MAX_DETECTIONS)

    def delta_interval(
        self, figure: str, ours: Measurement[Detections], theirs: Measurement[Detections]
    ) -> tuple[float, float]:
        """See :class:`Task`."""
        thresholds = IOU_THRESHOLDS if figure == "map50_95" else IOU_THRESHOLDS[:1]
        new, old = ([_matches(one, threshold) for threshold in thresholds] for one in (ours, theirs))
        return delta_interval(new, old, max_detections=MAX_DETECTIONS)

    def confusion(self, measured: Measurement[Detections]) -> Confusion:
        """Of the boxes, at the deployed confidence, with what is missed and what is false."""
        truths, names = measured.samples.truths(), measured.samples.classes
        return confusion_of_boxes(truths, measured.results, names, measured.confidence)

    def confidence_curve(self, measured: Measurement[Detections]) -> list[CurvePoint]:
        """Of the boxes of all classes."""
        return confidence_curve(_matches(measured))

    def settings(self, nms_threshold: float) -> Mapping[str, object]:
        """See :class:`Task`."""
        return {"NMS threshold": nms_threshold}

    def drawn(self, image: ImageArray, found: Detections, classes: Sequence[str]) -> tuple[ImageArray, str]:
        """The boxes, with class and score."""
        return reports.draw(image, found, classes), f"{len(found)} found"

    def counted(self, found: Detections, classes: Sequence[str]) -> Mapping[str, int]:
        """How many boxes of each class there are."""
        return Counter(classes[index] for index in found.classes)

    def described(self, counts: Mapping[str, int]) -> str:
        """See :class:`Task`."""
        total = sum(counts.values())
        boxes = f"{total:,} box{'' if total == 1 else 'es'}"
        return f"{boxes}: {listed(counts)}" if total else boxes

    def sections(
        self,
        measured: Measurement[Detections],
        samples: LocalSamples,
        interval: tuple[float, float],
        facts: Mapping[str, object],
        again: Callable[[int], Detections],
    ) -> list[Section]:
        """The figures, the classes with their curves, and the worst and the best images."""
        metrics = cast(DetectionMetrics, measured.metrics)
        return report.sections(measured, metrics, _matches(measured), samples, interval, facts)

    def allowed_drop(self, name: str, reference: Measurement[Detections], max_drop: float) -> float | None:
        """What the user allows, or what two boxes make."""
        truths = reference.of_class("truths", name)
        return max(max_drop, _BOXES_OF_CHANCE / truths) if truths else None

    def highest_score(self, results: Sequence[Detections]) -> float:
        """Of any box in any image; 0 where there is none."""
        return max((float(one.scores.max()) for one in results if len(one)), default=0.0)

    def shown_classes(self, found: Detections, confidence: float) -> frozenset[int]:
        """See :class:`Task`."""
        return frozenset(found.classes[found.scores >= confidence].tolist())

    def write(self, path: Path, found: Iterable[Detections]) -> None:
        """The boxes of all images one after the other, with their number in each."""
        images = list(found)
        joined = Detections.joined(images)
        np.savez(
            path,
            counts=np.array([len(one) for one in images], dtype=np.intp),
            boxes=joined.boxes,
            scores=joined.scores,
            classes=joined.classes,
        )

    def read(self, path: Path) -> list[Detections]:
        """See :class:`Task`."""
        with np.load(path) as arrays:
            joined = Detections(arrays["boxes"], arrays["scores"], arrays["classes"])
            ends = np.cumsum(arrays["counts"])
        return [joined[slice(end - count, end)] for end, count in zip(ends, np.diff(ends, prepend=0), strict=True)]


def _matches(measured: Measurement[Detections], iou_threshold: float = 0.5) -> Matches:
    return match(measured.samples.truths(), measured.results, len(measured.samples.classes), iou_threshold)
