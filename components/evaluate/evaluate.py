"""Measure a model on the labelled samples of a split."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.core.errors import InputError, NothingToMeasureError
from components.core.manifest import SPLITS, Manifest
from components.core.progress import Progress
from components.core.reports.page import Section
from components.core.runtimes.letterbox import ImageArray, read_image
from components.core.tasks.base import LocalSamples, Measurement, Metrics, Task
from components.evaluate.predictor import Predictor

log = logging.getLogger(__name__)

_OTHER_DATA = "use data with the classes of the model"


@dataclass(frozen=True)
class Evaluation:
    """What was measured.

    Attributes:
        measured: over all labelled samples of the split.
        interval: ends of the 95 % bootstrap interval of the main figure over the images.
        sections: the report.
        main: name of the main figure, such as ``map50``.
    """

    measured: Measurement[Any]
    interval: tuple[float, float]
    sections: Sequence[Section]
    main: str

    @property
    def metrics(self) -> Metrics:
        """The figures."""
        return self.measured.metrics

    def as_flat(self) -> dict[str, float]:
        """The figures by name, and the ends of the interval, such as ``map50_low``; each is finite."""
        low, high = self.interval
        return {**self.measured.flat, f"{self.main}_low": low, f"{self.main}_high": high}


def evaluate(
    manifest: Manifest,
    predictor: Predictor,
    *,
    split: str = "test",
    confidence_threshold: float,
    cache_folder: Path,
) -> Evaluation:
    """Run a model over the labelled samples of a split and measure what it finds.

    Args:
        manifest: the samples.
        predictor: the model.
        split: ``train``, ``val`` or ``test``.
        confidence_threshold: score, 0..1, from which a prediction counts in figures such as precision and recall.
        cache_folder: where images are brought to.

    Raises:
        InputError: no sample of the split is labelled for the model's task, the manifest lacks a class of the model,
            or an image is not the one in the manifest.
    """
    task = predictor.task
    samples = task.local(labelled_samples(manifest, split, task), cache_folder)
    table = manifest.class_numbers(predictor.classes, predictor.name, _OTHER_DATA)

    def found(index: int) -> Any:
        row = samples.manifest.table.row(index, named=True)
        image = _image(samples.paths[index], row["width"], row["height"], row["source"])
        return task.renumbered(predictor.predict(image), table)

    started = time.monotonic()
    results = list(_results(task, samples, found))
    seconds = (time.monotonic() - started) / len(results)
    try:
        measured = task.measure(samples.manifest, results, confidence_threshold)
    except NothingToMeasureError as error:
        raise NothingToMeasureError(f"split {split!r}: {error}") from error
    interval = task.interval(measured)
    main, title = task.figures.main, task.figures.main_title
    log.info("%s %.3f (95 %% interval %.3f to %.3f)", title, measured.flat[main], *interval)
    facts = {"split": split, **predictor.facts, "milliseconds per image": round(1000 * seconds, 1)}
    return Evaluation(measured, interval, task.sections(measured, samples, interval, facts, found), main)


def labelled_samples(manifest: Manifest, split: str, task: Task[Any, Any]) -> Manifest:
    """The samples of a split that are labelled for a task.

    Raises:
        InputError: there are none.
    """
    labelled = manifest.split(split).labelled()
    if len(labelled) == 0:
        counts = {name: len(manifest.split(name).labelled()) for name in (*SPLITS, "")}
        listed = ", ".join(f"{name or 'undecided'} {count}" for name, count in counts.items() if name or count)
        raise InputError(
            f"split {split!r} has no labelled samples (labelled samples: {listed}): "
            "add more images, change the split ratios or choose another split"
        )
    samples = task.labelled(labelled)
    if len(samples) == 0:
        raise InputError(
            f"split {split!r} has no {task.labels}, which {task.name} is evaluated on: "
            "label the samples, or use another data set"
        )
    return samples


def _results(task: Task[Any, Any], samples: LocalSamples, found: Callable[[int], Any]) -> Iterator[Any]:
    """What is kept of each sample, with a line in the log now and then."""
    count = len(samples.manifest)
    progress = Progress(log, "evaluated {done} of {total} images", count, to_the_end=True)
    for index in range(count):
        yield task.result(samples, index, found(index))
        progress.advance()


def _image(path: Path, width: int, height: int, source: str) -> ImageArray:
    image = read_image(path)
    if image.shape[:2] != (height, width):
        raise InputError(
            f"sample {source}: the image has {image.shape[1]}x{image.shape[0]} pixels, the manifest says "
            f"{width}x{height}: its labels would be misplaced: ingest the data set again"
        )
    return image
