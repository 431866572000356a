"""From a torch network to ONNX, and what both make of the same canvas."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ONNX_OPSET = 19  # the newest that rknn-toolkit2 2.5.0 reads

Arrays = list[NDArray[np.float32]]


def export(
    network: Any, path: Path, image_size: tuple[int, int], outputs: Sequence[str], *, any_length: bool = False
) -> tuple[Arrays, Arrays]:
    """Write a network as ONNX and run both on a canvas of noise, so that the caller can compare them.

    Args:
        network: a torch module in evaluation mode, on the processor; it takes (1, 3, height, width) in 0..1.
        path: the ONNX file; its input is called ``images``.
        image_size: height and width in pixels.
        outputs: names of what the network gives.
        any_length: the first side of the outputs changes from image to image, as that of finished boxes does.

    Returns:
        The outputs of the network, and those of the file in ONNX Runtime.
    """
    import onnxruntime
    import torch

    sample = torch.rand(1, 3, *image_size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = [output.numpy() for output in network(sample)]
        torch.onnx.export(
            network,
            (sample,),
            str(path),
            opset_version=ONNX_OPSET,
            dynamo=False,
            input_names=["images"],
            output_names=list(outputs),
            dynamic_axes={name: {0: "N"} for name in outputs} if any_length else None,
        )
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return expected, session.run(list(outputs), {"images": sample.numpy()})
