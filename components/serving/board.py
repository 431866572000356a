"""One model on this board against what the toolkit's simulator made of the same canvases; never run on a board yet."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.core.errors import InputError
from components.core.runtimes.base import Model, Network
from components.core.runtimes.golden import Finding, Golden, golden_file
from components.core.runtimes.rknn import BoardModel, this_board
from components.serving.agreement import compare

_WARM_UPS = 3  # runs before the clock starts: the first ones find clocks and caches cold


@dataclass(frozen=True)
class BoardCheck:
    """What came of a check.

    Attributes:
        findings: every question and its answer.
        toolkit: version of the toolkit that made the model; empty where that is not known.
        runtime: version of the board's ``librknnrt.so``; empty where it does not say.
    """

    findings: tuple[Finding, ...]
    toolkit: str = ""
    runtime: str = ""

    @property
    def passed(self) -> bool:
        """Whether the board computes what the simulator did."""
        return all(finding.met for finding in self.findings)

    @property
    def outdated(self) -> bool:
        """Whether the board's runtime is older than the toolkit, which may cost anything or nothing."""
        return bool(self.toolkit and self.runtime) and _numbers(self.runtime) < _numbers(self.toolkit)

    @property
    def verdict(self) -> str:
        """One line, with what to do about it."""
        if self.passed:
            return "the board matches the simulator up to rounding"
        reasons = "; ".join(f"{finding.question}: {finding.reason}" for finding in self.findings if not finding.met)
        if self.outdated:
            advice = (
                f"the board's librknnrt.so {self.runtime} is older than the toolkit {self.toolkit} that made the "
                "model: update it first"
            )
        else:
            advice = "update librknnrt.so and the NPU driver of the board, or convert with another quantization"
        return f"{reasons}; {advice}"


def find_golden(model: Model[Any], folder: Path) -> Golden | None:
    """The golden tensors of a bundle for this board; None where it has none, or does not run on an NPU.

    Raises:
        InputError: there are some, but damaged.
    """
    if not isinstance(getattr(model, "infer", None), BoardModel):
        return None
    name = golden_file(this_board())
    if name not in model.bundle.files:
        return None
    return Golden.read(model.bundle.file(folder, name))


def compare_with_golden(model: Network[Any], golden: Golden) -> BoardCheck:
    """Run a model over the golden canvases and compare.

    Raises:
        InputError: the golden tensors are of a model with other outputs.
    """
    if golden.names != model.bundle.outputs:
        raise InputError(
            f"the golden tensors have outputs {', '.join(golden.names)}, the model "
            f"{', '.join(model.bundle.outputs)}: convert it again"
        )
    outputs = [list(model.infer(canvas[None])) for canvas in golden.canvases]
    findings = tuple(compare(model.bundle, golden, outputs))
    board = model.infer if isinstance(model.infer, BoardModel) else None
    return BoardCheck(findings, board.toolkit if board else "", board.runtime() if board else "")


def milliseconds(model: Network[Any], golden: Golden, runs: int) -> float:
    """Median time of one run on the NPU, from a canvas to outputs in memory."""
    canvas, times = golden.canvases[:1], []
    for _ in range(_WARM_UPS + runs):
        started = time.perf_counter()
        model.infer(canvas)
        times.append(1000 * (time.perf_counter() - started))
    return statistics.median(times[_WARM_UPS:])


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())
