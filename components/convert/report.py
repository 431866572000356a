"""The pages of a conversion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from components.convert.conversion import Attempt, Conversion
from components.convert.measure import figures
from components.convert.toolkit import Operators
from components.core.reports import page as reports
from components.core.reports.page import Section
from components.core.runtimes.rockchip import rknn_file
from components.core.tasks.base import NONE, Measurement


def sections(conversion: Conversion, split: str, confidence: float) -> list[Section]:
    """The verdict, what each target's model finds, and what it costs."""
    pages = [_verdict(conversion)]
    if conversion.reference and conversion.attempts:
        last = list({attempt.target: attempt for attempt in conversion.attempts}.values())
        pages += [_accuracy(conversion.reference, last, split, confidence), _classes(conversion.reference, last)]
        if any(attempt.built for attempt in last):
            pages.append(_chips(last))
    return pages


def _verdict(conversion: Conversion) -> Section:
    kind = "warn" if conversion.outcome == "failed" else "info"
    body = reports.facts({"outcome": str(conversion.outcome)})
    body += Markup().join(reports.note(reason, kind) for reason in conversion.reasons)
    if conversion.attempts:
        rows = [
            [one.target, one.how, "passed" if one.passed else "failed", "; ".join(one.reasons) or NONE]
            for one in conversion.attempts
        ]
        body += reports.table(("target", "settings", "result", "reasons"), rows)
        asked = [
            [one.target, one.how, check.question, "met" if check.met else "not met", check.reason]
            for one in conversion.attempts
            for check in one.checks
        ]
        body += reports.folded("All checks", reports.table(("target", "settings", "check", "result", "reason"), asked))
    return Section("Conversion", body)


def _accuracy(reference: Measurement[Any], last: Sequence[Attempt], split: str, confidence: float) -> Section:
    shown = reference.task.figures
    titles = {**shown.overall, **shown.converted_overall}
    scored = "max_score" in figures(reference)
    headers = ["model", *(name for title in titles.values() for name in (title, "change"))]
    headers += [*(["highest score", "ratio"] if scored else []), *([shown.predictions] if shown.predictions else [])]
    rows = [_row("float32 ONNX", reference, titles, None)]
    for attempt in last:
        if attempt.measured:
            rows.append(_row(f"{attempt.target} {attempt.how}", attempt.measured, titles, reference))
    caption = (
        f"On {reference.images} labelled images of the {split} split with {_total('truths', reference):,} "
        f"{shown.truths}. Confidence-dependent metrics use the deployed threshold, {confidence:g}. Computed by the "
        "toolkit's simulator, not on a chip."
    )
    return Section("Accuracy on the simulator", reports.table(headers, rows, caption))


def _row(
    model: str, measured: Measurement[Any], titles: Mapping[str, str], reference: Measurement[Any] | None
) -> list[object]:
    """The figures of a model, each with its change from the float model."""
    new, old = figures(measured), figures(reference) if reference else None
    row: list[object] = [model]
    for name in titles:
        row += [new[name], f"{new[name] - old[name]:+.3f}" if old else NONE]
    if "max_score" in new:
        row += [new["max_score"], new["max_score"] / max(old["max_score"], 1e-9) if old else NONE]
    return [*row, _total("predictions", measured)] if measured.task.figures.predictions else row


def _total(what: str, measured: Measurement[Any]) -> int:
    return int(sum(measured.of_class(what, name) or 0 for name in measured.samples.classes))


def _classes(reference: Measurement[Any], last: Sequence[Attempt]) -> Section:
    measured = [(attempt.target, attempt.measured) for attempt in last if attempt.measured]
    shown = reference.task.figures
    figure, title = shown.converted
    headers = ("class", shown.truths, "float32", *(target for target, _ in measured))
    rows = []
    for name in reference.samples.classes:
        old = reference.of_class(figure, name)
        new = [_change(one.of_class(figure, name), old) for _, one in measured]
        rows.append([name, reference.of_class("truths", name), NONE if old is None else old, *new])
    where = " at the deployed confidence" if "max_score" in figures(reference) else ""
    return Section(f"{title} per class{where}", reports.table(headers, rows))


def _chips(last: Sequence[Attempt]) -> Section:
    headers = ("target", "file", "MB", "operators", "on the CPU", "cycles", "memory, KiB", "weights, KiB", "build, s")
    rows = [
        [
            attempt.target,
            rknn_file(attempt.target),
            f"{attempt.built.file.stat().st_size / 1e6:.2f}",
            *_costs(attempt.built.operators),
            f"{attempt.built.build_seconds:.1f}",
        ]
        for attempt in last
        if attempt.built
    ]
    body = reports.table(headers, rows, "Cycles and memory are the compiler's estimates per image.")
    for attempt in last:
        capped = _capped(attempt)
        if capped:
            body += reports.note(
                f"{attempt.target}: {capped}. These outputs detected nothing in any calibration image, "
                "enlarged objects included, so their int8 range is narrow: objects of these sizes cannot "
                "score higher on the chip. If you expect such objects, add training images that show them."
            )
    return Section("Size and cost on the chip", body)


def _capped(attempt: Attempt) -> str:
    """The outputs whose 8-bit levels end well below a score of 1."""
    steps = attempt.built.score_steps if attempt.built else {}
    ends = {name: 255 * step for name, step in steps.items()}
    return ", ".join(f"scores of {name} end at {end:.2f}" for name, end in ends.items() if end < 0.6)


def _costs(operators: Operators | None) -> list[object]:
    """Operators, those on the CPU, cycles, memory and weights."""
    if operators is None:
        return [NONE] * 5
    memory = (round(operators.internal_kb), round(operators.weight_kb))
    return [operators.total, _kinds(operators.on_cpu), operators.cycles, *memory]


def _kinds(names: Sequence[str]) -> str:
    return ", ".join(f"{names.count(name)} {name}" for name in sorted(set(names))) or "none"


def _change(new: float | None, old: float | None) -> str:
    return NONE if new is None or old is None else f"{new:.3f} ({new - old:+.3f})"
