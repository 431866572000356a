"""Pseudo-labels: a model's confident boxes of classes that were not labelled in a sample.

When a job gets a new class, its old samples were labelled without it, and the new ones perhaps with it alone. What was
not labelled is not taken for background in training and evaluation, but it teaches nothing either: the boxes of the
deployed model that are sure enough fill it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from components.core.detections import Detections, iou
from components.core.manifest import Manifest, truth

MAX_OVERLAP = 0.5  # with a box that is there already, of any class: the same object


@dataclass(frozen=True)
class Filled:
    """Samples with pseudo-labels.

    Attributes:
        manifest: the samples, with the boxes that were added.
        boxes: how many were added, by class name.
        samples: how many samples got any.
    """

    manifest: Manifest
    boxes: dict[str, int]
    samples: int


def lacking_samples(samples: Manifest) -> dict[str, int]:
    """In how many samples a class was not labelled, by its name; without those that were labelled in all."""
    counts = Counter(number for numbers in samples.unlabelled_classes() for number in numbers)
    return {name: counts[number] for number, name in enumerate(samples.classes) if counts[number]}


def fill(
    manifest: Manifest,
    known: Collection[int],
    predict: Callable[[Mapping[str, Any]], Detections],
    min_score: float,
) -> Filled:
    """Add a model's boxes of the classes that were not labelled, which stay classes that were not labelled whole.

    Args:
        manifest: samples with boxes; those without labels stay so.
        known: numbers of the classes that the model knows.
        predict: what the model finds in the image of a row, in the class numbers of the manifest.
        min_score: least score of a box that is added.
    """
    rows, counts, changed = [], dict.fromkeys(manifest.classes, 0), 0
    for row, unlabelled in zip(manifest.rows(), manifest.unlabelled_classes(), strict=True):
        classes = unlabelled & set(known)
        if classes and row["annotations"] is not None:
            added = _new_boxes(truth(row["annotations"]), predict(row), classes, min_score)
            for number in added.classes:
                counts[manifest.classes[number]] += 1
            changed += bool(len(added))
            row = {**row, "annotations": [*row["annotations"], *_as_annotations(added)]}  # noqa: PLW2901
        rows.append(row)
    return Filled(Manifest.of(rows, manifest.classes), {name: n for name, n in counts.items() if n}, changed)


def _new_boxes(known: Detections, found: Detections, classes: Collection[int], min_score: float) -> Detections:
    fitting = found[(found.scores >= min_score) & np.isin(found.classes, list(classes))]
    if len(fitting) and len(known):
        fitting = fitting[iou(fitting.boxes, known.boxes).max(axis=1) < MAX_OVERLAP]
    return fitting


def _as_annotations(found: Detections) -> list[dict[str, Any]]:
    names = ("x1", "y1", "x2", "y2")
    return [
        {"class_id": int(number), **dict(zip(names, map(float, box), strict=True))}
        for number, box in zip(found.classes, found.boxes, strict=True)
    ]
