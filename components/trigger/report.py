"""The page of a poll: what is new, what a round needs, and what was decided."""

from __future__ import annotations

from components.core.reports import page as reports
from components.core.reports.page import Section
from components.trigger.trigger import Arrived, Decision, Outcome, clauses

_SAID = {
    Outcome.RUN: "A round runs.",
    Outcome.WAIT: "Waiting: no round runs yet.",
    Outcome.ERROR: "Error: no round runs.",
}


def sections(arrived: Arrived, decision: Decision) -> list[Section]:
    """What arrived, have and need of each comparison, and the decision."""
    came = reports.facts(
        {
            "new samples": len(arrived.manifest.labelled()),
            "classes": ", ".join(arrived.manifest.classes) or "none",
            **{name.replace("_", " "): count for name, count in arrived.counts.items()},
        }
    )
    kind = "info" if decision.outcome == Outcome.RUN else "warn"
    decided = reports.note(_SAID[decision.outcome], kind)
    decided += reports.table(["metric", "have", "need", "outcome"], clauses(decision), decision.verdict.condition)
    for reason in decision.reasons:
        decided += reports.note(reason)
    return [Section("New samples in the feed", came), Section("Decision", decided)]
