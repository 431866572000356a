"""Whether a pair is deployed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from components.core.rules.conditions import Condition, Outcome


def judge(
    conditions: object,
    found: Mapping[str, float],
    deployed: Mapping[str, float] | None,
    conversion: Mapping[str, Any],
) -> tuple[Literal["promoted", "rejected"], Sequence[str]]:
    """Decide whether a pair is deployed.

    Args:
        conditions: as the parameter ``joint_conditions`` has them.
        found: figures of the pair, by name.
        deployed: figures of the pair that is deployed now; None where there is none.
        conversion: outcome and reasons of converting the little model, as ``convert`` writes them.

    Returns:
        The outcome, and why, one line each.

    Raises:
        InputError: conditions that cannot be read.
    """
    verdict = Condition.parse(conditions).evaluate(found, deployed)
    reasons = [verdict.describe()]
    if conversion["outcome"] == "failed":
        reasons.append(f"the little model could not be converted: {'; '.join(conversion['reasons'])}")
    promoted = verdict.outcome is Outcome.MET and len(reasons) == 1
    return "promoted" if promoted else "rejected", reasons
