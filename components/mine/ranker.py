"""How a model ranks images and proposes labels: what depends on its kind of task."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from components.core.detections import Detections
from components.core.job.label_requests import MASKS, Found, FoundMask
from components.core.masks import VOID, encode_mask, renumbering
from components.core.miners.base import Frame, Judgement, Miner
from components.core.runtimes.base import Detector, Model
from components.core.runtimes.letterbox import ImageArray
from components.core.runtimes.segmenter import NetworkSegmenter
from components.core.tasks.base import open_task


class Ranker(ABC):
    """A model that ranks images and finds what people correct.

    Attributes:
        model: loaded.
        labels: what it finds, and people make.
        instead_of_miner: what ranks the images where that is no miner; empty where one does.
    """

    model: Model[Any]
    labels: ClassVar[Literal["boxes", "masks"]]
    instead_of_miner: ClassVar[str] = ""

    @abstractmethod
    def judge(self, image: ImageArray, key: str, miner: Miner, min_score: float) -> tuple[Detections, Judgement]:
        """Say how hard an image is.

        Args:
            image: (H, W, 3) uint8 RGB.
            key: the hex digest of its bytes.
            miner: the rule that judges boxes.
            min_score: of the boxes that the miner sees, 0 to 1.

        Returns:
            The boxes of the score that the model is deployed with, none where it gives masks; and the judgement.
        """

    @abstractmethod
    def propose(self, image: ImageArray, classes: Sequence[str]) -> tuple[Found, Mapping[str, bytes]]:
        """Find what people correct, at the score that the model is deployed with.

        Args:
            image: (H, W, 3) uint8 RGB.
            classes: the names that labels are wanted of; what the model finds of others is left out.

        Returns:
            What was found, in numbers of ``classes``, and the files that it names, by their keys in the job's root.
        """


@dataclass(frozen=True)
class BoxRanker(Ranker):
    """A model that gives boxes, which a miner judges."""

    model: Detector
    labels: ClassVar[Literal["boxes", "masks"]] = "boxes"

    def judge(self, image: ImageArray, key: str, miner: Miner, min_score: float) -> tuple[Detections, Judgement]:
        """By the miner, which sees boxes of lower scores too."""
        deployed = self.model.bundle.confidence_threshold
        (found,) = self.model.predict([image], confidence=min(min_score, deployed))
        return found[found.scores >= deployed], miner.judge(Frame(found[found.scores >= min_score], image, key))

    def propose(self, image: ImageArray, classes: Sequence[str]) -> tuple[Found, Mapping[str, bytes]]:
        """The boxes."""
        (found,) = self.model.predict([image])
        ours = found.renumbered(_numbers(self.model.bundle.classes, classes, -1))
        return Found(**Found.fields_of(ours)), {}


@dataclass(frozen=True)
class MaskRanker(Ranker):
    """A model that gives masks, judged by the mean entropy of the pixels."""

    model: NetworkSegmenter
    labels: ClassVar[Literal["boxes", "masks"]] = "masks"
    instead_of_miner: ClassVar[str] = "pixel entropy"

    def judge(self, image: ImageArray, key: str, miner: Miner, min_score: float) -> tuple[Detections, Judgement]:
        """By the entropy alone."""
        entropy = self.model.look(image).entropy
        reason = f"the mean entropy of the pixels is {entropy:.2f} of 1"
        return Detections.none(), Judgement(True, entropy, reason)

    def propose(self, image: ImageArray, classes: Sequence[str]) -> tuple[Found, Mapping[str, bytes]]:
        """The mask, as a PNG; what is of other classes is void."""
        look = self.model.look(image)
        mask = renumbering(_numbers(self.model.bundle.classes, classes, VOID))[look.classes]
        content = encode_mask(mask)
        key = f"{MASKS}{hashlib.sha256(content).hexdigest()}.png"
        shown = np.unique(mask[mask != VOID]).tolist()
        scores = {number: float(look.probability[mask == number].mean()) for number in shown}
        return Found(mask=FoundMask(key=key, scores=scores)), {key: content}


def ranker_of(model: Model[Any]) -> Ranker | None:
    """How a model ranks images, by its kind of task; None where it gives neither boxes nor masks.

    Raises:
        InputError: the kind of task is of a plug-in that is not loaded.
    """
    task = open_task(model.bundle.task)
    if task.gives_boxes:
        return BoxRanker(model)
    if task.label_column == "mask" and isinstance(model, NetworkSegmenter):
        return MaskRanker(model)
    return None


def _numbers(own: Sequence[str], wanted: Sequence[str], otherwise: int) -> list[int]:
    """The number that each class of a model has among others."""
    return [wanted.index(name) if name in wanted else otherwise for name in own]
