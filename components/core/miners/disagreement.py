"""Disagreement of edge and cloud: where two models see different things, one is wrong, and a label tells which."""

from __future__ import annotations

from typing import ClassVar

from components.core.miners.base import Frame, Judgement, miners
from components.core.miners.rules import Ratio, Rule, in_words
from components.core.miners.temporal import partners


@miners.register("disagreement")
class Disagreement(Rule):
    """Hard when many boxes of the two models have no partner among the other's; the score is their share.

    A frame that the cloud did not answer is easy: nothing is known of it.

    Attributes:
        threshold: hard from this share on.
        threshold_iou: partners are of one class and overlap at least by this (IoU).
    """

    name: ClassVar[str] = "disagreement"
    threshold: Ratio = 0.25
    threshold_iou: Ratio = 0.5

    def judge(self, frame: Frame) -> Judgement:
        """Say whether a frame is hard."""
        edge, cloud = frame.detections, frame.cloud
        if cloud is None:
            return Judgement(False, 0.0, "the cloud did not answer")
        boxes = len(edge) + len(cloud)
        alike = partners(edge, cloud, self.threshold_iou)
        share = (boxes - 2 * alike) / boxes if boxes else 0.0
        hard = share > 0 and share >= self.threshold
        return Judgement(
            hard, share, f"{alike} of {in_words(len(edge))} at the edge and of {len(cloud)} in the cloud match"
        )
