"""How much drawing the proposed boxes saved the people who labelled, by class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from components.core.detections import Detections, iou
from components.core.job.label_requests import LabelRequests
from components.core.manifest import Manifest
from components.core.reports import page as reports
from components.core.reports.page import Section

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
