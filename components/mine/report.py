"""The page of what is to be labelled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from components.core.reports import page as reports
from components.core.reports.page import Section
from components.mine.label_feedback import LabelFeedback
from components.mine.score_pool import read_candidate
from components.mine.selection import Pick

SHOWN = 24  # images; the list has all


def asked_for(
    told: str,
    counts: Mapping[str, int],
    settings: Mapping[str, object],
    picks: Sequence[Pick],
    classes: Sequence[str],
    cache_folder: Path,
) -> Section:
    """How many images were chosen out of how many, and the first of them with what the model found."""
    body = reports.note(told) + reports.facts({name.replace("_", " "): count for name, count in counts.items()})
    body += reports.facts(settings)
    shown = [
        (reports.draw(image, pick.seen.detections, classes), _caption(rank, pick))
        for rank, pick in enumerate(picks[:SHOWN], 1)
        if (image := read_candidate(pick.seen.candidate, cache_folder)) is not None
    ]
    if shown:
        body += reports.note(f"The first {len(shown)} of {len(picks)} images, with the model's predictions.")
        body += reports.images(shown)
    return Section("Images to label", body)


def answered(tally: Sequence[LabelFeedback]) -> list[Section]:
    """What the labels say that have come since; nothing while there are none."""
    if not tally:
        return []
    headers = ("chosen by", "requested", "labelled", "errors per image", "mean score")
    caption = (
        "Errors are missed boxes and false positives of the model that made the request, at the confidence it "
        "was deployed with. The ranking pays off if the hardest images have more errors than the random ones."
    )
    rows = [(one.share, one.asked, one.labelled, one.mistakes, one.score) for one in tally]
    return [Section("Labels received for earlier requests", reports.table(headers, rows, caption))]


def _caption(rank: int, pick: Pick) -> str:
    seen = pick.seen
    return (
        f"{rank}. {pick.share}, score {seen.judgement.score:.2f}: {pick.reason} "
        f"({seen.candidate.kind}; {seen.candidate.source})"
    )
