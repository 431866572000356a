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
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.convert.golden import choose, steps_of
from components.core.bundle import Bundle, sha256_of
from components.core.runtimes.base import Canvas, Infer, decoder_of
from components.core.runtimes.golden import Golden
from components.core.runtimes.letterbox import letterbox, read_image
from components.core.tasks.base import MIN_SCORE, open_task

MODEL, PREDICTIONS, FACTS, FAILURE = "model.rknn", "predictions.npz", "facts.json", "failure.json"
GOLDEN = "golden.npz"

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


def _build_and_look(request: Request, output: Path) -> dict[str, Any]:
    bundle = Bundle.read(Path(request.bundle))
    started = time.monotonic()
    rknn = _built(request, output / MODEL)
    built = time.monotonic()
    _asked("starting the simulator", rknn.init_runtime)
    infer = _simulator(rknn, bundle.outputs)
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
    _asked("loading the ONNX model", rknn.load_onnx, str(Path(request.bundle) / "model.onnx"), outputs=outputs)
    quantise = {"dataset": request.calibration} if request.precision == "int8" else {}
    _asked("building", rknn.build, do_quantization=bool(quantise), **quantise)
    _asked("writing the file", rknn.export_rknn, str(path))
    return rknn


def _simulator(rknn: Any, names: Sequence[str]) -> Infer:
    def infer(canvas: Canvas) -> Sequence[NDArray[np.float32]]:
        outputs: Any = _asked("simulating", rknn.inference, inputs=[canvas], data_format=["nhwc"])
        if len(outputs) != len(names):  # it leaves out those that are the same for any image
            raise _RefusedError("simulating", f"{len(outputs)} outputs, but the model has {', '.join(names)}")
        return tuple(outputs)

    return infer


def _look(bundle: Bundle, infer: Infer, images: Sequence[str], path: Path) -> list[frozenset[int]]:
    """Run the model over images, write what it sees, and return the classes that it sees in each."""
    task, model = open_task(bundle.task), decoder_of(bundle).network(bundle, infer)
    looked_at = (model.predict([read_image(Path(path))], confidence=MIN_SCORE)[0] for path in images)
    task.write(path, looked_at)
    return [task.shown_classes(found, bundle.confidence_threshold) for found in task.read(path)]


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
