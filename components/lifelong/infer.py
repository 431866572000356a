"""The knowledge base at work on new images."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import polars as pl

from components.core.bundle import Bundle
from components.core.cache import fetch_blobs, own_folder
from components.core.job.job import Job
from components.core.job.label_requests import Found, LabelRequest, LabelRequests, read_lists
from components.core.job.state import State
from components.core.lifelong.knowledge_base import KnowledgeBase, Route, ask
from components.core.lifelong.plug_points import ReRecognition
from components.core.manifest import LABELLED, Manifest
from components.core.runtimes.base import decoder_of, open_model
from components.core.runtimes.letterbox import read_image
from components.core.tasks.base import open_task
from components.lifelong.look import look_at

log = logging.getLogger(__name__)

UNSEEN = "unseen: "  # begins the reason of a label request
_LOOKED_AT_AGAIN = 1000  # images; more would cost a round more than they tell


@dataclass(frozen=True)
class Inferred:
    """What became of new images, and of earlier ones that were unseen.

    Attributes:
        routes: where each new one went.
        lines: of each new one what was found, in the order of the samples, for JSON; then of those that are known now.
        requests: the unseen ones as a list of what to label; None where there is no champion.
        policy: for the unseen ones.
        unseen_before: how many were unseen in earlier rounds, have no labels yet, and were looked at again.
        known_now: how many of these the champion knows.
    """

    routes: list[Route]
    lines: list[dict[str, Any]]
    requests: LabelRequests | None
    policy: str
    unseen_before: int = 0
    known_now: int = 0


def infer(
    job: Job,
    state: State,
    samples: Manifest,
    cache: Path,
    runtime: str,
    unseen_budget: int = 50,
    again: ReRecognition | None = None,
) -> Inferred:
    """Let the champion look at samples, each by the model of its task.

    Earlier images that have no labels yet are looked at again: those that labels were asked for because another
    champion called them unseen may be known now, and those that are unseen now and were never asked for, as after a
    run that ended before this step, are asked for.

    Args:
        job: the job.
        state: of it, as read.
        samples: the images.
        cache: where images are brought to.
        runtime: plug-in that runs the models.
        unseen_budget: most unseen images to ask labels for, those least like the known ones first.
        again: what says which earlier ones are known now; None to leave them.

    Raises:
        InputError: the champion is no knowledge base, or damaged.
    """
    if state.champion is None:
        return Inferred([], [], None, "fallback")
    champion = state.champion
    release = job.registry.release(champion, state.vouched.get(champion))
    base = KnowledgeBase.of(release, champion)
    routes = base.routes(look_at(samples, cache / "blobs")) if len(samples) else []
    earlier = _Earlier.of(job, state, base, samples, cache) if again else _Earlier(samples.where(pl.lit(False)), [])
    before = earlier.among(lambda id_, route: id_ in earlier.unseen_in)
    recognised = before.known(again, base.threshold) if again else before
    missed = earlier.among(lambda id_, route: bool(route.unseen) and id_ not in earlier.listed)

    def answers(member: str, places: Sequence[int]) -> list[tuple[Bundle, Any]]:
        folder = own_folder(job.store.uri) / "members" / release.members[member].version
        job.fetch_bundle(champion, folder, state, member=member)
        model = open_model(runtime, folder)
        bundle = model.bundle
        thresholds = {"confidence": bundle.confidence_threshold, "nms": bundle.nms_threshold}
        return [(bundle, model.predict([read_image(paths[place])], **thresholds)[0]) for place in places]

    handling = base.handling()
    every = Manifest(pl.concat([samples.table, recognised.samples.table]), samples.classes)
    paths = fetch_blobs(every, cache / "blobs")
    all_routes = [*routes, *recognised.routes]
    asked = [place for place, route in enumerate(all_routes) if handling.answers or not route.unseen]
    results = ask([all_routes[place].models for place in asked],
                  lambda member, places: answers(member, [asked[place] for place in places]))  # fmt: skip
    found = {place: _as_json(base, of_models) for place, of_models in zip(asked, results, strict=True)}
    lines = [
        {"id": row["id"], "source": row["source"], "task": route.task, "member": route.member if at in found else None,
         "unseen": route.unseen, "score": round(route.score, 5), "found": found.get(at),
         **({"unseen_in_round": earlier.unseen_in[row["id"]]} if at >= len(routes) else {})}
        for at, (row, route) in enumerate(zip(every.rows(), all_routes, strict=True))
    ]  # fmt: skip
    unseen = [route.unseen for route in routes if route.unseen]
    if handling.warns(len(unseen), len(routes)):
        log.warning("%d of %d new images are unseen: %s", len(unseen), len(routes), unseen[0])
    wanted = Manifest(pl.concat([samples.table, missed.samples.table]), samples.classes)
    labels: Literal["boxes", "masks"] = "masks" if (job.manifest(state, cache) or samples).has_only_masks else "boxes"
    requests = _requests(base, state, wanted, [*routes, *missed.routes], unseen_budget, labels)
    return Inferred(routes, lines, requests, base.policy, len(before.routes), len(recognised.routes))


def _as_json(base: KnowledgeBase, answers: Sequence[tuple[Bundle, Any]]) -> dict[str, Any]:
    """What the models that looked at an image found, as one."""
    bundle = answers[0][0]
    classes = list(dict.fromkeys(name for one, _ in answers for name in one.classes))
    one = base.integrated([
        decoder_of(bundle).renumbered(found, [classes.index(name) for name in of.classes]) for of, found in answers
    ])  # fmt: skip
    boxes = open_task(bundle.task).gives_boxes
    return {"classes": classes, **(Found.fields_of(one) if boxes else decoder_of(bundle).summary(one, classes))}


@dataclass(frozen=True)
class _Earlier:
    """Images of earlier rounds without labels, and where they go now.

    Attributes:
        samples: the images.
        routes: of each.
        unseen_in: the round in which another champion called an image unseen, by its id.
        listed: ids of those that labels were asked for.
    """

    samples: Manifest
    routes: list[Route]
    unseen_in: Mapping[str, int] = field(default_factory=dict)
    listed: frozenset[str] = frozenset()

    @classmethod
    def of(cls, job: Job, state: State, base: KnowledgeBase, new: Manifest, cache: Path) -> Self:
        """Those of a job, or the last of them where there are very many."""
        everything = job.manifest(state, cache) or new
        still = everything.where(~LABELLED, ~pl.col("id").is_in(new.table["id"].to_list()))
        samples = Manifest(still.table.sort(["round", "id"]).tail(_LOOKED_AT_AGAIN), new.classes)
        asked = [(one, image) for one in read_lists(job.store) for image in one.images]
        unseen_in = {
            image.id: one.round
            for one, image in asked
            if one.model != state.champion and image.reason.startswith(UNSEEN)
        }
        routes = base.routes(look_at(samples, cache / "blobs")) if len(samples) else []
        return cls(samples, routes, unseen_in, frozenset(image.id for _, image in asked))

    def among(self, wanted: Callable[[str, Route], bool]) -> Self:
        """Those of which an id and a route are wanted."""
        ids = self.samples.table["id"]
        kept = [at for at, (id_, route) in enumerate(zip(ids, self.routes, strict=True)) if wanted(id_, route)]
        return replace(
            self,
            samples=Manifest(self.samples.table[kept], self.samples.classes),
            routes=[self.routes[at] for at in kept],
        )

    def known(self, again: ReRecognition, threshold: float) -> Self:
        """Those that are known now."""
        close = again.known(np.array([route.score for route in self.routes]), threshold)
        known = {id_ for id_, one in zip(self.samples.table["id"], close, strict=True) if one}
        return self.among(lambda id_, route: id_ in known and not route.unseen)


def _requests(
    base: KnowledgeBase,
    state: State,
    samples: Manifest,
    routes: list[Route],
    budget: int,
    labels: Literal["boxes", "masks"],
) -> LabelRequests:
    rows = list(samples.rows())
    unseen = [place for place, route in enumerate(routes) if route.unseen]
    ranked = sorted(unseen, key=lambda place: (-routes[place].score, rows[place]["id"]))[:budget]
    highest = max((routes[place].score for place in ranked), default=1.0) or 1.0
    images = [
        LabelRequest(
            **{name: rows[place][name] for name in ("id", "uri", "width", "height", "source")},
            share="hardest",
            score=max(routes[place].score / highest, 0.0),
            reason=f"{UNSEEN}{routes[place].unseen}",
        )
        for place in ranked
    ]
    return LabelRequests(
        round=state.round,
        model=state.champion,
        miner=base.unseen.name,
        labels=labels,
        classes=samples.classes,
        images=tuple(images),
    )
