"""A bundle's ``model.onnx`` on the processor, with ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.core.bundle import ONNX, Bundle
from components.core.errors import InputError
from components.core.heads import Shape
from components.core.processors import processor_limit
from components.core.runtimes.base import Canvas, Network, decoder_of, runtimes

FILE = ONNX
INPUT = "images"


@runtimes.register("onnx")
def open_onnx(folder: Path, threads: int = 0) -> Network[Any]:
    """Load a bundle's ``model.onnx``, which runs everywhere.

    It takes ``images``, float32 (1, 3, height, width), RGB in 0..1, and gives the outputs that the bundle names.

    Args:
        folder: the bundle.
        threads: processor threads; 0 takes all cores that this container may use.

    Raises:
        NotFoundError: the folder is no bundle, or has no ``model.onnx``.
        InputError: the bundle is damaged, or its model has other inputs or outputs than it says.
    """
    bundle = Bundle.read(folder)
    session = _session(bundle.file(folder, FILE), threads)
    _check_ports(session, bundle, folder)
    outputs = list(bundle.outputs)

    def infer(canvas: Canvas) -> Sequence[NDArray[np.float32]]:
        pixels = np.ascontiguousarray(canvas.transpose(0, 3, 1, 2), dtype=np.float32) / np.float32(255)
        found: Sequence[NDArray[np.float32]] = session.run(outputs, {INPUT: pixels})
        return found

    return decoder_of(bundle).network(bundle, infer)


def _session(path: Path, threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or processor_limit()
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no base class of their own
        raise InputError(f"model {path}: ONNX Runtime cannot load it: {error}") from error


def _check_ports(session: Any, bundle: Bundle, folder: Path) -> None:
    """Compare what a model takes and gives with what its bundle says."""
    given = {port.name: _shape(port) for port in (*session.get_inputs(), *session.get_outputs())}
    wanted = _ports(bundle)
    if given != wanted:
        raise InputError(
            f"bundle {folder}: {FILE} has {_listed(given)}, but {_listed(wanted)} are needed: "
            f"export it with batch 1, {bundle.head.export_advice}"
        )
    if session.get_inputs()[0].type != "tensor(float)":
        raise InputError(f"bundle {folder}: {FILE} takes {session.get_inputs()[0].type}: export it in float32")


def _shape(port: Any) -> Shape:
    """The sides of an input or output; one that may change has whatever name its exporter gave it."""
    return tuple(side if isinstance(side, int) else "N" for side in port.shape)


def _ports(bundle: Bundle) -> dict[str, Shape]:
    ports: dict[str, Shape] = {INPUT: (1, 3, *bundle.image_size)}
    return ports | bundle.head.ports(bundle.outputs, bundle.image_size, len(bundle.classes))


def _listed(ports: dict[str, Shape]) -> str:
    return ", ".join(f"{name} {shape}" for name, shape in ports.items())
