"""What became of a conversion, and of each try."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from components.convert.gate import Check
from components.convert.measure import figures
from components.convert.toolkit import Built
from components.core.bundle import Bundle
from components.core.reports.page import Section
from components.core.tasks.base import Measurement


@dataclass(frozen=True)
class Attempt:
    """What became of it.

    Attributes:
        target: chip.
        precision: ``int8`` or ``fp16``.
        algorithm: of the calibration; empty for fp16.
        built: the file; None where the toolkit failed.
        measured: on the check images; None where there is no file.
        checks: what the gate asked.
        error: why there is no file; empty where there is one.
    """

    target: str
    precision: str
    algorithm: str
    built: Built | None = None
    measured: Measurement[Any] | None = None
    checks: tuple[Check, ...] = ()
    error: str = ""

    @property
    def passed(self) -> bool:
        """Whether the file may be deployed."""
        return self.built is not None and all(check.met for check in self.checks)

    @property
    def how(self) -> str:
        """The precision and the algorithm in a few words."""
        return " ".join(filter(None, (self.precision, self.algorithm)))

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why it did not pass, one line each."""
        if self.error:
            return (self.error,)
        return tuple(f"{check.question}: {check.reason}" for check in self.checks if not check.met)


class Outcome(StrEnum):
    """What became of the model."""

    CONVERTED = "converted"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Conversion:
    """What became of a model.

    Attributes:
        outcome: ``converted`` for every target; ``failed`` for at least one, so that it must not be deployed; or
            ``skipped``, the model staying what it was.
        reasons: why, one line each.
        bundle: as written; with the files that passed.
        attempts: every try, in order.
        reference: the float model on the check images; None where nothing was measured.
        sections: the report.
    """

    outcome: Outcome
    reasons: tuple[str, ...]
    bundle: Bundle
    attempts: Sequence[Attempt] = ()
    reference: Measurement[Any] | None = None
    sections: Sequence[Section] = ()

    def describe(self) -> str:
        """The outcome and its reasons as one line."""
        return f"{self.outcome}: {'; '.join(self.reasons)}"

    def to_dict(self) -> dict[str, Any]:
        """The outcome and every attempt as a mapping for JSON."""
        return {
            "outcome": str(self.outcome),
            "reasons": list(self.reasons),
            "attempts": [
                {
                    "target": attempt.target,
                    "precision": attempt.precision,
                    "algorithm": attempt.algorithm,
                    "passed": attempt.passed,
                    "reasons": list(attempt.reasons),
                }
                for attempt in self.attempts
            ],
            "figures": self.as_flat(),
        }

    def as_flat(self) -> dict[str, float]:
        """What the last try for each target scored, by name, such as ``map50[rk3588]``; each is finite."""
        last = {attempt.target: attempt.measured for attempt in self.attempts if attempt.measured}
        return {
            f"{name}[{target}]": value for target, measured in last.items() for name, value in figures(measured).items()
        }
