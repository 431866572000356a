"""The threshold from which frames are sent to the cloud, chosen from data so that what the user asks for holds.

What is promised of the threshold is a statement about frames to come, of the same kind as those it was chosen on, with
a stated confidence 1 - delta. For two of the goals the statement is exact, whatever the number of frames:

``min_recall_of_cloud``
    Of the objects that the big model finds in a frame, joint inference finds at least this fraction, on average over
    the frames in which the big model finds any. The loss of a frame, the fraction of its objects that are lost while it
    is not sent, lies in 0..1 and can only fall when more frames are sent. One object is drawn from each frame; it is
    lost with a probability that is the frame's loss, so the number of lost ones is binomial, and the largest threshold
    whose upper Clopper-Pearson bound (Clopper and Pearson, Biometrika 26, 1934) is within the limit is taken. That the
    bound may be looked at for every threshold, and still holds for the chosen one, follows from the losses being
    monotone: Bates, Angelopoulos, Lei, Malik and Jordan, Distribution-Free, Risk-Controlling Prediction Sets, J. ACM
    68, 2021, theorem 1.
``max_offload``
    At most this fraction of the frames is sent: the same bound on the number of frames that are sent.

``min_map50`` and ``max_bytes_per_frame`` are held to the lower and the upper end of the one-sided bootstrap interval,
which is right for many frames, not exact for few. Where the best of several miners is chosen, each is held to
delta / miners (Bonferroni), so that the choice costs nothing of the promise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from components.core.errors import InputError
from components.core.metrics.bootstrap import map50_lower
from components.core.metrics.resampling import draws
from components.core.miners.chance import draw
from components.core.parameters import JointSettings
from components.joint.cascade import Floats, Pair, Point, Sent, ranking_miners

_RESAMPLES = 1000
_NO_LIMIT = 10**9  # frames that nobody labels


@dataclass(frozen=True)
class Goals:
    """What the user asks for; None where it does not matter.

    Attributes:
        max_offload: fraction of the frames that may be sent.
        max_bytes_per_frame: that may be sent, over all frames.
        min_map50: of joint inference.
        min_recall_of_cloud: of the objects that the big model finds.
        confidence: of the promise, such as 0.95.

    Raises:
        InputError: nothing is asked for, or a value is not within its range.
    """

    max_offload: float | None = None
    max_bytes_per_frame: float | None = None
    min_map50: float | None = None
    min_recall_of_cloud: float | None = None
    confidence: float = 0.95

    def __post_init__(self) -> None:
        for name in ("max_offload", "min_map50", "min_recall_of_cloud"):
            value = getattr(self, name)
            if value is not None and not 0 < value < 1:
                raise InputError(f"{name} {value}: must be a number above 0 and below 1")
        if self.max_bytes_per_frame is not None and not self.max_bytes_per_frame > 0:
            raise InputError(f"max_bytes_per_frame {self.max_bytes_per_frame}: must be a number above 0")
        if not 0.5 <= self.confidence < 1:
            raise InputError(f"confidence {self.confidence}: must be a number from 0.5 to below 1, such as 0.95")
        if not (self.has_quality or self.has_traffic):
            raise InputError("no goal given: set max_offload, max_bytes_per_frame, min_map50 or min_recall_of_cloud")

    @property
    def has_quality(self) -> bool:
        """Whether results have to be good enough."""
        return self.min_map50 is not None or self.min_recall_of_cloud is not None

    @property
    def has_traffic(self) -> bool:
        """Whether traffic has to be little enough."""
        return self.max_offload is not None or self.max_bytes_per_frame is not None


def goals_of(joint: JointSettings) -> Goals:
    """What the parameters ask for; 0 asks for nothing.

    Raises:
        InputError: nothing is asked for.
    """
    return Goals(
        max_offload=joint.max_offload or None,
        max_bytes_per_frame=joint.max_bytes_per_frame or None,
        min_map50=joint.min_joint_map50 or None,
        min_recall_of_cloud=joint.min_recall_of_cloud or None,
        confidence=joint.confidence,
    )


def miners_of(joint: JointSettings) -> list[str]:
    """The miners to choose from.

    Raises:
        InputError: the one that is named does not rank frames by the scores of their boxes.
    """
    if not joint.offload_miner:
        return ranking_miners()
    known = ranking_miners()
    if joint.offload_miner not in known:
        raise InputError(f"unknown offload_miner {joint.offload_miner!r}: choose from {', '.join(known)}")
    return [joint.offload_miner]


@dataclass(frozen=True)
class Choice:
    """The threshold that was chosen.

    Attributes:
        miner: that ranks the frames.
        threshold: its score from which a frame is sent.
        parameters: of the miner.
        point: the cascade with it, on the frames it was chosen on.
        promises: what holds of it, in words.
    """

    miner: str
    threshold: float
    point: Point
    promises: tuple[str, ...] = field(default=())
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def routing(self) -> dict[str, Any]:
        """As the release's routing data, which the edge worker follows."""
        miner = {"of": self.miner, "parameters": dict(self.parameters)} if self.parameters else {"of": self.miner}
        return {"miner": "cutoff", "parameters": {**miner, "min_score": self.threshold}}


def binomial_tail(lost: int, frames: int, limit: float) -> float:
    """The probability that at most ``lost`` of ``frames`` are lost where each is with probability ``limit``.

    The upper Clopper-Pearson bound at level delta is below the limit just where this is at most delta.
    """
    if lost >= frames:
        return 1.0
    whole = math.lgamma(frames + 1)
    terms = (
        whole
        - math.lgamma(k + 1)
        - math.lgamma(frames - k + 1)
        + k * math.log(limit)
        + (frames - k) * math.log1p(-limit)
        for k in range(lost + 1)
    )
    return min(1.0, math.fsum(map(math.exp, terms)))


def frames_needed(rate: float, limit: float, delta: float) -> int | None:
    """Frames from which on a rate that is observed is proven to be below a limit; None if no number does.

    Args:
        rate: of lost frames, 0..1.
        limit: to prove.
        delta: probability of being wrong.
    """

    def proven(frames: int) -> bool:
        return binomial_tail(math.floor(rate * frames), frames, limit) <= delta

    if rate >= limit:
        return None
    high = 1
    while not proven(high):
        high *= 2
        if high > _NO_LIMIT // 1000:
            return None
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if proven(middle) else (middle, high)
    return high


def calibrate(pair: Pair, goals: Goals, miners: Sequence[str]) -> Choice:
    """Choose miner and threshold.

    With a goal for quality it is the choice that sends the fewest frames, with one for traffic alone the one with the
    highest mAP50.

    Args:
        pair: both models on labelled frames that neither was trained on.
        goals: what has to hold.
        miners: to choose from.

    Raises:
        InputError: nothing can be promised; the message says how many labelled frames are needed, or which goals are in
            each other's way.
    """
    delta = (1 - goals.confidence) / len(miners)
    if not len(pair):
        raise InputError(f"no labelled frames to calibrate on: at least {_least(goals, delta)} are needed")
    choices, problems = [], []
    for miner in miners:
        try:
            choices.append(_calibrate(pair, goals, miner, delta))
        except InputError as error:
            problems.append(f"{miner}: {error}" if len(miners) > 1 else str(error))
    if not choices:
        raise InputError("; ".join(dict.fromkeys(problems)))
    if goals.has_quality:
        return min(choices, key=lambda one: (one.point.fraction, -one.point.map50))
    return max(choices, key=lambda one: one.point.map50)


def _least(goals: Goals, delta: float) -> int:
    """Frames without any loss that the exact goals need."""
    limits = [1 - goals.min_recall_of_cloud] if goals.min_recall_of_cloud is not None else []
    limits += [goals.max_offload] if goals.max_offload is not None else []
    return max([frames_needed(0.0, limit, delta) or 1 for limit in limits], default=30)


def _calibrate(pair: Pair, goals: Goals, miner: str, delta: float) -> Choice:
    hardness = pair.hardness(miner)
    thresholds = [0.0, *np.unique(hardness).tolist(), math.inf]  # send all, whatever comes, ..., send nothing
    quality, traffic = _quality_tests(pair, goals, delta), _traffic_tests(pair, goals, delta)

    def sent(index: int) -> Sent:
        chosen: Sent = hardness >= np.float32(thresholds[index])
        return chosen

    highest = len(thresholds) - 1
    for holds in quality:
        highest = min(highest, _last(lambda index, holds=holds: holds(sent(index)), highest))  # type: ignore[misc]
    lowest = 0
    for holds in traffic:
        lowest = max(lowest, _first(lambda index, holds=holds: holds(sent(index)), lowest, len(thresholds) - 1))  # type: ignore[misc]
    if lowest > highest:
        needed, allowed = sent(highest).mean(), sent(lowest).mean()
        raise InputError(
            f"the quality goals need {needed:.0%} of the frames sent, but the traffic goals allow {allowed:.0%}: "
            "relax a goal, train a better little model, or label more frames to narrow the confidence margins"
        )
    index = highest if quality else lowest
    if not math.isfinite(thresholds[index]) and hardness.max() >= 1.0:  # no threshold lies above these
        if lowest == index:
            raise InputError(
                f"traffic goals do not allow sending even the {(hardness >= 1).mean():.0%} of frames that {miner} "
                "scores hardest: allow more traffic or choose another miner"
            )
        index -= 1
    threshold = thresholds[index] if math.isfinite(thresholds[index]) else 1.0
    point = pair.point(sent(index), threshold)
    return Choice(miner, threshold, point, _promises(goals), pair.parameters_of(miner))


def _last(holds: Callable[[int], bool], last: int) -> int:
    """The largest index up to which something holds that can only cease to; it is known to hold at 0."""
    low, high = 0, last
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if holds(middle) else (low, middle - 1)
    return low


def _first(holds: Callable[[int], bool], first: int, last: int) -> int:
    """The smallest index from which on something holds; it is known to hold at the last."""
    low, high = first, last
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low


def _quality_tests(pair: Pair, goals: Goals, delta: float) -> list[Callable[[Sent], bool]]:
    tests: list[Callable[[Sent], bool]] = []
    if goals.min_recall_of_cloud is not None:
        tests.append(_recall_test(pair, 1 - goals.min_recall_of_cloud, delta))
    if goals.min_map50 is not None:
        wanted = goals.min_map50

        def good(sent: Sent) -> bool:
            return map50_lower(pair.matches(sent), 1 - delta, max_detections=300) >= wanted

        everything = np.ones(len(pair), dtype=bool)
        if not good(everything):
            found = pair.point(everything).map50
            advice = "label more frames" if found > wanted else "train a better big model or lower min_map50"
            raise InputError(
                f"min_map50 {wanted:g}: the big model alone has mAP50 {found:.3f} on {len(pair)} labelled frames, "
                f"which is not enough evidence: {advice}"
            )
        tests.append(good)
    return tests


def _recall_test(pair: Pair, limit: float, delta: float) -> Callable[[Sent], bool]:
    """Whether the losses of the frames that are not sent are proven to be below the limit."""
    relevant = pair.cloud_found > 0
    frames, needed = int(relevant.sum()), frames_needed(0.0, limit, delta) or 1
    if frames < needed:
        raise InputError(
            f"min_recall_of_cloud {1 - limit:g} with confidence {1 - delta:.3g} needs at least {needed} labelled "
            f"frames in which the big model finds something, but there are {frames}: label more or lower the goal"
        )
    drawn = np.array([draw(key, "recall of cloud") for key in pair.keys])
    lost = relevant & (drawn < pair.lost / np.maximum(pair.cloud_found, 1))

    def holds(sent: Sent) -> bool:
        return binomial_tail(int((lost & ~sent).sum()), frames, limit) <= delta

    return holds


def _traffic_tests(pair: Pair, goals: Goals, delta: float) -> list[Callable[[Sent], bool]]:
    tests: list[Callable[[Sent], bool]] = []
    if goals.max_offload is not None:
        limit, needed = goals.max_offload, frames_needed(0.0, goals.max_offload, delta) or 1
        if len(pair) < needed:
            raise InputError(
                f"max_offload {limit:g} with confidence {1 - delta:.3g} needs at least {needed} labelled frames, but "
                f"there are {len(pair)}: label more frames or raise max_offload"
            )
        tests.append(lambda sent: binomial_tail(int(sent.sum()), len(sent), limit) <= delta)
    if goals.max_bytes_per_frame is not None:
        allowed, resamples = goals.max_bytes_per_frame, draws(len(pair), _RESAMPLES)

        def few(sent: Sent) -> bool:
            means: Floats = resamples @ (pair.sizes * sent) / len(sent)
            return float(np.percentile(means, 100 * (1 - delta))) <= allowed

        tests.append(few)
    return tests


def _promises(goals: Goals) -> tuple[str, ...]:
    sure = f"with confidence {goals.confidence:g}"
    found = []
    if goals.min_recall_of_cloud is not None:
        found.append(f"recall of the cloud's objects at least {goals.min_recall_of_cloud:g}, {sure} (exact)")
    if goals.max_offload is not None:
        found.append(f"at most {goals.max_offload:.0%} of the frames sent, {sure} (exact)")
    if goals.min_map50 is not None:
        found.append(f"mAP50 at least {goals.min_map50:g}, {sure} (bootstrap)")
    if goals.max_bytes_per_frame is not None:
        found.append(f"at most {goals.max_bytes_per_frame:,.0f} bytes per frame, {sure} (bootstrap)")
    return tuple(found)
