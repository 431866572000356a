"""The pages of a comparison and of the gate's decision."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from components.core.colours import PALETTE
from components.core.reports import page as reports
from components.core.reports.page import Section
from components.core.tasks.base import NONE, Measurement
from components.evaluate.compare import ALL, CANDIDATE, CHAMPION, Comparison, Delta
from components.evaluate.gate import Judgement, Outcome

_SETS = {
    "core": "frozen test samples of the first rounds",
    "recent": "test samples of the last rounds",
    ALL: "every test sample that was evaluated",
}


def sections(comparison: Comparison, judgement: Judgement) -> list[Section]:
    """The decision, the two models on each set of samples, and on each class."""
    return [_verdict(judgement), _models(comparison), _classes(comparison)]


def _verdict(judgement: Judgement) -> Section:
    facts = {"outcome": str(judgement.outcome), **({"forced": True} if judgement.forced else {})}
    kind = "info" if judgement.outcome == Outcome.PROMOTED and not judgement.forced else "warn"
    body = reports.facts(facts)
    body += Markup().join(reports.note(reason, kind) for reason in judgement.reasons)
    if judgement.checks:
        rows = [[check.question, check.outcome.replace("_", " "), check.reason] for check in judgement.checks]
        body += reports.table(("check", "result", "reason"), rows)
    return Section("Verdict", body)


def _models(comparison: Comparison) -> Section:
    headers = ("metric", "samples", "images", "candidate", "champion", "difference", "95 % interval")
    rows, deltas = [], {}
    for figure, title in comparison.figures.overall.items():
        for name, scores in comparison.scores.items():
            new = scores[CANDIDATE].measured
            old = scores[CHAMPION].measured.flat[figure] if CHAMPION in scores else NONE
            delta = comparison.delta(name, figure)
            difference = [NONE] * 2
            if delta is not None:
                deltas[f"{title}, {name}"] = delta
                difference = [_signed(delta.value), f"{_signed(delta.low)} to {_signed(delta.high)}"]
            rows.append([title, name, new.images, new.flat[figure], old, *difference])
    caption = " ".join(f"{name}: {what}." for name, what in _SETS.items() if name in comparison.scores)
    body = reports.table(headers, rows, caption)
    for name in comparison.empty:
        body += reports.note(f"The {name} test set has no labels, so it was not evaluated.", "warn")
    if deltas:
        body += _intervals(deltas)
    return Section("Candidate and champion", body)


def _classes(comparison: Comparison) -> Section:
    scores = comparison.scores[ALL]
    new, old = scores[CANDIDATE].measured, scores[CHAMPION].measured if CHAMPION in scores else None
    figures = comparison.figures
    headers = ("class", figures.truths, *figures.of_class.values())
    rows = [
        [name, new.of_class("truths", name), *(_change(figure, name, new, old) for figure in figures.of_class)]
        for name in comparison.classes
    ]
    caption = "Candidate on all test samples, with the difference from the champion in parentheses."
    return Section("Per-class results", reports.table(headers, rows, caption))


def _change(figure: str, name: str, ours: Measurement[Any], theirs: Measurement[Any] | None) -> str:
    new, old = ours.of_class(figure, name), theirs.of_class(figure, name) if theirs else None
    if new is None:
        return NONE
    return f"{new:.3f}" if old is None else f"{new:.3f} ({_signed(new - old)})"


def _signed(value: float) -> str:
    return f"{value:+.3f}"


def _intervals(deltas: Mapping[str, Delta]) -> Markup:
    figure = reports.new_figure(6.4, 0.6 + 0.36 * len(deltas))
    axes = figure.subplots()
    for place, delta in enumerate(deltas.values()):
        axes.plot([delta.low, delta.high], [place, place], color=PALETTE[0], linewidth=2)
        axes.plot(delta.value, place, "o", color=PALETTE[0])
    axes.axvline(0, color="#6b7a85", linestyle="--", linewidth=0.8)
    axes.set_yticks(range(len(deltas)), list(deltas))
    axes.invert_yaxis()
    axes.set_xlabel("candidate - champion")
    return reports.figure(figure, "Difference between candidate and champion with its 95 % confidence interval.")
