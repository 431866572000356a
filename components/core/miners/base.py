"""What a miner is: the rule that says which inferences are hard examples, and the plug-in registry of them.

========================  ==========================  =================================================================
miner                     parameters (default)        a frame is hard when
========================  ==========================  =================================================================
``IBT``                   threshold_img (0.5),        #{score <= threshold_box} / boxes >= 1 - threshold_img
                          threshold_box (0.5)
``Threshold``             threshold (0.5)             mean score < threshold
``CrossEntropy``          threshold_cross_entropy     1 - H < threshold_cross_entropy, H the mean normalised entropy
                          (0.5)
``Random``                random_ratio (0.3)          chance, seeded by the frame's key, says so
``CloudOnly``             none                        always
``EdgeOnly``              none                        never
``margin``                threshold_margin (0.3),     the two most probable classes lie closer than threshold_margin
                          boxes (worst)
``entropy``               threshold_entropy (0.9),    H > threshold_entropy
                          boxes (worst)
``entropy-sum``           threshold_entropy_sum       the entropies of all boxes add up to this or more
                          (2.0)
``missed``                threshold_missed (0.5),     the scores of the boxes below ``shown`` add up to this or
                          shown (0.25)                more
``temporal``              threshold_flicker (0.25),   this share of the boxes has no partner in the frame before
                          threshold_iou (0.5)
``novelty``               threshold_distance (0.1),   no remembered image looks like it
                          memory (256)
``disagreement``          threshold (0.25),           this share of the boxes of the edge's and the cloud's model
                          threshold_iou (0.5)         has no partner in the other's
``cutoff``                of, parameters,             the score of the miner ``of`` is this high
                          min_score (0.5)
========================  ==========================  =================================================================

The first six have the aliases and parameter names of KubeEdge Sedna. Values may be text, as in Sedna's resources.

A frame without boxes has no score to judge by: miners that look at boxes take ``on_empty``, which is ``hard`` (the
default: perhaps everything was missed), ``easy``, or ``sample:0.1`` for that share of the empty frames.

A miner with an attribute ``boxes_from``, a score, sees every box from that score on, those that do not count, too.

A miner of one's own is a class or function, registered under a name, that makes something with ``name`` and ``judge``::

    @miners.register("crowded")
    class Crowded:
        name = "crowded"

        def __init__(self, most: int = 20) -> None:
            self.most = int(most)

        def judge(self, frame: Frame) -> Judgement:
            boxes = len(frame.detections)
            return Judgement(boxes > self.most, min(boxes / 300, 1.0), f"{boxes} boxes")
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import ValidationError

from components.core.detections import Detections
from components.core.errors import InputError
from components.core.plugins import Registry
from components.core.runtimes.letterbox import ImageArray

SUM_TOLERANCE = 0.01  # what rounding to 8 bits leaves of a sum of probabilities


@dataclass(frozen=True)
class Frame:
    """One image as the model saw it.

    Attributes:
        detections: what was found.
        image: the image, (H, W, 3) uint8 RGB, where the miner is to look at it.
        key: names the frame, the hex digest of its image; chance is seeded by it.
        cloud: what the cloud's model found in the same image, in joint inference; None where it did not answer.
        probabilities: of the classes, where the model gives them: (K,) of the whole image, or (N, K) of its boxes.

    Raises:
        InputError: a score or probability is not within 0..1, or a row of probabilities does not sum to 1.
        ValueError: probabilities of another shape.
    """

    detections: Detections
    image: ImageArray | None = None
    key: str = ""
    probabilities: NDArray[np.floating[Any]] | None = None
    cloud: Detections | None = None

    def __post_init__(self) -> None:
        checked_scores(self.detections.scores)
        if self.probabilities is not None:
            shape = self.probabilities.shape
            if len(shape) != 1 and (len(shape) != 2 or shape[0] != len(self.detections)):
                raise ValueError(f"probabilities {shape} for {len(self.detections)} boxes: give (K,) or (boxes, K)")
            checked_probabilities(np.atleast_2d(self.probabilities))


@dataclass(frozen=True)
class Judgement:
    """What a miner says of one frame.

    Attributes:
        hard: the frame is worth a label.
        score: 0..1, the larger the harder; to rank frames by, of one miner only.
        reason: one short line, such as ``3 of 4 boxes score 0.5 or less``.
    """

    hard: bool
    score: float
    reason: str


class Miner(Protocol):
    """A rule that calls frames hard; it may remember earlier ones, so each stream has its own."""

    @property
    def name(self) -> str:
        """What it is registered as."""
        ...

    def judge(self, frame: Frame) -> Judgement:
        """Say whether a frame is hard.

        Raises:
            InputError: the frame lacks what the rule looks at.
        """
        ...


@runtime_checkable
class PoolMiner(Miner, Protocol):
    """A miner that needs scores alone and judges each frame for itself, so it can judge many at once."""

    def judge_many(
        self, scores: ArrayLike, counts: ArrayLike, keys: Sequence[str] = ()
    ) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
        """Judge F frames; each gets what ``judge`` gives it.

        Args:
            scores: (M,) scores of the boxes of all frames, one frame after the other. Miners that look at class
                probabilities also take (M, K): one row for each box, or for each image that has no boxes.
            counts: (F,) how many of these belong to each frame; they sum to M.
            keys: (F,) what names each frame; needed where chance decides.

        Returns:
            hard (F,) bool and score (F,) float32.

        Raises:
            InputError: a score or probability is not within 0..1, or a row of probabilities does not sum to 1.
            ValueError: shapes that do not fit together, or no keys where chance decides.
        """
        ...


miners: Registry[Callable[..., Miner]] = Registry(
    "miner",
    built_in=[
        f"components.core.miners.{module}"
        for module in (
            "confidence",
            "uncertainty",
            "entropy_sum",
            "missed",
            "unconditional",
            "temporal",
            "novelty",
            "cutoff",
            "disagreement",
        )
    ],
)


# What an earlier version called them.
_OLD_MINERS = {"doubt": "entropy-sum"}
_OLD_PARAMETERS = {"threshold_doubt": "threshold_entropy_sum"}


def find_miner(name: str) -> Callable[..., Miner]:
    """What makes the miner of a name, which may be an old one.

    Raises:
        InputError: no such miner.
    """
    return miners.get(_OLD_MINERS.get(name, name))


def make_miner(name: str, parameters: Mapping[str, object]) -> Miner:
    """Make the miner of a name.

    Args:
        name: such as ``IBT``.
        parameters: by name; numbers may be text.

    Raises:
        InputError: no such miner or parameter, or a value that cannot be.
    """
    make = find_miner(name)
    parameters = {_OLD_PARAMETERS.get(parameter, parameter): value for parameter, value in parameters.items()}
    known = inspect.signature(make)
    try:
        known.bind(**parameters)
    except TypeError as error:
        listed = ", ".join(known.parameters) or "none"
        raise InputError(f"miner {name!r}: {error}; its parameters are {listed}") from None
    try:
        return make(**parameters)
    except ValidationError as error:
        wrong = "; ".join(f"{one['loc'][0]}={one['input']!r}: {one['msg']}" for one in error.errors())
        raise InputError(f"miner {name!r}: {wrong}") from None
    except (TypeError, ValueError) as error:
        raise InputError(f"miner {name!r}: {error}; given: {dict(parameters)}") from error


def boxes_from(miner: Miner) -> float | None:
    """The score from which a miner wants to see boxes, its ``boxes_from``; None for the boxes that count."""
    score: float | None = getattr(miner, "boxes_from", None)
    return score


def checked_scores(scores: ArrayLike) -> NDArray[np.float64]:
    """Scores in double precision, as Sedna's formulas see them.

    Raises:
        InputError: one is not within 0..1.
    """
    values = np.asarray(scores, dtype=np.float64)
    if values.size and not (values.min() >= 0 and values.max() <= 1):
        wrong = values[~((values >= 0) & (values <= 1))]
        raise InputError(
            f"{wrong.size} of {values.size} scores are outside 0..1, such as {wrong[0]:g}: the model's "
            "weights are damaged, or its final sigmoid or softmax is missing"
        )
    return values


def checked_probabilities(rows: ArrayLike) -> NDArray[np.float64]:
    """Class probabilities (M, K) in double precision; a lone class, K = 1, is taken as a score.

    Raises:
        InputError: one is not within 0..1, or a row does not sum to 1.
    """
    values = checked_scores(rows)
    sums = values.sum(axis=1)
    if values.shape[1] != 1 and not np.allclose(sums, 1, rtol=0, atol=SUM_TOLERANCE):
        worst = sums[np.abs(sums - 1).argmax()]
        raise InputError(
            f"class probabilities sum to {worst:g}, not 1: give the probabilities of all classes after softmax"
        )
    return values
