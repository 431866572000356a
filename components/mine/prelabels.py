"""Boxes or masks for people to correct that another job's champion finds: a larger model than the edge can run, say."""

from __future__ import annotations

from dataclasses import dataclass

from components.core.cache import version_folder
from components.core.errors import InputError
from components.core.job.job import Job
from components.core.runtimes.base import open_model
from components.mine.ranker import Ranker, ranker_of


@dataclass(frozen=True)
class Prelabeller:
    """Another job's champion.

    Attributes:
        uri: of its bundle.
        ranker: the same, loaded.
        classes: the names that labels are wanted of; what it finds of other classes is left out.
    """

    uri: str
    ranker: Ranker
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
        uri, folder = job.store.uri_of(f"bundles/{version}"), version_folder(for_job, "prelabels", version)
        known = job.fetch_bundle(version, folder)
        if classes and not set(classes) & set(known.classes):
            raise InputError(
                f"prelabel_job: {uri} knows {', '.join(known.classes)}, but this job has {', '.join(classes)}: "
                "choose a job that shares a class"
            )
        ranker = ranker_of(open_model(runtime, folder))
        if ranker is None:
            raise InputError(f"prelabel_job: {uri} is for {known.task}, which proposes neither boxes nor masks")
        return cls(uri, ranker, classes or known.classes)

    def check_kind(self, champion: Ranker | None) -> None:
        """Refuse a model of another kind of task than this job's champion.

        Raises:
            InputError: it is.
        """
        if champion is not None and champion.model.bundle.task != self.ranker.model.bundle.task:
            raise InputError(
                f"prelabel_job: {self.uri} is for {self.ranker.model.bundle.task}, but this job is for "
                f"{champion.model.bundle.task}: choose a job of the same kind"
            )
