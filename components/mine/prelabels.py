"""Boxes or masks for people to correct that another job's champion finds: a larger model than the edge can run, say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from components.core.cache import version_folder
from components.core.detections import Detections
from components.core.errors import InputError
from components.core.job.job import Job
from components.core.miners.base import make_miner
from components.core.runtimes.base import Detector, open_model
from components.core.runtimes.segmenter import NetworkSegmenter
from components.mine.pool import Candidate
from components.mine.proposed_masks import ProposedMasks, propose_masks
from components.mine.score_pool import score_pool


@dataclass(frozen=True)
class Prelabeller:
    """Another job's champion.

    Attributes:
        uri: of its bundle.
        model: the same, loaded.
        classes: the names that labels are wanted of; what it finds of other classes is left out.
    """

    uri: str
    model: Detector | NetworkSegmenter
    classes: tuple[str, ...]

    @classmethod
    def open(cls, job_root: str, classes: tuple[str, ...], runtime: str, for_job: str) -> Prelabeller:
        """Fetch the champion of a job and load it.

        Args:
            job_root: of the other job.
            classes: the names that boxes are wanted of; the champion's own if there are none yet.
            runtime: plug-in that runs it.
            for_job: the root of the job that asks; the bundle is kept with what this machine keeps of it.

        Raises:
            InputError: the job has no champion, or one that knows none of the classes, gives neither boxes nor masks,
                is damaged or cannot be run.
        """
        job = Job.open(job_root)
        version = job.champion()
        uri, bundle = job.store.uri_of(f"bundles/{version}"), version_folder(for_job, "prelabels", version)
        known = job.fetch_bundle(version, bundle).classes
        if classes and not set(classes) & set(known):
            raise InputError(
                f"prelabel_job: {uri} knows {', '.join(known)}, but this job has {', '.join(classes)}: "
                "choose a job that shares a class"
            )
        model = open_model(runtime, bundle)
        if not isinstance(model, NetworkSegmenter) and model.bundle.task != "detection":
            raise InputError(f"prelabel_job: {uri} is for {model.bundle.task}, which proposes neither boxes nor masks")
        return cls(uri, model, classes or known)

    def check_kind(self, champion: Detector | NetworkSegmenter | None) -> None:
        """Refuse a model of another kind of task than this job's champion.

        Raises:
            InputError: it is.
        """
        if champion is not None and champion.bundle.task != self.model.bundle.task:
            raise InputError(
                f"prelabel_job: {self.uri} is for {self.model.bundle.task}, but this job is for "
                f"{champion.bundle.task}: choose a job of the same kind"
            )

    def prelabels(self, candidates: Sequence[Candidate], cache_folder: Path) -> dict[str, Detections]:
        """Find boxes at the confidence that the model is deployed with.

        Args:
            candidates: the images.
            cache_folder: where images that lie elsewhere are brought to.

        Returns:
            The boxes of each image that can be read, by its id, with numbers of ``classes``; nothing of a model that
            gives masks.

        Raises:
            InputError: the store is out of reach.
        """
        if isinstance(self.model, NetworkSegmenter):
            return {}
        bundle = self.model.bundle
        unjudged = make_miner("EdgeOnly", {})
        view = score_pool(candidates, self.model, unjudged, bundle.confidence_threshold, cache_folder)
        table = [self.classes.index(name) if name in self.classes else -1 for name in bundle.classes]
        return {seen.candidate.id: seen.detections.renumbered(table) for seen in view.seen}

    def masks(self, candidates: Sequence[Candidate], cache_folder: Path) -> ProposedMasks:
        """Find masks; see ``prelabels``. Nothing of a model that gives boxes."""
        if not isinstance(self.model, NetworkSegmenter):
            return ProposedMasks()
        return propose_masks(candidates, self.model, self.classes, cache_folder)
