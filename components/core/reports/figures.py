"""The figures of a run: all of them as a file, the few that matter and what classes are taken for as KFP shows them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from components.core.metrics.confusion import Confusion, CurvePoint
    from components.core.tasks.base import Figures

MOST = 10  # figures, so that the page that compares runs fits a screen
MOST_CLASSES = 50  # of a confusion matrix: more cannot be read, and metadata is no place for large tables


def write_figures(path: str, values: Mapping[str, float]) -> None:
    """Write figures by name into a file.

    Args:
        path: the file.
        values: each is finite.
    """
    Path(path).write_text(json.dumps(values, indent=2, allow_nan=False), encoding="utf-8")


def read_figures(path: str) -> dict[str, float]:
    """Read what :func:`write_figures` wrote."""
    values: dict[str, float] = json.loads(Path(path).read_text(encoding="utf-8"))
    return values


def key_figures(values: Mapping[str, float], figures: Figures, first: Iterable[str] = ()) -> dict[str, float]:
    """The figures that a run is told by, at most ten: those of the whole, by names that MLflow takes, too.

    Args:
        values: all figures by name.
        figures: of the task.
        first: names of further figures, which come before all but the main one.

    Returns:
        The main figure with its interval or its difference from the champion's, the others over all classes, and
        ``min_<figure>``, that of the worst class.
    """
    main, of_class = figures.main, next(iter(figures.of_class), "")
    worst = [value for name, value in values.items() if name.startswith(f"{of_class}[")]
    known = {**values, **({f"min_{of_class}": min(worst)} if worst else {})}
    around = [f"{main}{end}" for end in ("", "_low", "_high", "_delta", "_delta_low", "_delta_high")]
    names = [main, *first, *around, *figures.overall, f"min_{of_class}", *figures.further, "images"]
    return {name: known[name] for name in list(dict.fromkeys(name for name in names if name in known))[:MOST]}


def log_figures(metrics: Any, values: Mapping[str, float]) -> None:
    """Log figures to a ``Metrics`` artifact of KFP."""
    for name, value in values.items():
        metrics.log_metric(name, value)


def log_classification(classification: Any, confusion: Confusion | None, curve: Sequence[CurvePoint]) -> None:
    """Log what classes are taken for, and what each confidence finds, to a ``ClassificationMetrics`` artifact of KFP.

    KFP calls the curve ROC. A detector has no true negatives, so that the axis of false positives shows which share of
    what was found is false.

    Args:
        classification: the artifact; it stays empty where there is neither.
        confusion: None where the task cannot tell.
        curve: empty where there are no confidences.
    """
    if confusion and len(confusion.labels) <= MOST_CLASSES:
        classification.log_confusion_matrix(list(confusion.labels), confusion.counts.tolist())
    if curve:
        classification.log_roc_curve(
            [one.false_share for one in curve], [one.recall for one in curve], [one.confidence for one in curve]
        )
