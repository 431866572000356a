"""What a loaded model can do, and the plug-in registry of runtimes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from components.core.bundle import Bundle
from components.core.detections import Detections
from components.core.errors import InputError
from components.core.heads import UnknownHead
from components.core.masks import ClassMap
from components.core.plugins import Registry
from components.core.runtimes.golden import Finding, Outputs
from components.core.runtimes.letterbox import ImageArray

Canvas = NDArray[np.uint8]  # (1, height, width, 3) RGB, 0..255


# Runs a network on one canvas, and gives the outputs that its bundle names, float32, in the bundle's order.
Infer = Callable[[Canvas], Sequence[NDArray[np.float32]]]

Found = TypeVar("Found")


class Model(Protocol[Found]):
    """A bundle that has been loaded and can look at images."""

    @property
    def bundle(self) -> Bundle:
        """What the model is."""
        ...

    def predict(
        self, images: Sequence[ImageArray], *, confidence: float | None = None, nms: float | None = None
    ) -> list[Found]:
        """Say what images show.

        Args:
            images: (H, W, 3) uint8 RGB each, of any size.
            confidence: least score of a box; the bundle's own where None.
            nms: overlap (IoU) above which the lower of two boxes of a class is dropped; the bundle's own where None.

        Returns:
            Of each image what its kind of task gives: the boxes in its own pixels, best score first, at most 300; or
            for each pixel, (H, W) uint8, the index into the bundle's classes.
        """
        ...


Detector: TypeAlias = Model[Detections]
Segmenter: TypeAlias = Model[ClassMap]


class Network(ABC, Generic[Found]):
    """A model whose network is run by something else; each head has its own.

    Args:
        bundle: what the model is.
        infer: runs its network on one canvas.
    """

    def __init__(self, bundle: Bundle, infer: Infer) -> None:
        self.bundle = bundle
        self.infer = infer

    @abstractmethod
    def predict(
        self, images: Sequence[ImageArray], *, confidence: float | None = None, nms: float | None = None
    ) -> list[Found]:
        """Say what images show; see :class:`Model`."""


class Decoder(ABC):
    """Turns the outputs of networks with one kind of head into results, and says what can be said of a result.

    Registered under the ``kind`` of the head.
    """

    @abstractmethod
    def network(self, bundle: Bundle, infer: Infer) -> Network[Any]:
        """The model of a bundle.

        Args:
            bundle: what the model is.
            infer: runs its network on one canvas.
        """

    def boxes(self, found: Any) -> Detections | None:
        """The boxes of a result, by which miners evaluate an image; None where such a model gives none."""
        return None

    def mask(self, found: Any) -> ClassMap | None:
        """The class of each pixel of a result, (H, W); None where such a model gives none."""
        return None

    def renumbered(self, found: Any, table: Sequence[int]) -> Any:
        """A result with other class numbers: ``table[k]`` in place of ``k``."""
        return found

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


decoders: Registry[type[Decoder]] = Registry(
    "decoder", ["components.core.runtimes.detector", "components.core.runtimes.segmenter"]
)


def decoder_of(bundle: Bundle) -> Decoder:
    """The decoder for the head of a bundle.

    Raises:
        InputError: the head or its decoder is of a plug-in that is not loaded.
    """
    if isinstance(bundle.head, UnknownHead):
        raise bundle.head.unknown()
    return decoders.get(bundle.head.kind)()


runtimes: Registry[Callable[[Path, int], Model[Any]]] = Registry(
    "runtime", ["components.core.runtimes.onnx", "components.core.runtimes.rknn"]
)


def open_model(runtime: str, folder: Path, threads: int = 0) -> Model[Any]:
    """Load a bundle into a runtime.

    Args:
        runtime: name of a plug-in, such as ``onnx``.
        folder: the bundle.
        threads: processor threads to use; 0 lets the runtime decide.

    Raises:
        NoRuntimeError: this machine lacks what the runtime needs; no other model would run either.
        InputError: no such runtime, or the bundle cannot run on it.
    """
    return runtimes.get(runtime)(folder, threads)


def open_detector(runtime: str, folder: Path, threads: int = 0) -> Detector:
    """Load a bundle that finds objects into a runtime; see ``open_model``.

    Raises:
        NoRuntimeError: this machine lacks what the runtime needs; no other model would run either.
        InputError: as for ``open_model``, or the model is for another kind of task.
    """
    model = open_model(runtime, folder, threads)
    if model.bundle.task != "detection":
        raise InputError(f"model {folder}: it is for {model.bundle.task}, but a detection model is needed")
    return model
