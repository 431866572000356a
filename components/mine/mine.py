"""Mine: which of the unlabelled images are worth a label next."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl

from components.core.cache import cache_folder, version_folder
from components.core.job.job import Job
from components.core.job.label_requests import Found, LabelRequest, LabelRequests, read_lists
from components.core.label_studio.answers import Answers
from components.core.manifest import Manifest
from components.core.miners.base import Miner, make_miner
from components.core.miners.rules import BoxRule
from components.core.reports.page import Section
from components.core.runtimes.base import open_model
from components.core.stores.open import open_store
from components.mine import report
from components.mine.embeddings import Embed, Floats, by_appearance, by_champion
from components.mine.label_feedback import label_feedback, worth_of_mining
from components.mine.pool import Pool, gather
from components.mine.prelabels import Prelabeller
from components.mine.proposals import Proposals, propose
from components.mine.ranker import Ranker, ranker_of
from components.mine.score_pool import Inference, View, read_candidate, score_pool
from components.mine.selection import Pick, Selection, Vectors, choose, weights_of

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Mined:
    """What is to be labelled.

    Attributes:
        wanted: the list for the job's root.
        picks: the same with all that is known of each image.
        counts: images by what became of them: ``asked``, which are ``hardest``, ``empty`` and ``random``; the
            ``pool`` they were chosen from, its ``near_duplicates``, those ``unreadable``, hard examples that are
            ``labelled`` already, those ``with_people``, and what is ``beyond_limit``.
        proposals: with the masks that the list names, to be written before it.
        sections: the report.
    """

    wanted: LabelRequests
    picks: tuple[Pick, ...]
    counts: dict[str, int]
    proposals: Proposals
    sections: Sequence[Section]

    def manifest(self) -> Manifest:
        """The images as unlabelled samples, the most wanted first."""
        groups = [pick.seen.candidate.group for pick in self.picks]
        rows = [
            {**image.model_dump(include={"id", "uri", "width", "height", "source"}), "split": "", "group": group,
             "round": self.wanted.round, "annotations": None}
            for image, group in zip(self.wanted.images, groups, strict=True)
        ]  # fmt: skip
        return Manifest.of(rows, self.wanted.classes)

    def ranking(self) -> pl.DataFrame:
        """One row per image: rank (from 1), id, uri, source, kind, share, score, reason, number of boxes, model."""
        rows = [
            (rank, image.id, image.uri, image.source, pick.seen.candidate.kind, image.share, image.score,
             image.reason, len(image.boxes), self.wanted.model)
            for rank, (image, pick) in enumerate(zip(self.wanted.images, self.picks, strict=True), 1)
        ]  # fmt: skip
        return pl.DataFrame(rows, schema=_RANKING, orient="row")


_RANKING: dict[str, type[pl.DataType]] = {
    "rank": pl.Int32, "id": pl.String, "uri": pl.String, "source": pl.String, "kind": pl.String, "share": pl.String,
    "score": pl.Float64, "reason": pl.String, "boxes": pl.Int32, "model": pl.String,
}  # fmt: skip


def mine(
    job_root: str,
    *,
    label_budget: int = 50,
    label_budget_in: str = "images",
    random_fraction: float = 0.1,
    empty_fraction: float = 0.2,
    miner: str = "entropy-sum",
    miner_parameters: Mapping[str, object] | None = None,
    shortlist: float = 3.0,
    min_score: float = 0.05,
    pool_limit: int = 2000,
    runtime: str = "onnx",
    prelabel_job: str = "",
    answers: Answers | None = None,
) -> Mined:
    """Choose the images to label next out of the workers' hard examples and the job's unlabelled samples.

    Nothing is written. What has a label in the job's manifest is not asked for; what was asked for before and has none
    may be asked for again. A champion that gives masks ranks by the mean entropy of the pixels instead of the miner.
    Without a champion there is nothing to rank by, nor with one that gives neither boxes nor masks: then all are drawn
    at random.

    Args:
        job_root: the job's store.
        label_budget: how much to choose; 0 chooses none.
        label_budget_in: ``images``, or ``boxes``: as many images as the champion finds so many boxes in.
        random_fraction: part of the budget, 0 to 1, drawn at random; more while earlier labels say that the ranking
            does not pay, see :class:`components.mine.label_feedback.Worth`.
        empty_fraction: part of the budget, 0 to 1, for images in which the champion finds nothing.
        miner: the rule that ranks; only its score counts. One that compares frames that follow each other, such as
            ``temporal``, has little to say of a pool.
        miner_parameters: of that rule, by name.
        shortlist: how many times the budget is compared by what the champion sees, so that images are chosen which
            are unlike each other; 1 chooses by the ranking alone.
        min_score: of the boxes that the miner sees, 0 to 1. What a model is unsure of lies below the score it is
            deployed with, which is why what the workers saw is not enough to rank by.
        pool_limit: how many images to look at, the latest.
        runtime: plug-in that runs the champion.
        prelabel_job: root of another job whose champion finds the boxes or masks that people correct; empty for this
            job's.
        answers: of people in Label Studio: what waits for an answer there or has one is not asked for again.

    Raises:
        InputError: no such miner or runtime, a champion is damaged, the other job has none or one that knows none of
            the classes, or a store is out of reach.
    """
    rule = make_rule(miner, miner_parameters or {})
    cache = cache_folder(job_root)
    job = Job.open(job_root)
    state, _ = job.read()
    known = job.manifest(state, cache)
    with_people = answers.with_people() if answers else set()
    pool = gather(job.store, known, pool_limit, with_people) if label_budget else Pool((), 0, 0, 0)
    folder = _fetched(job, state.champion) if state.champion and pool.candidates else None
    model = open_model(runtime, folder) if folder else None
    champion = ranker_of(model) if model else None
    classes = champion.model.bundle.classes if champion else known.classes if known else ()
    other = None
    if prelabel_job and label_budget:
        other = Prelabeller.open(prelabel_job, classes, runtime, job.store.uri)
        other.check_kind(champion)
    view = score_pool(pool.candidates, model, rule, min_score, cache / "blobs")
    lists = list(read_lists(job.store))
    worth = worth_of_mining(lists, known, job.store) if known else None
    drawn = min(worth.random_fraction(random_fraction), 1 - empty_fraction) if worth else random_fraction
    selection = choose(
        view.seen,
        label_budget,
        random_fraction=drawn if champion else 1,
        empty_fraction=empty_fraction if champion else 0,
        in_boxes=label_budget_in == "boxes",
        shortlist=shortlist,
        class_weights=weights_of(_boxes_by_class(known) if known else {}, classes),
        vectors=vectors_of(by_champion(folder) if folder and champion else by_appearance, cache / "blobs"),
    )
    asked = [pick.seen.candidate for pick in selection.picks]
    masked = [pick.seen.candidate for pick in selection.picks if pick.seen.has_mask]  # no mask of the pool was kept
    list_classes = other.classes if other else classes
    own = propose(masked, champion, list_classes, cache / "blobs") if champion else Proposals()
    others = propose(asked, other.ranker, other.classes, cache / "blobs") if other else Proposals()
    proposals = Proposals(own.found, {**own.files, **others.files})
    instead_of_miner = champion.instead_of_miner if champion else ""
    ranked_by = instead_of_miner or miner
    wanted = LabelRequests(
        round=state.round,
        model=None if model and not champion else state.champion,
        prelabelled_by=other.uri if other else "",
        miner=ranked_by,
        labels=_labels(champion or (other.ranker if other else None), known),
        classes=list_classes,
        images=tuple(
            _wanted(pick, own.found.get(pick.seen.candidate.id), others.found.get(pick.seen.candidate.id))
            for pick in selection.picks
        ),
    )
    counts = _counts(pool, view, selection)
    no_ranking = "" if state.champion else "the job has no champion yet"
    if model and not champion:
        no_ranking = f"the champion is for {model.bundle.task}, which has neither boxes nor masks"
    told = _told(counts, label_budget, ranked_by, no_ranking)
    log.info("%s", told)
    settings = {
        "round": state.round,
        "champion": state.champion or "none",
        "miner": ranked_by,
        **({} if instead_of_miner else miner_parameters or {}),
        "minimum score": min_score,
        "budget": f"{label_budget} {label_budget_in}",
        "random fraction": drawn,
        "shortlist": shortlist,
        **({"proposals": f"from {other.uri}"} if other else {}),
    }
    sections = [
        report.asked_for(told, counts, settings, selection.picks, wanted.classes, cache / "blobs", proposals),
        *report.answered(label_feedback(lists, known, job.store) if known else [], worth),
    ]
    return Mined(wanted, selection.picks, counts, proposals, sections)


def make_rule(miner: str, parameters: Mapping[str, object]) -> Miner:
    """Make the miner that ranks a pool.

    At the edge an image without boxes is hard by default. Here such images have a share of the budget, in
    which those with boxes too faint to count go first; so by default the miner calls them easy.

    Raises:
        InputError: no such miner or parameter, or a value that cannot be.
    """
    rule = make_miner(miner, parameters)
    if isinstance(rule, BoxRule) and "on_empty" not in parameters:
        return make_miner(miner, {**parameters, "on_empty": "easy"})
    return rule


def _labels(ranker: Ranker | None, known: Manifest | None) -> Literal["boxes", "masks"]:
    """What people are to make: what the model finds, or without one what labels the job has."""
    if ranker is not None:
        return ranker.labels
    return "masks" if known is not None and known.has_only_masks else "boxes"


def vectors_of(embed: Embed, cache_folder: Path) -> Vectors:
    """What images are compared by, each looked at once.

    Args:
        embed: gives the vector of an image.
        cache_folder: where images that lie elsewhere are brought to.
    """
    known: dict[str, Floats] = {}
    opened = functools.cache(open_store)

    def vectors(pool: Sequence[Inference]) -> Floats:
        for seen in pool:
            if seen.candidate.id not in known:
                image = read_candidate(seen.candidate, cache_folder, opened)
                assert image is not None, f"{seen.candidate.uri} was there a moment ago"
                known[seen.candidate.id] = embed(image)
        return np.stack([known[seen.candidate.id] for seen in pool])

    return vectors


def _boxes_by_class(known: Manifest) -> dict[str, int]:
    counts = known.boxes()["class_id"].value_counts().iter_rows()
    return {known.classes[class_id]: count for class_id, count in counts}


def _fetched(job: Job, version: str) -> Path:
    folder = version_folder(job.store.uri, "champion", version)
    job.fetch_bundle(version, folder)
    return folder


def _wanted(pick: Pick, own: Found | None, prelabels: Found | None) -> LabelRequest:
    seen = pick.seen
    found = Found(**Found.fields_of(seen.detections)) if own is None else own
    return LabelRequest(
        id=seen.candidate.id,
        uri=seen.candidate.uri,
        width=seen.width,
        height=seen.height,
        source=seen.candidate.source,
        share=pick.share,
        score=seen.judgement.score,
        reason=pick.reason,
        **dict(found),
        prelabels=prelabels,
    )


def _counts(pool: Pool, view: View, selection: Selection) -> dict[str, int]:
    return {
        "asked": len(selection.picks),
        "hardest": selection.count("hardest"),
        "empty": selection.count("empty"),
        "random": selection.count("random"),
        "pool": len(view.seen),
        "near_duplicates": selection.duplicates,
        "unreadable": view.unreadable,
        "labelled": pool.labelled,
        "with_people": pool.with_people,
        "beyond_limit": pool.beyond,
    }


def _told(counts: Mapping[str, int], budget: int, miner: str, no_ranking: str) -> str:
    """What came of it, in one line; ``no_ranking`` is why nothing could be ranked, empty if it could."""
    if not budget:
        return "label_budget=0: no images are requested"
    if not counts["pool"]:
        return (
            f"no unlabelled images: {counts['labelled']} hard examples are already labelled, {counts['with_people']} "
            f"images are with people, {counts['unreadable']} are unreadable"
        )
    if no_ranking:
        chosen = f"drawn at random because {no_ranking}"
    else:
        chosen = f"{counts['hardest']} hardest by {miner}, {counts['empty']} empty, {counts['random']} random"
    left_out = f"{counts['near_duplicates']} near-duplicates and {counts['unreadable']} unreadable skipped"
    return f"requested labels for {counts['asked']} of {counts['pool']} images: {chosen}; {left_out}"
