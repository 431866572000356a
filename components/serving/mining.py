"""What becomes of an image once the model has seen it: judged, compared, kept; in a thread beside the loop.

Encoding an image and bringing it safely to the disk takes as long as looking at one or two. Meanwhile the loop looks
at those. Images are done with in their order, and the position in the source moves behind each one that is.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from queue import Queue
from typing import Any, Literal, Self

import cv2
import numpy as np

from components.core.detections import Detections
from components.core.duplicates import Duplicates, fingerprint
from components.core.errors import InputError
from components.core.job.hard_examples import Sidecar
from components.core.lifelong.knowledge_base import Route
from components.core.miners.base import Frame, Judgement, Miner, boxes_from
from components.core.miners.rules import BoxRule
from components.core.privacy.base import PrivacyFilter, Protected
from components.core.rate_limit import RateLimit
from components.core.runtimes.base import decoder_of
from components.serving.active_model import LoadedModel
from components.serving.metrics import Metrics
from components.serving.offload import JointResult
from components.serving.position import Position
from components.serving.smoke_test import one_line
from components.serving.sources.base import Shot
from components.serving.spool import Spool

_WAITING = 4  # images between the loop and here, each of some megabytes
_KEY_ROWS = 8  # every n-th row names an image well enough
_SAY_AGAIN_SECONDS = 60.0

log = logging.getLogger(__name__)

Kind = Literal["hard", "audit", "unseen"]

# Most miners judge by boxes. Where the model gives none, frames are kept for these by chance alone.
NO_BOXES = Judgement(False, 0.0, "the model gives no boxes to score")


@dataclass(frozen=True)
class Inference:
    """An image and what was found in it; nothing where no model could look at it.

    Attributes:
        shot: the image.
        model: the one here.
        found: what that one found.
        joint: what joint inference says, where the worker has a cloud to ask.
        every_box: what was found here with the boxes that score too low to count; None where no miner wants these.
        route: where a knowledge base sent the image; None where the model is one.
    """

    shot: Shot
    model: LoadedModel | None = None
    found: Any = None
    joint: JointResult | None = None
    every_box: Detections | None = None
    route: Route | None = None

    def boxes_for(self, miner: Miner) -> Detections:
        """The boxes that a miner sees: those that count, or more where it asks for more."""
        wanted = boxes_from(miner)
        if wanted is None or self.every_box is None:
            return self.final or Detections.none()
        return self.every_box[self.every_box.scores >= wanted]

    @property
    def final(self) -> Detections | None:
        """The boxes that count: the cloud's where joint inference has some, and else what was found here.

        None where nothing was found, or by a model that gives no boxes, as one that segments.
        """
        if self.joint:
            return self.joint.final
        if self.model is None or self.found is None:
            return None
        return decoder_of(self.model.detector.bundle).boxes(self.found)

    @property
    def has_result(self) -> bool:
        """Whether a model could look at the image."""
        return self.found is not None or self.final is not None

    @property
    def is_unseen(self) -> bool:
        """Whether a knowledge base knows no task of the image, or nothing like it."""
        return self.route is not None and bool(self.route.unseen)

    @property
    def version(self) -> str:
        """Of the model whose result counts; of the knowledge base where it abstains."""
        if self.joint and self.joint.cloud_model:
            return self.joint.cloud_model
        if self.model is None:
            return ""
        if self.route is not None and self.found is not None:
            return self.model.cached.members[self.route.member].version
        return self.model.version


@dataclass(frozen=True)
class Mining:
    """What is kept of what the model sees.

    Attributes:
        miner: the rule that calls images hard.
        audit_ratio: share of the easy images that are kept as well, to see what the rule overlooks.
        jpeg_quality: of images that have no file of their own, 1 to 100.
        node: the worker, for the sidecar.
        source: its name, for the sidecar.
        keep_miner: in joint inference, the rule that calls images hard examples, such as ``disagreement``; None: those
            that the cloud is asked about are.
        privacy: what is done to an image before it is kept; None: nothing.
    """

    miner: Miner
    audit_ratio: float
    jpeg_quality: int
    node: str
    source: str
    keep_miner: Miner | None = None
    privacy: PrivacyFilter | None = None

    def judge_jointly(self, seen: Inference, joint: JointResult, key: str) -> tuple[Judgement, str]:
        """What is said of a frame of joint inference, and by which miner."""
        if self.keep_miner is None:
            return joint.judgement, joint.miner
        here = joint.final if joint.edge is None else joint.edge
        if boxes_from(self.keep_miner) is not None:
            here = seen.boxes_for(self.keep_miner)
        assert here is not None
        cloud = None if joint.edge is None else joint.cloud  # of the cloud's result alone there is nothing to compare
        return self.keep_miner.judge(Frame(here, seen.shot.image, key, cloud=cloud)), self.keep_miner.name

    def kind(self, judgement: Judgement, key: str) -> Kind | None:
        """As what an image is kept, if at all; the same image always meets the same chance."""
        if judgement.hard:
            return "hard"
        return "audit" if _chance(key) < self.audit_ratio else None

    def protect(self, seen: Inference) -> Protected:
        """What may be kept of an image.

        Raises:
            InputError: the filter gives something else than an image of the same size. Whatever it raises is passed on.
        """
        image = seen.shot.image
        if self.privacy is None:
            return Protected(image, "")
        # Changed in place, the image would seem to be unchanged, and the file that the source had would be kept.
        shown = image.view()
        shown.flags.writeable = False
        kept = self.privacy.protect(shown, _Look(seen))
        if kept.image is shown:
            return kept._replace(image=image)
        if kept.image is not None and (kept.image.shape, kept.image.dtype) != (image.shape, image.dtype):
            raise InputError(
                f"an image of shape {kept.image.shape} and type {kept.image.dtype} came back, but {image.shape} and "
                f"{image.dtype} are needed"
            )
        return kept

    def describe(
        self, seen: Inference, image: str, kind: Kind, judgement: Judgement, miner: str, privacy: str = ""
    ) -> Sidecar:
        """The sidecar of an image whose bytes have the SHA-256 ``image``."""
        found = seen.final or Detections.none()
        assert seen.model is not None
        shot = seen.shot
        height, width = shot.image.shape[:2]
        return Sidecar.model_validate(
            {
                "image": image, "suffix": shot.suffix, "width": width, "height": height, "captured": datetime.now(UTC),
                "node": self.node, "source": self.source, "frame": shot.number, "kind": kind, "miner": miner,
                "score": judgement.score, "reason": judgement.reason, "privacy": privacy, "model": seen.version,
                "classes": seen.model.detector.bundle.classes, "boxes": found.boxes.tolist(),
                "scores": found.scores.tolist(), "class_ids": found.classes.tolist(),
            }
        )  # fmt: skip


class _Look:
    """The worker's model, as a privacy filter sees it."""

    def __init__(self, seen: Inference) -> None:
        self._seen = seen

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of the boxes' numbers."""
        return self._seen.model.detector.bundle.classes if self._seen.model else ()

    def boxes(self, confidence: float) -> Detections:
        """What the model finds in the image, or the cloud's does where that one was asked."""
        model, final = self._seen.model, self._seen.final
        if model is None or final is None:
            raise InputError("the privacy filter needs boxes, but the model gives none")
        if confidence >= model.detector.bundle.confidence_threshold:
            return final[final.scores >= confidence]
        (found,) = model.detector.predict([self._seen.shot.image], confidence=confidence)
        return found if self._seen.joint is None else Detections.joined([final, found])


def frame_key(shot: Shot) -> str:
    """The hex digest that names a frame, by which chance is seeded."""
    return hashlib.sha256(shot.original or shot.image[::_KEY_ROWS].tobytes()).hexdigest()


class Keeper:
    """Takes what the loop has seen, and keeps what is worth it.

    As a context it works beside its body, and has done with everything when that ends.

    Args:
        mining: what is kept.
        spool: where it is kept.
        duplicates: what is left out.
        metrics: counts.
        position: moves on behind each image that is done with; None for a live source.
    """

    def __init__(
        self, mining: Mining, spool: Spool, duplicates: Duplicates, metrics: Metrics, position: Position | None
    ) -> None:
        self._mining, self._spool, self._duplicates = mining, spool, duplicates
        self._metrics, self._position = metrics, position
        self._queue: Queue[Inference | None] = Queue(_WAITING)
        self._lines = RateLimit(_SAY_AGAIN_SECONDS)
        self._thread = threading.Thread(target=self._run, name="keeper", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._queue.put(None)
        self._thread.join()
        if self._position is not None:
            self._position.save()

    def take(self, seen: Inference) -> None:
        """Hand an image over; waits while too many wait already."""
        self._queue.put(seen)

    def _run(self) -> None:
        while (seen := self._queue.get()) is not None:
            kept = self._mine(seen)
            if self._position is not None:
                self._position.advance(seen.shot.place, spooled=kept)

    def _mine(self, seen: Inference) -> bool:
        """Judge a frame and keep it if it is worth that; whether it was kept."""
        if not (seen.has_result or seen.is_unseen):
            return False
        key = frame_key(seen.shot)
        try:
            judgement, miner = self._unseen(seen) or self._judge(seen, key)
            kind = "unseen" if seen.is_unseen else self._mining.kind(judgement, key)
        except Exception as error:  # of a plug-in, most likely; the worker must not end
            self._failed("unmined", f"mining with {self._mining.miner.name}: {one_line(error)}")
            return False
        self._metrics.count(kind or "easy")
        if kind is None:
            return False
        try:
            return self._keep(seen, kind, judgement, miner)
        except Exception as error:  # such as an image that no JPEG can hold
            self._failed("unkept", f"a hard example cannot be kept: {one_line(error)}")
            return False

    def _unseen(self, seen: Inference) -> tuple[Judgement, str] | None:
        """What is said of a frame that a knowledge base calls unseen, and by which rule; None of all others."""
        base = seen.model.base if seen.model else None
        if base is None or seen.route is None or not seen.route.unseen:
            return None
        return Judgement(True, base.hardness(seen.route), f"unseen: {seen.route.unseen}"), base.detection

    def _judge(self, seen: Inference, key: str) -> tuple[Judgement, str]:
        """What is said of a frame, and by which miner."""
        if seen.joint is not None:
            return self._mining.judge_jointly(seen, seen.joint, key)
        boxes, miner = seen.final, self._mining.miner
        if boxes is None and isinstance(miner, BoxRule):
            if self._lines.allows("no boxes"):
                log.warning(
                    "the model gives no boxes for the miner %s to score: only audit_ratio=%g of the frames are kept",
                    miner.name, self._mining.audit_ratio,
                )  # fmt: skip
            return NO_BOXES, miner.name
        return miner.judge(Frame(seen.boxes_for(miner), seen.shot.image, key)), miner.name

    def _failed(self, counter: str, message: str) -> None:
        self._metrics.count(counter)
        if self._lines.allows():
            log.warning("%s", message)

    def _keep(self, seen: Inference, kind: Kind, judgement: Judgement, miner: str) -> bool:
        """Put an image into the spool, unless one much like it was."""
        looks = fingerprint(seen.shot.image)
        if looks in self._duplicates:
            self._metrics.count("duplicates")
            return False
        try:
            kept = self._mining.protect(seen)
        except Exception as error:  # of a plug-in; what it would have taken out must not be kept
            self._failed("unkept", f"a hard example is dropped, since the privacy filter failed: {one_line(error)}")
            return False
        if kept.image is None:
            self._metrics.count("withheld")
            return False
        if kept.image is not seen.shot.image:  # the file that the source had shows what is not to be kept
            seen = replace(seen, shot=replace(seen.shot, image=kept.image, original=None, suffix=".jpg"))
        data = seen.shot.original or _jpeg(seen.shot, self._mining.jpeg_quality)
        sidecar = self._mining.describe(seen, hashlib.sha256(data).hexdigest(), kind, judgement, miner, kept.done)
        if self._spool.add(data, sidecar, looks) != "kept":
            return False
        self._duplicates.keep(looks)
        return True


def _chance(key: str) -> float:
    """A number in 0..1 that an image's key decides; not the one by which a miner samples."""
    return int(hashlib.sha256(f"audit {key}".encode()).hexdigest()[:13], 16) / 16**13


def _jpeg(shot: Shot, quality: int) -> bytes:
    frame = cv2.cvtColor(shot.image, cv2.COLOR_RGB2BGR)
    done, data = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise InputError(f"image {shot.place}: cannot be written as JPEG")
    return np.asarray(data).tobytes()
