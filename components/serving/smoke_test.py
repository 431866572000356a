"""The smoke test of a model before it is used: load it and run it once, in another process that it may bring down.

``python -m components.serving.smoke_test FOLDER RUNTIME THREADS SECONDS BYTES BOARD_CHECK [PLUGINS]`` prints how much
memory the model takes, in bytes, and exits 0 if it works; otherwise it prints why it does not, and exits 3 where no
model would. ``BOARD_CHECK`` is ``on`` or ``off``.
"""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from components.core import plugins
from components.core.errors import InputError, NoRuntimeError
from components.core.processes import module_command, module_environment
from components.core.runtimes.base import Model, Network, decoder_of, open_model
from components.serving.board import compare_with_golden, find_golden
from components.serving.memory import free_bytes, limit_to, resident_bytes
from components.serving.model_cache import UnfitModelError

SMOKE_TEST_SECONDS = 120
_TURN_SECONDS = 0.1
_NICENESS = 10
_MEMORY_FRACTION = 0.8  # of what is free; the rest is for the model that is in use
_NO_RUNTIME = 3  # the exit code of a smoke test
_TOOK = "memory: "
_LONGEST_END = 1 << 16  # bytes of what it printed that are looked at
_MEMORY_PRESSURE = {-signal.SIGKILL, 137}


class InterruptedSmokeTestError(Exception):
    """The worker is to end; the smoke test says nothing about the model."""


def run_smoke_test(
    folder: Path,
    runtime: str,
    *,
    threads: int,
    modules: str,
    stop: threading.Event,
    seconds: int = SMOKE_TEST_SECONDS,
    max_bytes: int | None = None,
    board_check: bool = True,
) -> int:
    """Run a model once in another process.

    Args:
        folder: its bundle.
        runtime: name of the runtime.
        threads: processor threads; 0 lets the runtime decide.
        modules: of plug-ins, separated by commas.
        stop: ends the smoke test early.
        seconds: it may take.
        max_bytes: of memory that it may take; None: most of what is free.
        board_check: compare it with golden tensors for this board, where it brings some.

    Returns:
        Bytes of memory that the model took there.

    Raises:
        UnfitModelError: it does not work.
        InterruptedSmokeTestError: ``stop`` was set.
        NoRuntimeError: this machine lacks what the runtime needs.
        InputError: the system killed it, most likely for want of memory; a later one may succeed.
    """
    max_bytes = int(_MEMORY_FRACTION * free_bytes()) if max_bytes is None else max_bytes
    command = [*module_command(__name__), str(folder), runtime, str(threads), str(seconds), str(max_bytes)]
    command += ["on" if board_check else "off", modules]
    with tempfile.TemporaryFile() as output:  # a pipe that nobody reads meanwhile would hold up one that prints much
        with subprocess.Popen(command, stdout=output, stderr=subprocess.DEVNULL, env=module_environment()) as process:
            try:
                code = _wait(process, stop, time.monotonic() + seconds, max_bytes)
            finally:
                process.kill()
        output.seek(max(0, output.seek(0, os.SEEK_END) - _LONGEST_END))
        lines = output.read().decode(errors="replace").strip().splitlines()
    said = lines[-1] if lines else ""
    if code in _MEMORY_PRESSURE:
        raise InputError("the system killed the smoke test of the model, probably out of memory; trying again")
    if code < 0:
        raise UnfitModelError(f"it crashes the process that runs it ({signal.Signals(-code).name})")
    if code == _NO_RUNTIME:
        raise NoRuntimeError(said)
    if code:
        raise UnfitModelError(said or f"its smoke test ended with exit code {code}")
    return next((int(line.removeprefix(_TOOK)) for line in lines if line.startswith(_TOOK)), 0)


def warm_up(detector: Model[Any]) -> None:
    """Run a model once, so that the first frame is as quick as the others, and check that it gives numbers.

    Raises:
        InputError: what it gives is not numbers.
    """
    height, width = detector.bundle.image_size
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    (found,) = detector.predict([image], confidence=0.0)
    fault = decoder_of(detector.bundle).blank_fault(found)
    if fault:
        raise UnfitModelError(fault)


def check_board(detector: Model[Any], folder: Path) -> None:
    """Compare a model on an NPU with the golden tensors that it brings for this board, if it does.

    Raises:
        UnfitModelError: the board computes something else than the toolkit's simulator did.
    """
    golden = find_golden(detector, folder)
    if golden is not None and isinstance(detector, Network):
        checked = compare_with_golden(detector, golden)
        if not checked.passed:
            raise UnfitModelError(f"on this board its outputs differ from those measured: {checked.verdict}")


def check_numbers(model: Model[Any], found: Any) -> None:
    """Raise ``UnfitModelError`` where the numbers of a result cannot be right, such as NaN."""
    fault = decoder_of(model.bundle).fault(found)
    if fault:
        raise UnfitModelError(fault)


def one_line(error: Exception) -> str:
    """An error as one line; what is not an ``InputError`` is named."""
    text = " ".join(str(error).split())
    return text if isinstance(error, InputError) else f"{type(error).__name__}: {text}"


def main(arguments: Sequence[str]) -> int:
    """The smoke test itself; 0 if the model works."""
    folder, runtime, threads, seconds, max_bytes, board_check, modules = arguments
    os.nice(_NICENESS)  # the loop goes on meanwhile, on the same processor
    limit_to(int(max_bytes))
    signal.alarm(int(seconds))  # a worker that is gone cannot end it
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the worker, which ends this
    try:
        plugins.load(modules)
        if runtime == "onnx":
            importlib.import_module("onnxruntime")  # what all models share is not the model's memory
        before = resident_bytes(os.getpid())
        detector = open_model(runtime, Path(folder), int(threads))
        if board_check == "on":  # first, because it knows better what is wrong
            check_board(detector, Path(folder))
        warm_up(detector)
    except Exception as error:  # a broken model ends in whatever its runtime raises
        print(one_line(error))
        return _NO_RUNTIME if isinstance(error, NoRuntimeError) else 1
    print(f"{_TOOK}{max(0, resident_bytes(os.getpid()) - before)}")
    return 0


def _wait(process: subprocess.Popen[bytes], stop: threading.Event, end: float, max_bytes: int) -> int:
    while (code := process.poll()) is None:
        if stop.wait(_TURN_SECONDS):
            raise InterruptedSmokeTestError
        if time.monotonic() > end:
            raise UnfitModelError("its first inference exceeded the time limit of the smoke test")
        if resident_bytes(process.pid) > max_bytes:
            raise UnfitModelError(f"it needs more memory than is free on this machine, {max_bytes >> 20} MiB")
    return code


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
