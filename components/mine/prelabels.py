"""Boxes for people to correct that another job's champion finds: a larger model than the edge can run, say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from components.core.detections import Detections
from components.core.errors import InputError
from components.core.job import Job
from components.core.miners.base import make_miner
from components.core.runtimes.detector import Detector, open_detector
from components.mine.look import look
from components.mine.pool import Candidate


@dataclass(frozen=True)
class Prelabeller:
    """Another job's champion.

    Attributes:
        uri: of its bundle.
        detector: the same, loaded.
    """

    uri: str
    detector: Detector

    @classmethod
    def open(cls, job_root: str, runtime: str, folder: Path) -> Prelabeller:
        """Fetch the champion of a job and load it.

        Args:
            job_root: of the other job.
            runtime: plug-in that runs it.
            folder: this job's own on this machine; gets the bundle.

        Raises:
            InputError: the job has no champion, or one that finds no boxes, is damaged or cannot be run.
        """
        job = Job.open(job_root)
        version = job.champion()
        bundle = folder / "prelabels" / version
        job.fetch_bundle(version, bundle)
        return cls(job.store.uri_of(f"bundles/{version}"), open_detector(runtime, bundle))

    @property
    def classes(self) -> tuple[str, ...]:
        """What it finds."""
        return self.detector.bundle.classes

    def prelabels(
        self, candidates: Sequence[Candidate], classes: Sequence[str], cache_folder: Path
    ) -> dict[str, Detections]:
        """Find boxes at the confidence that the model is deployed with.

        Args:
            candidates: the pictures.
            classes: the names that boxes are wanted of; those of other classes are left out.
            cache_folder: where pictures that lie elsewhere are brought to.

        Returns:
            The boxes of each picture that can be read, by its id, with numbers of ``classes``.

        Raises:
            InputError: the model knows none of the classes, or the store is out of reach.
        """
        places = np.array([classes.index(name) if name in classes else -1 for name in self.classes], np.int32)
        if (places < 0).all():
            raise InputError(
                f"prelabel_job: {self.uri} finds {', '.join(self.classes)}, and here the classes are "
                f"{', '.join(classes)}: give a job that has one of them"
            )
        unjudged = make_miner("EdgeOnly", {})
        view = look(candidates, self.detector, unjudged, self.detector.bundle.confidence_threshold, cache_folder)
        return {seen.candidate.id: _renumbered(seen.detections, places) for seen in view.seen}


def _renumbered(found: Detections, places: NDArray[np.int32]) -> Detections:
    known = found[np.flatnonzero(places[found.classes] >= 0)]
    return Detections(known.boxes, known.scores, places[known.classes])
