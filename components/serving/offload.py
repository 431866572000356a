"""Joint inference at the edge: easy frames are answered here, hard ones by the big model in the cloud.

Both modes of KubeEdge Sedna, by their names. ``inference-then-mining``: the edge's model looks at every frame, and the
miner judges what it found. ``mining-then-inference``: the miner judges the frame itself, and only one of the two models
looks at it. In both the edge's result counts where the cloud gives none, and every frame is in one place of::

    joint_frames = joint_easy + joint_hard
    joint_hard   = joint_sent + joint_kept
    joint_kept   = joint_unchanged + joint_over_budget + joint_circuit_open
    joint_sent   = joint_answered + joint_failed
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import StrEnum

import cv2
import numpy as np
from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from components.core.detections import Detections
from components.core.duplicates import Duplicates, fingerprint
from components.core.errors import InputError, one_line
from components.core.miners.base import Frame, Judgement, Miner, make_miner
from components.core.runtimes.letterbox import ImageArray
from components.core.wire import JPEG, PNG, encode_image
from components.serving.cloud_client import CloudClient, CloudError

CERTAIN_SCORE = 0.7  # boxes that score less are what a crop is made around
_CROP_MARGIN = 0.5  # of the region's size, on each side: a model needs to see around an object
_MAX_CROP = 0.7  # of the image; a larger crop saves too little
_BUDGET_SECONDS = 10.0  # of traffic that may be saved up and sent at once

log = logging.getLogger(__name__)


class Mode(StrEnum):
    """What comes first; Sedna's names."""

    INFERENCE_THEN_MINING = "inference-then-mining"
    MINING_THEN_INFERENCE = "mining-then-inference"


class Send(StrEnum):
    """What of a hard frame is sent: all of it, all of it but smaller, or the region of the uncertain boxes."""

    FULL = "full"
    RESIZED = "resized"
    CROP = "crop"


@dataclass(frozen=True)
class JointResult:
    """What joint inference says of one frame; unpacks as Sedna's ``is_hard, final, edge, cloud``.

    Attributes:
        judgement: of the miner.
        final: the result that counts, in the class numbers of the edge's model.
        edge: of the edge's model; None where it was not asked, or failed.
        cloud: of the cloud's model; None where it was not asked, or did not answer.
        cloud_model: version of the cloud's model; empty where it did not answer.
        miner: name of the miner.
    """

    judgement: Judgement
    final: Detections | None
    edge: Detections | None
    cloud: Detections | None = None
    cloud_model: str = ""
    miner: str = ""

    @property
    def is_hard(self) -> bool:
        """Whether the miner calls the frame hard."""
        return self.judgement.hard

    def __iter__(self) -> Iterator[bool | Detections | None]:
        return iter((self.is_hard, self.final, self.edge, self.cloud))


class Routing(BaseModel):
    """What a release of a little and a big model says of the way between them.

    Attributes:
        miner: calls frames hard, which go to the big model; empty for the one that the worker was started with.
        parameters: of the miner.
    """

    model_config = ConfigDict(frozen=True)

    miner: str = ""
    parameters: dict[str, JsonValue] = {}


@dataclass(frozen=True)
class OffloadRules:
    """What is sent to the cloud, and when.

    Attributes:
        mode: what comes first.
        send: what of a frame is sent.
        max_side: pixels of the longer side of a resized image.
        jpeg_quality: of what is sent, 1 to 100.
        max_bytes_per_s: sent at most, on average; 0 for no limit.
        unchanged_bits: a frame is not sent if its fingerprint differs in so many bits at most from the one sent last;
            -1: all are sent.

    Raises:
        InputError: a crop in the mode in which there are no boxes yet.
    """

    mode: Mode = Mode.INFERENCE_THEN_MINING
    send: Send = Send.FULL
    max_side: int = 640
    jpeg_quality: int = 90
    max_bytes_per_s: float = 0.0
    unchanged_bits: int = -1

    def __post_init__(self) -> None:
        if self.send is Send.CROP and self.mode is Mode.MINING_THEN_INFERENCE:
            raise InputError(f"{Send.CROP} needs boxes, which {self.mode} does not have: send full or resized frames")


class JointInference:
    """Answers frames, with the cloud's help; for one thread.

    Args:
        miner: calls frames hard.
        client: asks the cloud.
        rules: what is sent.
        count: told of ``joint_...``, with an amount.
        timed: measures one question to the cloud: a context around it.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        miner: Miner,
        client: CloudClient,
        rules: OffloadRules,
        *,
        count: Callable[[str, float], None],
        timed: Callable[[], AbstractContextManager[object]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._miner, self._client, self._rules = miner, client, rules
        self._count, self._timed = count, timed
        self._routing: Mapping[str, JsonValue] = {}
        self._last_sent = Duplicates(rules.unchanged_bits, window=1)
        self._budget = _Budget(rules.max_bytes_per_s, clock)

    def route(self, routing: Mapping[str, JsonValue]) -> None:
        """Take the miner that the release brings along with its models; one that cannot be leaves things as they are.

        Args:
            routing: of the release; ``miner`` names it, ``parameters`` are its parameters. Without a miner nothing
                changes.
        """
        if routing == self._routing:
            return
        self._routing = routing
        try:
            rule = Routing.model_validate(routing)
            if rule.miner:
                self._miner = make_miner(rule.miner, rule.parameters)
        except (ValidationError, InputError) as error:
            reason = one_line(error) if isinstance(error, ValidationError) else error
            log.warning("the release's routing cannot be used (%s): continuing with miner %s", reason, self._miner.name)

    def infer(
        self,
        image: ImageArray,
        key: str,
        classes: Sequence[str],
        edge: Callable[[], Detections | None],
        original: bytes | None = None,
    ) -> JointResult | None:
        """Answer one frame.

        Args:
            image: (H, W, 3) uint8 RGB.
            key: names the frame, for the miner.
            classes: names of the edge's classes.
            edge: runs the edge's model; None where it fails.
            original: bytes of the image's own file, where there is one.

        Returns:
            None where neither model has a result.

        Raises:
            InputError: of the miner, which may raise something else, too, if it is somebody's own.
        """
        found = None
        if self._rules.mode is Mode.INFERENCE_THEN_MINING:
            found = edge()
            if found is None:
                return None
            judgement = self._miner.judge(Frame(found, image, key))
        else:
            judgement = self._miner.judge(Frame(Detections.none(), image, key))
        answered = self._ask(image, classes, found, original) if judgement.hard else None
        if answered is None and found is None:
            found = edge()
        self._count("joint_frames", 1)
        self._count("joint_hard" if judgement.hard else "joint_easy", 1)
        if answered is None:
            return None if found is None else JointResult(judgement, found, found, miner=self._miner.name)
        final, cloud, model = answered
        return JointResult(judgement, final, found, cloud, model, self._miner.name)

    def _ask(
        self, image: ImageArray, classes: Sequence[str], edge: Detections | None, original: bytes | None
    ) -> tuple[Detections, Detections, str] | None:
        """The final result, the cloud's and the version of its model; None where the edge's result counts."""
        looks = fingerprint(image) if self._rules.unchanged_bits >= 0 else 0
        reason = ""
        if looks in self._last_sent:
            reason = "joint_unchanged"
        elif not self._client.circuit.allows:
            reason = "joint_circuit_open"
        elif not self._budget.allows:
            reason = "joint_over_budget"
        if reason:
            self._count("joint_kept", 1)
            self._count(reason, 1)
            return None
        parcel = _pack(image, edge, original, self._rules)
        self._budget.spend(len(parcel.data))
        self._count("joint_sent", 1)
        self._count("joint_bytes_sent", len(parcel.data))
        try:
            with self._timed():
                answer = self._client.ask(parcel.data, parcel.kind, parcel.width, parcel.height, classes)
        except CloudError:
            self._count("joint_failed", 1)
            return None
        cloud = parcel.on_image(answer.detections(classes))
        self._count("joint_answered", 1)
        self._last_sent.keep(looks)
        return parcel.merge(edge, cloud), cloud, answer.model


class _Budget:
    """Bytes that may be sent: as many per second on average, and some seconds' worth at once."""

    def __init__(self, bytes_per_s: float, clock: Callable[[], float]) -> None:
        self._rate, self._clock = bytes_per_s, clock
        self._left, self._at = bytes_per_s * _BUDGET_SECONDS, clock()

    @property
    def allows(self) -> bool:
        """Whether there is anything left; what is larger than that is paid for by a longer pause."""
        if not self._rate:
            return True
        now = self._clock()
        self._left = min(self._rate * _BUDGET_SECONDS, self._left + (now - self._at) * self._rate)
        self._at = now
        return self._left > 0

    def spend(self, size: int) -> None:
        """So many bytes are sent."""
        self._left -= size


@dataclass(frozen=True)
class _Parcel:
    """What is sent of a frame.

    Attributes:
        data: bytes of the image.
        kind: its Content-Type.
        width: in pixels.
        height: in pixels.
        left: where it begins in the frame, in pixels of the frame.
        top: the same.
        scale: pixels of the frame for one of the parcel, by (x, y).
        partly: it is a part of the frame.
    """

    data: bytes
    kind: str
    width: int
    height: int
    left: int = 0
    top: int = 0
    scale: tuple[float, float] = (1.0, 1.0)
    partly: bool = False

    def on_image(self, found: Detections) -> Detections:
        """Boxes in pixels of the parcel as boxes of the frame."""
        boxes = found.boxes * np.array([*self.scale, *self.scale]) + np.array([self.left, self.top] * 2)
        return Detections.of(boxes, found.classes, found.scores)

    def merge(self, edge: Detections | None, cloud: Detections) -> Detections:
        """The cloud's boxes, and the edge's whose middle the cloud did not see."""
        if not self.partly or edge is None:
            return cloud
        x, y = (edge.boxes[:, :2] + edge.boxes[:, 2:]).T / 2
        seen = (x >= self.left) & (x <= self.left + self.width) & (y >= self.top) & (y <= self.top + self.height)
        kept = edge[~seen]
        joined = Detections.of(
            np.concatenate([kept.boxes, cloud.boxes]), np.concatenate([kept.classes, cloud.classes]),
            np.concatenate([kept.scores, cloud.scores]),
        )  # fmt: skip
        return joined[np.argsort(-joined.scores, kind="stable")]


def _pack(image: ImageArray, edge: Detections | None, original: bytes | None, rules: OffloadRules) -> _Parcel:
    height, width = image.shape[:2]
    if rules.send is Send.CROP and edge is not None and (region := _uncertain(edge, width, height)):
        left, top, right, bottom = region
        part = np.ascontiguousarray(image[top:bottom, left:right])
        data = encode_image(part, rules.jpeg_quality)
        return _Parcel(data, JPEG, right - left, bottom - top, left, top, partly=True)
    factor = rules.max_side / max(width, height)
    if rules.send is Send.RESIZED and factor < 1:
        size = max(1, round(width * factor)), max(1, round(height * factor))
        small = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
        return _Parcel(encode_image(small, rules.jpeg_quality), JPEG, *size, scale=(width / size[0], height / size[1]))
    if original is not None and original.startswith((b"\xff\xd8\xff", b"\x89PNG")):
        return _Parcel(original, JPEG if original.startswith(b"\xff") else PNG, width, height)
    return _Parcel(encode_image(image, rules.jpeg_quality), JPEG, width, height)


def _uncertain(edge: Detections, width: int, height: int) -> tuple[int, int, int, int] | None:
    """Left, top, right and bottom of the region of the uncertain boxes; None where a crop saves nothing."""
    boxes = edge.boxes[edge.scores < CERTAIN_SCORE]
    if not len(boxes):
        return None
    low, high = boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)
    margin = _CROP_MARGIN * (high - low)
    left, top = np.floor(np.clip(low - margin, 0, [width - 1, height - 1])).astype(int).tolist()
    right, bottom = np.ceil(np.clip(high + margin, [left + 1, top + 1], [width, height])).astype(int).tolist()
    if (right - left) * (bottom - top) > _MAX_CROP * width * height:
        return None
    return left, top, right, bottom
