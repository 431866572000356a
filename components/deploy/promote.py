"""Whether the model of a single run is deployed, before the gate is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

from components.core.job.state import State
from components.core.reports import page as reports

Outcome = Literal["promoted", "pending", "rejected"]


@dataclass(frozen=True)
class Verdict:
    """What becomes of the model.

    Attributes:
        outcome: of the gate; None where the job does not keep the model: nobody wants it, or the gate could not decide.
        why: in words.
        round_number: that the run counts as, where an earlier try of it was committed; 0 elsewhere.
    """

    outcome: Outcome | None
    why: str
    round_number: int = 0

    @classmethod
    def of_gate(cls, outcome: str, reasons: Sequence[str]) -> Self:
        """The gate's verdict."""
        known: dict[str, Outcome] = {"promoted": "promoted", "pending": "pending", "rejected": "rejected"}
        return cls(known.get(outcome), "; ".join(reasons))

    def describe(self) -> str:
        """The outcome and its reason as one line."""
        return f"{self.outcome or 'not deployed'}: {self.why}"


FIRST = Verdict("promoted", "the first model of the job")


def not_asked(deploy: bool, converted: Mapping[str, Any]) -> Verdict | None:
    """The verdict where the model is not to be deployed, or cannot be; None otherwise.

    Args:
        deploy: what the user wants.
        converted: ``outcome`` and ``reasons`` of its conversion.
    """
    if not deploy:
        return Verdict(None, "deploy=false")
    if converted["outcome"] == "failed":
        return Verdict(None, f"the model could not be converted: {'; '.join(converted['reasons'])}")
    return None


def already(state: State, run_id: str) -> Verdict | None:
    """The verdict of an earlier try of the same run, which was committed; None where there was none."""
    if state.run_of(state.round) != run_id:
        return None
    outcome: Outcome = "promoted" if state.champion == state.candidate else "rejected"
    return Verdict(outcome, "committed by an earlier try of this run", state.round)


def not_deployed(verdict: Verdict, state: State) -> reports.Section:
    """What the report says of a model that the job does not keep."""
    facts = reports.facts({"outcome": "not deployed", "champion": state.champion or "none"})
    return reports.Section("Deployment", facts + reports.note(verdict.why))
