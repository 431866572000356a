"""Pseudo-labels: a model's confident boxes of classes that were not labelled in a sample.

When a job gets a new class, its old samples were labelled without it, and the new ones perhaps with it alone. An
object that is there and has no box teaches the next model that it is background. So what was not labelled is not taken
for background: the boxes of the deployed model that are sure enough fill it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

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


def unlabelled_classes(manifest: Manifest) -> dict[str, frozenset[int]]:
    """The classes that nobody looked for in a sample, as far as the rounds show it: by id, where there are any.

    A class was not labelled in the rounds before the one that first has a box of it. And a round that brings a new
    class may have labels of that alone: an older class without a box in the whole round was not labelled in it.
    """
    labelled = manifest.where(pl.col("annotations").is_not_null())
    shown: dict[int, set[int]] = {}
    for number, boxes in labelled.table.select("round", "annotations").iter_rows():
        shown.setdefault(number, set()).update(box["class_id"] for box in boxes)
    numbers = sorted(shown)
    first = {class_id: number for number in reversed(numbers) for class_id in shown[number]}
    lacking = {}
    for number in numbers:
        brings_one = number > min(first.values(), default=number) and number in first.values()
        later = {class_id for class_id, since in first.items() if since > number}
        older = {class_id for class_id, since in first.items() if since < number} - shown[number]
        lacking[number] = frozenset(later | older if brings_one else later)
    pairs = labelled.table.select("id", "round").iter_rows()
    return {id_: lacking[number] for id_, number in pairs if lacking[number]}


def fill(
    manifest: Manifest,
    unlabelled: Mapping[str, Collection[int]],
    predict: Callable[[Mapping[str, Any]], Detections],
    min_score: float,
) -> Filled:
    """Add a model's boxes of the classes that were not labelled.

    Args:
        manifest: samples with boxes; those without labels stay so.
        unlabelled: class numbers by id; samples that are not in it stay as they are.
        predict: what the model finds in the image of a row, in the class numbers of the manifest.
        min_score: least score of a box that is added.
    """
    rows, counts, changed = [], dict.fromkeys(manifest.classes, 0), 0
    for row in manifest.rows():
        classes = unlabelled.get(row["id"], ())
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
