"""The verdict on a candidate: both models over the same test samples, and the gate's decision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from components.core.manifest import Manifest
from components.core.parameters import EvaluateSettings, GateSettings
from components.core.rules.conditions import Condition
from components.core.rules.window import Window
from components.core.tasks.base import Figures
from components.evaluate.compare import Comparison, compare
from components.evaluate.gate import Check, Judgement, conversion_check, judge
from components.evaluate.predictor import open_predictor


def compare_and_judge(
    models: Mapping[str, Path],
    sets: Mapping[str, Manifest],
    conversion: Mapping[str, Any],
    *,
    gate: GateSettings,
    thresholds: EvaluateSettings,
    runtime: str,
    cache_folder: Path,
    now: datetime,
) -> tuple[Comparison, Judgement]:
    """Compare a candidate with the champion, if there is one, and decide whether it takes its place.

    Args:
        models: folders of the bundles: ``candidate`` first, then ``champion``.
        sets: test samples by name, such as ``core``.
        conversion: ``outcome`` and ``reasons`` of the candidate's conversion.
        gate: what is asked of the candidate.
        thresholds: that the candidate will be deployed with.
        runtime: what runs the models.
        cache_folder: where images are brought to.
        now: the time, with its zone, that the window is compared with.

    Raises:
        InputError: as for ``compare`` and ``judge``.
    """
    conditions = Condition.parse(gate.gate_conditions) if gate.gate_conditions else None
    comparison = compare(
        {
            name: open_predictor(folder, nms_threshold=thresholds.nms_threshold, runtime=runtime)
            for name, folder in models.items()
        },
        sets,
        confidence_threshold=thresholds.confidence_threshold,
        cache_folder=cache_folder,
        named=conditions.metrics() if conditions else (),
    )
    return comparison, judge_comparison(comparison, gate, further=[conversion_check(conversion)], now=now)


def judge_comparison(
    comparison: Comparison, gate: GateSettings, *, further: Sequence[Check], now: datetime
) -> Judgement:
    """Decide whether a candidate takes the champion's place, as the parameters say.

    Args:
        comparison: of both.
        gate: what is asked of the candidate.
        further: what was asked elsewhere.
        now: the time, with its zone.

    Raises:
        InputError: as for ``judge``.
    """
    return judge(
        comparison,
        now=now,
        conditions=_conditions(gate, comparison.figures),
        no_regression=gate.max_class_drop if gate.max_class_drop >= 0 else None,
        min_samples=gate.min_samples,
        min_map50=gate.min_map50,
        require_significant=gate.require_significant,
        max_map50_drop=gate.max_map50_drop if gate.max_map50_drop >= 0 else None,
        window=Window.parse(gate.deploy_window) if gate.deploy_window else None,
        further=further,
        force=gate.force_deploy,
    )


def _conditions(gate: GateSettings, figures: Figures) -> Condition | None:
    """The user's conditions; the default one is of the main figure, which not every task calls mAP50."""
    written = gate.gate_conditions
    if written == GateSettings.model_fields["gate_conditions"].get_default():
        written = [f"{figures.main}_delta >= 0"]
    return Condition.parse(written) if written else None
