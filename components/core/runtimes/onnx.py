"""A bundle's ``model.onnx`` on the processor, with ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from components.core.bundle import BoxesHead, Bundle
from components.core.detections import Detections
from components.core.errors import InputError
from components.core.runtimes.decode import decode
from components.core.runtimes.detector import on_picture, runtimes
from components.core.runtimes.letterbox import Picture, letterbox

FILE = "model.onnx"
INPUT = "images"

Shape = tuple[int | str, ...]


@runtimes.register("onnx")
class OnnxDetector:
    """A detector that runs everywhere.

    Its model takes ``images``, float32 (1, 3, height, width), RGB in 0..1, and gives the outputs that the bundle names.

    Args:
        folder: the bundle.
        threads: processor threads; 0 takes all cores.

    Raises:
        NotFoundError: the folder is no bundle, or has no ``model.onnx``.
        InputError: the bundle is damaged, or its model has other inputs or outputs than it says.
    """

    def __init__(self, folder: Path, threads: int = 0) -> None:
        self.bundle = Bundle.read(folder)
        self._session = _session(self.bundle.file(folder, FILE), threads)
        _check_ports(self._session, self.bundle, folder)

    def predict(
        self, images: Sequence[Picture], *, confidence: float | None = None, nms: float | None = None
    ) -> list[Detections]:
        """Find objects; see :class:`components.core.runtimes.detector.Detector`."""
        least = self.bundle.confidence_threshold if confidence is None else confidence
        overlap = self.bundle.nms_threshold if nms is None else nms
        return [self._predict_one(image, least, overlap) for image in images]

    def _predict_one(self, image: Picture, confidence: float, nms: float) -> Detections:
        canvas, placement = letterbox(image, self.bundle.image_size, self.bundle.pad)
        pixels = np.ascontiguousarray(canvas.transpose(2, 0, 1)[None], dtype=np.float32) / np.float32(255)
        outputs = self._session.run(list(self.bundle.outputs), {INPUT: pixels})
        return on_picture(decode(outputs, self.bundle.head, confidence=confidence, nms=nms), placement)


def _session(path: Path, threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
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
        outputs = (
            "and the boxes, their scores and their classes as outputs"
            if isinstance(bundle.head, BoxesHead)
            else "no dynamic axes, and boxes and class scores of every scale as outputs of their own, not concatenated"
        )
        raise InputError(
            f"bundle {folder}: {FILE} has {_listed(given)}, but {_listed(wanted)} are needed: "
            f"export it with batch 1, {outputs}"
        )
    if session.get_inputs()[0].type != "tensor(float)":
        raise InputError(f"bundle {folder}: {FILE} takes {session.get_inputs()[0].type}: export it in float32")


def _shape(port: Any) -> Shape:
    """The sides of an input or output; one that may change has whatever name its exporter gave it."""
    return tuple(side if isinstance(side, int) else "N" for side in port.shape)


def _ports(bundle: Bundle) -> dict[str, Shape]:
    height, width = bundle.image_size
    ports: dict[str, Shape] = {INPUT: (1, 3, height, width)}
    if isinstance(bundle.head, BoxesHead):
        return ports | dict(zip(bundle.outputs, (("N", 4), ("N",), ("N",)), strict=True))
    channels = (4 * bundle.head.reg_max, len(bundle.classes))
    for index, name in enumerate(bundle.outputs):
        stride = bundle.head.strides[index // 2]
        ports[name] = (1, channels[index % 2], height // stride, width // stride)
    return ports


def _listed(ports: dict[str, Shape]) -> str:
    return ", ".join(f"{name} {shape}" for name, shape in ports.items())
