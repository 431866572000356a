"""What can be known to be wrong with a model before the toolkit starts, in one line instead of its traceback."""

from __future__ import annotations

from pathlib import Path

from components.core.bundle import Bundle
from components.core.errors import InputError

NEWEST_OPSET = 19  # that rknn-toolkit2 2.5.0 reads


def check_model(bundle: Bundle, folder: Path) -> None:
    """Check that the toolkit can read a bundle's ONNX; the runtime checks its inputs and outputs.

    Raises:
        InputError: a head that cannot be quantised, an opset that is too new, or numbers that are not float32.
    """
    import onnx
    from google.protobuf.message import DecodeError

    if bundle.head.conversion_problem:
        raise InputError(f"model {folder}: {bundle.head.conversion_problem}")
    path = bundle.file(folder, "model.onnx")
    try:
        graph = onnx.load(str(path))
    except DecodeError as error:
        raise InputError(f"model {path}: not an ONNX file ({error})") from error
    opset = max((one.version for one in graph.opset_import if one.domain in ("", "ai.onnx")), default=0)
    if opset > NEWEST_OPSET:
        raise InputError(
            f"model {path}: opset {opset} is not supported by the toolkit: export it with opset {NEWEST_OPSET} or lower"
        )
    if any(weight.data_type == onnx.TensorProto.FLOAT16 for weight in graph.graph.initializer):
        raise InputError(f"model {path}: its weights are float16, the toolkit needs float32: export it in float32")
