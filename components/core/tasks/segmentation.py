"""Semantic segmentation: the class of every pixel."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal, cast

import numpy as np
from markupsafe import Markup

from components.core.cache import fetch_blobs, fetch_masks
from components.core.colours import paint
from components.core.errors import InputError
from components.core.manifest import Manifest
from components.core.masks import VOID, ClassMap, read_mask, renumbering
from components.core.metrics.confusion import Confusion
from components.core.metrics.segmentation import (
    Counts,
    SegmentationMetrics,
    accuracy_delta_interval,
    confusion,
    evaluate_segmentation,
    miou_delta_interval,
    miou_interval,
)
from components.core.reports import page as reports
from components.core.reports.page import Section
from components.core.runtimes.letterbox import ImageArray
from components.core.tasks import segmentation_report as report
from components.core.tasks.base import Figures, LocalSamples, Measurement, Task, tasks

_MIN_IMAGES = 5  # the IoU of a class in fewer is that of a few objects


@tasks.register("segmentation")
class Segmentation(Task[ClassMap, Counts]):
    """Models that say of every pixel what it shows."""

    name: ClassVar[str] = "segmentation"
    label_column: ClassVar[Literal["annotations", "mask"]] = "mask"
    labels: ClassVar[str] = "masks"
    figures: ClassVar[Figures] = Figures(
        overall={"miou": "mIoU", "pixel_accuracy": "correct pixels"},
        of_class={"iou": "IoU", "precision": "precision", "recall": "recall"},
        truths="labelled pixels",
        converted=("iou", "IoU"),
        further=("mean_recall", "fwiou"),
    )

    def local(self, samples: Manifest, folder: Path) -> LocalSamples:
        """The images and their masks."""
        return LocalSamples(samples, fetch_blobs(samples, folder), fetch_masks(samples, folder))

    def renumbered(self, found: ClassMap, table: Sequence[int]) -> ClassMap:
        """See :class:`Task`."""
        numbers: ClassMap = renumbering(table)[found]
        return numbers

    def result(self, samples: LocalSamples, index: int, found: ClassMap) -> Counts:
        """The counts of the image's pixels, (classes, classes) true by found class."""
        mask = samples.masks[index]
        try:
            return confusion(read_mask(mask), found, len(samples.manifest.classes))
        except ValueError as error:
            raise InputError(f"mask {mask}: {error}: ingest the data set again") from error

    def metrics(self, samples: Manifest, results: Sequence[Counts], confidence: float) -> SegmentationMetrics:
        """Over the labelled pixels; they have no confidence."""
        return evaluate_segmentation(results, samples.classes)

    def interval(self, measured: Measurement[Counts]) -> tuple[float, float]:
        """Of the mean IoU."""
        return miou_interval(measured.results)

    def delta_interval(
        self, figure: str, ours: Measurement[Counts], theirs: Measurement[Counts]
    ) -> tuple[float, float]:
        """See :class:`Task`."""
        of = accuracy_delta_interval if figure == "pixel_accuracy" else miou_delta_interval
        return of(ours.results, theirs.results)

    def confusion(self, measured: Measurement[Counts]) -> Confusion:
        """Of the labelled pixels of all images."""
        return Confusion(measured.samples.classes, np.sum(measured.results, axis=0))

    def drawn(self, image: ImageArray, found: ClassMap, classes: Sequence[str]) -> tuple[ImageArray, str]:
        """The colour of its class over every pixel."""
        return paint(image, found), ""

    def legend(self, classes: Sequence[str]) -> Markup:
        """See :class:`Task`."""
        return reports.legend(classes)

    def counted(self, found: ClassMap, classes: Sequence[str]) -> Mapping[str, int]:
        """How many pixels of each class there are."""
        pixels = np.bincount(found[found != VOID], minlength=len(classes))
        return {name: int(count) for name, count in zip(classes, pixels, strict=True) if count}

    def described(self, counts: Mapping[str, int]) -> str:
        """See :class:`Task`."""
        total = max(sum(counts.values()), 1)
        fractions = (f"{name} {count / total:.1%}" for name, count in Counter(counts).most_common())
        return f"pixels: {', '.join(fractions) or 'none'}"

    def sections(
        self,
        measured: Measurement[Counts],
        samples: LocalSamples,
        interval: tuple[float, float],
        facts: Mapping[str, object],
        again: Callable[[int], ClassMap],
    ) -> list[Section]:
        """The figures, what each class is taken for, and the worst and the best images."""
        metrics = cast(SegmentationMetrics, measured.metrics)
        return report.sections(measured, metrics, samples, interval, facts, again)

    def allowed_drop(self, name: str, reference: Measurement[Counts], max_drop: float) -> float | None:
        """What the user allows, for a class that is in enough images to tell."""
        index = reference.samples.classes.index(name)
        images = sum(bool(one[index].any()) for one in reference.results)
        return max_drop if images >= _MIN_IMAGES else None

    def shown_classes(self, found: ClassMap, confidence: float) -> frozenset[int]:
        """See :class:`Task`."""
        return frozenset(np.unique(found).tolist())
