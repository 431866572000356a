"""How good the predictions of a model are on the check images; so each conversion is compared with its float model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from components.core.bundle import Bundle
from components.core.tasks.base import LocalSamples, Measurement, open_task

WITH_ITS_DATA = "use the data set that the model was trained on"


def measure(samples: LocalSamples, predictions: Iterable[Any], bundle: Bundle) -> Measurement[Any]:
    """Measure predictions by the labels, at the confidence that the model is deployed with.

    Args:
        samples: labelled for the model's task.
        predictions: of each sample in table order, in the model's classes, down to the lowest scores.
        bundle: gives the task, the classes and the confidence.

    Raises:
        InputError: the manifest lacks a class of the model, or there is nothing in the labels.
    """
    task = open_task(bundle.task)
    table = samples.manifest.class_numbers(bundle.classes, "the model", WITH_ITS_DATA)
    results = [task.result(samples, index, task.renumbered(found, table)) for index, found in enumerate(predictions)]
    return task.measure(samples.manifest, results, bundle.confidence_threshold)


def figures(measured: Measurement[Any]) -> dict[str, float]:
    """The figures that matter for a conversion, by name; the main one comes first."""
    task = measured.task
    names = (*task.figures.overall, *task.figures.converted_overall)
    highest = task.highest_score(measured.results)
    return {**{name: measured.flat[name] for name in names}, **({} if highest is None else {"max_score": highest})}
