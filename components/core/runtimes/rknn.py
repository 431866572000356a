"""A bundle's ``model.<target>.rknn``: what an NPU, or the toolkit's simulator of one, makes of an image."""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.core.bundle import Bundle
from components.core.errors import InputError, NoRuntimeError
from components.core.runtimes.base import Canvas, Network, decoder_of, runtimes
from components.core.runtimes.rockchip import TARGETS, rknn_file

COMPATIBLE = Path("/proc/device-tree/compatible")  # what a board says it is, such as rockchip,rk3588s rockchip,rk3588
NEEDED = (Path("/usr/lib/librknnrt.so"), Path("/dev/dri/renderD129"))  # where rknn-toolkit-lite2 2.5.0 looks for an NPU
# Docker hides the device tree from containers, and whoever mounts it finds it hidden all the same.
_HOW_IN_A_CONTAINER = (
    "a container of Docker needs --device /dev/dri --security-opt systempaths=unconfined "
    f"--volume {NEEDED[0]}:{NEEDED[0]}:ro"
)

_RUNTIME = re.compile(r"API: *(\d+(?:\.\d+)+)")  # of "RKNN VERSION: API: 1.5.2 (71720f3fc@2023-08-21) DRV: 0.7.2"


class BoardModel:
    """An ``.rknn`` on the NPU of the board that this runs on.

    Args:
        path: the file.
        toolkit: version of the toolkit that made it; empty where that is not known.

    Raises:
        NoRuntimeError: the board's runtime is missing.
        InputError: it refuses the file.
    """

    def __init__(self, path: Path, toolkit: str = "") -> None:
        self.toolkit = toolkit
        try:
            self._lite = importlib.import_module("rknnlite.api").RKNNLite()
        except ImportError as error:
            raise NoRuntimeError(
                "runtime rknn: rknn-toolkit-lite2 is not installed on this board: pip install rknn-toolkit-lite2"
            ) from error
        try:
            ready = self._lite.load_rknn(str(path)) == 0 and self._lite.init_runtime() == 0
        except Exception as error:  # most of what goes wrong is a number, the rest is a bare Exception
            raise _refusal(path, toolkit, f" ({' '.join(str(error).split())})") from error
        if not ready:
            raise _refusal(path, toolkit)

    def __call__(self, canvas: Canvas) -> Sequence[NDArray[np.float32]]:
        """The outputs for one canvas; see :data:`Infer`."""
        outputs: Sequence[NDArray[np.float32]] | None = self._lite.inference(inputs=[canvas], data_format=["nhwc"])
        if outputs is None:
            raise RuntimeError("the NPU runtime gave no outputs")
        return outputs

    def __del__(self) -> None:
        """Give the NPU's memory back, which the library keeps until it is asked to."""
        with suppress(Exception):
            self._lite.release()

    def runtime(self) -> str:
        """The version of the board's librknnrt.so, such as ``2.3.0``; empty where it does not say."""
        try:
            return "".join(_RUNTIME.findall(str(self._lite.get_sdk_version()))[:1])
        except Exception:  # it is only informative, and not every version of the library can
            return ""


@runtimes.register("rknn")
def open_on_board(folder: Path, threads: int = 0) -> Network[Any]:
    """Load a bundle's ``.rknn`` on the NPU of the board that this runs on.

    It takes (1, height, width, 3) uint8 RGB, 0..255: the division by 255 is inside the model. Numbers in 0..1 would
    raise no error and find nothing.

    Args:
        folder: the bundle.
        threads: of the processor, which has nothing to do here.

    Raises:
        NotFoundError: the folder is no bundle, or was not converted for this board.
        NoRuntimeError: this is no Rockchip board, or its runtime is missing.
        InputError: it refuses the file.
    """
    bundle = Bundle.read(folder)
    target = this_board()
    return decoder_of(bundle).network(
        bundle, BoardModel(bundle.file(folder, rknn_file(target)), toolkit_of(bundle, target))
    )


def this_board() -> str:
    """The chip of this machine.

    Raises:
        NoRuntimeError: it has none that models are converted for.
    """
    names = COMPATIBLE.read_text(encoding="ascii", errors="replace").split("\0") if COMPATIBLE.is_file() else []
    for target in TARGETS:
        if f"rockchip,{target}" in names:
            return target
    told = ", ".join(filter(None, names))
    raise NoRuntimeError(
        f"runtime rknn: this machine is not a Rockchip board ({told or 'no device tree'}): use the runtime onnx"
        + ("" if told else f"; if it is one, {_HOW_IN_A_CONTAINER}")
    )


def _refusal(path: Path, toolkit: str, told: str = "") -> InputError:
    """Why the board's runtime most likely refuses a model; the library itself says so in its log alone."""
    missing = " and ".join(str(path) for path in NEEDED if not path.exists())
    if missing:
        return NoRuntimeError(f"runtime rknn: {missing} not found; {_HOW_IN_A_CONTAINER}{told}")
    return InputError(
        f"model {path}: the NPU runtime rejects it: librknnrt.so on the board must be at least as new as the "
        f"toolkit that converted the model, {toolkit or 'named in model.json'}{told}"
    )


def toolkit_of(bundle: Bundle, target: str) -> str:
    """The version of the toolkit that made a chip's file; empty where the bundle does not say."""
    told = bundle.lineage.get("rknn")
    about = told.get(target) if isinstance(told, dict) else None
    return str(about.get("toolkit", "")) if isinstance(about, dict) else ""
