"""The pages of a conversion."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from components.convert.conversion import Attempt, Conversion
from components.convert.measure import Measured
from components.convert.measure_masks import MeasuredMasks
from components.convert.toolkit import Operators
from components.core.reports import page as reports
from components.core.reports.page import Section
from components.core.runtimes.rockchip import rknn_file

NONE = "–"  # noqa: RUF001


def sections(conversion: Conversion, split: str, confidence: float) -> list[Section]:
    """The verdict, what each target's model finds, and what it costs."""
    pages = [_verdict(conversion)]
    if conversion.reference and conversion.attempts:
        last = list({attempt.target: attempt for attempt in conversion.attempts}.values())
        if isinstance(conversion.reference, MeasuredMasks):
            pages += [_mask_accuracy(conversion.reference, last, split), _ious(conversion.reference, last)]
        else:
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
        body += reports.table(("target", "tried", "verdict", "reasons"), rows)
        asked = [
            [one.target, one.how, check.question, "met" if check.met else "not met", check.reason]
            for one in conversion.attempts
            for check in one.checks
        ]
        body += reports.folded(
            "Every question and its answer", reports.table(("target", "tried", "question", "answer", "reason"), asked)
        )
    return Section("Conversion", body)


def _accuracy(reference: Measured, last: Sequence[Attempt], split: str, confidence: float) -> Section:
    headers = ("model", "mAP50", "change", "mAP50-95", "change", "F1", "change", "highest score", "ratio", "boxes")
    old = reference.metrics
    counts = [sum(one.predictions for one in old.per_class)]
    rows: list[list[object]] = [
        ["float32 ONNX", old.map50, NONE, old.map50_95, NONE, old.f1_macro, NONE, reference.max_score, NONE, counts[0]]
    ]
    for attempt in last:
        if isinstance(attempt.measured, Measured):
            new = attempt.measured.metrics
            rows.append(
                [
                    f"{attempt.target} {attempt.how}",
                    *(
                        cell
                        for name in ("map50", "map50_95", "f1_macro")
                        for cell in (getattr(new, name), f"{getattr(new, name) - getattr(old, name):+.3f}")
                    ),
                    attempt.measured.max_score,
                    attempt.measured.max_score / max(reference.max_score, 1e-9),
                    sum(one.predictions for one in new.per_class),
                ]
            )
    caption = (
        f"On {old.images} labelled images of the {split} split with {old.truths} boxes. F1 (mean of the classes) and "
        f"boxes are at the deployed confidence, {confidence:g}. Computed by the toolkit's simulator, on no chip."
    )
    return Section("Accuracy on the simulator", reports.table(headers, rows, caption))


def _classes(reference: Measured, last: Sequence[Attempt]) -> Section:
    measured = [
        (attempt.target, attempt.measured.metrics.per_class)
        for attempt in last
        if isinstance(attempt.measured, Measured)
    ]
    headers = ("class", "true boxes", "float32", *(target for target, _ in measured))
    rows = [
        [old.name, old.truths, _figure(old.f1), *(_change(per_class[index].f1, old.f1) for _, per_class in measured)]
        for index, old in enumerate(reference.metrics.per_class)
    ]
    return Section("F1 of each class at the deployed confidence", reports.table(headers, rows))


def _mask_accuracy(reference: MeasuredMasks, last: Sequence[Attempt], split: str) -> Section:
    headers = ("model", "mean IoU", "change", "correct pixels", "change")
    old = reference.metrics
    rows: list[list[object]] = [["float32 ONNX", old.miou, NONE, old.pixel_accuracy, NONE]]
    for attempt in last:
        if isinstance(attempt.measured, MeasuredMasks):
            new = attempt.measured.metrics
            changes = [
                cell
                for name in ("miou", "pixel_accuracy")
                for cell in (getattr(new, name), f"{getattr(new, name) - getattr(old, name):+.3f}")
            ]
            rows.append([f"{attempt.target} {attempt.how}", *changes])
    caption = (
        f"On {old.images} images of the {split} split with {old.pixels:,} labelled pixels. Computed by the toolkit's "
        "simulator, on no chip."
    )
    return Section("Accuracy on the simulator", reports.table(headers, rows, caption))


def _ious(reference: MeasuredMasks, last: Sequence[Attempt]) -> Section:
    measured = [
        (attempt.target, attempt.measured.metrics.per_class)
        for attempt in last
        if isinstance(attempt.measured, MeasuredMasks)
    ]
    headers = ("class", "true pixels", "images", "float32", *(target for target, _ in measured))
    rows = [
        [
            old.name,
            old.truths,
            reference.images_with(index),
            _figure(old.iou),
            *(_change(per_class[index].iou, old.iou) for _, per_class in measured),
        ]
        for index, old in enumerate(reference.metrics.per_class)
    ]
    return Section("IoU of each class", reports.table(headers, rows))


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
    body = reports.table(headers, rows, "Cycles and memory are the compiler's estimates for one image.")
    for attempt in last:
        capped = _capped(attempt)
        if capped:
            body += reports.note(
                f"{attempt.target}: {capped}. The model found no object with these outputs in any calibration image, "
                "enlarged objects included, so the toolkit left their scores little room: objects of such sizes cannot "
                "score higher on the chip. Train with objects of such sizes if you expect them."
            )
    return Section("On the chip", body)


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


def _figure(value: float | None) -> object:
    return NONE if value is None else value


def _change(new: float | None, old: float | None) -> str:
    return NONE if new is None or old is None else f"{new:.3f} ({new - old:+.3f})"
