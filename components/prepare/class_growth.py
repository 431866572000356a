"""Class growth: what a round trains on when a class came after some of its samples had been labelled."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from components.core.cache import cache_folder, version_folder
from components.core.detections import Detections
from components.core.job.job import Job
from components.core.manifest import Manifest
from components.core.pseudo_labels import Filled, fill, unlabelled_classes
from components.core.reports import page as reports
from components.core.runtimes.base import open_detector
from components.core.runtimes.letterbox import read_image
from components.core.tasks.base import open_task
from components.prepare.replay import RoundData

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Completed:
    """The training samples of a round.

    Attributes:
        training: with pseudo-labels, if they are wanted.
        sections: what was found, for the report; none where every class was labelled in every sample.
    """

    training: Manifest
    sections: Sequence[reports.Section] = ()


def complete(
    data: RoundData, job: Job, champion: str | None, *, mode: Literal["off", "report", "fill"], min_score: float
) -> Completed:
    """Find objects of classes that were not labelled in a sample with the champion, which may know them.

    Pseudo-labels are for this training alone: the job keeps the labels of people.

    Args:
        data: of the round.
        job: whose champion looks.
        champion: its version; None where there is none.
        mode: ``off``; ``report`` counts the boxes; ``fill`` trains on them.
        min_score: of a box that counts.

    Raises:
        InputError: the champion cannot be loaded, or an image is out of reach.
    """
    lacking = {} if mode == "off" or champion is None else _lacking(data)
    if not lacking or champion is None:
        return Completed(data.training)
    folder = version_folder(job.store.uri, "champion", champion)
    bundle = job.fetch_bundle(champion, folder)
    task = open_task(bundle.task)
    if not task.gives_boxes:
        return Completed(data.training)
    known = {data.manifest.classes.index(name) for name in bundle.classes if name in data.manifest.classes}
    found = _filled(data.training, {id_: classes & known for id_, classes in lacking.items()}, job, folder, min_score)
    counted = ", ".join(f"{name} {count}" for name, count in found.boxes.items()) or "none"
    log.info("boxes of classes that were not labelled, in %d of %d samples: %s", found.samples, len(lacking), counted)
    return Completed(
        found.manifest if mode == "fill" else data.training, [_section(found, len(lacking), filled=mode == "fill")]
    )


def _lacking(data: RoundData) -> dict[str, frozenset[int]]:
    """The classes that were not labelled in a training sample, by id."""
    everywhere = unlabelled_classes(data.manifest)
    return {id_: everywhere[id_] for id_ in data.training.table["id"] if id_ in everywhere}


def _filled(
    training: Manifest, lacking: Mapping[str, frozenset[int]], job: Job, folder: Path, min_score: float
) -> Filled:
    model = open_detector("onnx", folder)
    numbers = [training.classes.index(name) if name in training.classes else -1 for name in model.bundle.classes]
    task, blobs = open_task(model.bundle.task), cache_folder(job.store.uri) / "blobs"

    def predict(row: Mapping[str, Any]) -> Detections:
        (path,) = task.local(Manifest.of([dict(row)], training.classes), blobs).paths
        found = model.predict([read_image(path)], confidence=min_score, nms=model.bundle.nms_threshold)
        return found[0].renumbered(numbers)

    return fill(training, lacking, predict, min_score)


def _section(found: Filled, samples: int, *, filled: bool) -> reports.Section:
    """What was found."""
    body = reports.note(
        f"{samples} training samples were labelled without a class that the job has; in {found.samples} of them the "
        "champion is sure of objects of such a class."
    )
    if found.boxes:
        what = "Boxes that are trained on." if filled else "Not trained on; set fill_unlabelled=fill to do so."
        body += reports.table(["class", "boxes"], found.boxes.items(), what)
    return reports.Section("Classes that were not labelled", body)
