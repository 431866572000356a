"""Measure a model that segments on the masks of a split."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from components.core.cache import fetch_blobs, fetch_masks
from components.core.errors import InputError
from components.core.manifest import Manifest
from components.core.masks import ClassMap, read_mask, renumbering
from components.core.metrics.segmentation import (
    Counts,
    SegmentationMetrics,
    confusion,
    evaluate_segmentation,
    miou_interval,
)
from components.core.progress import Progress
from components.core.reports.page import Section
from components.core.runtimes.base import Segmenter, open_segmenter
from components.core.runtimes.letterbox import read_image
from components.evaluate import segmentation_report as report
from components.evaluate.samples import OTHER_DATA, labelled_samples

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SegmentationEvaluation:
    """What was measured.

    Attributes:
        metrics: over the pixels of all samples of the split that have a mask.
        miou_interval: ends of the 95 % bootstrap interval of the mean IoU over the images.
        samples: what it was measured on.
        matrices: of each sample in table order, true class by found class, in the manifest's classes.
        sections: the report.
    """

    metrics: SegmentationMetrics
    miou_interval: tuple[float, float]
    samples: Manifest
    matrices: Sequence[Counts]
    sections: Sequence[Section]

    def as_flat(self) -> dict[str, float]:
        """The metrics by name, and ``miou_low`` and ``miou_high``; each is finite."""
        low, high = self.miou_interval
        return {**self.metrics.as_flat(), "miou_low": low, "miou_high": high}


def evaluate_masks(
    manifest: Manifest, model_folder: Path, *, split: str = "test", cache_folder: Path, runtime: str = "onnx"
) -> SegmentationEvaluation:
    """Run a model over the samples of a split that have a mask, and measure what it says of their pixels.

    Args:
        manifest: the samples.
        model_folder: the bundle.
        split: ``train``, ``val`` or ``test``.
        cache_folder: where images and masks are brought to.
        runtime: plug-in that runs the model.

    Raises:
        InputError: the split has no mask, the model knows a class that the manifest does not, the bundle cannot run,
            or an image or mask is not the one in the manifest.
    """
    samples = labelled_samples(manifest, split, "segmentation")
    segmenter = open_segmenter(runtime, model_folder)
    places = renumbering(segmenter.bundle.places(manifest.classes, f"model {model_folder}", OTHER_DATA))
    paths, masks = fetch_blobs(samples, cache_folder), fetch_masks(samples, cache_folder)
    started = time.monotonic()
    progress = Progress(log, "evaluated {done} of {total} images", len(samples), to_the_end=True)
    matrices: list[Counts] = []
    for path, mask in zip(paths, masks, strict=True):
        matrices.append(_counted(read_mask(mask), _seen(segmenter, path, places), len(manifest.classes), mask))
        progress.advance()
    seconds = (time.monotonic() - started) / len(samples)
    try:
        metrics = evaluate_segmentation(matrices, manifest.classes)
    except ValueError as error:
        raise InputError(f"split {split!r}: {error}") from error
    interval = miou_interval(matrices)
    log.info("mIoU %.3f (95 %% interval %.3f to %.3f), pixels %.3f", metrics.miou, *interval, metrics.pixel_accuracy)
    facts = {
        "split": split,
        "estimator": segmenter.bundle.estimator,
        "image size": "{}x{}".format(*reversed(segmenter.bundle.image_size)),
        "runtime": runtime,
        "milliseconds an image": round(1000 * seconds, 1),
    }
    order = np.argsort([np.diagonal(one).sum() / max(one.sum(), 1) for one in matrices], kind="stable")
    worst, best = order[: report.WORST], order[::-1][: report.BEST]
    best = np.setdiff1d(best, worst)

    def shown(indices: NDArray[np.intp]) -> list[report.Example]:
        return [_example(samples, paths, masks, matrices, index, segmenter, places) for index in indices]

    sections = [
        report.summary(metrics, interval, facts),
        report.classes(metrics, np.sum(matrices, axis=0)),
        *report.examples(shown(worst), shown(best), manifest.classes),
    ]
    return SegmentationEvaluation(metrics, interval, samples, matrices, sections)


def _seen(segmenter: Segmenter, path: Path, places: ClassMap) -> ClassMap:
    (found,) = segmenter.segment([read_image(path)])
    return places[found]


def _counted(truth: ClassMap, found: ClassMap, classes: int, mask: Path) -> Counts:
    try:
        return confusion(truth, found, classes)
    except ValueError as error:
        raise InputError(f"mask {mask}: {error}: ingest the image again") from error


def _example(
    samples: Manifest,
    paths: Sequence[Path],
    masks: Sequence[Path],
    matrices: Sequence[Counts],
    index: int,
    segmenter: Segmenter,
    places: ClassMap,
) -> report.Example:
    correct = np.diagonal(matrices[index]).sum() / max(matrices[index].sum(), 1)
    source = samples.table["source"][int(index)]
    return report.Example(
        source, paths[index], read_mask(masks[index]), _seen(segmenter, paths[index], places), float(correct)
    )
