"""What the labels of images that were asked for before say of the choice: how wrong the model was in each share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import get_args

import polars as pl

from components.core.job.label_requests import LabelRequest, LabelRequests, Share
from components.core.manifest import Manifest
from components.core.metrics.detection import match


@dataclass(frozen=True)
class LabelFeedback:
    """One share of what was asked for.

    Attributes:
        share: which.
        asked: images that were asked for.
        labelled: those of them that somebody has labelled since.
        mistakes: mean number of boxes in these that the model had missed, or found where there is nothing.
        score: mean score of these.
    """

    share: Share
    asked: int
    labelled: int
    mistakes: float
    score: float


def label_feedback(lists: Iterable[LabelRequests], known: Manifest) -> list[LabelFeedback]:
    """Hold what the models found when images were asked for against the labels these have now.

    Args:
        lists: of earlier rounds, the oldest first; of an image that was asked for again the last time counts.
        known: every sample taken in so far.

    Returns:
        One entry for each share of which something is labelled; those asked for without a model are left out.
    """
    asked = {image.id: (image, one.classes) for one in lists if one.model is not None for image in one.images}
    labelled = known.where(pl.col("annotations").is_not_null(), pl.col("id").is_in(list(asked)))
    found = [asked[id_] for id_ in labelled.table["id"]]
    mistakes = _mistakes(labelled, found)
    tally = []
    for share in get_args(Share):
        own = [place for place, (image, _) in enumerate(found) if image.share == share]
        if own:
            tally.append(
                LabelFeedback(
                    share,
                    asked=sum(image.share == share for image, _ in asked.values()),
                    labelled=len(own),
                    mistakes=sum(mistakes[place] for place in own) / len(own),
                    score=sum(found[place][0].score for place in own) / len(own),
                )
            )
    return tally


def _mistakes(labelled: Manifest, found: Sequence[tuple[LabelRequest, tuple[str, ...]]]) -> list[int]:
    """Boxes missed and boxes found in vain, of each image, a hit being an overlap of IoU 0.5."""
    if not found:
        return []
    names = list(dict.fromkeys([*labelled.classes, *(name for _, classes in found for name in classes)]))
    predictions = [image.detections().renumbered([names.index(name) for name in classes]) for image, classes in found]
    matches = match(labelled.truths(), predictions, len(names))
    claimed, correct = (table.sum(axis=1) for table in matches.counts(0))
    return [int(count) for count in matches.truths.sum(axis=1) + claimed - 2 * correct]
