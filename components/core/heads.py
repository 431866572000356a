"""Heads: what the outputs of a network mean, and so what kind of task its model is for.

A head is written into ``model.json`` by the estimator that trained the model. Whatever runs the model reads there
which outputs to expect and how to turn them into predictions. A new kind of head is one class, registered under its
``kind``::

    @dataclass(frozen=True, config=STRICT)
    @heads.register("scores")
    class ScoresHead(Head): ...

Nothing here loads more than pydantic: the description of a model is read in every container image.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, PositiveInt, model_serializer
from pydantic.dataclasses import dataclass

from components.core.errors import InputError
from components.core.plugins import Registry

if TYPE_CHECKING:
    from components.core.bundle import Bundle
    from components.core.detections import Detections
    from components.core.runtimes.base import Infer, Network
    from components.core.runtimes.golden import Finding, Outputs

STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)

Shape = tuple[int | str, ...]  # a side that may change is "N"


@dataclass(frozen=True, config=STRICT)
class Head(ABC):
    """What the outputs of a network mean.

    Attributes:
        task: the kind of task that such a model is for.
        export_advice: how an ONNX file has to be exported for such a head; ends an error message.
        conversion_problem: why Rockchip's toolkit cannot convert such a model, and what to do; empty if it can.
    """

    task: ClassVar[str]
    export_advice: ClassVar[str]
    conversion_problem: ClassVar[str] = ""

    @property
    @abstractmethod
    def kind(self) -> str:
        """The name that the head is registered under; identifies heads in ``model.json``."""

    @abstractmethod
    def problem(self, image_size: tuple[int, int], outputs: tuple[str, ...]) -> str:
        """What is wrong with a canvas, (height, width) in pixels, or with outputs for such a head; empty if nothing."""

    @abstractmethod
    def ports(self, outputs: tuple[str, ...], image_size: tuple[int, int], classes: int) -> dict[str, Shape]:
        """The shape of each output of the network, by name."""

    @abstractmethod
    def network(self, bundle: Bundle, infer: Infer) -> Network[Any]:
        """The model of a bundle.

        Args:
            bundle: what the model is.
            infer: runs its network on one canvas.
        """

    def boxes(self, found: Any) -> Detections | None:
        """The boxes of a result, by which miners judge an image; None where such a model gives none."""
        return None

    def summary(self, found: Any, classes: Sequence[str]) -> dict[str, Any]:
        """What a sink writes about a result without boxes, as a JSON object."""
        return {}

    def fault(self, found: Any) -> str:
        """What is wrong with the numbers of a result, such as NaN; empty if nothing."""
        return ""

    def blank_fault(self, found: Any) -> str:
        """What is wrong with the result for an image of noise at a confidence of 0; empty if nothing."""
        return self.fault(found)

    def alike(self, bundle: Bundle, expected: Outputs, given: Outputs) -> Finding | None:
        """Whether a board's results are those of the toolkit's simulator.

        Args:
            bundle: what the model is.
            expected: outputs of the simulator.
            given: outputs of the board for the same canvases.

        Returns:
            None where the numbers of the outputs alone decide.
        """
        return None


@dataclass(frozen=True, config=STRICT)
class UnknownHead(Head):
    """A head of a plug-in that is not loaded: the model can be kept and passed on, but not run.

    Attributes:
        name: the kind of head.
        content: what ``model.json`` says of it.
    """

    task: ClassVar[str] = "an unknown task"
    export_advice: ClassVar[str] = ""

    name: str
    content: dict[str, Any]

    @property
    def kind(self) -> str:
        """See :class:`Head`."""
        return self.name

    def problem(self, image_size: tuple[int, int], outputs: tuple[str, ...]) -> str:
        """None that could be known."""
        return ""

    def ports(self, outputs: tuple[str, ...], image_size: tuple[int, int], classes: int) -> dict[str, Shape]:
        """Not known.

        Raises:
            InputError: always, with what to do.
        """
        raise self._unknown()

    def network(self, bundle: Bundle, infer: Infer) -> Network[Any]:
        """See ``ports``."""
        raise self._unknown()

    def _unknown(self) -> InputError:
        return InputError(
            f"the model ends in the unknown head {self.name!r}: name the module that registers it in the parameter "
            "'plugins'"
        )

    @model_serializer
    def _as_read(self) -> dict[str, Any]:
        return self.content


heads: Registry[type[Head]] = Registry("head")


@dataclass(frozen=True, config=STRICT)
@heads.register("split")
class SplitHead(Head):
    """How the numbers of a grid, one output for boxes and one for scores at each scale, become boxes.

    Attributes:
        strides: pixels of the canvas per grid cell, one for each scale, fine to coarse.
        reg_max: bins per box side; 1 where the model gives the distance itself.
        end_to_end: the model finds each object once, so that no overlapping boxes need be suppressed.
        kind: identifies this head in ``model.json``.
    """

    task: ClassVar[str] = "detection"
    export_advice: ClassVar[str] = (
        "no dynamic axes, and boxes and class scores of every scale as outputs of their own, not concatenated"
    )

    strides: Annotated[tuple[PositiveInt, ...], Field(min_length=1)]
    reg_max: PositiveInt
    end_to_end: bool
    kind: Literal["split"] = "split"

    def problem(self, image_size: tuple[int, int], outputs: tuple[str, ...]) -> str:
        """See :class:`Head`."""
        if len(outputs) != 2 * len(self.strides):
            return f"{len(outputs)} outputs for {len(self.strides)} strides: give two for each"
        if any(side % stride for side in image_size for stride in self.strides):
            return f"image_size {image_size} is not a multiple of the strides {self.strides}"
        return ""

    def ports(self, outputs: tuple[str, ...], image_size: tuple[int, int], classes: int) -> dict[str, Shape]:
        """Of each scale the boxes (1, 4 * reg_max, h, w) and the scores (1, classes, h, w)."""
        channels = (4 * self.reg_max, classes)
        return {
            name: (1, channels[index % 2], *(side // self.strides[index // 2] for side in image_size))
            for index, name in enumerate(outputs)
        }

    def network(self, bundle: Bundle, infer: Infer) -> Network[Any]:
        """A detector."""
        from components.core.runtimes.detector import NetworkDetector  # loads OpenCV

        return NetworkDetector(bundle, infer, self)

    def boxes(self, found: Any) -> Detections:
        """All of it."""
        boxes: Detections = found
        return boxes

    def fault(self, found: Any) -> str:
        """See :class:`Head`."""
        from components.core.runtimes.detector import fault  # loads OpenCV

        return fault(found)

    def blank_fault(self, found: Any) -> str:
        """Every cell of the grid gives boxes of score 0 and above."""
        if not len(found):
            return "all its boxes lie beside the image, or its scores are below 0"
        return self.fault(found)

    def alike(self, bundle: Bundle, expected: Outputs, given: Outputs) -> Finding:
        """Whether the boxes are the same."""
        from components.core.runtimes.detector import alike  # loads OpenCV

        return alike(bundle, self, expected, given)


@dataclass(frozen=True, config=STRICT)
@heads.register("boxes")
class BoxesHead(Head):
    """The model gives boxes itself: in canvas pixels (N, 4), their scores (N,) in 0..1 and their classes (N,).

    Attributes:
        end_to_end: the model finds each object once, so that no overlapping boxes need be suppressed.
        kind: identifies this head in ``model.json``.
    """

    task: ClassVar[str] = "detection"
    export_advice: ClassVar[str] = "and the boxes, their scores and their classes as outputs"
    conversion_problem: ClassVar[str] = (
        "it gives finished boxes (an estimator such as fpn), which Rockchip's toolkit cannot convert: "
        "train with estimator=yolo, or leave targets empty"
    )

    end_to_end: bool = False
    kind: Literal["boxes"] = "boxes"

    def problem(self, image_size: tuple[int, int], outputs: tuple[str, ...]) -> str:
        """See :class:`Head`."""
        return "" if len(outputs) == 3 else f"{len(outputs)} outputs: boxes need three, boxes, scores and classes"

    def ports(self, outputs: tuple[str, ...], image_size: tuple[int, int], classes: int) -> dict[str, Shape]:
        """The boxes (N, 4), their scores (N,) and their classes (N,)."""
        return dict(zip(outputs, (("N", 4), ("N",), ("N",)), strict=True))

    def network(self, bundle: Bundle, infer: Infer) -> Network[Any]:
        """A detector."""
        from components.core.runtimes.detector import NetworkDetector  # loads OpenCV

        return NetworkDetector(bundle, infer, self)

    def boxes(self, found: Any) -> Detections:
        """All of it."""
        boxes: Detections = found
        return boxes

    def fault(self, found: Any) -> str:
        """See :class:`Head`."""
        from components.core.runtimes.detector import fault  # loads OpenCV

        return fault(found)

    def alike(self, bundle: Bundle, expected: Outputs, given: Outputs) -> Finding:
        """Whether the boxes are the same."""
        from components.core.runtimes.detector import alike  # loads OpenCV

        return alike(bundle, self, expected, given)


@dataclass(frozen=True, config=STRICT)
@heads.register("semantic")
class SemanticHead(Head):
    """The model scores each class for each cell of a grid: one output of logits, (1, classes, height, width).

    Attributes:
        stride: pixels of the canvas per grid cell.
        kind: identifies this head in ``model.json``.
    """

    task: ClassVar[str] = "segmentation"
    export_advice: ClassVar[str] = (
        "no dynamic axes, and the logits of the classes as its one output, before they are enlarged"
    )

    stride: PositiveInt
    kind: Literal["semantic"] = "semantic"

    def problem(self, image_size: tuple[int, int], outputs: tuple[str, ...]) -> str:
        """See :class:`Head`."""
        if len(outputs) != 1:
            return f"{len(outputs)} outputs: class scores need one"
        if any(side % self.stride for side in image_size):
            return f"image_size {image_size} is not a multiple of the stride {self.stride}"
        return ""

    def ports(self, outputs: tuple[str, ...], image_size: tuple[int, int], classes: int) -> dict[str, Shape]:
        """The logits (1, classes, h, w)."""
        return {outputs[0]: (1, classes, *(side // self.stride for side in image_size))}

    def network(self, bundle: Bundle, infer: Infer) -> Network[Any]:
        """A segmenter."""
        from components.core.runtimes.segmenter import NetworkSegmenter  # loads OpenCV

        return NetworkSegmenter(bundle, infer)

    def summary(self, found: Any, classes: Sequence[str]) -> dict[str, Any]:
        """The fraction of the pixels of each class."""
        fractions = ((name, float((found == index).mean())) for index, name in enumerate(classes))
        return {"pixels": {name: round(fraction, 4) for name, fraction in fractions if fraction}}

    def alike(self, bundle: Bundle, expected: Outputs, given: Outputs) -> Finding:
        """Whether the pixels have the same classes."""
        from components.core.runtimes.segmenter import alike  # loads OpenCV

        return alike(bundle, expected, given)
