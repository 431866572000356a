"""What goes along to the board, so that it can be seen to compute what the simulator did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

COUNT = 4  # each costs the bundle about a megabyte at 640 x 640, and one shows most of what can be wrong


def choose(shown: Sequence[frozenset[int]], count: int = COUNT) -> list[int]:
    """Choose images in which the model finds something, of all classes if possible; the same ones every time.

    Args:
        shown: the classes that the model finds in each image.
        count: of images, if there are so many.

    Returns:
        Places of the images, ascending.
    """
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


def steps_of(names: Sequence[str], quantised: Mapping[str, Any]) -> tuple[float, ...]:
    """From one 8-bit level of each output to the next; 0 where it is not quantised.

    Args:
        names: of the outputs.
        quantised: what the toolkit's quantiser reports for each tensor by name; ``<output>_int8`` exists for an
            output that is quantised.
    """
    return tuple(float(quantised[f"{name}_int8"]["scale"][0]) if f"{name}_int8" in quantised else 0.0 for name in names)
