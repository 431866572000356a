"""What the labels of images that were asked for before say of the choice: how wrong the model was in each share.

A label is worth the mistakes of the model that it corrects, for each box that somebody had to draw or check; a mask is
worth the fraction of its pixels that the model had wrong. Whether
the ranking pays is a running experiment: each list has images drawn at random from the same pool, and what a label of a
mined image was worth is compared with what one of those was.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
import polars as pl
from numpy.typing import NDArray

from components.core.errors import NotFoundError
from components.core.job.label_requests import LabelRequest, LabelRequests, Share
from components.core.manifest import Manifest
from components.core.masks import VOID, decode_mask, renumbering
from components.core.metrics.detection import judgeable, match
from components.core.stores.open import Store, open_store, split


@dataclass(frozen=True)
class LabelFeedback:
    """One share of what was asked for.

    Attributes:
        share: which.
        asked: images that were asked for.
        labelled: those of them that somebody has labelled since.
        mistakes: mean number of boxes in these that the model had missed, or found where there is nothing although
            their class was labelled there; of masks the mean fraction of wrong pixels.
        score: mean score of these.
        of_masks: whether these are masks.
    """

    share: Share
    asked: int
    labelled: int
    mistakes: float
    score: float
    of_masks: bool = False


@dataclass(frozen=True)
class Worth:
    """What a label of a mined image was worth, against one of a random image.

    Attributes:
        mined: mistakes corrected per box, or of masks the fraction of pixels corrected, in images of the shares
            ``hardest`` and ``empty``.
        random: the same in images drawn at random.
        low: lower end of the 95 % interval of the difference, by a bootstrap over images.
        high: upper end.
        images: how many labelled images both are over: mined, random.
        of_masks: whether these are masks.
    """

    mined: float
    random: float
    low: float
    high: float
    images: tuple[int, int]
    of_masks: bool = False

    @property
    def verdict(self) -> str:
        """``pays``, ``does not pay``, or ``not certain``."""
        return "pays" if self.low > 0 else "does not pay" if self.high < 0 else "not certain"

    def random_fraction(self, usual: float) -> float:
        """The part of the next budget to draw at random: the usual one where mining pays, twice that while it is not
        certain, and at least half where it does not pay.
        """
        factor = {"pays": usual, "not certain": 2 * usual, "does not pay": max(0.5, 2 * usual)}
        return min(factor[self.verdict], 1.0)


FEWEST = 10  # labelled images of either kind that a comparison needs
_DRAWS = 2000


def label_feedback(lists: Iterable[LabelRequests], known: Manifest, store: Store | None = None) -> list[LabelFeedback]:
    """Hold what the models found when images were asked for against the labels these have now.

    Args:
        lists: of earlier rounds, the oldest first; of an image that was asked for again the last time counts.
        known: every sample taken in so far.
        store: the job's root, with the masks that the lists name; None: the lists name none.

    Returns:
        One entry for each share of which something is labelled; those asked for without a model are left out.
    """
    asked = _asked(lists)
    labelled, found = _labelled(asked, known)
    mistakes = _mistakes(labelled, found, store)
    of_masks = any(image.mask for image, _ in found)
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
                    of_masks=of_masks,
                )
            )
    return tally


def worth_of_mining(lists: Iterable[LabelRequests], known: Manifest, store: Store | None = None) -> Worth | None:
    """Compare the labels of mined images with those of random ones.

    Args:
        lists: of earlier rounds, the oldest first.
        known: every sample taken in so far.
        store: the job's root, with the masks that the lists name; None: the lists name none.

    Returns:
        None while fewer than ``FEWEST`` images of either kind are labelled.
    """
    labelled, found = _labelled(_asked(lists), known)
    mistakes = np.array(_mistakes(labelled, found, store), dtype=np.float64)
    boxes = np.array([max(1, len(truth)) for truth in labelled.truths()], dtype=np.float64)
    by_chance = np.array([image.share == "random" for image, _ in found], dtype=bool)
    if min(by_chance.sum(), (~by_chance).sum()) < FEWEST:
        return None
    rng = np.random.default_rng(0)
    mined, random = (_rates(mistakes[part], boxes[part], rng) for part in (~by_chance, by_chance))
    low, high = np.quantile(mined[1:] - random[1:], [0.025, 0.975])
    counts = int((~by_chance).sum()), int(by_chance.sum())
    of_masks = any(image.mask for image, _ in found)
    return Worth(float(mined[0]), float(random[0]), float(low), float(high), counts, of_masks)


def _rates(mistakes: NDArray[np.float64], boxes: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Mistakes per box, (1 + draws,): of these images, and of as many drawn from them with replacement."""
    drawn = np.vstack([np.arange(len(boxes)), rng.integers(len(boxes), size=(_DRAWS, len(boxes)))])
    rates: NDArray[np.float64] = mistakes[drawn].sum(axis=1) / boxes[drawn].sum(axis=1)
    return rates


Asked = dict[str, tuple[LabelRequest, tuple[str, ...]]]


def _asked(lists: Iterable[LabelRequests]) -> Asked:
    """The images that were asked for by a model, with the class names of their list; of several times the last."""
    return {image.id: (image, one.classes) for one in lists if one.model is not None for image in one.images}


Answered = Sequence[tuple[LabelRequest, tuple[str, ...]]]


def _labelled(asked: Asked, known: Manifest) -> tuple[Manifest, Answered]:
    """Those of them that have labels by now, and what was asked, in the same order."""
    masks = [id_ for id_, (image, _) in asked.items() if image.mask]
    has_label = pl.col("annotations").is_not_null() | (pl.col("mask").is_not_null() & pl.col("id").is_in(masks))
    labelled = known.where(has_label, pl.col("id").is_in(list(asked)))
    return labelled, [asked[id_] for id_ in labelled.table["id"]]


def _mistakes(labelled: Manifest, found: Answered, store: Store | None) -> list[float]:
    """Of each image the boxes missed and found in vain, a hit being an overlap of IoU 0.5, or the wrong pixels.

    Boxes found of a class that was not labelled in the image may be right, so they do not count.
    """
    if not found:
        return []
    if store is not None and any(image.mask for image, _ in found):
        rows = zip(labelled.rows(), found, strict=True)
        return [_wrong_pixels(row["mask"], labelled.classes, image, classes, store) for row, (image, classes) in rows]
    names = list(dict.fromkeys([*labelled.classes, *(name for _, classes in found for name in classes)]))
    predictions = [image.detections().renumbered([names.index(name) for name in classes]) for image, classes in found]
    truths = labelled.truths()
    images = zip(predictions, truths, labelled.unlabelled_classes(), strict=True)
    judged = [boxes[judgeable(boxes, truth, unlabelled)] for boxes, truth, unlabelled in images]
    matches = match(truths, judged, len(names))
    claimed, correct = (table.sum(axis=1) for table in matches.counts(0))
    return [float(count) for count in matches.truths.sum(axis=1) + claimed - 2 * correct]


def _wrong_pixels(
    uri: str | None, classes: Sequence[str], image: LabelRequest, classes_of_list: Sequence[str], store: Store
) -> float:
    """The fraction of the labelled pixels of a mask that a model gave another class; 0 where there is no mask left."""
    if uri is None or image.mask is None:
        return 0.0
    root, key = split(uri)
    try:
        found = decode_mask(store.read(image.mask.key), image.mask.key)
        final = decode_mask(open_store(root).read(key), uri)
    except NotFoundError:
        return 0.0
    places = [classes.index(name) if name in classes else VOID for name in classes_of_list]
    known = final != VOID
    if found.shape != final.shape or not known.any():
        return 0.0
    return float((renumbering(places)[found] != final)[known].mean())
