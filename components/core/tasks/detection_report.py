"""What a report shows of a detector that was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from markupsafe import Markup

from components.core.colours import PALETTE
from components.core.detections import Detections
from components.core.metrics.detection import RECALLS, DetectionMetrics, Matches
from components.core.reports import page as reports
from components.core.reports.page import Section
from components.core.runtimes.letterbox import ImageArray, read_image

if TYPE_CHECKING:
    from components.core.tasks.base import LocalSamples, Measurement

WORST = 8  # images shown
BEST = 4


@dataclass(frozen=True)
class Example:
    """One image with what was in it and what was found, at the deployed confidence.

    Attributes:
        source: name of the image.
        path: where it lies.
        truth: true boxes.
        found: predictions.
        missed: true boxes that no prediction took.
        false_alarms: predictions that took no true box.
    """

    source: str
    path: Path
    truth: Detections
    found: Detections
    missed: int
    false_alarms: int

    @property
    def mistakes(self) -> int:
        """Missed boxes and false alarms together."""
        return self.missed + self.false_alarms


def sections(
    measured: Measurement[Detections],
    metrics: DetectionMetrics,
    matches: Matches,
    samples: LocalSamples,
    interval: tuple[float, float],
    facts: Mapping[str, object],
) -> list[Section]:
    """The whole report.

    Args:
        measured: what was measured.
        metrics: the figures.
        matches: what became of every prediction, at IoU 0.5.
        samples: the same samples, on this machine.
        interval: of mAP50.
        facts: under which circumstances it was measured, by title.
    """
    return [
        summary(metrics, interval, {**facts, "confidence threshold": measured.confidence}, measured.results),
        classes(metrics, measured.confidence),
        *examples(_examples(measured, matches, samples), samples.manifest.classes),
    ]


def summary(
    metrics: DetectionMetrics,
    interval: tuple[float, float],
    facts: Mapping[str, object],
    predictions: Sequence[Detections],
) -> Section:
    """The main figures, and under what settings they were measured."""
    figures = {
        "mAP50": metrics.map50,
        "mAP50, 95 % interval": f"{interval[0]:.3f} to {interval[1]:.3f}",
        "mAP50-95": metrics.map50_95,
        "precision": metrics.precision_micro,
        "recall": metrics.recall_micro,
        "F1": metrics.f1_micro,
        "false positives per image": metrics.false_positives_per_image,
        "images": metrics.images,
        "labelled boxes": metrics.truths,
    }
    body = reports.facts(figures) + reports.facts(facts)
    if not any(one.predictions for one in metrics.per_class):
        best = max((float(found.scores.max()) for found in predictions if len(found)), default=0.0)
        body += reports.note(
            f"No detections at this confidence in any image; the highest score is {best:.3f}. "
            "Train longer, or lower the confidence threshold.",
            kind="warn",
        )
    return Section("Evaluation", body)


def classes(metrics: DetectionMetrics, confidence: float) -> Section:
    """Every class in a table, and its precision over recall as a curve."""
    headers = (
        "class",
        "AP50",
        "AP50-95",
        "precision",
        "recall",
        "F1",
        "labelled boxes",
        "predictions",
        "false positives",
    )
    rows = [
        ["–" if value is None else value for value in vars(one).values()]  # noqa: RUF001
        for one in metrics.per_class
    ]
    caption = f"Precision, recall, F1 and counts at confidence {confidence:g} and IoU 0.5."
    return Section("Classes", reports.table(headers, rows, caption) + _curves(metrics, confidence))


def examples(images: Sequence[Example], names: Sequence[str]) -> list[Section]:
    """The images with the most mistakes, and some without any, with truth and predictions drawn."""
    worst = sorted((one for one in images if one.mistakes), key=lambda one: -one.mistakes)[:WORST]
    best = [one for one in images if not one.mistakes and len(one.truth)][:BEST]
    legend = reports.note("White: labelled boxes. Coloured: predictions with their scores.")
    return [
        Section(title, legend + reports.images([(_drawn(one, names), _caption(one)) for one in shown]))
        for title, shown in (("Worst images", worst), ("Images without mistakes", best))
        if shown
    ]


def _examples(measured: Measurement[Detections], matches: Matches, samples: LocalSamples) -> list[Example]:
    confidence = measured.confidence
    found, correct = (table.sum(axis=1) for table in matches.counts(confidence))
    truths = matches.truths.sum(axis=1)
    sources, true_boxes = samples.manifest.table["source"].to_list(), samples.manifest.truths()
    return [
        Example(
            source=sources[index],
            path=path,
            truth=true_boxes[index],
            found=predictions[predictions.scores >= confidence],
            missed=int(truths[index] - correct[index]),
            false_alarms=int(found[index] - correct[index]),
        )
        for index, (path, predictions) in enumerate(zip(samples.paths, measured.results, strict=True))
    ]


def _curves(metrics: DetectionMetrics, confidence: float) -> Markup:
    fig = reports.new_figure()
    axes = fig.subplots()
    for index, one in enumerate(metrics.per_class):
        if one.recall is not None and one.precision is not None:
            colour = PALETTE[index % len(PALETTE)]
            axes.plot(RECALLS, metrics.curves[one.name], color=colour, label=one.name)
            axes.plot(one.recall, one.precision, "o", color=colour)
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1.02), ylim=(0, 1.02))
    axes.grid(alpha=0.3)
    if len(metrics.curves) <= len(PALETTE):  # more would hide the curves
        axes.legend()
    return reports.figure(
        fig, f"Precision-recall curves at IoU 0.5; dots mark the deployed confidence threshold, {confidence:g}."
    )


def _drawn(example: Example, names: Sequence[str]) -> ImageArray:
    return reports.draw(read_image(example.path), example.found, names, example.truth)


def _caption(example: Example) -> str:
    alarms = "1 false positive" if example.false_alarms == 1 else f"{example.false_alarms} false positives"
    return f"{example.source}: {example.missed} of {len(example.truth)} missed, {alarms}"
