"""What a sink is: where the detections of an edge worker go, and the plug-in registry of them.

=============================  ==================================================================================
``--sink``                     what it does
=============================  ==================================================================================
``jsonl:FILE``                 appends one JSON object a frame to a file; ``jsonl:-`` writes to standard output
``video:FILE.mp4``             writes the frames with their boxes drawn as a video
``mqtt://HOST/TOPIC``          publishes one JSON object a frame; ``mqtts://`` with TLS
``webhook:https://HOST/PATH``  posts one JSON object a frame
``masks:FOLDER``               writes the masks of a segmentation as images, as Sedna's ``INFERENCE_RESULT_DIR`` does
``sedna:FOLDER``               writes images and lines into three folders, as Sedna's examples of joint inference do
``sedna-lines:FOLDER``         the same without the images
=============================  ==================================================================================

A plug-in is a class or function, registered under a name, that takes what follows the colon and makes
something with ``write`` and ``close``::

    @sinks.register("gpio")
    class Alarm:
        needs_image = takes_masks = False

        def __init__(self, pin: str) -> None: ...

        def write(self, result: Result) -> None:
            if len(result.detections): ...

        def close(self) -> None: ...
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

from components.core.detections import Detections
from components.core.errors import InputError
from components.core.lifelong.knowledge_base import Route
from components.core.masks import ClassMap, runs_of
from components.core.plugins import Registry
from components.core.runtimes.letterbox import ImageArray
from components.serving.offload import JointResult


@dataclass(frozen=True)
class Result:
    """What a model found in one frame.

    Attributes:
        time: when the frame was inferred, or the late answer came; UTC, by the worker's clock.
        node: the worker.
        source: its name, without user and password.
        frame: number of the frame in its source.
        model: version of the model.
        classes: class names in the order of the class ids.
        detections: in pixels of the frame; none from a model that gives no boxes.
        width: of the frame, in pixels.
        height: of the frame, in pixels.
        image: the frame, (H, W, 3) uint8 RGB; None for a sink that does not need it.
        joint: both results and the judgement, where the worker does joint inference; ``detections`` is the final one.
        summary: what a model without boxes found, such as ``{"pixels": {"road": 0.61}}``, the fraction of each class.
        mask: the class of each pixel, where the model gives one; None for a sink that does not take masks.
        route: where a knowledge base sent the frame; None where the model is one.
    """

    time: datetime
    node: str
    source: str
    frame: int
    model: str
    classes: tuple[str, ...]
    detections: Detections
    width: int
    height: int
    image: ImageArray | None = None
    joint: JointResult | None = None
    summary: Mapping[str, Any] = field(default_factory=dict)
    mask: ClassMap | None = None
    route: Route | None = None

    def record(self) -> dict[str, Any]:
        """The same as a JSON object; boxes are ``x1, y1, x2, y2`` to a hundredth of a pixel.

        A mask is written as the lengths of its runs, which :func:`components.core.masks.from_runs` reads.
        """
        return {
            "time": self.time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "node": self.node, "source": self.source, "frame": self.frame, "model": self.model,
            "width": self.width, "height": self.height,
            "detections": self.rows(self.detections), **({"is_hard": self.joint.is_hard} if self.joint else {}),
            **({"late": True} if self.joint and self.joint.late else {}), **self.summary, **self._mask(),
            **self._route(),
        }  # fmt: skip

    def _mask(self) -> dict[str, Any]:
        return {} if self.mask is None else {"mask": {"size": list(self.mask.shape), "runs": runs_of(self.mask)}}

    def _route(self) -> dict[str, Any]:
        """The task, and of an unseen frame why it is that."""
        if self.route is None:
            return {}
        found = {"task": self.route.task, "score": round(self.route.score, 5)}
        return found | ({"unseen": self.route.unseen} if self.route.unseen else {})

    def rows(self, found: Detections) -> list[dict[str, Any]]:
        """Detections as JSON objects."""
        return [
            {"class": self.classes[index], "score": round(score, 4), "box": [round(side, 2) for side in box]}
            for index, score, box in zip(
                found.classes.tolist(), found.scores.tolist(), found.boxes.tolist(), strict=True
            )
        ]


class Sink(Protocol):
    """A place that takes results, one after the other, from one thread.

    Attributes:
        needs_image: whether ``write`` is to be given the frame itself.
        takes_masks: whether it is to be given masks; one that does not say so is not.

    One that needs images gets the frames in their order alone. With ``takes_late = True`` it also gets late answers of
    joint inference, with as much of the frame as was sent.
    """

    needs_image: bool
    takes_masks: bool

    def write(self, result: Result) -> None:
        """Take one result. It may wait for some seconds; whatever it raises counts as a failure of this sink alone."""
        ...

    def close(self) -> None:
        """No result comes any more."""
        ...


sinks: Registry[Callable[[str], Sink]] = Registry(
    "sink", [f"components.serving.sinks.{name}" for name in ("jsonl", "video", "mqtt", "webhook", "sedna", "masks")]
)


def open_sink(address: str) -> Sink:
    """The sink at an address.

    Args:
        address: the name of a kind, a colon, and what that kind takes.

    Raises:
        InputError: no such kind, or it does not take what follows.
    """
    kind, colon, target = address.partition(":")
    if not colon or not target:
        raise InputError(
            f"sink {kind!r}: write KIND:TARGET, such as jsonl:detections.jsonl; choose from {', '.join(sinks.names())}"
        )
    return sinks.get(kind)(target)
