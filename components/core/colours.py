"""The colours of classes, the same in reports and in what the edge worker writes."""

from __future__ import annotations

import colorsys

import numpy as np
from numpy.typing import NDArray

from components.core.masks import VOID, ClassMap

PALETTE = ("#0b6e99", "#d9730d", "#0f7b6c", "#ad1a72", "#6940a5", "#9f6b53", "#dfab01", "#64473a")


def colour_of(index: int) -> str:
    """A colour for a class; behind those of the palette come hues as far apart as the golden angle puts them."""
    if index < len(PALETTE):
        return PALETTE[index]
    red, green, blue = colorsys.hsv_to_rgb(index * 0.618034 % 1, 0.65, 0.85)
    return f"#{round(255 * red):02x}{round(255 * green):02x}{round(255 * blue):02x}"


def rgb(colour: str) -> tuple[int, int, int]:
    """A colour such as ``#0b6e99`` as three numbers."""
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def coloured(classes: ClassMap) -> NDArray[np.uint8]:
    """A mask (height, width) as an image (height, width, 3) RGB; void is black."""
    table = np.array([rgb(colour_of(index)) for index in range(VOID)] + [(0, 0, 0)], dtype=np.uint8)
    return table[classes]


def paint(image: NDArray[np.uint8], classes: ClassMap) -> NDArray[np.uint8]:
    """A copy of an image with the colour of a class laid over every pixel; void leaves it as it is.

    Args:
        image: (height, width, 3) RGB.
        classes: (height, width), index of each pixel's class.
    """
    mixed = np.where((classes == VOID)[..., None], image, 0.45 * image + 0.55 * coloured(classes))
    return np.asarray(mixed, dtype=np.uint8)
