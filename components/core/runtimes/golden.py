"""Golden tensors: a few canvases and what the toolkit's simulator made of them, for a board to be compared with.

A bundle's ``model.<target>.golden.npz`` belongs to its ``model.<target>.rknn``:

================= =====================================================================================
array             meaning
================= =====================================================================================
``canvases``      (N, height, width, 3) uint8 RGB, as the model takes them
``names``         the outputs, in the bundle's order
``steps``         float32, from one 8-bit level of each output to the next; 0 where it is not quantised
``output_<name>`` (N, ...): what the simulator gave, exactly: float16 where that loses nothing, else float32
================= =====================================================================================

The simulator computes an fp16 model's outputs in float16, so that half the bytes hold them exactly. Those of an int8
model are 256 levels, which pack to a sixth: as float16 they would save 6 % of the file and move each by up to an eighth
of a level. Four photos on 640 x 640 with their outputs take about 4 MB for a YOLO11n of two classes, 5.5 MB as fp16,
half of it the photos; on 160 x 160 it is 0.3 and 0.4 MB.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.core.errors import InputError

Array = NDArray[np.float32]
Outputs = Sequence[Sequence[Array]]  # of each canvas, in the bundle's order


@dataclass(frozen=True)
class Finding:
    """One question and its answer.

    Attributes:
        question: in a word or two.
        met: whether it is as it should be.
        reason: one line, with what there is.
    """

    question: str
    met: bool
    reason: str


def golden_file(target: str) -> str:
    """The file of a bundle with what one chip should compute."""
    return f"model.{target}.golden.npz"


@dataclass(frozen=True)
class Golden:
    """Canvases and what the simulator gave for them.

    Attributes:
        canvases: (N, height, width, 3) uint8 RGB.
        names: of the outputs.
        steps: from one 8-bit level of each output to the next; 0 where it is not quantised.
        outputs: of each canvas, float32, in the order of the names.
    """

    canvases: NDArray[np.uint8]
    names: tuple[str, ...]
    steps: tuple[float, ...]
    outputs: tuple[tuple[Array, ...], ...]

    def write(self, path: Path) -> None:
        """Write the file."""
        arrays: dict[str, Any] = {
            f"output_{name}": _packed(np.stack([outputs[index] for outputs in self.outputs]))
            for index, name in enumerate(self.names)
        }
        steps = np.array(self.steps, dtype=np.float32)
        np.savez_compressed(path, canvases=self.canvases, names=np.array(self.names), steps=steps, **arrays)

    @classmethod
    def read(cls, path: Path) -> Golden:
        """Read the file.

        Raises:
            InputError: it is no such file.
        """
        try:
            with np.load(path) as arrays:
                names, canvases = tuple(map(str, arrays["names"])), arrays["canvases"]
                steps = tuple(float(step) for step, _ in zip(arrays["steps"], names, strict=True))
                each = [arrays[f"output_{name}"].astype(np.float32) for name in names]
                outputs = tuple(zip(*each, strict=True))
        except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
            raise InputError(f"{path}: not golden tensors ({error}): convert the model again") from error
        if canvases.ndim != 4 or canvases.dtype != np.uint8 or not 0 < len(canvases) == len(outputs):
            raise InputError(f"{path}: canvases and outputs do not match: convert the model again")
        return cls(canvases, names, steps, outputs)


def _packed(values: Array) -> NDArray[np.float16] | Array:
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    return half if np.array_equal(half, values) else values
