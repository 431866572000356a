"""Whether our miners decide as Sedna's formulas do, and how many frames each judges in a second.

    python benchmarks/mining.py                     100,000 random frames

``loops`` are the formulas in plain Python over the lists that Sedna's filters are given: 0 to 12 boxes a frame, or the
probabilities of 10 classes. ``one by one`` is a miner as the edge worker calls it, with score and reason; ``at once``
is the same over arrays, as a pool is ranked, checks of the input included. Half of the scores are rounded to two
digits, so that many lie on the thresholds. Frames without boxes are easy here, as they are to Sedna. Of Random, both
sides are given the same chance: the draws by the frames' keys, whose making is part of ours alone.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

REPOSITORY = Path(__file__).resolve().parents[1]
MOST_BOXES = 12
CLASSES = 10


@dataclass(frozen=True)
class Pool:
    """Frames as each side takes them: lists of boxes or of probabilities; and arrays."""

    lists: list[list[Any]]
    scores: NDArray[np.float64]
    counts: NDArray[np.int64]
    keys: list[str]


@dataclass(frozen=True)
class Case:
    name: str
    parameters: dict[str, Any]
    formula: Callable[..., bool]
    pool: Pool


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=100_000)
    parser.add_argument(
        "--repeats", type=int, default=15, help="runs, of which the fastest is told (one by one: a single run)"
    )
    given = parser.parse_args()
    rng = np.random.default_rng(0)
    keys = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(given.frames)]
    boxes, images = box_pool(rng, keys), image_pool(rng, keys)
    draws = chance(keys)
    cases = [
        Case("IBT", {"threshold_img": 0.5, "threshold_box": 0.5}, ibt, boxes),
        Case("IBT", {"threshold_img": 0.7, "threshold_box": 0.3}, ibt, boxes),
        Case("Threshold", {"threshold": 0.5}, threshold, boxes),
        Case("CrossEntropy", {"threshold_cross_entropy": 0.5}, cross_entropy, images),
        Case("Random", {"random_ratio": 0.3}, lambda _, random_ratio: next(draws) < random_ratio, boxes),
        Case("CloudOnly", {}, lambda _: True, boxes),
        Case("EdgeOnly", {}, lambda _: False, boxes),
    ]
    print(f"{given.frames} frames, {len(boxes.scores)} boxes; load {os.getloadavg()[0]:.2f}\n")
    print(f"{'':45}{'frames per second':>42}{'at once':>10}{'decided':>11}")
    print(f"{'miner':45}{'loops':>14}{'one by one':>14}{'at once':>14}{'/ loops':>10}{'otherwise':>11}{'hard':>8}")
    for case in cases:
        report(case, given.repeats)


def report(case: Case, repeats: int) -> None:
    from components.core.miners.base import make_miner

    easy = {"on_empty": "easy"} if case.name in ("IBT", "Threshold", "CrossEntropy") else {}
    miner: Any = make_miner(case.name, {**case.parameters, **easy})
    pool, formula, parameters = case.pool, case.formula, case.parameters
    frames = as_frames(pool)
    loops, expected = timed(repeats, lambda: [formula(found, **parameters) for found in pool.lists])
    alone, one_by_one = timed(1, lambda: [miner.judge(frame).hard for frame in frames])
    together, (at_once, _) = timed(repeats, lambda: miner.judge_many(pool.scores, pool.counts, pool.keys))
    others = sum(one != two for one, two in zip(expected, one_by_one, strict=True))
    others += sum(one != two for one, two in zip(expected, at_once.tolist(), strict=True))
    title = f"{case.name} {' '.join(f'{name}={value}' for name, value in parameters.items())}"
    rates = "".join(f"{len(frames) / seconds:14,.0f}" for seconds in (loops, alone, together))
    print(f"{title:45}{rates}{loops / together:10.1f}{others:11}{sum(expected) / len(expected):8.1%}", flush=True)


def timed(repeats: int, run: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of the fastest run, which other work on the machine slows least, and what the last run gave."""
    seconds, result = [], None
    for _ in range(repeats):
        start = time.perf_counter()
        result = run()
        seconds.append(time.perf_counter() - start)
    return min(seconds), result


def box_pool(rng: np.random.Generator, keys: list[str]) -> Pool:
    counts = rng.integers(0, MOST_BOXES + 1, len(keys))
    scores = rng.random(counts.sum())
    rounded = rng.random(len(scores)) < 0.5
    # What a model gives is in single precision; both sides see the same numbers.
    scores = np.where(rounded, scores.round(2), scores).astype(np.float32).astype(np.float64)
    table = np.column_stack([rng.integers(0, 640, (len(scores), 4)), scores, rng.integers(0, 3, len(scores))])
    ends = np.cumsum(counts)
    rows = table.tolist()
    lists = [rows[end - count : end] for end, count in zip(ends.tolist(), counts.tolist(), strict=True)]
    return Pool(lists, scores, counts, keys)


def image_pool(rng: np.random.Generator, keys: list[str]) -> Pool:
    rows = rng.dirichlet(np.full(CLASSES, 0.15), len(keys))
    rows = np.maximum(rows, 1e-12)
    rows /= rows.sum(axis=1, keepdims=True)
    return Pool(rows.tolist(), rows, np.ones(len(keys), dtype=np.int64), keys)


def as_frames(pool: Pool) -> list[Any]:
    from components.core.detections import Detections
    from components.core.miners.base import Frame

    if pool.scores.ndim == 2:
        return [
            Frame(Detections.none(), key=key, probabilities=row)
            for key, row in zip(pool.keys, pool.scores, strict=True)
        ]
    return [
        Frame(Detections.of([box[:4] for box in boxes], [box[5] for box in boxes], [box[4] for box in boxes]), key=key)
        for key, boxes in zip(pool.keys, pool.lists, strict=True)
    ]


def chance(keys: list[str]) -> Any:
    """The draws of the keys, over and over."""
    from components.core.miners.chance import draw

    drawn = [draw(key, "Random") for key in keys]
    while True:
        yield from drawn


# Sedna's formulas: what its filters check and compute, box by box.


def is_score(value: Any) -> bool:
    return 0 <= float(value) <= 1


def ibt(boxes: list[Any], threshold_img: float, threshold_box: float) -> bool:
    if not boxes or not all(len(box) > 4 for box in boxes):
        return False
    scores = [float(box[4]) for box in boxes if is_score(box[4])]
    if len(scores) != len(boxes):
        return False
    low = [score for score in scores if score <= threshold_box]
    return len(low) / len(scores) >= 1 - threshold_img


def threshold(boxes: list[Any], threshold: float) -> bool:
    if not boxes or not all(len(box) > 4 for box in boxes):
        return False
    total = 0.0
    for box in boxes:
        total += box[4]
    return total / len(boxes) < threshold


def cross_entropy(probabilities: list[float], threshold_cross_entropy: float) -> bool:
    checked = [probability for probability in probabilities if is_score(probability)]
    if not checked or len(checked) != len(probabilities):
        return False
    total = 0.0
    for probability in checked:
        total += probability * math.log(probability)
    return 1 + total / math.log(len(checked)) < threshold_cross_entropy


if __name__ == "__main__":
    sys.path.insert(0, str(REPOSITORY))
    main()
