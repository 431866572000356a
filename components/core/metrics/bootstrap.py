"""How far a measured mAP50, or the lead of one model over another, would move with other images of the same kind."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from components.core.metrics.detection import RECALLS, Floats, Matches
from components.core.metrics.resampling import draws, interval

RESAMPLES = 1000
LEAST_RESAMPLES = 200
PREDICTIONS_BUDGET = 20_000_000  # looked at over all resamples; a second or two


def map50(matches: Matches, *, max_detections: int = 100) -> float:
    """mAP50 of matches at IoU 0.5, as ``evaluate_detections`` computes it; NaN without a true box."""
    return float(_means(matches, np.ones((1, len(matches.truths)), dtype=np.int64), max_detections)[0])


def map50_lower(matches: Matches, confidence: float, *, max_detections: int = 100, seed: int = 0) -> float:
    """The end of the one-sided interval of mAP50 under drawing the images again.

    Args:
        matches: of all images, at IoU 0.5.
        confidence: fraction of the draws, 0..1, whose mAP50 is higher.
        max_detections: see ``map50_interval``.
        seed: of the draws.
    """
    drawn = _draws(len(matches.truths), len(matches.scores), seed)
    return float(np.nanpercentile(_means(matches, drawn, max_detections), 100 * (1 - confidence)))


def map50_interval(matches: Matches, *, max_detections: int = 100, seed: int = 0) -> tuple[float, float]:
    """The 95 % interval of mAP50 under drawing the images again, with replacement.

    Args:
        matches: of all images, at IoU 0.5.
        max_detections: predictions per image and class that are looked at, as in ``evaluate_detections``.
        seed: of the draws.

    Returns:
        Lower and upper end.
    """
    drawn = _draws(len(matches.truths), len(matches.scores), seed)
    return interval(_means(matches, drawn, max_detections))


def delta_interval(
    candidate: Sequence[Matches], champion: Sequence[Matches], *, max_detections: int = 100, seed: int = 0
) -> tuple[float, float]:
    """The 95 % interval of the difference in mAP, candidate - champion, under drawing the images again.

    The bootstrap is paired: in every resample both models are measured on the same images, so that what makes a
    image hard for both does not widen the interval.

    Args:
        candidate: matches of all images at each IoU threshold: one for mAP50, ten for mAP50-95.
        champion: the same of the other model, on the same images and true boxes.
        max_detections: predictions per image and class that are looked at, as in ``evaluate_detections``.
        seed: of the draws.

    Returns:
        Lower and upper end.
    """
    predictions = sum(len(matches.scores) for matches in (*candidate, *champion))
    drawn = _draws(len(candidate[0].truths), predictions, seed)
    ours, theirs = (
        np.mean([_means(matches, drawn, max_detections) for matches in model], axis=0)
        for model in (candidate, champion)
    )
    return interval(ours - theirs)


def _draws(images: int, predictions: int, seed: int) -> NDArray[np.int64]:
    """How often each image is drawn in each resample, (resamples, images)."""
    resamples = int(np.clip(PREDICTIONS_BUDGET // max(predictions, 1), LEAST_RESAMPLES, RESAMPLES))
    return draws(images, resamples, seed)


def _means(matches: Matches, drawn: NDArray[np.int64], max_detections: int) -> Floats:
    """The mean AP over the classes in every resample; NaN where a resample has no true box at all."""
    classes = range(matches.truths.shape[1])
    aps = np.array([_average_precisions(matches, k, drawn, max_detections) for k in classes])
    known = ~np.isnan(aps)
    means: Floats = np.where(known, aps, 0).sum(axis=0) / np.where(known.any(axis=0), known.sum(axis=0), np.nan)
    return means


def _average_precisions(matches: Matches, class_id: int, drawn: NDArray[np.int64], max_detections: int) -> Floats:
    """AP of one class in every resample; NaN where a resample has no true box of it.

    Args:
        matches: of all images.
        class_id: of the class.
        drawn: (resamples, images) how often each image was drawn.
        max_detections: see above.
    """
    chosen = np.flatnonzero((matches.classes == class_id) & (matches.ranks < max_detections))
    chosen = chosen[np.argsort(-matches.scores[chosen], kind="stable")]
    images, correct = matches.images[chosen], matches.correct[chosen]
    # What comes after the last correct prediction changes no precision that AP reads.
    last = int(np.flatnonzero(correct).max(initial=-1)) + 1
    truths = drawn @ matches.truths[:, class_id]
    return np.array(
        [_ap(draw[images[:last]], correct[:last], total) for draw, total in zip(drawn, truths, strict=True)]
    )


def _ap(times: NDArray[np.int64], correct: NDArray[np.bool_], truths: int) -> float:
    """COCO's 101-point average precision of predictions, best first, each counting several times or not at all."""
    if truths == 0:
        return float("nan")
    counted = np.cumsum(times)
    hits = np.cumsum(times * correct)
    precision = hits / np.maximum(counted, 1)
    best = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    return float(best[np.searchsorted(hits / truths, RECALLS, side="left")].mean())
