"""What one case came to: a row of the leaderboard with the rounds behind it."""

from __future__ import annotations

import hashlib
import os
import platform
import resource
import sys
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

import components
from components.core.version import VERSION

# Figures that the leaderboard can be sorted by; True where more is better.
FIGURES = {
    "map50": True, "map50_95": True, "precision": True, "recall": True, "f1": True, "f1_ianvs": True,
    "average_accuracy": True, "backward_transfer": True, "forward_transfer": True, "forgetting": False,
    "retention": True, "samples_transfer_ratio": False, "transfer_ratio": False, "labelled_images": False,
    "labelled_boxes": False, "sample_epochs": False, "seconds": False, "peak_memory_mb": False, "model_mb": False,
    "accepted_rounds": True,
}  # fmt: skip


class RoundRow(BaseModel):
    """What one round came to.

    Attributes:
        name: of the round.
        inferred: images that the champion saw.
        transferred: images that were sent for labels.
        labelled_images: with labels so far, those for validation among them.
        labelled_boxes: boxes in them.
        trained: samples of the training.
        replayed: of these from earlier rounds.
        lacking: how many of them have no labels of a class, by class.
        filled: pseudo-labels that were found, by class.
        sample_epochs: samples times epochs of the training.
        accepted: the candidate became the champion.
        gain: of the candidate over the champion in the metric of the gate; None where nothing was compared.
        metrics: of the champion after the round, on the whole test set.
        tasks: its mAP50 on each task.
        seconds: that the round took.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    name: str
    inferred: int = 0
    transferred: int = 0
    labelled_images: int = 0
    labelled_boxes: int = 0
    trained: int = 0
    replayed: int = 0
    lacking: dict[str, int] = {}
    filled: dict[str, int] = {}
    sample_epochs: int = 0
    accepted: bool = False
    gain: float | None = None
    metrics: dict[str, float] = {}
    tasks: dict[str, float] = {}
    seconds: float = 0.0


class Row(BaseModel):
    """One case: what was run, where, and what came of it.

    Attributes:
        case: digest of all that the result depends on.
        algorithm: name in the leaderboard.
        baseline: ``frozen``, ``random``, ``full``, or empty.
        seed: of splits, draws and training.
        settings: of the algorithm.
        stream: how the samples arrived.
        data: digest of the samples and labels.
        code: version of the suite, and a digest of its source.
        content: digests of its base model and plug-ins, where they are files.
        hardware: processor, GPU, memory and libraries.
        created: when it was finished, UTC.
        error: why there are no figures; empty where there are.
        figures: by name, see ``FIGURES``.
        rounds: in their order.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    case: str
    algorithm: str
    baseline: str = ""
    seed: int
    settings: dict[str, Any] = {}
    stream: dict[str, Any] = {}
    data: str = ""
    code: str = ""
    content: dict[str, str] = {}
    hardware: dict[str, str] = {}
    created: str = ""
    error: str = ""
    figures: dict[str, float] = {}
    rounds: list[RoundRow] = []


def origin() -> dict[str, Any]:
    """Where and with what a row is made: the fields ``code``, ``hardware`` and ``created``."""
    return {"code": code_version(), "hardware": hardware(), "created": datetime.now(UTC).isoformat(timespec="seconds")}


@cache
def code_version() -> str:
    """The version, and a digest of the source files, which tells two states of the code apart."""
    root = Path(components.__path__[0])
    whole = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        whole.update(f"{path.relative_to(root).as_posix()}\0".encode() + path.read_bytes() + b"\0")
    return f"{VERSION}+{whole.hexdigest()[:12]}"


def hardware() -> dict[str, str]:
    """The machine and the libraries that decide how fast and, in the last digits, how good a result is."""
    found = {
        "processor": _processor(),
        "cpus": str(len(os.sched_getaffinity(0))),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9:.0f} GB",
        "system": f"{platform.system()} {platform.machine()}",
        "libraries": ", ".join(f"{name} {version(name)}" for name in ("torch", "onnxruntime")),
    }
    # Only where a training has loaded it already: torch takes seconds to import.
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name(0)
    return found


def peak_memory_mb() -> float:
    """Most memory that this process has had, in megabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Model")))
    return next(names, platform.machine())
