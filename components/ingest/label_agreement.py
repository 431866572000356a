"""How much drawing the proposed boxes or masks saved the people who labelled, by class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from components.core.detections import Detections, iou
from components.core.errors import NotFoundError
from components.core.job.label_requests import LabelRequests
from components.core.manifest import Manifest
from components.core.masks import VOID, decode_mask, renumbering
from components.core.reports import page as reports
from components.core.reports.page import Section
from components.core.stores.open import Store, open_store, split

KEPT, ADJUSTED = 0.95, 0.5  # least overlap (IoU) of a box that was left as proposed, and of one that was adjusted


@dataclass(frozen=True)
class Agreement:
    """What became of the proposals, and where the labels come from, of one class.

    Attributes:
        name: of the class.
        kept: labels that are the proposed box.
        adjusted: labels that are a proposed box with other sides.
        renamed: labels that are a proposed box of another class.
        drawn: labels that nothing was proposed for.
        removed: proposals that became no label.
    """

    name: str
    kept: int
    adjusted: int
    renamed: int
    drawn: int
    removed: int

    @property
    def labels(self) -> int:
        """How many labels there are."""
        return self.kept + self.adjusted + self.renamed + self.drawn

    @property
    def saved(self) -> float:
        """The fraction of the labels that did not have to be drawn, 0 to 1."""
        return 1 - self.drawn / self.labels if self.labels else 0.0


def label_agreement(lists: Iterable[LabelRequests], labelled: Manifest) -> list[Agreement]:
    """Compare labels with what was proposed.

    Args:
        lists: that asked for them, the oldest first; of an image in several the last counts.
        labelled: the samples that people have labelled.

    Returns:
        One entry for each class that has labels or proposals.
    """
    asked = {image.id: (image.to_correct, one.classes) for one in lists for image in one.images}
    counts: Counter[tuple[str, str]] = Counter()
    for id_, truth in zip(labelled.table["id"], labelled.truths(), strict=True):
        if id_ in asked:
            proposed, classes = asked[id_]
            counts.update(_fates(truth, labelled.classes, proposed.detections(), classes))
    names = list(dict.fromkeys([*labelled.classes, *(name for name, _ in counts)]))
    fates = ("kept", "adjusted", "renamed", "drawn", "removed")
    found = [Agreement(name, *(counts[name, fate] for fate in fates)) for name in names]
    return [one for one in found if one.labels or one.removed]


def _fates(
    truth: Detections, classes: Sequence[str], proposed: Detections, proposed_classes: Sequence[str]
) -> Iterable[tuple[str, str]]:
    """Class and fate of each label, and of each proposal that became none; the pairs that overlap most come first."""
    overlaps = iou(truth.boxes, proposed.boxes)
    left_labels, left_proposals = set(range(len(truth))), set(range(len(proposed)))
    for place in np.argsort(-overlaps, axis=None, kind="stable"):
        label, proposal = divmod(int(place), max(len(proposed), 1))
        overlap = overlaps[label, proposal]
        if overlap < ADJUSTED:
            break
        if label in left_labels and proposal in left_proposals:
            left_labels.remove(label)
            left_proposals.remove(proposal)
            name = classes[truth.classes[label]]
            same = name == proposed_classes[proposed.classes[proposal]]
            yield name, "renamed" if not same else "kept" if overlap >= KEPT else "adjusted"
    yield from ((classes[truth.classes[label]], "drawn") for label in left_labels)
    yield from ((proposed_classes[proposed.classes[proposal]], "removed") for proposal in left_proposals)


@dataclass(frozen=True)
class MaskAgreement:
    """What became of the proposed masks, of one class.

    Attributes:
        name: of the class.
        pixels: that people have given this class.
        kept: the fraction of these that the proposal gave it, too, 0 to 1: what did not have to be marked.
        iou: overlap (IoU) of the proposed and the final pixels, 0 to 1.
    """

    name: str
    pixels: int
    kept: float
    iou: float


def mask_agreement(lists: Iterable[LabelRequests], labelled: Manifest, store: Store) -> list[MaskAgreement]:
    """Compare masks with what was proposed; pixels that people left void do not count.

    Args:
        lists: that asked for them, the oldest first; of an image in several the last counts.
        labelled: the samples that people have labelled.
        store: the job's root.

    Returns:
        One entry for each class that has pixels in a mask or a proposal.

    Raises:
        InputError: the store is out of reach, or a mask is damaged.
    """
    asked = {image.id: (image.to_correct.mask, one.classes) for one in lists for image in one.images}
    names = list(dict.fromkeys([*labelled.classes, *(name for _, classes in asked.values() for name in classes)]))
    counts = np.zeros((VOID + 1, VOID + 1), np.int64)  # final by proposed class
    for row in labelled.where(pl.col("mask").is_not_null()).rows():
        found, classes = asked.get(row["id"], (None, ()))
        if found is None:
            continue
        try:
            proposed = decode_mask(store.read(found.key), store.uri_of(found.key))
        except NotFoundError:
            continue
        root, key = split(row["mask"])
        final = decode_mask(open_store(root).read(key), row["mask"])
        if proposed.shape == final.shape:
            proposed = renumbering([names.index(name) for name in classes])[proposed]
            pairs = final.astype(np.int64) * (VOID + 1) + proposed
            counts += np.bincount(pairs.ravel(), minlength=counts.size).reshape(counts.shape)
    counts = counts[:VOID]
    return [one for number, name in enumerate(names) if (one := _of_class(name, counts, number))]


def _of_class(name: str, counts: NDArray[np.int64], number: int) -> MaskAgreement | None:
    pixels, claimed, same = (
        int(one) for one in (counts[number].sum(), counts[:, number].sum(), counts[number, number])
    )
    if not pixels and not claimed:
        return None
    return MaskAgreement(name, pixels, same / pixels if pixels else 0.0, same / (pixels + claimed - same))


def mask_section(agreement: Sequence[MaskAgreement]) -> list[Section]:
    """The same as a part of a page; nothing where there are no masks."""
    if not agreement:
        return []
    rows = [(one.name, one.pixels, one.kept, one.iou) for one in agreement]
    caption = (
        "'Not drawn' is the fraction of the pixels of a class that were proposed; IoU is the overlap of what was "
        "proposed and what people made of it."
    )
    headers = ("class", "pixels", "not drawn", "IoU")
    return [Section("Proposed masks and what people made of them", reports.table(headers, rows, caption))]


def section(agreement: Sequence[Agreement]) -> list[Section]:
    """The same as a part of a page; nothing where there are no labels."""
    if not agreement:
        return []
    headers = ("class", "labels", "kept", "adjusted", "renamed", "drawn", "proposals removed", "not drawn")
    rows = [(a.name, a.labels, a.kept, a.adjusted, a.renamed, a.drawn, a.removed, a.saved) for a in agreement]
    caption = (
        f"A label is kept if it overlaps the proposed box by {KEPT:g} or more (IoU), adjusted from {ADJUSTED:g} on, "
        "and drawn if nothing was proposed there. 'Not drawn' is the fraction of the labels that were proposed."
    )
    return [Section("Proposed boxes and what people made of them", reports.table(headers, rows, caption))]
