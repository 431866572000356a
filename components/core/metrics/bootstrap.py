"""How far a measured mAP50 would move with other pictures of the same kind."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from components.core.metrics.detection import RECALLS, Floats, Matches

RESAMPLES = 1000
LEAST_RESAMPLES = 200
PREDICTIONS_BUDGET = 20_000_000  # looked at over all resamples; a second or two


def map50_interval(matches: Matches, *, max_detections: int = 100, seed: int = 0) -> tuple[float, float]:
    """The 95 % interval of mAP50 under drawing the pictures again, with replacement.

    Args:
        matches: of all pictures, at IoU 0.5.
        max_detections: predictions per picture and class that are looked at, as in ``evaluate_detections``.
        seed: of the draws.

    Returns:
        Lower and upper end.

    """
    pictures = len(matches.truths)
    resamples = int(np.clip(PREDICTIONS_BUDGET // max(len(matches.scores), 1), LEAST_RESAMPLES, RESAMPLES))
    draws = np.random.default_rng(seed).multinomial(pictures, np.full(pictures, 1 / pictures), size=resamples)
    by_class = [_average_precisions(matches, k, draws, max_detections) for k in range(matches.truths.shape[1])]
    measurable = [[ap for ap in resample if not np.isnan(ap)] for resample in zip(*by_class, strict=True)]
    maps = [np.mean(aps) for aps in measurable if aps]
    low, high = np.percentile(maps, [2.5, 97.5])
    return float(low), float(high)


def _average_precisions(matches: Matches, class_id: int, draws: NDArray[np.int64], max_detections: int) -> Floats:
    """AP50 of one class in every resample; NaN where a resample has no true box of it.

    Args:
        matches: of all pictures.
        class_id: of the class.
        draws: (resamples, pictures) how often each picture was drawn.
        max_detections: see above.

    """
    chosen = np.flatnonzero((matches.classes == class_id) & (matches.ranks < max_detections))
    chosen = chosen[np.argsort(-matches.scores[chosen], kind="stable")]
    images, correct = matches.images[chosen], matches.correct[chosen]
    # What comes after the last correct prediction changes no precision that AP reads.
    last = int(np.flatnonzero(correct).max(initial=-1)) + 1
    truths = draws @ matches.truths[:, class_id]
    return np.array(
        [_ap(draw[images[:last]], correct[:last], total) for draw, total in zip(draws, truths, strict=True)]
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
