"""A job that releases a knowledge base of small models, for tests of the worker that runs it."""

from pathlib import Path

import numpy as np

from components.core.bundle import Bundle, sha256_of
from components.core.job.job import Job
from components.core.lifelong.knowledge_base import Chosen, KnowledgeBase, TaskEntry
from components.core.lifelong.plug_points import make, unseen_detections
from components.core.lifelong.samples import Projection, Samples
from components.core.release import Member, Release
from components.deploy.pointer import publish_pointer
from tests.edge import images
from tests.images import jpeg
from tests.models import BUNDLE, colour_model, write_bundle


def publish_member(job: Job, folder: Path, version: str, graph=None, bundle: Bundle = BUNDLE) -> Member:
    """Publish a model, by default one that differs from others by its version alone, unless it is there."""
    if not (folder / version).exists():
        graph = graph or colour_model()
        graph.doc_string = version
        write_bundle(folder / version, graph, bundle)
        (folder / version / "model.pt").write_bytes(b"weights to train on")
        bundle.write(folder / version)
        job.registry.publish(folder / version, version)
    return Member(version=version, sha256=sha256_of(folder / version / "model.json"))


def routing(tasks: dict[str, str], *, unseen: str = "TaskAttr", threshold: float = 0.0, policy: str = "fallback",
            allocation: Chosen | None = None, looks=None) -> KnowledgeBase:  # fmt: skip
    """Tasks by the first folder of a path, and the members that answer for them."""
    features = Samples.of(images(8) if looks is None else looks).features
    projection = Projection.fit(features)
    detection = make(unseen_detections, unseen, {})
    return KnowledgeBase(
        definition=Chosen(name="TaskDefinitionByDataAttr"), allocation=allocation or Chosen(name="definition"),
        unseen=Chosen(name=unseen, state=detection.fit(projection.apply(features), [None] * len(features))),
        projection=projection, threshold=threshold, policy=policy,
        tasks={name: TaskEntry(member=member, why="new", first_round=1, samples=10) for name, member in tasks.items()},
    )  # fmt: skip


def release(job: Job, folder: Path, version: str, members: dict[str, str | Member], base: KnowledgeBase | None = None,
            point: bool = True) -> Release:  # fmt: skip
    """Release a knowledge base of models by role and version, and point the workers at it.

    Without a base each member but the shared one answers for the task of its name.
    """
    described = {role: one if isinstance(one, Member) else publish_member(job, folder, one)
                 for role, one in members.items()}  # fmt: skip
    base = base or routing({role: role for role in members if role != "shared"})
    made = Release(members=described, routing=base.model_dump(mode="json"))
    job.registry.publish_release(made, version)
    state, etag = job.read()
    state = state.model_copy(update={"vouched": {**state.vouched, version: made.sha256}})
    job.commit(state.pointing_at(version, "a test") if point else state, etag)
    publish_pointer(job)
    return made


def sites(folder: Path, **counts: int) -> Path:
    """A folder of images in which those of several sites take turns; each site's are in a folder of its name."""
    found = images(sum(counts.values()))
    order = [site for _, site in sorted((n / count, site) for site, count in counts.items() for n in range(count))]
    for number, (site, image) in enumerate(zip(order, found, strict=True)):
        path = folder / site / f"{number:04}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(np.asarray(image)))
    return folder
