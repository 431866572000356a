"""A little model at the edge and a big one in the cloud, measured as one: what is gained by each frame that is sent."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.core.detections import Detections
from components.core.errors import InputError
from components.core.metrics.bootstrap import map50
from components.core.metrics.confusion import Confusion, confusion_of_boxes
from components.core.metrics.detection import Matches, found_truths, match
from components.core.miners.base import PoolMiner, boxes_from, find_miner, make_miner, miners

FRACTIONS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)  # of the frames, in a curve
_UNRANKED = {"CloudOnly", "EdgeOnly", "cutoff"}  # miners whose score ranks nothing

Floats = NDArray[np.float64]
Sent = NDArray[np.bool_]


@dataclass(frozen=True)
class Point:
    """The cascade at one setting.

    Attributes:
        fraction: of the frames that is sent, 0..1.
        bytes_per_frame: sent, over all frames.
        map50: of the results that count.
        found: objects found, at the confidence of the model that answers.
        recall_of_cloud: of the objects that the big model alone finds, the fraction that is found, 0..1.
        threshold: score of the miner from which a frame is sent; NaN where no miner decides.
    """

    fraction: float
    bytes_per_frame: float
    map50: float
    found: int
    recall_of_cloud: float
    threshold: float = float("nan")


@dataclass(frozen=True)
class Link:
    """The way to the cloud, for an estimate of latency that says what it assumes.

    Attributes:
        uplink_mbit: megabits per second upwards; answers are small, and their time counts as none.
        round_trip_ms: of a request without any image or model.
        little_ms: of the little model for a frame, where it was measured.
        big_ms: of the big model.
    """

    uplink_mbit: float
    round_trip_ms: float
    little_ms: float
    big_ms: float

    def latency_ms(self, point: Point, *, little: bool = True) -> float:
        """Mean milliseconds of a frame where every frame waits for its own answer, and none for another.

        Args:
            point: says how many frames and bytes go up.
            little: whether the little model looks at every frame first.
        """
        wire = point.bytes_per_frame * 8 / (self.uplink_mbit * 1000)
        return self.little_ms * little + wire + point.fraction * (self.round_trip_ms + self.big_ms)


@dataclass(frozen=True)
class Pair:
    """What two models find in the same F labelled images.

    Attributes:
        truths: (F,) true boxes.
        little: (F,) what the little model finds, down to the low scores that mAP needs.
        big: (F,) the same of the big model.
        classes: class names, in the order of all class numbers.
        sizes: (F,) bytes of each image as it is sent.
        confidences: scores from which the boxes of the little and of the big model count.
        keys: (F,) names of the images, for miners that draw by chance.
    """

    truths: Sequence[Detections]
    little: Sequence[Detections]
    big: Sequence[Detections]
    classes: tuple[str, ...]
    sizes: Floats
    confidences: tuple[float, float]
    keys: Sequence[str]

    def __len__(self) -> int:
        return len(self.truths)

    @cached_property
    def shown(self) -> list[Detections]:
        """What the edge shows, and its miner sees, of each image."""
        return [one[one.scores >= self.confidences[0]] for one in self.little]

    @cached_property
    def found_by_little(self) -> list[NDArray[np.bool_]]:
        """Which true boxes the little model finds, by image."""
        return [found_truths(*one, self.confidences[0]) for one in zip(self.truths, self.little, strict=True)]

    @cached_property
    def found_by_big(self) -> list[NDArray[np.bool_]]:
        """Which true boxes the big model finds, by image."""
        return [found_truths(*one, self.confidences[1]) for one in zip(self.truths, self.big, strict=True)]

    @cached_property
    def cloud_found(self) -> Floats:
        """(F,) objects that the big model finds."""
        return np.array([one.sum() for one in self.found_by_big], dtype=float)

    @cached_property
    def lost(self) -> Floats:
        """(F,) objects that the big model finds and the little one does not: lost if the frame is not sent."""
        pairs = zip(self.found_by_big, self.found_by_little, strict=True)
        return np.array([(big & ~little).sum() for big, little in pairs], dtype=float)

    @cached_property
    def _matches(self) -> tuple[Matches, Matches]:
        little, big = (match(self.truths, found, len(self.classes)) for found in (self.little, self.big))
        return little, big

    def matches(self, sent: Sent) -> Matches:
        """What becomes of the predictions where some frames, (F,), are answered by the big model."""
        little, big = self._matches
        parts = [(little, ~sent[little.images]), (big, sent[big.images])]
        images = np.concatenate([one.images[chosen] for one, chosen in parts])
        order = np.argsort(images, kind="stable")  # within an image all are of one model, in its order
        classes, scores, ranks, correct = (
            np.concatenate([getattr(one, name)[chosen] for one, chosen in parts])[order]
            for name in ("classes", "scores", "ranks", "correct")
        )
        return Matches(images[order], classes, scores, ranks, correct, little.truths)

    def confusion(self, sent: Sent) -> Confusion:
        """What true boxes are taken for where some frames, (F,), are answered by the big model."""
        counted = [big[big.scores >= self.confidences[1]] for big in self.big]
        answers = [big if up else little for big, little, up in zip(counted, self.shown, sent, strict=True)]
        return confusion_of_boxes(self.truths, answers, self.classes, 0.0)

    def point(self, sent: Sent, threshold: float = float("nan")) -> Point:
        """The cascade where some frames, (F,), are sent."""
        little = np.array([one.sum() for one in self.found_by_little], dtype=float)
        cloud = self.cloud_found.sum()
        return Point(
            fraction=float(sent.mean()),
            bytes_per_frame=float((self.sizes * sent).mean()),
            map50=map50(self.matches(sent), max_detections=300),
            found=int(np.where(sent, self.cloud_found, little).sum()),
            recall_of_cloud=float(1 - self.lost[~sent].sum() / cloud) if cloud else 1.0,
            threshold=threshold,
        )

    def hardness(self, miner: str) -> NDArray[np.float32]:
        """(F,) the score that a miner gives each frame, the larger the harder.

        Raises:
            InputError: no such miner, or it needs more than the scores of boxes.
        """
        return self._judged(miner, self.parameters_of(miner))[1]

    def parameters_of(self, miner: str) -> dict[str, Any]:
        """The parameters with which a miner ranks these frames: the score from which boxes count, where it asks."""
        asks = "shown" in inspect.signature(find_miner(miner)).parameters
        return {"shown": self.confidences[0]} if asks else {}

    def sent_by(self, miner: str, parameters: Mapping[str, Any]) -> Sent:
        """(F,) the frames that a miner calls hard, as an edge worker with this routing sends them.

        Raises:
            InputError: no such miner, or it needs more than the scores of boxes.
        """
        return self._judged(miner, parameters)[0]

    def _judged(self, miner: str, parameters: Mapping[str, Any]) -> tuple[Sent, NDArray[np.float32]]:
        made = make_miner(miner, parameters)
        if not isinstance(made, PoolMiner):
            raise InputError(f"miner {miner!r} needs more than box scores: choose from {', '.join(ranking_miners())}")
        wanted = boxes_from(made)
        seen = self.shown if wanted is None else [one[one.scores >= wanted] for one in self.little]
        scores = np.concatenate([one.scores for one in seen]) if len(self) else np.empty(0)
        return made.judge_many(scores, [len(one) for one in seen], self.keys)

    def curve(self, hardness: NDArray[np.float32]) -> list[Point]:
        """The cascade where ever more frames are sent, the hardest first; frames of one score go together."""
        points: dict[float, Point] = {}
        order = np.sort(hardness)[::-1]
        for fraction in FRACTIONS:
            count = round(fraction * len(order))
            threshold = float(order[count - 1]) if count else float("inf")
            sent = hardness >= np.float32(threshold)
            points.setdefault(float(sent.mean()), self.point(sent, threshold))
        return [points[fraction] for fraction in sorted(points)]

    def oracle(self) -> list[Point]:
        """The same for a router that knows the labels and sends first the frames where most objects are gained.

        No router finds more objects with as many frames; it is the bound on that, and no miner's curve lies above it.
        """
        return [self.oracle_point(round(fraction * len(self))) for fraction in FRACTIONS]

    def oracle_point(self, count: int) -> Point:
        """The same where so many frames are sent."""
        gain = self.cloud_found - np.array([one.sum() for one in self.found_by_little], dtype=float)
        sent = np.zeros(len(self), dtype=bool)
        sent[np.argsort(-gain, kind="stable")[:count]] = True
        return self.point(sent)

    def take(self, chosen: NDArray[np.intp]) -> Pair:
        """Some of the images."""
        truths, little, big = ([found[index] for index in chosen] for found in (self.truths, self.little, self.big))
        keys = [self.keys[index] for index in chosen]
        taken = Pair(truths, little, big, self.classes, self.sizes[chosen], self.confidences, keys)
        for name in ("found_by_little", "found_by_big"):  # matched once for all
            taken.__dict__[name] = [getattr(self, name)[index] for index in chosen]
        return taken


def ranking_miners() -> list[str]:
    """Names of the miners that rank frames by the scores of their boxes alone."""
    found = []
    for name in miners.names():
        if name in _UNRANKED:
            continue
        try:
            made = make_miner(name, {})
            if isinstance(made, PoolMiner):
                made.judge_many([0.5, 0.9], [2], ["0"])
                found.append(name)
        except (InputError, ValueError):
            continue
    return found
