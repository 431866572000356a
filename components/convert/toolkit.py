"""Rockchip's toolkit from outside: whether it is here, one build in a process of its own, and what it printed."""

from __future__ import annotations

import importlib.util
import json
import re
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any

from components.convert.build import FACTS, FAILURE, GOLDEN, MODEL, PREDICTIONS, Request
from components.core.processes import module_command, module_environment
from components.core.tasks.base import Task

PACKAGE = "rknn-toolkit2"
REQUEST, LOG = "request.json", "toolkit.log"

_INPUT_AND_OUTPUT = ("InputOperator", "OutputOperator")  # always on the processor: they take and hand over numbers
_OPERATOR = re.compile(r"\] (\d+) +(\w+) +\S+ +([A-Z]+) .*? \d+/\d+/(\d+) ")
_MEMORY = re.compile(r"Total (Internal|Weight) Memory Size: ([\d.]+)KB")
_COMPILER = re.compile(r"librknnc version: (\S+)")
_COMPLAINT = re.compile(r"^E (?:RKNN: \[[\d:.]+\] |\w+: )?(?!rknn-toolkit2 version|Traceback)(.*\S)", re.MULTILINE)
_ESCAPES = re.compile(r"\x1b\[[0-9;]*m")


class ToolkitError(Exception):
    """The toolkit could not build or simulate; the message is one line."""


@dataclass(frozen=True)
class Operators:
    """What the compiler says of a model it built; nothing of it was measured on a chip.

    Attributes:
        total: operators, without those that take and hand over numbers.
        on_cpu: those that the processor computes, not the NPU, by their kinds.
        cycles: estimate for one image.
        internal_kb: memory for what lies between the operators, KiB.
        weight_kb: memory for the weights, KiB.
    """

    total: int
    on_cpu: tuple[str, ...]
    cycles: int
    internal_kb: float
    weight_kb: float


@dataclass(frozen=True)
class Built:
    """One ``.rknn`` and what the simulator found with it.

    Attributes:
        file: the ``.rknn``.
        sha256: of its bytes.
        golden: what a board should compute, see :mod:`components.core.runtimes.golden`.
        golden_sha256: of its bytes.
        predictions: of each image in the model's classes, boxes with scores from 0.001, or a class map.
        score_steps: how much a score goes up from one 8-bit level to the next, by output; empty for fp16.
        operators: of the compiler's report; None where that cannot be read.
        compiler: its version.
        build_seconds: time to load, quantise and compile.
        images_per_second: of the simulator, which says nothing of the chip.
    """

    file: Path
    sha256: str
    golden: Path
    golden_sha256: str
    predictions: Sequence[Any]
    score_steps: dict[str, float]
    operators: Operators | None
    compiler: str
    build_seconds: float
    images_per_second: float


def toolkit_version() -> str:
    """The version of the toolkit here, empty where there is none: it exists for Linux on x86-64 and few Pythons."""
    try:
        return version(PACKAGE) if importlib.util.find_spec("rknn") else ""
    except PackageNotFoundError:
        return ""


def build(request: Request, time_limit: float) -> None:
    """Build and simulate in a child process; the results lie in the request's folder.

    Args:
        request: what to build.
        time_limit: seconds after which the child is ended.

    Raises:
        ToolkitError: the toolkit refused, crashed or took too long; the message gives its reason.
    """
    folder = Path(request.output)
    request.write(folder / REQUEST)
    environment = module_environment() | {"TMPDIR": str(folder)}  # a crash must leave nothing elsewhere
    with (folder / LOG).open("wb") as log:
        code = _run([*module_command("components.convert.build"), REQUEST], folder, environment, log, time_limit)
    if code == 0:
        return
    printed = _printed(folder)
    reason = _COMPLAINT.findall(printed)[-1:]
    if code is None:
        raise ToolkitError(f"the toolkit exceeded {time_limit:g} s for {request.target}: raise conversion_timeout")
    if code < 0:
        raise ToolkitError(describe_crash(signal.Signals(-code), request.target, *reason))
    if not (folder / FAILURE).is_file():
        raise RuntimeError(f"the conversion for {request.target} ended with {code}: {printed[-2000:]}")
    failure = json.loads((folder / FAILURE).read_text(encoding="utf-8"))
    why = failure["reason"] or "".join(reason) or "no reason given"
    raise ToolkitError(f"the toolkit failed while {failure['doing']} for {request.target}: {why}")


def read_build(folder: Path, task: Task[Any, Any]) -> Built:
    """The results of a build.

    Args:
        folder: of the request.
        task: of the model.
    """
    facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    printed = _printed(folder)
    return Built(
        file=folder / MODEL,
        golden=folder / GOLDEN,
        predictions=task.read(folder / PREDICTIONS),
        operators=parse_operators(printed),
        compiler=parse_compiler(printed),
        **facts,
    )


def parse_operators(printed: str) -> Operators | None:
    """Read the compiler's table out of all that it printed; None where it is not there, or has a row of unknown form.

    The columns differ from chip to chip, and a row that is passed over could be the one that the processor computes.
    """
    rows = _OPERATOR.findall(printed)
    if not rows or [int(number) for number, *_ in rows] != list(range(len(rows))):
        return None
    real = [(kind, place, int(cycles)) for _, kind, place, cycles in rows if kind not in _INPUT_AND_OUTPUT]
    memory = {kind: float(size) for kind, size in _MEMORY.findall(printed)}
    return Operators(
        total=len(real),
        on_cpu=tuple(kind for kind, place, _ in real if place != "NPU"),
        cycles=sum(cycles for *_, cycles in real),
        internal_kb=memory.get("Internal", 0.0),
        weight_kb=memory.get("Weight", 0.0),
    )


def parse_compiler(printed: str) -> str:
    """The version of the compiler; empty where it does not say."""
    return "".join(_COMPILER.findall(printed)[:1])


def describe_crash(number: signal.Signals, target: str, reason: str = "no reason given") -> str:
    """What a signal that ended the toolkit means, and its last complaint."""
    if number == signal.SIGKILL:
        return (
            f"the toolkit was killed (SIGKILL) while converting for {target}, probably because memory "
            "ran out: give the step more memory, or lower calibration_size"
        )
    return f"the toolkit crashed ({number.name}) while converting for {target}: {reason}"


def _run(
    command: Sequence[str], folder: Path, environment: dict[str, str], log: IO[bytes], time_limit: float
) -> int | None:
    """The exit code; None where the time ran out."""
    try:
        return subprocess.run(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            timeout=time_limit, check=False,
        ).returncode  # fmt: skip
    except subprocess.TimeoutExpired:
        return None


def _printed(folder: Path) -> str:
    return _ESCAPES.sub("", (folder / LOG).read_text(encoding="utf-8", errors="replace"))
