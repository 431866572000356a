"""The knowledge base at work on new images."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.core.cache import fetch_blobs, own_folder
from components.core.job.job import Job
from components.core.job.label_requests import Found, LabelRequest, LabelRequests
from components.core.job.state import State
from components.core.lifelong.knowledge_base import KnowledgeBase, Route, integrate
from components.core.manifest import Manifest
from components.core.runtimes.base import decoder_of, open_model
from components.core.runtimes.letterbox import read_image
from components.core.tasks.base import open_task
from components.lifelong.look import look_at

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Inferred:
    """What became of new images.

    Attributes:
        routes: where each went.
        lines: of each what was found, in the order of the samples, for JSON.
        requests: the unseen ones as a list of what to label; None where there is no champion.
        policy: for the unseen ones.
    """

    routes: list[Route]
    lines: list[dict[str, Any]]
    requests: LabelRequests | None
    policy: str


def infer(job: Job, state: State, samples: Manifest, cache: Path, runtime: str, unseen_budget: int = 50) -> Inferred:
    """Let the champion look at samples, each by the model of its task.

    Args:
        job: the job.
        state: of it, as read.
        samples: the images.
        cache: where images are brought to.
        runtime: plug-in that runs the models.
        unseen_budget: most unseen images to ask labels for, those least like the known ones first.

    Raises:
        InputError: the champion is no knowledge base, or damaged.
    """
    if state.champion is None:
        return Inferred([], [], None, "fallback")
    champion = state.champion
    release = job.registry.release(champion, state.vouched.get(champion))
    base = KnowledgeBase.of(release, champion)
    paths = fetch_blobs(samples, cache / "blobs")
    routes = base.routes(look_at(samples, cache / "blobs")) if len(samples) else []

    def answers(member: str, places: Sequence[int]) -> list[dict[str, Any]]:
        folder = own_folder(job.store.uri) / "members" / release.members[member].version
        job.fetch_bundle(champion, folder, state, member=member)
        model = open_model(runtime, folder)
        bundle = model.bundle
        task = open_task(bundle.task)
        found = []
        for place in places:
            image = read_image(paths[place])
            (one,) = model.predict([image], confidence=bundle.confidence_threshold, nms=bundle.nms_threshold)
            boxes = Found.fields_of(one) if task.gives_boxes else decoder_of(bundle).summary(one, bundle.classes)
            found.append({"classes": list(bundle.classes), **boxes})
        return found

    silent = base.policy == "abstain"
    asked = [place for place, route in enumerate(routes) if not (silent and route.unseen)]
    results = integrate([routes[place].member for place in asked],
                        lambda member, places: answers(member, [asked[place] for place in places]))  # fmt: skip
    found = dict(zip(asked, results, strict=True))
    rows = list(samples.rows())
    lines = [
        {"id": row["id"], "source": row["source"], "task": route.task, "member": route.member if at in found else None,
         "unseen": route.unseen, "score": round(route.score, 5), "found": found.get(at)}
        for at, (row, route) in enumerate(zip(rows, routes, strict=True))
    ]  # fmt: skip
    unseen = [route.unseen for route in routes if route.unseen]
    if base.policy == "alarm" and unseen:
        log.warning("%d of %d new images are unseen: %s", len(unseen), len(routes), unseen[0])
    return Inferred(routes, lines, _requests(base, state, samples, routes, unseen_budget), base.policy)


def _requests(
    base: KnowledgeBase,
    state: State,
    samples: Manifest,
    routes: list[Route],
    budget: int,
) -> LabelRequests:
    rows = list(samples.rows())
    unseen = [place for place, route in enumerate(routes) if route.unseen]
    ranked = sorted(unseen, key=lambda place: (-routes[place].score, rows[place]["id"]))[:budget]
    highest = max((routes[place].score for place in ranked), default=1.0) or 1.0
    images = [
        LabelRequest(
            **{name: rows[place][name] for name in ("id", "uri", "width", "height", "source")},
            share="hardest",
            score=routes[place].score / highest,
            reason=f"unseen: {routes[place].unseen}",
        )
        for place in ranked
    ]
    return LabelRequests(
        round=state.round, model=state.champion, miner=base.unseen.name, classes=samples.classes, images=tuple(images)
    )
