"""A bundle's ``model.<target>.rknn``: what an NPU, or the toolkit's simulator of one, makes of a picture."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.core.bundle import Bundle
from components.core.errors import InputError
from components.core.runtimes.detector import Canvas, Detector, runtimes
from components.core.runtimes.network import as_described
from components.core.runtimes.rockchip import TARGETS, rknn_file
from components.core.runtimes.segmenter import Segmenter

COMPATIBLE = Path("/proc/device-tree/compatible")  # what a board says it is, such as rockchip,rk3588s rockchip,rk3588


@runtimes.register("rknn")
def open_on_board(folder: Path, threads: int = 0) -> Detector | Segmenter:
    """Load a bundle's ``.rknn`` on the NPU of the board that this runs on.

    It takes (1, height, width, 3) uint8 RGB, 0..255: the division by 255 is inside the model. Numbers in 0..1 would
    raise no error and find nothing.

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
    if lite.load_rknn(str(path)) != 0 or lite.init_runtime() != 0:
        raise InputError(
            f"model {path}: the NPU's runtime refuses it: librknnrt.so on the board must be as new as the toolkit "
            "that the model was converted with, which model.json names"
        )
    return as_described(bundle, lambda canvas: _run(lite, canvas))


def this_board() -> str:
    """The chip of this machine.

    Raises:
        InputError: it has none that models are converted for.
    """
    names = COMPATIBLE.read_text(encoding="ascii", errors="replace").split("\0") if COMPATIBLE.is_file() else []
    for target in TARGETS:
        if f"rockchip,{target}" in names:
            return target
    raise InputError(
        f"runtime rknn: this machine is no Rockchip board ({', '.join(filter(None, names)) or 'no device tree'}): "
        "use the runtime onnx"
    )


def _run(lite: Any, canvas: Canvas) -> Sequence[NDArray[np.float32]]:
    outputs: Sequence[NDArray[np.float32]] | None = lite.inference(inputs=[canvas], data_format=["nhwc"])
    if outputs is None:
        raise RuntimeError("the NPU's runtime gave no outputs")
    return outputs
