"""Regions that people have marked in an image, by brush or as polygons, and the mask that they make together.

Where regions overlap, what people have drawn or changed lies above what they left as a model had proposed it, and of
two of a kind the later one lies above, as Label Studio shows them. A pixel in no region is void: what it shows was not
said.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from components.core.label_studio import brush
from components.core.masks import VOID, ClassMap
from components.ingest.dataset import LabelError, Region


def paint(regions: Iterable[Region], values: Mapping[str, int], width: int, height: int) -> ClassMap:
    """The mask (height, width) that regions make.

    Args:
        regions: in the order in which they were drawn.
        values: of the classes by name, at most ``VOID`` - 1.
        width: pixels.
        height: pixels.

    Raises:
        LabelError: a brush is damaged, or of an image of another size.
    """
    mask = np.full((height, width), VOID, np.uint8)
    for region in sorted(regions, key=lambda one: one.is_drawn):
        if region.points:
            marked = _inside(np.array(region.points) * (width, height), width, height)
        else:
            try:
                marked = brush.decode(region.code, height, width)
            except ValueError as error:
                raise LabelError(f"mask unreadable: brush of {region.name}: {error}") from error
        mask[marked] = values[region.name]
    return mask


def _inside(corners: NDArray[np.float64], width: int, height: int) -> NDArray[np.bool_]:
    """Whether the centre of each pixel (height, width) lies in a polygon, by the rule of even and odd crossings.

    So polygons that share an edge share no pixel.
    """
    crossings = np.zeros((height, width + 1), np.uint8)
    for (x1, y1), (x2, y2) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        first, end = (min(max(math.ceil(y - 0.5), 0), height) for y in sorted((y1, y2)))
        if first < end:
            rows = np.arange(first, end)
            across = x1 + (rows + 0.5 - y1) * (x2 - x1) / (y2 - y1)
            crossings[rows, np.clip(np.ceil(across - 0.5), 0, width).astype(int)] ^= 1
    return np.bitwise_xor.accumulate(crossings[:, :width], axis=1).astype(bool)
