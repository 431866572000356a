"""The pages of a comparison and of the gate's decision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from components.core.metrics.detection import ClassMetrics
from components.core.metrics.segmentation import ClassScores
from components.core.reports import page as reports
from components.core.reports.page import Section
from components.evaluate.compare import Comparison, Delta
from components.evaluate.gate import Judgement, Outcome

AnyClass = ClassMetrics | ClassScores
NONE = "–"  # noqa: RUF001


def sections(comparison: Comparison, judgement: Judgement) -> list[Section]:
    """The decision, the two models on each set of samples, and on each class."""
    return [_verdict(judgement), _models(comparison), _classes(comparison)]


def verdict(judgement: Judgement) -> list[Section]:
    """The decision alone, for a candidate that could not be measured."""
    return [_verdict(judgement)]


def _verdict(judgement: Judgement) -> Section:
    facts = {"outcome": str(judgement.outcome), **({"forced": True} if judgement.forced else {})}
    kind = "info" if judgement.outcome == Outcome.PROMOTED and not judgement.forced else "warn"
    body = reports.facts(facts)
    body += Markup().join(reports.note(reason, kind) for reason in judgement.reasons)
    if judgement.checks:
        rows = [[check.question, check.outcome.replace("_", " "), check.reason] for check in judgement.checks]
        body += reports.table(("question", "answer", "reason"), rows)
    return Section("Verdict", body)


def _models(comparison: Comparison) -> Section:
    headers = ("metric", "samples", "images", "candidate", "champion", "difference", "95 % interval")
    rows = []
    for metric, title in comparison.figures.overall.items():
        for name, scores in comparison.sets.items():
            old = NONE if scores.champion is None else getattr(scores.champion, metric)
            delta = scores.deltas.get(metric)
            difference = (
                [_signed(delta.value), f"{_signed(delta.low)} to {_signed(delta.high)}"] if delta else [NONE] * 2
            )
            rows.append([title, name, scores.candidate.images, getattr(scores.candidate, metric), old, *difference])
    caption = "core: the frozen samples of the first rounds. recent: those of the last rounds. all: both together."
    body = reports.table(headers, rows, caption)
    for name in comparison.empty:
        body += reports.note(f"The {name} set has no labels: nothing can be measured on it.", "warn")
    deltas = {
        f"{title}, {name}": delta
        for metric, title in comparison.figures.overall.items()
        for name, scores in comparison.sets.items()
        for delta in [scores.deltas.get(metric)]
        if delta is not None
    }
    if deltas:
        body += _intervals(deltas)
    return Section("Candidate and champion", body)


def _classes(comparison: Comparison) -> Section:
    scores = comparison.sets["all"]
    new: Sequence[AnyClass] = scores.candidate.per_class
    old: Sequence[AnyClass | None] = scores.champion.per_class if scores.champion else (None,) * len(new)
    figures = comparison.figures
    headers = ("class", figures.counted, *figures.of_class.values())
    rows = [
        [ours.name, ours.truths, *(_change(name, ours, theirs) for name in figures.of_class)]
        for ours, theirs in zip(new, old, strict=True)
    ]
    caption = "Over all test samples: the candidate, and how far it lies from the champion."
    return Section("Classes, candidate against champion", reports.table(headers, rows, caption))


def _change(metric: str, ours: AnyClass, theirs: AnyClass | None) -> str:
    new, old = getattr(ours, metric), getattr(theirs, metric, None)
    if new is None:
        return NONE
    return f"{new:.3f}" if old is None else f"{new:.3f} ({_signed(new - old)})"


def _signed(value: float) -> str:
    return f"{value:+.3f}"


def _intervals(deltas: Mapping[str, Delta]) -> Markup:
    figure = reports.new_figure(6.4, 0.6 + 0.36 * len(deltas))
    axes = figure.subplots()
    for place, delta in enumerate(deltas.values()):
        axes.plot([delta.low, delta.high], [place, place], color=reports.PALETTE[0], linewidth=2)
        axes.plot(delta.value, place, "o", color=reports.PALETTE[0])
    axes.axvline(0, color="#6b7a85", linestyle="--", linewidth=0.8)
    axes.set_yticks(range(len(deltas)), list(deltas))
    axes.invert_yaxis()
    axes.set_xlabel("candidate - champion")
    return reports.figure(figure, "The difference, and the interval in which it lies with 95 % confidence.")
