"""A bundle's ``model.<target>.rknn``: what an NPU, or the toolkit's simulator of one, makes of a picture."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.core.bundle import Bundle
from components.core.detections import Detections
from components.core.errors import InputError
from components.core.runtimes.decode import decode
from components.core.runtimes.detector import on_picture, runtimes
from components.core.runtimes.letterbox import Picture, letterbox
from components.core.runtimes.rockchip import TARGETS, rknn_file

COMPATIBLE = Path("/proc/device-tree/compatible")  # what a board says it is, such as rockchip,rk3588s rockchip,rk3588
NEEDED = (Path("/usr/lib/librknnrt.so"), Path("/dev/dri/renderD129"))  # where rknn-toolkit-lite2 2.5.0 looks for an NPU
# Docker hides the device tree from containers, and whoever mounts it finds it hidden all the same.
_HOW_IN_A_CONTAINER = (
    "a container of Docker needs --device /dev/dri --security-opt systempaths=unconfined "
    f"--volume {NEEDED[0]}:{NEEDED[0]}:ro"
)

# An .rknn takes (1, height, width, 3) uint8 RGB, 0..255: the division by 255 is inside the model. Numbers in 0..1 would
# raise no error and find nothing.
Canvas = NDArray[np.uint8]
Infer = Callable[[Canvas], Sequence[NDArray[np.float32]]]


class RknnDetector:
    """A detector that quantised numbers are computed for elsewhere.

    Args:
        bundle: what the model is; its head is a split one.
        infer: runs the model on one canvas, (1, height, width, 3) uint8 RGB, and gives the outputs that the bundle
            names, float32, in its order.
    """

    def __init__(self, bundle: Bundle, infer: Infer) -> None:
        self.bundle = bundle
        self._infer = infer

    def predict(
        self, images: Sequence[Picture], *, confidence: float | None = None, nms: float | None = None
    ) -> list[Detections]:
        """Find objects; see :class:`components.core.runtimes.detector.Detector`."""
        least = self.bundle.confidence_threshold if confidence is None else confidence
        overlap = self.bundle.nms_threshold if nms is None else nms
        return [self._predict_one(image, least, overlap) for image in images]

    def _predict_one(self, image: Picture, confidence: float, nms: float) -> Detections:
        canvas, placement = letterbox(image, self.bundle.image_size, self.bundle.pad)
        outputs = self._infer(canvas[None])
        return on_picture(decode(outputs, self.bundle.head, confidence=confidence, nms=nms), placement)


@runtimes.register("rknn")
def open_on_board(folder: Path, threads: int = 0) -> RknnDetector:
    """Load a bundle's ``.rknn`` on the NPU of the board that this runs on.

    Args:
        folder: the bundle.
        threads: of the processor, which has nothing to do here.

    Raises:
        NotFoundError: the folder is no bundle, or was not converted for this board.
        InputError: this is no Rockchip board, its runtime is missing, or it refuses the file.
    """
    bundle = Bundle.read(folder)
    path = bundle.file(folder, rknn_file(this_board()))
    try:
        lite = importlib.import_module("rknnlite.api").RKNNLite()
    except ImportError as error:
        raise InputError("runtime rknn: rknn-toolkit-lite2 is not installed on this board: install it") from error
    try:
        ready = lite.load_rknn(str(path)) == 0 and lite.init_runtime() == 0
    except Exception as error:  # most of what goes wrong is a number, the rest is a bare Exception
        raise InputError(f"model {path}: {_why_refused()} ({' '.join(str(error).split())})") from error
    if not ready:
        raise InputError(f"model {path}: {_why_refused()}")
    return RknnDetector(bundle, lambda canvas: _run(lite, canvas))


def this_board() -> str:
    """The chip of this machine.

    Raises:
        InputError: it has none that models are converted for.
    """
    names = COMPATIBLE.read_text(encoding="ascii", errors="replace").split("\0") if COMPATIBLE.is_file() else []
    for target in TARGETS:
        if f"rockchip,{target}" in names:
            return target
    told = ", ".join(filter(None, names))
    raise InputError(
        f"runtime rknn: this machine is no Rockchip board ({told or 'no device tree'}): use the runtime onnx"
        + ("" if told else f"; if it is one, {_HOW_IN_A_CONTAINER}")
    )


def _why_refused() -> str:
    """Why the board's runtime most likely refuses a model; the library itself says so in its log alone."""
    missing = " and ".join(str(path) for path in NEEDED if not path.exists())
    if missing:
        return f"no NPU's runtime: there is no {missing} here; {_HOW_IN_A_CONTAINER}"
    return (
        "the NPU's runtime refuses it: librknnrt.so on the board must be as new as the toolkit that the model was "
        "converted with, which model.json names"
    )


def _run(lite: Any, canvas: Canvas) -> Sequence[NDArray[np.float32]]:
    outputs: Sequence[NDArray[np.float32]] | None = lite.inference(inputs=[canvas], data_format=["nhwc"])
    if outputs is None:
        raise RuntimeError("the NPU's runtime gave no outputs")
    return outputs
