"""Promote: the model of a single run becomes the champion of its job, in the same commit as that of a round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from components.core.bundle import ONNX, Bundle
from components.core.errors import ConflictError, LostRaceError
from components.core.job.job import Job
from components.core.job.state import State
from components.core.parameters import DeploySettings, GateSettings
from components.core.reports import page as reports
from components.deploy.canary import CanaryPlan
from components.deploy.candidate import Candidate
from components.deploy.deploy import Deployed, deploy
from components.deploy.garbage import collect_garbage

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


def first(figure: str, value: float, gate: GateSettings) -> Verdict:
    """The verdict on the first model of a job, which there is nothing to compare with.

    Args:
        figure: what it is called by which models are compared.
        value: of the model.
        gate: with the least that a first champion must score.
    """
    if value >= gate.min_map50:
        return Verdict("promoted", "the first model of the job")
    low = f"{figure} is {value:.3f}, a first champion needs {gate.min_map50:g} (min_map50)"
    if gate.force_deploy:
        return Verdict("promoted", f"forced: {low}")
    return Verdict(None, f"{low}: train for more epochs, start from a pretrained base_model, or give force_deploy=true")


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
    canary = state.canary.version if state.canary else None
    outcome: Outcome = "rejected"
    if state.candidate == state.pending:
        outcome = "pending"
    elif state.candidate in (state.champion, canary):
        outcome = "promoted"
    return Verdict(outcome, "committed by an earlier try of this run", state.round)


def same_as(version: str, champion: Bundle, candidate: Bundle) -> Verdict | None:
    """The verdict on a model that is the champion itself, as the same run given twice makes; None for another one."""
    if champion.files.get(ONNX) != candidate.files.get(ONNX):
        return None
    return Verdict(None, f"the model is the same as the champion {version}")


def not_deployed(verdict: Verdict, state: State) -> reports.Section:
    """What the report says of a model that the job does not keep."""
    facts = reports.facts({"outcome": "not deployed", "champion": state.champion or "none"})
    return reports.Section("Deployment", facts + reports.note(verdict.why))


def commit_run(
    job: Job, state: State, folder: Path, everything: Path, verdict: Verdict, run_id: str, chosen: DeploySettings
) -> Deployed:
    """Commit a single run as a round of its job.

    Args:
        job: that the run belongs to.
        state: of the job, as the verdict was given on.
        folder: the bundle.
        everything: file with every sample of the job, this run's among them.
        verdict: with an outcome.
        run_id: names the run.
        chosen: how the champion reaches the workers.

    Raises:
        LostRaceError: another run committed first, or the champion has changed; this one's work is dropped.
    """
    assert verdict.outcome
    try:
        deployed = deploy(
            job.store.uri,
            Candidate.of_one(folder),
            everything,
            outcome=verdict.outcome,
            why=verdict.why,
            round_number=verdict.round_number or state.round + 1,
            run_id=run_id,
            cursor=state.cursor,
            champion=state.champion,
            rollout_timeout=chosen.rollout_timeout,
            rollout_fraction=chosen.rollout_fraction,
            canary=CanaryPlan(chosen.canary_fraction, chosen.canary_frames, chosen.canary_hours),
        )
    except ConflictError as error:
        raise LostRaceError(str(error)) from error
    collect_garbage(job, chosen.keep_versions, job.read()[0])
    return deployed
