"""Which of the check pictures go along to the board, to see that it computes what the simulator did."""

from __future__ import annotations

from collections.abc import Sequence

from components.core.detections import Detections

COUNT = 4  # each costs the bundle about a megabyte at 640 x 640, and one shows most of what can be wrong


def choose(predictions: Sequence[Detections], confidence: float, count: int = COUNT) -> list[int]:
    """Choose pictures in which the model finds something, of all classes if possible; the same ones every time.

    Args:
        predictions: of each picture.
        confidence: score from which a box counts where the model is deployed.
        count: of pictures, if there are so many.

    Returns:
        Places of the pictures, ascending.
    """
    shown = [frozenset(found.classes[found.scores >= confidence].tolist()) for found in predictions]
    every = frozenset[int]().union(*shown)
    chosen: list[int] = []
    known: frozenset[int] = frozenset()
    while len(chosen) < min(count, len(shown)):
        left = (place for place in range(len(shown)) if place not in chosen)
        best = max(left, key=lambda place: (len(shown[place] - known), len(shown[place]), -place))
        chosen.append(best)
        known |= shown[best]
        if known == every:
            known = frozenset()  # once more round
    return sorted(chosen)
