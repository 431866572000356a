"""Measure one model version on the labelled samples of a split."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from components.core.cache import fetch_blobs
from components.core.detections import Detections
from components.core.errors import InputError
from components.core.manifest import Manifest
from components.core.metrics.bootstrap import map50_interval
from components.core.metrics.detection import DetectionMetrics, Matches, evaluate_detections, match
from components.core.progress import Progress
from components.core.reports.page import Section
from components.core.runtimes.base import Detector, open_detector
from components.core.runtimes.decode import MAX_DETECTIONS
from components.core.runtimes.letterbox import ImageArray, read_image
from components.evaluate import report
from components.evaluate.samples import OTHER_DATA, labelled_samples

log = logging.getLogger(__name__)

LEAST_SCORE = 0.001  # average precision looks at every prediction down to here


@dataclass(frozen=True)
class Evaluation:
    """What was measured.

    Attributes:
        metrics: over all labelled samples of the split, at the deployed thresholds. Average precision looks at up to
            300 predictions per image and class.
        map50_interval: ends of the 95 % bootstrap interval of mAP50 over the images.
        samples: what it was measured on.
        predictions: of each sample in table order, in the manifest's classes, with scores from 0.001.
        sections: the report.
    """

    metrics: DetectionMetrics
    map50_interval: tuple[float, float]
    samples: Manifest
    predictions: Sequence[Detections]
    sections: Sequence[Section]

    def as_flat(self) -> dict[str, float]:
        """The metrics by name, and ``map50_low`` and ``map50_high``; each is finite."""
        low, high = self.map50_interval
        return {**self.metrics.as_flat(), "map50_low": low, "map50_high": high}


def evaluate(
    manifest: Manifest,
    model_folder: Path,
    *,
    split: str = "test",
    confidence_threshold: float,
    nms_threshold: float,
    cache_folder: Path,
    runtime: str = "onnx",
) -> Evaluation:
    """Run a model over the labelled samples of a split and measure what it finds.

    Args:
        manifest: the samples.
        model_folder: the bundle.
        split: ``train``, ``val`` or ``test``.
        confidence_threshold: precision, recall and F1 are of predictions with at least this score.
        nms_threshold: overlap (IoU) above which the lower of two boxes of a class is dropped.
        cache_folder: where images are brought to.
        runtime: plug-in that runs the model.

    Raises:
        InputError: the split has no labelled sample or no box, the model knows a class that the manifest does not, the
            bundle cannot run, or an image is not the one in the manifest.
    """
    samples = labelled_samples(manifest, split, "detection")
    detector = open_detector(runtime, model_folder)
    places = detector.bundle.places(manifest.classes, f"model {model_folder}", OTHER_DATA)
    paths = fetch_blobs(samples, cache_folder)
    started = time.monotonic()
    predictions = [_renamed(found, places) for found in _predict(detector, samples, paths, nms_threshold)]
    seconds = (time.monotonic() - started) / len(samples)
    metrics = evaluate_detections(
        samples.truths(),
        predictions,
        manifest.classes,
        list(samples.table.select("width", "height").iter_rows()),
        confidence_threshold=confidence_threshold,
        max_detections=MAX_DETECTIONS,
    )
    matches = match(samples.truths(), predictions, len(manifest.classes))
    interval = map50_interval(matches, max_detections=MAX_DETECTIONS)
    log.info("mAP50 %.3f (95 %% interval %.3f to %.3f), mAP50-95 %.3f", metrics.map50, *interval, metrics.map50_95)
    facts = {
        "split": split,
        "estimator": detector.bundle.estimator,
        "image size": "{}x{}".format(*reversed(detector.bundle.image_size)),
        "runtime": runtime,
        "confidence threshold": confidence_threshold,
        "NMS threshold": nms_threshold,
        "milliseconds an image": round(1000 * seconds, 1),
    }
    sections = [
        report.summary(metrics, interval, facts, predictions),
        report.classes(metrics, confidence_threshold),
        *_examples(samples, paths, predictions, matches, confidence_threshold),
    ]
    return Evaluation(metrics, interval, samples, predictions, sections)


def _renamed(found: Detections, places: Sequence[int]) -> Detections:
    return Detections.of(found.boxes, [places[index] for index in found.classes], found.scores)


def _predict(detector: Detector, samples: Manifest, paths: Sequence[Path], nms: float) -> list[Detections]:
    predictions: list[Detections] = []
    progress = Progress(log, "evaluated {done} of {total} images", len(samples), to_the_end=True)
    for row, path in zip(samples.rows(), paths, strict=True):
        image = _image(path, row["width"], row["height"], row["source"])
        predictions += detector.predict([image], confidence=LEAST_SCORE, nms=nms)
        progress.advance()
    return predictions


def _image(path: Path, width: int, height: int, source: str) -> ImageArray:
    image = read_image(path)
    if image.shape[:2] != (height, width):
        raise InputError(
            f"sample {source}: the image has {image.shape[1]}x{image.shape[0]} pixels, the manifest says "
            f"{width}x{height}: its boxes would be misplaced; ingest it again"
        )
    return image


def _examples(
    samples: Manifest, paths: Sequence[Path], predictions: Sequence[Detections], matches: Matches, confidence: float
) -> list[Section]:
    """The images with the most mistakes, and some without any."""
    found, correct = (table.sum(axis=1) for table in matches.counts(confidence))
    truths = matches.truths.sum(axis=1)
    sources, true_boxes = samples.table["source"].to_list(), samples.truths()
    examples = [
        report.Example(
            source=sources[index],
            path=paths[index],
            truth=true_boxes[index],
            found=predictions[index][predictions[index].scores >= confidence],
            missed=int(truths[index] - correct[index]),
            false_alarms=int(found[index] - correct[index]),
        )
        for index in range(len(samples))
    ]
    return report.examples(examples, samples.classes)
