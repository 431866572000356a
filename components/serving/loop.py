"""The loop of a worker: one image after the other, whatever happens beside it."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

from components.core.detections import Detections
from components.core.rate_limit import RateLimit
from components.core.runtimes.base import decoder_of
from components.serving.active_model import ActiveModel, LoadedModel
from components.serving.frame_queue import FrameQueue
from components.serving.inference import ModelRunner, Seen
from components.serving.metrics import Metrics
from components.serving.mining import Inference, Keeper, frame_key
from components.serving.offload import JointInference
from components.serving.resubmission import Resubmission
from components.serving.sinks.outlet import Outlets
from components.serving.smoke_test import one_line
from components.serving.sources.base import Shot

FRAMES_AT_ONCE = 8  # of a video or folder, which a knowledge base takes by task
_FRAMES_WATCHED = 100  # of which a fraction may be unseen before a warning
_TURN_SECONDS = 0.25
_SAY_AGAIN_SECONDS = 60.0

log = logging.getLogger(__name__)


class EdgeLoop:
    """Looks at the images of a feed, and changes models between two images.

    Args:
        slot: gives the model.
        metrics: counts.
        max_fps: frames per second at most; 0 for no limit.
        outlets: given each inference, too.
        joint: answers hard frames with the cloud's help; None where there is no cloud.
        again: takes hard frames that got no answer; None where they are not sent again.
        boxes_from: score from which the miner of hard examples wants to see boxes; None for those that count.
    """

    def __init__(
        self,
        slot: ActiveModel,
        metrics: Metrics,
        *,
        max_fps: float = 0.0,
        outlets: Outlets | None = None,
        joint: JointInference | None = None,
        again: Resubmission | None = None,
        boxes_from: float | None = None,
    ) -> None:
        self._again, self._boxes_from = again, boxes_from
        self._slot, self._metrics, self._outlets, self._joint = slot, metrics, outlets, joint
        self._pause = 1 / max_fps if max_fps else 0.0
        self._runner = ModelRunner(slot, metrics.inference)
        self._progress = 0
        self._lines = RateLimit(_SAY_AGAIN_SECONDS)
        self._version = ""
        self._unseen: deque[bool] = deque(maxlen=_FRAMES_WATCHED)

    def run(self, feed: FrameQueue, keeping: AbstractContextManager[Keeper], stop: threading.Event) -> bool:
        """Look at images until the feed ends, or ``stop`` is set; whether the feed ended.

        Args:
            feed: of images.
            keeping: takes each of them when it has been looked at.
            stop: ends the loop after the image in hand.

        Raises:
            InputError: the source cannot be read.
        """
        with keeping as keeper:
            while not stop.is_set():
                started = time.monotonic()
                shots = self._next(feed, stop)
                for inference in self._infer(shots) if shots else []:
                    self._metrics.alive()
                    self._count_objects(inference)
                    keeper.take(inference)
                    if self._outlets is not None:
                        self._outlets.put(inference)
                    if self._again is not None:
                        self._again.put(inference)
                if shots and self._pause:
                    self._rest(started + self._pause * len(shots), stop)
                elif not shots and feed.ended:
                    return True
        return False

    def idle(self, stop: threading.Event) -> None:
        """Change models as they come, without a source, until ``stop`` is set."""
        while not stop.wait(_TURN_SECONDS):
            self._change_model()
            self._metrics.alive()

    def _rest(self, until: float, stop: threading.Event) -> None:
        """Wait for a moment on the clock of ``time.monotonic``, or until ``stop`` is set."""
        while (left := until - time.monotonic()) > 0 and not stop.wait(min(left, _TURN_SECONDS)):
            self._metrics.alive()

    def _next(self, feed: FrameQueue, stop: threading.Event) -> list[Shot]:
        """The next image, once there is a model to look at it with; for a knowledge base also those behind it."""
        model = self._change_model()
        if model is None:
            if self._slot.awaited and self._lines.allows(self._slot.awaited):
                log.info("no model yet: %s", self._slot.awaited)
            self._metrics.alive()
            stop.wait(_TURN_SECONDS)
            return []
        shots = feed.take(_TURN_SECONDS, 1 if model.base is None else FRAMES_AT_ONCE)
        if shots or feed.progress != self._progress:
            self._progress = feed.progress
            self._metrics.alive()
        return shots

    def _infer(self, shots: Sequence[Shot]) -> list[Inference]:
        """What is found in images, in their order."""
        if self._joint is not None:
            return [self._infer_jointly(shot, self._joint) for shot in shots]
        return self._infer_here(shots)

    def _infer_here(self, shots: Sequence[Shot], joint: JointInference | None = None) -> list[Inference]:
        """What the model sees, or the one before where that fails; neither may be able to look at an image."""
        wanted = [one for one in (self._boxes_from, joint.boxes_from if joint else None) if one is not None]
        boxes_from = min(wanted, default=None)
        seen = self._runner.look_at([(shot.image, shot.place) for shot in shots], boxes_from)
        return [self._noted(shot, one, every_box=bool(wanted)) for shot, one in zip(shots, seen, strict=True)]

    def _noted(self, shot: Shot, seen: Seen | str, *, every_box: bool) -> Inference:
        """One image with what the model sees."""
        if isinstance(seen, str):
            self._tell(seen.partition(":")[0], f"{shot.place}: {seen}")
            self._metrics.count("failed_frames")
            return Inference(shot)
        self._metrics.count("frames")
        self._watch(shot, seen)
        if not every_box or seen.found is None:
            return Inference(shot, seen.model, seen.found, route=seen.route)
        boxes = decoder_of(seen.model.detector.bundle).boxes(seen.found)
        if boxes is None:
            return Inference(shot, seen.model, seen.found, route=seen.route)
        return Inference(shot, seen.model, boxes[boxes.scores >= seen.confidence], every_box=boxes, route=seen.route)

    def _watch(self, shot: Shot, seen: Seen) -> None:
        """Say so where the policy of a knowledge base is to warn of unseen frames."""
        if seen.model.base is None or seen.route is None:
            return
        self._unseen.append(bool(seen.route.unseen))
        if seen.route.unseen and seen.model.base.warns(sum(self._unseen), len(self._unseen)):
            self._tell("unseen image", f"{shot.place}: {seen.route.unseen}")

    def _infer_jointly(self, shot: Shot, joint: JointInference) -> Inference:
        """What the two models see, or the one here alone where the miner fails."""
        model = self._slot.current
        assert model is not None
        if model.desired is not None:
            joint.route(model.desired.routing)
        here: list[Inference] = []

        def edge() -> Detections | None:
            here.extend(self._infer_here([shot], joint))
            return here[0].final

        def every_box() -> Detections | None:
            return here[0].every_box if here else None

        classes = model.detector.bundle.classes
        try:
            result = joint.infer(shot.image, frame_key(shot), classes, edge, shot.original, every_box)
        except Exception as error:  # of a miner that somebody added, most likely; the worker must not end
            self._tell("joint inference", one_line(error))
            return here[0] if here else self._infer_here([shot])[0]
        used = here[0].model if here else None
        if used is not None and used.detector is not model.detector:
            return here[0]  # the model before had to answer, and the cloud was asked for classes that it may not know
        if not here:
            self._metrics.count("frames")
        return replace(here[0] if here else Inference(shot, model), joint=result)

    def _count_objects(self, seen: Inference) -> None:
        """Count what the result that counts shows."""
        if seen.model is not None and seen.final is not None:
            classes = seen.model.detector.bundle.classes
            self._metrics.count_objects([classes[index] for index in seen.final.classes.tolist()])

    def _change_model(self) -> LoadedModel | None:
        """The model for the next image."""
        model = self._slot.next()
        if model is not None and model.version != self._version:
            self._version = model.version
            self._metrics.show_model(model.version, model.detector.bundle.classes)
        return model

    def _tell(self, what: str, more: str) -> None:
        """Say something once a minute, not at every image."""
        if self._lines.allows(what):
            log.warning("%s: %s", what, more)
