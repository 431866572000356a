"""A stand-in for the library on a Rockchip board, which answers with the golden tensors that lie beside the file.

The text of the ``.rknn`` says what is wrong with the board, see ``_outputs``. As a plug-in module this makes a board of
the process that loads it, if the environment variable ``FAKE_BOARD`` names a file with what the device tree says.
"""

import os
import sys
import types
from dataclasses import replace
from pathlib import Path

import numpy as np

from components.core.bundle import Bundle
from components.core.runtimes import rknn
from components.core.runtimes.golden import Golden, golden_file
from tests.models import BUNDLE, colour_model, write_bundle

STEPS = (0.02, 1 / 255)  # of distances and of scores
TOOLKIT = "2.5.0"


class Lite:
    """In place of ``rknnlite.api.RKNNLite``."""

    def load_rknn(self, path):
        self.faults = Path(path).read_text().split()
        self.golden = Golden.read(Path(path).parent / golden_file("rk3588"))
        self.calls = 0
        return -1 if "refuses" in self.faults else 0

    def init_runtime(self):
        return 0

    def get_sdk_version(self):
        version = "2.3.0" if "old" in self.faults else TOOLKIT
        line = "=" * 46
        return f"{line}\nRKNN VERSION:\n  API: {version} (71720f3fc@2023-08-21T09:29:52)\n  DRV: 0.9.6\n{line}\n"

    def inference(self, inputs, data_format):
        assert (inputs[0].dtype, inputs[0].ndim, data_format) == (np.uint8, 4, ["nhwc"])
        self.calls += 1
        same = [index for index, canvas in enumerate(self.golden.canvases) if np.array_equal(canvas, inputs[0][0])]
        place = same[0] if same and "stuck" not in self.faults else 0
        return _outputs(self.golden, place, self.faults, np.random.default_rng(self.calls))


def _outputs(golden, place, faults, rng):
    outputs = [values.copy() for values in golden.outputs[place]]
    for index, step in enumerate(golden.steps):
        levels = np.zeros(outputs[index].shape, np.int64)
        if "rounding" in faults:
            levels = rng.integers(-3, 4, outputs[index].shape)
        elif "noise" in faults:
            levels = rng.integers(-120, 121, outputs[index].shape)
        outputs[index] = (outputs[index] + (levels * step).astype(np.float32)).clip(0, None if index % 2 == 0 else 1)
        if "zeros" in faults or ("blind" in faults and index % 2):
            outputs[index] = np.zeros_like(outputs[index])
        if "capped" in faults and index % 2:
            outputs[index] = outputs[index].clip(0, 0.6)
        if "nan" in faults:
            outputs[index][0, 0, 0, 0] = np.nan
        if "nhwc" in faults:
            outputs[index] = outputs[index].transpose(0, 2, 3, 1)
        if "mixed" in faults:  # the same numbers under the shape that is expected
            outputs[index] = outputs[index].transpose(0, 2, 3, 1).reshape(outputs[index].shape)
    if "swapped" in faults:
        outputs[0], outputs[1] = outputs[1], outputs[0]
    return None if "silent" in faults else outputs


def scenes(bundle: Bundle = BUNDLE, images: int = 3, seed: int = 0, quantised: bool = True) -> Golden:
    """Golden tensors of a split head: a few objects in each image, and doubt about what they are elsewhere."""
    rng = np.random.default_rng(seed)
    height, width = bundle.image_size
    outputs = []
    for _ in range(images):
        one = []
        for stride in bundle.head.strides:
            cells = (height // stride, width // stride)
            distances = rng.uniform(0.6, 2.5, (1, 4 * bundle.head.reg_max, *cells))
            scores = rng.uniform(0, 0.2, (1, len(bundle.classes), *cells))
            for _ in range(2):
                scores[0, rng.integers(len(bundle.classes)), rng.integers(cells[0]), rng.integers(cells[1])] = 0.8
            one += [
                (np.rint(values / step) * step).astype(np.float32) if quantised else values.astype(np.float16)
                for values, step in zip((distances, scores), STEPS, strict=True)
            ]
        outputs.append(tuple(values.astype(np.float32) for values in one))
    canvases = rng.integers(0, 256, (images, height, width, 3), dtype=np.uint8)
    steps = (STEPS if quantised else (0.0, 0.0)) * len(bundle.head.strides)
    return Golden(canvases, bundle.outputs, steps, tuple(outputs))


def write_board_bundle(folder: Path, faults: str = "", golden: bool = True) -> Path:
    """A bundle for two chips; on this board it runs with the faults."""
    told = {target: {"toolkit": TOOLKIT} for target in ("rk3588", "rk3568")}
    bundle = replace(BUNDLE, lineage={"rknn": told})
    write_bundle(folder, colour_model(), bundle)
    for target in told:
        (folder / f"model.{target}.rknn").write_text(faults)
        if golden:
            scenes().write(folder / golden_file(target))
    bundle.write(folder)
    return folder


def modules():
    """What a board's library brings into ``sys.modules``."""
    api = types.ModuleType("rknnlite.api")
    api.RKNNLite = Lite
    return {"rknnlite": types.ModuleType("rknnlite"), "rknnlite.api": api}


if "FAKE_BOARD" in os.environ:
    rknn.COMPATIBLE = Path(os.environ["FAKE_BOARD"])
    rknn.NEEDED = (rknn.COMPATIBLE,)  # which is there
    sys.modules.update(modules())
