"""What a model is worth on the test set of a benchmark: as a whole and task by task."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from components.benchmark.stream import Task
from components.core.detections import Detections
from components.core.manifest import Manifest
from components.core.metrics.detection import DetectionMetrics, evaluate_detections
from components.core.metrics.ianvs import f1_ianvs
from components.core.runtimes.base import Detector
from components.core.runtimes.decode import MAX_DETECTIONS
from components.core.runtimes.letterbox import read_image
from components.core.tasks.base import MIN_SCORE, open_task


@dataclass(frozen=True)
class Measured:
    """One model on one set of samples.

    Attributes:
        metrics: ``map50``, ``map50_95``, ``precision``, ``recall``, ``f1`` (over the boxes of all classes) and
            ``f1_ianvs``.
        tasks: mAP50 of each task.
    """

    metrics: dict[str, float]
    tasks: dict[str, float]


def measure(
    samples: Manifest,
    model: Detector,
    *,
    confidence_threshold: float,
    nms_threshold: float,
    folder: Path,
    tasks: Sequence[Task] = (),
) -> Measured:
    """Run a model over labelled samples.

    Args:
        samples: with all their labels; a class that the model does not know counts as missed.
        model: the model.
        confidence_threshold: score from which a box counts in precision, recall and F1.
        nms_threshold: overlap above which the worse of two boxes of a class is dropped.
        folder: where images are brought to.
        tasks: parts of the samples.

    Raises:
        InputError: there is no box, or an image cannot be read.
    """
    found = predictions(samples, model, nms_threshold, folder)
    truths, sizes = samples.truths(), list(samples.table.select("width", "height").iter_rows())
    names = samples.classes
    evaluated = functools.partial(
        evaluate_detections, confidence_threshold=confidence_threshold, max_detections=MAX_DETECTIONS
    )
    whole = evaluated(truths, found, names, sizes)

    @functools.cache
    def part(images: tuple[int, ...]) -> DetectionMetrics:
        if len(images) == len(truths):
            return whole
        return evaluated([truths[i] for i in images], [found[i] for i in images], names, [sizes[i] for i in images])

    return Measured(
        {
            "map50": whole.map50,
            "map50_95": whole.map50_95,
            "precision": whole.precision_micro,
            "recall": whole.recall_micro,
            "f1": whole.f1_micro,
            "f1_ianvs": f1_ianvs(truths, found, len(names)),
        },
        {task.name: _map50(part(task.images), task) for task in tasks},
    )


def predictions(samples: Manifest, model: Detector, nms_threshold: float, folder: Path) -> list[Detections]:
    """What a model finds in each sample and labels can judge, down to the lowest score that measuring needs."""
    task = open_task("detection")
    local = task.local(samples, folder)
    table = samples.class_numbers(model.bundle.classes, "the model", "all rounds must have its classes")

    def found(path: Path) -> Detections:
        return model.predict([read_image(path)], confidence=MIN_SCORE, nms=nms_threshold)[0].renumbered(table)

    return [task.result(local, index, found(path)) for index, path in enumerate(local.paths)]


def score_matrix(rounds: Sequence[Mapping[str, float]], tasks: Sequence[Task]) -> np.ndarray:
    """Scores after each round (rows) on each task (columns), for :mod:`components.core.metrics.continual`."""
    return np.array([[scores[task.name] for task in tasks] for scores in rounds], dtype=np.float64)


def _map50(metrics: DetectionMetrics, task: Task) -> float:
    """The mean AP50 of a task's classes, as far as they are in its images."""
    values = [metrics.per_class[number].ap50 for number in sorted(task.classes)]
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else 0.0
