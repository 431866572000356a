"""Try a model before it is trusted: load it and run it once, in a process of its own that it may bring down.

``python -m components.serving.smoke_test FOLDER RUNTIME THREADS SECONDS BOARD_CHECK [PLUGINS]`` exits 0 if the model
works, and else prints why it does not, with 3 where no model would; ``BOARD_CHECK`` is ``on`` or ``off``.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np

from components.core import plugins
from components.core.bundle import Head
from components.core.detections import Detections
from components.core.errors import InputError, NoRuntimeError
from components.core.runtimes.base import Detector, open_detector
from components.core.runtimes.detector import NetworkDetector
from components.serving.board import find_golden, hold_against
from components.serving.model_cache import UnfitModelError

SMOKE_TEST_SECONDS = 120
_TURN_SECONDS = 0.1
_NICENESS = 10
_NO_RUNTIME = 3  # the exit code of a trial
_MEMORY_PRESSURE = {-signal.SIGKILL, 137}


class InterruptedSmokeTestError(Exception):
    """The worker is to end; the trial says nothing about the model."""


def run_smoke_test(
    folder: Path,
    runtime: str,
    *,
    threads: int,
    modules: str,
    stop: threading.Event,
    seconds: int = SMOKE_TEST_SECONDS,
    board_check: bool = True,
) -> None:
    """Run a model once in another process.

    Args:
        folder: its bundle.
        runtime: name of the runtime.
        threads: processor threads; 0 lets the runtime decide.
        modules: of plug-ins, separated by commas.
        stop: ends the trial early.
        seconds: it may take.
        board_check: hold it against golden tensors for this board, where it brings some.

    Raises:
        UnfitModelError: it does not work.
        InterruptedTrialError: ``stop`` was set.
        NoRuntimeError: this machine lacks what the runtime needs.
        InputError: the system ended the trial, most likely for want of memory; a later one may do.
    """
    command = [sys.executable, "-m", __name__, str(folder), runtime, str(threads), str(seconds)]
    command += ["on" if board_check else "off", modules]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            code = _wait(process, stop, time.monotonic() + seconds)
        finally:
            process.kill()
        assert process.stdout is not None
        said = _last_line(process.stdout)
    if code in _MEMORY_PRESSURE:
        raise InputError("the system killed the trial of the model, most likely for want of memory; it is tried again")
    if code < 0:
        raise UnfitModelError(f"it brings down the process that runs it ({signal.Signals(-code).name})")
    if code == _NO_RUNTIME:
        raise NoRuntimeError(said)
    if code:
        raise UnfitModelError(said or f"its trial ended with exit code {code}")


def warm_up(detector: Detector) -> None:
    """Run a model once, so that the first image is as quick as the others, and see that it gives numbers.

    Raises:
        UnfitModelError: what it gives is not numbers.
    """
    height, width = detector.bundle.image_size
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    (found,) = detector.predict([image], confidence=0.0)
    # Every cell of a grid gives boxes of score 0 and above; a score that is not a number is no such score.
    if isinstance(detector.bundle.head, Head) and not len(found):
        raise UnfitModelError("its outputs are not numbers, or all its boxes lie beside the image")
    check_numbers(found)


def check_board(detector: Detector, folder: Path) -> None:
    """Hold a model on an NPU against the golden tensors that it brings for this board, if it does.

    Raises:
        UnfitModelError: the board computes something else than the toolkit's simulator did.
    """
    golden = find_golden(detector, folder)
    if golden is not None and isinstance(detector, NetworkDetector):
        checked = hold_against(detector, golden)
        if not checked.passed:
            raise UnfitModelError(f"on this board it is not what was measured: {checked.verdict}")


def check_numbers(found: Detections) -> None:
    """Raise ``UnfitModelError`` unless boxes are finite and scores in 0..1."""
    if not (np.isfinite(found.boxes).all() and ((found.scores >= 0) & (found.scores <= 1)).all()):
        raise UnfitModelError("it gives boxes that are not finite, or scores outside 0..1")


def one_line(error: Exception) -> str:
    """An error as one line; what is not an ``InputError`` is named."""
    text = " ".join(str(error).split())
    return text if isinstance(error, InputError) else f"{type(error).__name__}: {text}"


def main(arguments: Sequence[str]) -> int:
    """The trial itself; 0 if the model works."""
    folder, runtime, threads, seconds, board_check, modules = arguments
    os.nice(_NICENESS)  # the loop goes on meanwhile, on the same processor
    signal.alarm(int(seconds))  # a worker that is gone cannot end it
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the worker, which ends this
    try:
        plugins.load(modules)
        detector = open_detector(runtime, Path(folder), int(threads))
        if board_check == "on":  # first, because it knows better what is wrong
            check_board(detector, Path(folder))
        warm_up(detector)
    except Exception as error:  # a broken model ends in whatever its runtime raises
        print(one_line(error))
        return _NO_RUNTIME if isinstance(error, NoRuntimeError) else 1
    return 0


def _wait(process: subprocess.Popen[str], stop: threading.Event, end: float) -> int:
    while (code := process.poll()) is None:
        if stop.wait(_TURN_SECONDS):
            raise InterruptedSmokeTestError
        if time.monotonic() > end:
            raise UnfitModelError("it did not look at one image in the time that a trial may take")
    return code


def _last_line(output: IO[str]) -> str:
    lines = output.read().strip().splitlines()
    return lines[-1] if lines else ""


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
