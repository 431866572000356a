"""Class growth: what a round trains on when a class came after some of its samples had been labelled."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from components.core.cache import cache_folder, version_folder
from components.core.detections import Detections
from components.core.job.job import Job
from components.core.manifest import Manifest
from components.core.pseudo_labels import Filled, fill, lacking_samples
from components.core.reports import page as reports
from components.core.runtimes.base import open_detector
from components.core.runtimes.letterbox import read_image
from components.core.tasks.base import listed, open_task
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
        mode: ``off``: it is not asked; ``report`` counts the boxes; ``fill`` trains on them.
        min_score: of a box that counts.

    Raises:
        InputError: the champion cannot be loaded, or an image is out of reach.
    """
    lacking = lacking_samples(data.training)
    if not lacking:
        return Completed(data.training)
    log.info("training samples without labels of a class: %s", listed(lacking))
    found = None if mode == "off" or champion is None else _found(data.training, job, champion, min_score)
    training = found.manifest if found and mode == "fill" else data.training
    return Completed(training, [_section(len(data.training), lacking, found, mode)])


def _found(training: Manifest, job: Job, champion: str, min_score: float) -> Filled | None:
    """What the champion finds of the classes that were not labelled; None where it gives no boxes."""
    folder = version_folder(job.store.uri, "champion", champion)
    if not open_task(job.fetch_bundle(champion, folder).task).gives_boxes:
        return None
    model = open_detector("onnx", folder)
    numbers = [training.classes.index(name) if name in training.classes else -1 for name in model.bundle.classes]
    task, blobs = open_task(model.bundle.task), cache_folder(job.store.uri) / "blobs"

    def predict(row: Mapping[str, Any]) -> Detections:
        (path,) = task.local(Manifest.of([dict(row)], training.classes), blobs).paths
        found = model.predict([read_image(path)], confidence=min_score, nms=model.bundle.nms_threshold)
        return found[0].renumbered(numbers)

    found = fill(training, set(numbers), predict, min_score)
    log.info("the champion's boxes of these classes, in %d samples: %s", found.samples, listed(found.boxes) or "none")
    return found


def _section(samples: int, lacking: Mapping[str, int], found: Filled | None, mode: str) -> reports.Section:
    """How many samples lack which classes, and what the champion finds of these."""
    body = reports.note(
        f"Of {samples} training samples, some were labelled without a class that the job has. Objects of such a class "
        "are not taken for background there."
    )
    boxes: dict[str, int] | None = None if found is None else found.boxes
    rows = [[name, count, "not counted" if boxes is None else boxes.get(name, 0)] for name, count in lacking.items()]
    what = "The champion's boxes are trained on."
    if mode != "fill" or found is None:
        what = "The champion's boxes are not trained on; fill_unlabelled=fill does so."
    body += reports.table(["class", "samples without its labels", "champion's boxes"], rows, what)
    return reports.Section("Classes that were not labelled", body)
