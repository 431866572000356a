"""What a report shows of a segmentation that was measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from components.core.colours import paint
from components.core.masks import ClassMap, read_mask
from components.core.metrics.segmentation import Counts, SegmentationMetrics
from components.core.reports import page as reports
from components.core.reports.page import Section
from components.core.runtimes.letterbox import ImageArray, read_image

if TYPE_CHECKING:
    from components.core.tasks.base import LocalSamples, Measurement

WORST = 6  # images shown
BEST = 3
_NONE = "–"  # noqa: RUF001
_MOST_NAMED = 24  # classes whose names fit beside the matrix


@dataclass(frozen=True)
class Example:
    """One image with what it shows and what was found.

    Attributes:
        source: name of the image.
        path: where it lies.
        truth: (H, W), 255 where unlabelled (void).
        found: (H, W).
        correct: share of the labelled pixels that are right, 0..1.
    """

    source: str
    path: Path
    truth: ClassMap
    found: ClassMap
    correct: float


def sections(
    measured: Measurement[Counts],
    metrics: SegmentationMetrics,
    samples: LocalSamples,
    interval: tuple[float, float],
    facts: Mapping[str, object],
    again: Callable[[int], ClassMap],
) -> list[Section]:
    """The whole report.

    Args:
        measured: what was measured.
        metrics: the figures.
        samples: the same samples, on this machine.
        interval: of the mean IoU.
        facts: under which circumstances it was measured, by title.
        again: the class map of one sample, which is not kept.
    """
    correct = [float(np.diagonal(one).sum() / max(one.sum(), 1)) for one in measured.results]
    order = np.argsort(correct, kind="stable")
    worst = order[:WORST]
    best = np.setdiff1d(order[::-1][:BEST], worst)
    sources = samples.manifest.table["source"].to_list()

    def shown(indices: NDArray[np.intp]) -> list[Example]:
        return [
            Example(sources[index], samples.paths[index], read_mask(samples.masks[index]), again(index), correct[index])
            for index in indices.tolist()
        ]

    return [
        summary(metrics, interval, facts),
        classes(metrics, np.sum(measured.results, axis=0)),
        *examples(shown(worst), shown(best), samples.manifest.classes),
    ]


def summary(metrics: SegmentationMetrics, interval: tuple[float, float], facts: Mapping[str, object]) -> Section:
    """The main figures, and under what settings they were measured."""
    figures = {
        "mIoU": metrics.miou,
        "mIoU, 95 % interval": f"{interval[0]:.3f} to {interval[1]:.3f}",
        "correct pixels": metrics.pixel_accuracy,
        "mean recall": metrics.mean_recall,
        "frequency-weighted IoU": metrics.fwiou,
        "images": metrics.images,
        "labelled pixels": metrics.pixels,
    }
    return Section("Evaluation", reports.facts(figures) + reports.facts(facts))


def classes(metrics: SegmentationMetrics, total: Counts) -> Section:
    """Every class in a table, and what each is taken for."""
    headers = ("class", "IoU", "precision", "recall", "labelled pixels", "predicted pixels")
    rows = [[_NONE if value is None else value for value in vars(one).values()] for one in metrics.per_class]
    return Section("Classes", reports.table(headers, rows) + _matrix(total, [one.name for one in metrics.per_class]))


def examples(worst: Sequence[Example], best: Sequence[Example], names: Sequence[str]) -> list[Section]:
    """The images with the fewest correct pixels, and those with the most; truth on the left."""
    return [
        Section(title, reports.legend(names) + reports.images([(_drawn(one), _caption(one)) for one in shown]))
        for title, shown in (("Worst images", worst), ("Best images", best))
        if shown
    ]


def _matrix(total: Counts, names: Sequence[str]) -> Markup:
    shares = total / np.maximum(total.sum(axis=1, keepdims=True), 1)
    side = min(2.2 + 0.32 * len(names), 8.0)
    fig = reports.new_figure(side + 0.8, side)
    axes = fig.subplots()
    image = axes.imshow(shares, vmin=0, vmax=1, cmap="Blues")
    if len(names) <= _MOST_NAMED:
        axes.set_xticks(range(len(names)), names, rotation=90)
        axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="predicted", ylabel="true")
    fig.colorbar(image)
    return reports.figure(
        fig, "Confusion matrix: true classes in rows, predicted classes in columns, normalised by row."
    )


def _drawn(example: Example) -> ImageArray:
    image = read_image(example.path)
    return np.concatenate([paint(image, example.truth), paint(image, example.found)], axis=1)


def _caption(example: Example) -> str:
    return f"{example.source}: {example.correct:.1%} of pixels correct"
