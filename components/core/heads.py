"""Heads: what the outputs of a network mean, and so what kind of task its model is for.

A head is written into ``model.json`` by the estimator that trained the model. Whatever runs the model reads there
which outputs to expect, and a decoder of the same name (:mod:`components.core.runtimes.base`) turns them into
predictions. A new kind of head is one class, registered under its ``kind``::

    @dataclass(frozen=True, config=STRICT)
    @heads.register("scores")
    class ScoresHead(Head): ...

Nothing here loads more than pydantic: the description of a model is read in every container image.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, PositiveInt, model_serializer
from pydantic.dataclasses import dataclass

from components.core.errors import InputError
from components.core.plugins import Registry

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
        raise self.unknown()

    def unknown(self) -> InputError:
        """The error of whoever needs more of the head than its name."""
        return InputError(
            f"unknown head {self.name!r} of the model: add the module that registers it to the parameter 'plugins'"
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
        "without dynamic axes, with boxes and class scores of every scale as separate outputs"
    )

    strides: Annotated[tuple[PositiveInt, ...], Field(min_length=1)]
    reg_max: PositiveInt
    end_to_end: bool
    kind: Literal["split"] = "split"

    def problem(self, image_size: tuple[int, int], outputs: tuple[str, ...]) -> str:
        """See :class:`Head`."""
        if len(outputs) != 2 * len(self.strides):
            return f"{len(outputs)} outputs for {len(self.strides)} strides: two per stride are needed"
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


@dataclass(frozen=True, config=STRICT)
@heads.register("boxes")
class BoxesHead(Head):
    """The model gives boxes itself: in canvas pixels (N, 4), their scores (N,) in 0..1 and their classes (N,).

    Attributes:
        end_to_end: the model finds each object once, so that no overlapping boxes need be suppressed.
        kind: identifies this head in ``model.json``.
    """

    task: ClassVar[str] = "detection"
    export_advice: ClassVar[str] = "with boxes, scores and classes as outputs"
    conversion_problem: ClassVar[str] = (
        "it outputs decoded boxes (as fpn does), which Rockchip's toolkit cannot convert: "
        "train with estimator=yolo, or leave targets empty"
    )

    end_to_end: bool = False
    kind: Literal["boxes"] = "boxes"

    def problem(self, image_size: tuple[int, int], outputs: tuple[str, ...]) -> str:
        """See :class:`Head`."""
        return "" if len(outputs) == 3 else f"{len(outputs)} outputs: three are needed (boxes, scores and classes)"

    def ports(self, outputs: tuple[str, ...], image_size: tuple[int, int], classes: int) -> dict[str, Shape]:
        """The boxes (N, 4), their scores (N,) and their classes (N,)."""
        return dict(zip(outputs, (("N", 4), ("N",), ("N",)), strict=True))


@dataclass(frozen=True, config=STRICT)
@heads.register("semantic")
class SemanticHead(Head):
    """The model scores each class for each cell of a grid: one output of logits, (1, classes, height, width).

    Attributes:
        stride: pixels of the canvas per grid cell.
        kind: identifies this head in ``model.json``.
    """

    task: ClassVar[str] = "segmentation"
    export_advice: ClassVar[str] = "without dynamic axes, with the class logits before upsampling as its only output"

    stride: PositiveInt
    kind: Literal["semantic"] = "semantic"

    def problem(self, image_size: tuple[int, int], outputs: tuple[str, ...]) -> str:
        """See :class:`Head`."""
        if len(outputs) != 1:
            return f"{len(outputs)} outputs: one is needed (class scores)"
        if any(side % self.stride for side in image_size):
            return f"image_size {image_size} is not a multiple of the stride {self.stride}"
        return ""

    def ports(self, outputs: tuple[str, ...], image_size: tuple[int, int], classes: int) -> dict[str, Shape]:
        """The logits (1, classes, h, w)."""
        return {outputs[0]: (1, classes, *(side // self.stride for side in image_size))}
