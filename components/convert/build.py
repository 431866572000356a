"""Build one ``.rknn`` and run it on the toolkit's simulator; a process of its own, because the toolkit may crash it.

A file that was built cannot be loaded into the simulator again, so both happen here, one right after the other::

    python -m components.convert.build request.json

The request is a :class:`Request`. In its folder appear ``model.rknn``, ``predictions.npz``, ``golden.npz`` and
``facts.json``, or ``failure.json``; what the toolkit prints goes to standard output and error.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import re
import signal
import sys
import time
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from components.convert.golden import choose, steps_of
from components.core.bundle import Bundle, sha256_of
from components.core.detections import Detections
from components.core.masks import ClassMap
from components.core.runtimes.base import Canvas, Infer
from components.core.runtimes.detector import NetworkDetector
from components.core.runtimes.golden import Golden
from components.core.runtimes.letterbox import letterbox, read_image
from components.core.runtimes.network import as_described

MODEL, PREDICTIONS, FACTS, FAILURE = "model.rknn", "predictions.npz", "facts.json", "failure.json"
GOLDEN = "golden.npz"
LEAST_SCORE = 0.001  # average precision looks at every prediction down to here

# These two rules of toolkit 2.5.0 crash on YOLOv8, YOLO11 and YOLO26; a version that does not know them ignores them.
BROKEN_RULES = ["seperate_conv_rs_split", "fuse_exmatmul_add_mul_exsoftmax13_exmatmul_to_sdpa"]
_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
_ESCAPES = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True)
class Request:
    """What is to be built.

    Attributes:
        bundle: folder of the model.
        target: chip.
        precision: ``int8`` or ``fp16``.
        algorithm: how ranges are taken from the calibration: ``normal``, ``kl_divergence`` or ``mmse``; empty for fp16.
        calibration: text file that names a canvas a line, relative to its own folder; empty for fp16.
        images: what the simulator is to look at.
        output: folder that the results go to.
        note: kept in the file, where a program on the board can read it; at most 1023 bytes.
    """

    bundle: str
    target: str
    precision: str
    algorithm: str
    calibration: str
    images: list[str]
    output: str
    note: str

    def write(self, path: Path) -> None:
        """Write the request as JSON."""
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")


class _RefusedError(Exception):
    """The toolkit did not do what it was asked to."""

    def __init__(self, doing: str, reason: str) -> None:
        super().__init__(reason)
        self.doing = doing


def main(request: Request) -> int:
    """Build and simulate.

    Returns:
        the exit code: 0, or 1 where ``failure.json`` says what the toolkit was doing and its reason.
    """
    output = Path(request.output)
    try:
        facts = _build_and_look(request, output)
    except _RefusedError as error:
        (output / FAILURE).write_text(json.dumps({"doing": error.doing, "reason": str(error)}), encoding="utf-8")
        return 1
    (output / FACTS).write_text(json.dumps(facts), encoding="utf-8")
    return 0


def write_predictions(path: Path, predictions: Sequence[Detections]) -> None:
    """Write the boxes of many images as arrays, one after the other, with their number in each."""
    everything = (Detections.none(), *predictions)
    np.savez(
        path,
        counts=np.array([len(found) for found in predictions], dtype=np.intp),
        boxes=np.concatenate([found.boxes for found in everything]),
        scores=np.concatenate([found.scores for found in everything]),
        classes=np.concatenate([found.classes for found in everything]),
    )


class ClassMaps(Sequence[ClassMap]):
    """Class maps in a file, each read when it is asked for: all at once would take a gigabyte of large images.

    Args:
        path: what ``write`` wrote.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with np.load(path) as arrays:
            self._names = sorted(arrays.files)

    @staticmethod
    def write(path: Path, maps: Iterable[ClassMap]) -> int:
        """Write maps one after the other; how many there were."""
        count = 0
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
            for one in maps:
                with file.open(f"{count:06d}.npy", "w") as part:
                    np.lib.format.write_array(part, one, allow_pickle=False)
                count += 1
        return count

    def __len__(self) -> int:
        return len(self._names)

    @overload
    def __getitem__(self, index: int) -> ClassMap: ...
    @overload
    def __getitem__(self, index: slice) -> list[ClassMap]: ...
    def __getitem__(self, index: int | slice) -> ClassMap | list[ClassMap]:
        """One map, or some."""
        with np.load(self._path) as arrays:
            names = self._names[index]
            return arrays[names] if isinstance(names, str) else [arrays[name] for name in names]


def read_predictions(path: Path) -> Sequence[Detections] | Sequence[ClassMap]:
    """The boxes that ``write_predictions`` wrote, or the maps that ``ClassMaps.write`` did."""
    with np.load(path) as arrays:
        if "counts" not in arrays:
            return ClassMaps(path)
        everything = Detections(arrays["boxes"], arrays["scores"], arrays["classes"])
        ends = np.cumsum(arrays["counts"])
    return [everything[slice(end - count, end)] for end, count in zip(ends, np.diff(ends, prepend=0), strict=True)]


def _build_and_look(request: Request, output: Path) -> dict[str, Any]:
    bundle = Bundle.read(Path(request.bundle))
    started = time.monotonic()
    rknn = _built(request, output / MODEL)
    built = time.monotonic()
    _asked("starting the simulator", rknn.init_runtime)
    infer = _simulator(rknn)
    shown = _look(bundle, infer, request.images, output / PREDICTIONS)
    looked = time.monotonic()
    chosen = [request.images[place] for place in choose(shown)]
    steps = steps_of(bundle.outputs, rknn.rknn_base.quantizer.quant_tab)
    _golden(bundle, infer, chosen, steps).write(output / GOLDEN)
    return {
        "sha256": sha256_of(output / MODEL),
        "golden_sha256": sha256_of(output / GOLDEN),
        "build_seconds": built - started,
        "images_per_second": len(request.images) / max(looked - built, 1e-9),
        "score_steps": {name: step for name, step in zip(bundle.outputs[1::2], steps[1::2], strict=True) if step},
    }


def _built(request: Request, path: Path) -> Any:
    rknn = _asked("starting", importlib.import_module("rknn.api").RKNN, verbose=True)
    _asked(
        "configuring",
        rknn.config,
        mean_values=[[0, 0, 0]],
        std_values=[[255, 255, 255]],
        target_platform=request.target,
        quantized_dtype="w8a8",
        custom_string=request.note,
        disable_rules=BROKEN_RULES,
        **({"quantized_algorithm": request.algorithm} if request.algorithm else {}),
    )
    outputs = list(Bundle.read(Path(request.bundle)).outputs)
    _asked("loading the ONNX", rknn.load_onnx, str(Path(request.bundle) / "model.onnx"), outputs=outputs)
    quantise = {"dataset": request.calibration} if request.precision == "int8" else {}
    _asked("building", rknn.build, do_quantization=bool(quantise), **quantise)
    _asked("writing the file", rknn.export_rknn, str(path))
    return rknn


def _simulator(rknn: Any) -> Infer:
    def infer(canvas: Canvas) -> Sequence[NDArray[np.float32]]:
        outputs: Any = _asked("simulating", rknn.inference, inputs=[canvas], data_format=["nhwc"])
        return tuple(outputs)

    return infer


def _look(bundle: Bundle, infer: Infer, images: Sequence[str], path: Path) -> list[frozenset[int]]:
    """Run the model over images, write what it sees, and return the classes that it sees in each."""
    model = as_described(bundle, infer)
    decoded = ([read_image(Path(image))] for image in images)
    if isinstance(model, NetworkDetector):
        found = [one for one_image in decoded for one in model.predict(one_image, confidence=LEAST_SCORE)]
        write_predictions(path, found)
        return [frozenset(one.classes[one.scores >= bundle.confidence_threshold].tolist()) for one in found]
    ClassMaps.write(path, (one for one_image in decoded for one in model.segment(one_image)))
    return [frozenset(np.unique(one).tolist()) for one in ClassMaps(path)]


def _golden(bundle: Bundle, infer: Infer, images: Sequence[str], steps: tuple[float, ...]) -> Golden:
    """Once more, because the outputs of all images would not fit into memory."""
    canvases = [letterbox(read_image(Path(path)), bundle.image_size, bundle.pad)[0] for path in images]
    outputs = tuple(tuple(infer(canvas[None])) for canvas in canvases)
    return Golden(np.stack(canvases), bundle.outputs, steps, outputs)


def _asked(doing: str, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Call the toolkit, which fails with an exception, a negative number or nothing where there should be something."""
    try:
        answer = function(*arguments, **options)
    except Exception as error:
        raise _RefusedError(doing, _last_line(str(error))) from error
    if answer is None or (isinstance(answer, int) and answer != 0):
        raise _RefusedError(doing, "")
    return answer


def _last_line(text: str) -> str:
    """What a message that is a whole traceback ends with."""
    lines = [line.strip() for line in _ESCAPES.sub("", text).splitlines() if line.strip()]
    return lines[-1] if lines else ""


if __name__ == "__main__":
    # A runner that is killed must not leave minutes of building behind.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    sys.exit(main(Request(**json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))))
