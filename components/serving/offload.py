"""Joint inference at the edge: easy frames are answered here, hard ones by the big model in the cloud.

Both modes of KubeEdge Sedna, by their names. ``inference-then-mining``: the edge's model looks at every frame, and the
miner judges what it found. ``mining-then-inference``: the miner judges the frame itself, and only one of the two models
looks at it. In both the edge's result counts where the cloud gives none, and every frame is in one place of::

    joint_frames = joint_easy + joint_hard
    joint_hard   = joint_sent + joint_kept
    joint_kept   = joint_unchanged + joint_over_budget + joint_circuit_open
    joint_sent   = joint_answered + joint_failed

Hard frames that got no answer for want of a cloud or of bandwidth can be sent again later, see
:mod:`components.serving.resubmission`; these have counters of their own.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from enum import StrEnum
from threading import Lock

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from components.core.detections import Detections
from components.core.duplicates import Duplicates, fingerprint
from components.core.errors import InputError, one_line
from components.core.miners.base import Frame, Judgement, Miner, boxes_from, make_miner
from components.core.runtimes.letterbox import ImageArray
from components.serving.cloud_client import CloudClient, CloudError
from components.serving.parcel import Parcel, Send, pack

_BUDGET_SECONDS = 10.0  # of traffic that may be saved up and sent at once

log = logging.getLogger(__name__)


class Mode(StrEnum):
    """What comes first; Sedna's names."""

    INFERENCE_THEN_MINING = "inference-then-mining"
    MINING_THEN_INFERENCE = "mining-then-inference"


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
        unsent: what is to be sent of it later; None where the cloud has answered, or is not to be asked.
        late: the cloud answered when the frame was sent again, after the edge's result had counted.
    """

    judgement: Judgement
    final: Detections | None
    edge: Detections | None
    cloud: Detections | None = None
    cloud_model: str = ""
    miner: str = ""
    unsent: Parcel | None = None
    late: bool = False

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

    def __str__(self) -> str:
        given = ", ".join(f"{name}={value}" for name, value in self.parameters.items())
        return f"{self.miner} ({given})" if given else self.miner


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
        resubmit_bytes: of hard frames without an answer that are kept in memory, to be sent again; 0: none is.

    Raises:
        InputError: a crop in the mode in which there are no boxes yet.
    """

    mode: Mode = Mode.INFERENCE_THEN_MINING
    send: Send = Send.FULL
    max_side: int = 640
    jpeg_quality: int = 90
    max_bytes_per_s: float = 0.0
    unchanged_bits: int = -1
    resubmit_bytes: int = 0

    def __post_init__(self) -> None:
        if self.send is Send.CROP and self.mode is Mode.MINING_THEN_INFERENCE:
            raise InputError(f"{Send.CROP} needs boxes, which {self.mode} does not have: send full or resized frames")


class JointInference:
    """Answers frames, with the cloud's help; for one thread, and another that sends frames again.

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

    @property
    def boxes_from(self) -> float | None:
        """The score from which the miner wants to see boxes; None for those that count."""
        return boxes_from(self._miner)

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
                miner = make_miner(rule.miner, rule.parameters)
                log.info("the release's miner %s chooses what is sent to the cloud, not %s", rule, self._miner.name)
                self._miner = miner
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
        every_box: Callable[[], Detections | None] = lambda: None,
    ) -> JointResult | None:
        """Answer one frame.

        Args:
            image: (H, W, 3) uint8 RGB.
            key: names the frame, for the miner.
            classes: names of the edge's classes.
            edge: runs the edge's model; None where it fails.
            original: bytes of the image's own file, where there is one.
            every_box: gives what the edge's model found, from the score on that the miner wants; asked after ``edge``.

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
            wanted = self.boxes_from
            boxes = None if wanted is None else every_box()
            judged = found if wanted is None or boxes is None else boxes[boxes.scores >= wanted]
            judgement = self._miner.judge(Frame(judged, image, key))
        else:
            judgement = self._miner.judge(Frame(Detections.none(), image, key))
        asked = self._ask(image, classes, found, original) if judgement.hard else None
        result = JointResult(judgement, None, found, miner=self._miner.name)
        if isinstance(asked, _Answered):
            result = asked.added_to(result)
        else:
            if found is None:
                found = edge()
            result = replace(result, final=found, edge=found, unsent=asked)
        self._count("joint_frames", 1)
        self._count("joint_hard" if judgement.hard else "joint_easy", 1)
        return None if result.final is None else result

    def may_ask_again(self) -> bool:
        """Whether a frame may be sent again now: the cloud may be there, and live frames leave bandwidth."""
        return self._client.circuit.allows and self._budget.has_spare

    def ask_again(self, result: JointResult, classes: Sequence[str]) -> JointResult:
        """Send a frame once more that got no answer.

        Args:
            result: of the frame; ``unsent`` is sent.
            classes: names of the edge's classes, when it was made.

        Returns:
            The result with the cloud's answer.

        Raises:
            CloudError: there is no answer this time either.
        """
        parcel = result.unsent
        assert parcel is not None
        answered = self._send(parcel, result.edge, classes)
        return replace(answered.added_to(result), unsent=None, late=True)

    def _ask(
        self, image: ImageArray, classes: Sequence[str], edge: Detections | None, original: bytes | None
    ) -> _Answered | Parcel | None:
        """The cloud's answer; where the edge's result counts, what is to be sent again, if anything."""
        rules, circuit = self._rules, self._client.circuit
        looks = fingerprint(image) if rules.unchanged_bits >= 0 else 0
        reason = ""
        if looks in self._last_sent:
            reason = "joint_unchanged"
        elif not (circuit.closed and circuit.allows if rules.resubmit_bytes else circuit.allows):
            # The other thread tries whether the cloud is back, so that no live frame waits for one that is not.
            reason = "joint_circuit_open"
        elif not self._budget.allows:
            reason = "joint_over_budget"
        if reason:
            self._count("joint_kept", 1)
            self._count(reason, 1)
            if reason == "joint_unchanged" or not rules.resubmit_bytes:
                return None
        parcel = pack(image, edge, original, send=rules.send, max_side=rules.max_side, quality=rules.jpeg_quality)
        if reason:
            return parcel
        self._count("joint_sent", 1)
        try:
            answered = self._send(parcel, edge, classes)
        except CloudError as error:
            self._count("joint_failed", 1)
            return parcel if rules.resubmit_bytes and not error.refused else None
        self._count("joint_answered", 1)
        self._last_sent.keep(looks)
        return answered

    def _send(self, parcel: Parcel, edge: Detections | None, classes: Sequence[str]) -> _Answered:
        self._budget.spend(len(parcel.data))
        self._count("joint_bytes_sent", len(parcel.data))
        with self._timed():
            answer = self._client.ask(parcel.data, parcel.kind, parcel.width, parcel.height, classes)
        cloud = parcel.on_image(answer.detections(classes))
        return _Answered(parcel.merge(edge, cloud), cloud, answer.model)


@dataclass(frozen=True)
class _Answered:
    """The final result, the cloud's and the version of its model."""

    final: Detections
    cloud: Detections
    model: str

    def added_to(self, result: JointResult) -> JointResult:
        return replace(result, final=self.final, cloud=self.cloud, cloud_model=self.model)


class _Budget:
    """Bytes that may be sent: as many per second on average, and some seconds' worth at once. For several threads."""

    def __init__(self, bytes_per_s: float, clock: Callable[[], float]) -> None:
        self._rate, self._clock = bytes_per_s, clock
        self._left, self._at = bytes_per_s * _BUDGET_SECONDS, clock()
        self._lock = Lock()

    @property
    def allows(self) -> bool:
        """Whether there is anything left; what is larger than that is paid for by a longer pause."""
        return not self._rate or self._saved() > 0

    @property
    def has_spare(self) -> bool:
        """Whether more than half of what may be saved up is left."""
        return not self._rate or self._saved() > self._rate * _BUDGET_SECONDS / 2

    def _saved(self) -> float:
        with self._lock:
            now = self._clock()
            self._left = min(self._rate * _BUDGET_SECONDS, self._left + (now - self._at) * self._rate)
            self._at = now
            return self._left

    def spend(self, size: int) -> None:
        """So many bytes are sent."""
        with self._lock:
            self._left -= size
