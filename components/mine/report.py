"""The page of what is to be labelled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from markupsafe import Markup

from components.core.colours import paint
from components.core.reports import page as reports
from components.core.reports.page import Section
from components.core.runtimes.letterbox import ImageArray
from components.mine.label_feedback import FEWEST, LabelFeedback, Worth
from components.mine.proposals import Proposals
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
    proposals: Proposals,
) -> Section:
    """How many images were chosen out of how many, and the first of them with what the model found."""
    body = reports.note(told) + reports.facts({name.replace("_", " "): count for name, count in counts.items()})
    body += reports.facts(settings)
    shown = [
        (_drawn(image, pick, classes, proposals), _caption(rank, pick))
        for rank, pick in enumerate(picks[:SHOWN], 1)
        if (image := read_candidate(pick.seen.candidate, cache_folder)) is not None
    ]
    if shown:
        body += reports.note(f"The first {len(shown)} of {len(picks)} images, with the model's predictions.")
        body += reports.legend(classes) if proposals.found else Markup()
        body += reports.images(shown)
    return Section("Images to label", body)


def _drawn(image: ImageArray, pick: Pick, classes: Sequence[str], proposals: Proposals) -> ImageArray:
    mask = proposals.mask(pick.seen.candidate.id)
    return reports.draw(image, pick.seen.detections, classes) if mask is None else paint(image, mask)


def answered(tally: Sequence[LabelFeedback], worth: Worth | None) -> list[Section]:
    """What the labels say that have come since; nothing while there are none."""
    if not tally:
        return []
    of_masks = any(one.of_masks for one in tally)
    headers = ("chosen by", "requested", "labelled", "wrong pixels" if of_masks else "errors per image", "mean score")
    caption = (
        "Wrong pixels are the fraction of the labelled ones that the model which made the request had given another "
        "class. The ranking pays off if the hardest images have more of them than the random ones."
        if of_masks
        else "Errors are missed boxes and false positives of the model that made the request, at the confidence it "
        "was deployed with. The ranking pays off if the hardest images have more errors than the random ones."
    )
    rows = [(one.share, one.asked, one.labelled, one.mistakes, one.score) for one in tally]
    body = reports.table(headers, rows, caption)
    return [Section("Labels received for earlier requests", body + reports.note(worth_in_words(worth)))]


def worth_in_words(worth: Worth | None) -> str:
    """What a mined label was worth against a random one, and what follows for the next list."""
    if worth is None:
        return f"The ranking is compared with chance once {FEWEST} mined and {FEWEST} random images are labelled."
    mined, random = worth.images
    if worth.of_masks:
        return (
            f"Labels of mined images corrected {worth.mined:.1%} of their pixels, those of random images "
            f"{worth.random:.1%} ({mined} and {random} images); the difference is {worth.low:+.1%} to "
            f"{worth.high:+.1%} with 95 % confidence. " + _CONSEQUENCES[worth.verdict]
        )
    return (
        f"Labels of mined images corrected {worth.mined:.2f} errors per box, those of random images "
        f"{worth.random:.2f} ({mined} and {random} images); the difference is {worth.low:+.2f} to "
        f"{worth.high:+.2f} with 95 % confidence. " + _CONSEQUENCES[worth.verdict]
    )


_CONSEQUENCES = {
    "pays": "The ranking pays.",
    "not certain": "It is not certain that the ranking pays: twice as many images are drawn at random.",
    "does not pay": "The ranking does not pay: at least half of the images are drawn at random.",
}


def _caption(rank: int, pick: Pick) -> str:
    seen = pick.seen
    return (
        f"{rank}. {pick.share}, score {seen.judgement.score:.2f}: {pick.reason} "
        f"({seen.candidate.kind}; {seen.candidate.source})"
    )
