"""Measure a candidate and the champion on the same images."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import polars as pl

from components.core.bundle import Bundle, Task
from components.core.detections import Detections
from components.core.errors import InputError
from components.core.manifest import Manifest
from components.core.metrics.bootstrap import delta_interval
from components.core.metrics.detection import DetectionMetrics, Matches, evaluate_detections, match
from components.core.metrics.segmentation import (
    SegmentationMetrics,
    accuracy_delta_interval,
    evaluate_segmentation,
    miou_delta_interval,
)
from components.core.reports.page import Section
from components.core.rules.custom_metrics import Predictions, gate_metrics, own_values
from components.core.runtimes.decode import MAX_DETECTIONS
from components.evaluate.evaluate import Evaluation
from components.evaluate.measure import measure
from components.evaluate.segmentation import SegmentationEvaluation

MODEL = "model.onnx"  # two bundles with the same are the same model
IOU_THRESHOLDS = tuple(np.linspace(0.5, 0.95, 10).tolist())


@dataclass(frozen=True)
class Figures:
    """Which figures of a task the two models are compared by.

    Attributes:
        overall: names and titles of figures over all classes; the first is the one that matters.
        of_class: of figures of each class; the one that must not fall comes first.
        counted: what a class' ``truths`` are.
    """

    overall: Mapping[str, str]
    of_class: Mapping[str, str]
    counted: str

    @property
    def main(self) -> str:
        """The name of the figure that matters."""
        return next(iter(self.overall))


FIGURES: Mapping[Task, Figures] = {
    "detection": Figures(
        {"map50": "mAP50", "map50_95": "mAP50-95"},
        {"ap50": "AP50", "ap50_95": "AP50-95", "precision": "precision", "recall": "recall"},
        "true boxes",
    ),
    "segmentation": Figures(
        {"miou": "mIoU", "pixel_accuracy": "correct pixels"},
        {"iou": "IoU", "precision": "precision", "recall": "recall"},
        "true pixels",
    ),
}


@dataclass(frozen=True)
class Delta:
    """How much better the candidate is.

    Attributes:
        value: candidate - champion.
        low: lower end of the paired 95 % bootstrap interval over the images.
        high: upper end.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class SetScores:
    """Both models on one set of samples.

    Attributes:
        candidate: what it scored.
        champion: what the champion scored; None where there is none.
        deltas: by metric, ``map50`` and ``map50_95``, or ``miou`` and ``pixel_accuracy``; empty without a champion.
        own: the candidate's values of the user's own metrics.
        champion_own: the champion's.
    """

    candidate: DetectionMetrics | SegmentationMetrics
    champion: DetectionMetrics | SegmentationMetrics | None
    deltas: Mapping[str, Delta]
    own: Mapping[str, float] = field(default_factory=dict)
    champion_own: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """Both models on all sets.

    Attributes:
        classes: class names of the samples. A model that does not know one scores 0 for it.
        task: of both models.
        sets: by name: ``all`` is the union of the other two, ``core`` and ``recent``. A set without a labelled
            box, or labelled a pixel, cannot be measured and is left out.
        empty: names of the sets that were left out.
        candidate_digest: SHA-256 of the candidate's ``model.onnx``.
        champion_digest: the same of the champion; None where there is none.
        sections: the report of the candidate's evaluation on ``all``.
    """

    classes: tuple[str, ...]
    task: Task
    sets: Mapping[str, SetScores]
    empty: tuple[str, ...]
    candidate_digest: str | None
    champion_digest: str | None
    sections: Sequence[Section]

    @property
    def figures(self) -> Figures:
        """What the models are compared by."""
        return FIGURES[self.task]

    @property
    def images(self) -> int:
        """Images that were measured."""
        return self.sets["all"].candidate.images

    def candidate_metrics(self) -> dict[str, float]:
        """The candidate's figures by name: ``map50`` is of all samples, ``core.map50`` of the core set."""
        return dict(_named((name, {**s.own, **s.candidate.as_flat()}) for name, s in self.sets.items()))

    def champion_metrics(self) -> dict[str, float] | None:
        """The champion's under the same names; None where there is none."""
        measured = [(name, {**s.champion_own, **s.champion.as_flat()}) for name, s in self.sets.items() if s.champion]
        return dict(_named(measured)) if measured else None

    def as_flat(self) -> dict[str, float]:
        """The candidate's figures, and how they differ from the champion's, such as ``core.map50_delta_low``."""
        flat = self.candidate_metrics()
        for name, scores in self.sets.items():
            for metric, delta in scores.deltas.items():
                key = f"{_prefix(name)}{metric}_delta"
                flat |= {key: delta.value, f"{key}_low": delta.low, f"{key}_high": delta.high}
        return flat


def compare(
    candidate_folder: Path,
    champion_folder: Path | None,
    core: Manifest,
    recent: Manifest,
    *,
    confidence_threshold: float,
    nms_threshold: float,
    cache_folder: Path,
    runtime: str = "onnx",
    named: Collection[str] = (),
) -> Comparison:
    """Run both models over the same images, each once, and measure what they find.

    Args:
        candidate_folder: the bundle that wants to be deployed.
        champion_folder: the bundle that is; None before the first.
        core: samples of the frozen set, split ``test``.
        recent: samples of the last rounds, split ``test``; it may share some with ``core``.
        confidence_threshold: precision, recall and F1 are of predictions with at least this score.
        nms_threshold: overlap (IoU) above which the lower of two boxes of a class is dropped.
        cache_folder: where images are brought to.
        runtime: plug-in that runs the models.
        named: metrics that the gate's conditions name; the user's own among them are computed.

    Raises:
        InputError: both are the same model, a bundle cannot run, or there is no labelled box to measure on.
    """
    digest = _digest(candidate_folder)
    champion_digest = _digest(champion_folder) if champion_folder else None
    if digest is not None and digest == champion_digest:
        raise InputError(
            f"candidate {candidate_folder} and champion {champion_folder} are the same model ({MODEL} has SHA-256 "
            f"{digest[:8]}...): there is nothing to compare; train a candidate or give another champion"
        )
    task = _task(candidate_folder, champion_folder)
    joined = _union(core, recent)

    def run(folder: Path) -> Evaluation | SegmentationEvaluation:
        return measure(
            joined,
            folder,
            confidence_threshold=confidence_threshold,
            nms_threshold=nms_threshold,
            cache_folder=cache_folder,
            runtime=runtime,
        )

    candidate = run(candidate_folder)
    champion = run(champion_folder) if champion_folder else None
    samples = candidate.samples
    members = {"core": _places(samples, core), "recent": _places(samples, recent), "all": list(range(len(samples)))}
    if isinstance(candidate, SegmentationEvaluation):
        assert champion is None or isinstance(champion, SegmentationEvaluation)
        sets = {
            name: _scores_of_masks(places, candidate, champion)
            for name, places in members.items()
            if any(candidate.matrices[place].any() for place in places)
        }
    else:
        assert champion is None or isinstance(champion, Evaluation)
        truths = samples.truths()
        sets = {
            name: _scores(samples, places, candidate, champion, confidence_threshold)
            for name, places in members.items()
            if any(len(truths[place]) for place in places)
        }
    names = {name.rpartition(".")[2] for name in named}
    for name, scores in sets.items():
        own = [
            own_values(gate_metrics, names, _seen(one, members[name], confidence_threshold)) if one else {}
            for one in (candidate, champion)
        ]
        sets[name] = replace(scores, own=own[0], champion_own=own[1])
    empty = tuple(name for name in members if name not in sets)
    return Comparison(samples.classes, task, sets, empty, digest, champion_digest, candidate.sections)


def _seen(evaluation: Evaluation | SegmentationEvaluation, places: Sequence[int], confidence: float) -> Predictions:
    """What a model found on some of the samples."""
    samples = evaluation.samples
    chosen = Manifest(samples.table[places], samples.classes)
    if isinstance(evaluation, SegmentationEvaluation):
        return Predictions(chosen, [evaluation.matrices[place] for place in places], confidence)
    return Predictions(chosen, [evaluation.predictions[place] for place in places], confidence)


def _task(candidate_folder: Path, champion_folder: Path | None) -> Task:
    task = Bundle.read(candidate_folder).task
    other = Bundle.read(champion_folder).task if champion_folder else task
    if other != task:
        raise InputError(
            f"the candidate is for {task}, the champion for {other}: they cannot take each other's place; "
            "give the new task a job_root of its own"
        )
    return task


def _digest(folder: Path) -> str | None:
    return Bundle.read(folder).files.get(MODEL)


def _union(core: Manifest, recent: Manifest) -> Manifest:
    if core.classes != recent.classes:
        raise InputError(
            f"the core set has classes {', '.join(core.classes)}, the recent set {', '.join(recent.classes)}: "
            "make both in one round"
        )
    table = pl.concat([core.table, recent.table]).unique("id", keep="first", maintain_order=True)
    return Manifest(table, core.classes)


def _places(samples: Manifest, part: Manifest) -> list[int]:
    """Where the samples of a set stand among all."""
    return samples.table["id"].is_in(part.table["id"].to_list()).arg_true().to_list()


def _scores(
    samples: Manifest, places: Sequence[int], candidate: Evaluation, champion: Evaluation | None, confidence: float
) -> SetScores:
    """Both models on some of the samples."""
    chosen = Manifest(samples.table[places], samples.classes)
    truths = chosen.truths()
    sizes = list(chosen.table.select("width", "height").iter_rows())

    def measured(found: Sequence[Detections]) -> DetectionMetrics:
        return evaluate_detections(
            truths,
            found,
            chosen.classes,
            sizes,
            confidence_threshold=confidence,
            max_detections=MAX_DETECTIONS,
        )

    ours = [candidate.predictions[place] for place in places]
    if champion is None:
        return SetScores(measured(ours), None, {})
    theirs = [champion.predictions[place] for place in places]
    new, old = measured(ours), measured(theirs)
    matches = [_matches(truths, found, len(chosen.classes)) for found in (ours, theirs)]
    deltas = {
        "map50": _delta(new.map50, old.map50, *(every[:1] for every in matches)),
        "map50_95": _delta(new.map50_95, old.map50_95, *matches),
    }
    return SetScores(new, old, deltas)


def _scores_of_masks(
    places: Sequence[int], candidate: SegmentationEvaluation, champion: SegmentationEvaluation | None
) -> SetScores:
    """Both models on the masks of some of the samples."""
    names = candidate.samples.classes
    ours = [candidate.matrices[place] for place in places]
    new = evaluate_segmentation(ours, names)
    if champion is None:
        return SetScores(new, None, {})
    theirs = [champion.matrices[place] for place in places]
    old = evaluate_segmentation(theirs, names)
    deltas = {
        "miou": Delta(new.miou - old.miou, *miou_delta_interval(ours, theirs)),
        "pixel_accuracy": Delta(new.pixel_accuracy - old.pixel_accuracy, *accuracy_delta_interval(ours, theirs)),
    }
    return SetScores(new, old, deltas)


def _matches(truths: Sequence[Detections], found: Sequence[Detections], classes: int) -> list[Matches]:
    """The matches at each of COCO's IoU thresholds, 0.5 first."""
    return [match(truths, found, classes, threshold) for threshold in IOU_THRESHOLDS]


def _delta(new: float, old: float, ours: Sequence[Matches], theirs: Sequence[Matches]) -> Delta:
    return Delta(new - old, *delta_interval(ours, theirs, max_detections=MAX_DETECTIONS))


def _named(measured: Iterable[tuple[str, Mapping[str, float]]]) -> Iterator[tuple[str, float]]:
    for name, metrics in measured:
        yield from ((f"{_prefix(name)}{metric}", value) for metric, value in metrics.items())


def _prefix(name: str) -> str:
    return "" if name == "all" else f"{name}."
