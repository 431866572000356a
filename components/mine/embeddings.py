"""What the champion sees in an image, as one vector: images that lie close to each other teach it the same.

The vector is the mean over the image of the network's deepest feature map: of the maps on the coarsest grid the one
with the most channels. It is read from the bundle's ``model.onnx``, whose graph is cut off there, so it costs less
than a detection. Where there is no such network, images are compared by what they look like.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.core.bundle import ONNX, Bundle
from components.core.errors import InputError
from components.core.miners.novelty import embedding
from components.core.runtimes.letterbox import ImageArray, letterbox

Floats = NDArray[np.float32]
Embed = Callable[[ImageArray], Floats]
"""The vector of an image (H, W, 3) uint8 RGB; its length is 1."""


def by_appearance(image: ImageArray) -> Floats:
    """The vector of an image without a model: its colours and contrasts on a coarse grid."""
    return _unit(embedding(image))


def by_champion(folder: Path) -> Embed:
    """What makes the vectors by a bundle's network.

    Args:
        folder: the bundle.

    Returns:
        ``by_appearance`` where its network has no feature map.

    Raises:
        InputError: the network cannot be loaded.
    """
    bundle = Bundle.read(folder)
    session, output = _cut_off(bundle.file(folder, ONNX))
    if session is None:
        return by_appearance

    def embed(image: ImageArray) -> Floats:
        canvas, _ = letterbox(image, bundle.image_size, bundle.pad)
        pixels = np.ascontiguousarray(canvas.transpose(2, 0, 1)[None], dtype=np.float32) / np.float32(255)
        (features,) = session.run([output], {session.get_inputs()[0].name: pixels})
        return _unit(np.asarray(features, dtype=np.float32)[0].mean(axis=(1, 2)))

    return embed


def greedy_k_centre(vectors: Floats, values: Sequence[float], near: Floats) -> list[int]:
    """An order in which each next vector is valuable and far from all before it.

    The next one has the largest product of its value and its distance to the nearest before it (greedy k-centre as in
    Sener and Savarese, ICLR 2018, weighted by the value).

    Args:
        vectors: (N, D) of length 1.
        values: (N,) 0 or more; of the same product the one that comes first counts.
        near: (M, D) vectors that come before all others; M may be 0.
    """
    left = np.asarray(values, dtype=np.float64) + 1e-9  # of images without a value the farthest counts
    away = np.full(len(vectors), 2.0)  # as far as two vectors of length 1 can be from each other
    for vector in near:
        away = np.minimum(away, np.linalg.norm(vectors - vector, axis=1))
    order: list[int] = []
    for _ in range(len(vectors)):
        best = int(np.argmax(left * (away + 1e-9)))
        order.append(best)
        left[best] = -1.0
        away = np.minimum(away, np.linalg.norm(vectors - vectors[best], axis=1))
    return order


def _cut_off(path: Path) -> tuple[Any, str]:
    """A session that ends in the deepest feature map, and the name of that; None where there is no such map."""
    import onnx
    import onnxruntime

    try:
        model = onnx.shape_inference.infer_shapes(onnx.load(str(path)))
        output = _deepest(model)
        if not output:
            return None, ""
        kept = {port.name for port in model.graph.output}
        if output not in kept:
            model.graph.output.append(next(port for port in model.graph.value_info if port.name == output))
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the errors of ONNX Runtime have no base class of their own
        raise InputError(f"model {path}: cannot be used to compare images: {error}") from error
    return session, output


def _deepest(model: Any) -> str:
    """The name of the last of the widest maps on the coarsest grid; empty: there is none."""
    maps = []
    for place, port in enumerate(model.graph.value_info):
        sides = [side.dim_value for side in port.type.tensor_type.shape.dim]
        if len(sides) == 4 and sides[0] == 1 and min(sides[1:]) > 1:
            maps.append((sides[2] * sides[3], -sides[1], -place, port.name))
    return str(min(maps)[-1]) if maps else ""


def _unit(vector: Floats) -> Floats:
    found: Floats = vector / max(float(np.linalg.norm(vector)), 1e-9)
    return found
