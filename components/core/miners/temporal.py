"""Temporal inconsistency: boxes that come and go between two frames that follow each other.

What stands in front of a camera does not appear or vanish within a frame, nor change its class. Where a model's boxes
do, one of the two frames shows something that it cannot hold on to. (Fast things at a low frame rate flicker too: lower
``threshold_iou`` for them.)
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import PrivateAttr

from components.core.detections import Detections, iou
from components.core.miners.base import Frame, Judgement, miners
from components.core.miners.rules import BoxRule, Ratio, in_words


@miners.register("temporal")
class Temporal(BoxRule):
    """Hard when many boxes of this frame and the one before have no partner in the other; the score is their share.

    The first frame has none before it and is easy. Where neither of the two frames has a box, ``on_empty`` decides.

    Attributes:
        threshold_flicker: hard from this share on; the default, when one of two boxes goes, or one of four changes its
            class.
        threshold_iou: partners are of one class and overlap at least by this (IoU).
    """

    name: ClassVar[str] = "temporal"
    threshold_flicker: Ratio = 0.25
    threshold_iou: Ratio = 0.5
    _before: Detections | None = PrivateAttr(default=None)

    def judge(self, frame: Frame) -> Judgement:
        """Say whether a frame is hard, and remember its boxes for the next."""
        before, now = self._before, frame.detections
        self._before = now
        if not len(now) and not (before and len(before)):
            return self.judge_empty(frame.key)
        if before is None:
            return Judgement(False, 0.0, f"{in_words(len(now))} in the first frame")
        stayed = partners(before, now, self.threshold_iou)
        came, went = len(now) - stayed, len(before) - stayed
        share = (came + went) / (len(now) + len(before))
        return Judgement(
            share > 0 and share >= self.threshold_flicker,
            share,
            f"{in_words(came)} appeared, {went} disappeared, {stayed} stayed",
        )


def partners(first: Detections, second: Detections, least_overlap: float) -> int:
    """How many boxes of two frames belong together, one to one, those that overlap most first.

    Args:
        first: boxes of one frame.
        second: boxes of the other.
        least_overlap: intersection over union; boxes that do not touch never belong together.
    """
    overlaps = iou(first.boxes, second.boxes)
    overlaps[first.classes[:, None] != second.classes[None, :]] = 0
    ours, theirs = np.nonzero((overlaps >= least_overlap) & (overlaps > 0))
    free_ours, free_theirs = set(ours.tolist()), set(theirs.tolist())
    found = 0
    for pair in np.argsort(-overlaps[ours, theirs], kind="stable"):
        one, other = int(ours[pair]), int(theirs[pair])
        if one in free_ours and other in free_theirs:
            free_ours.remove(one)
            free_theirs.remove(other)
            found += 1
    return found
