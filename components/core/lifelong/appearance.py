"""What an image looks like as a whole, in a few numbers: light, colour and sharpness, whatever the scene shows; and its
size.

Looks tell the hours, the weather and a lens out of focus; two sites in the same light look much the same to them. The
size tells cameras of different resolution apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from components.core.runtimes.letterbox import ImageArray

Floats = NDArray[np.float64]

LOOKS = 22
NUMBERS = LOOKS + 2
_LONGER_SIDE = 256  # pixels of the reduced image, so that sharpness means the same whatever the size
_SCALES = 5
_LEAST_CONTRAST = 1e-3  # below it, differences are those of coding and rounding


def appearance(image: ImageArray) -> Floats:
    """What an image is known by, (24,).

    Mean and spread of red, green and blue; five quantiles of the grey values; mean and spread of how colourful pixels
    are; mean and spread of the upper and the lower half; the logarithm of the contrast at five scales, each twice as
    coarse as the one before (Laplacian pyramid; Burt and Adelson, 1983); and last, after the looks, the binary
    logarithms of the height and the width in pixels.

    Args:
        image: (H, W, 3) uint8 RGB.
    """
    height, width = image.shape[:2]
    factor = _LONGER_SIDE / max(height, width)
    size = max(round(width * factor), 8), max(round(height * factor), 8)
    method = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    small: Any = cv2.resize(image, size, interpolation=method)  # of whole numbers, on which OpenCV is quick
    red, green, blue = cv2.split(small)
    means, spreads = _mean_and_spread(small)
    total = np.add(red, green, dtype=np.uint16) + blue
    grey: Any = total.astype(np.float32) / 765
    colourful = cv2.max(cv2.max(red, green), blue) - cv2.min(cv2.min(red, green), blue)
    numbers = [*means / 255, *spreads / 255, *_quantiles(total, (0.05, 0.25, 0.5, 0.75, 0.95)) / 765]
    numbers += [float(one[0]) / 255 for one in _mean_and_spread(colourful)]
    halves = [_mean_and_spread(half) for half in (grey[: size[1] // 2], grey[size[1] // 2 :])]
    numbers += [float(half[which][0]) for which in (0, 1) for half in halves]
    for _ in range(_SCALES):
        coarser: Any = cv2.pyrDown(grey)
        detail = grey - cv2.pyrUp(coarser, dstsize=(grey.shape[1], grey.shape[0]))
        numbers.append(float(np.log(_mean_and_spread(detail)[1][0] + _LEAST_CONTRAST)))
        grey = coarser
    numbers += [float(np.log2(height)), float(np.log2(width))]
    return np.array(numbers, dtype=np.float64)


def _mean_and_spread(pixels: Any) -> tuple[Floats, Floats]:
    """Of each channel of an image."""
    mean, spread = cv2.meanStdDev(pixels)
    return np.asarray(mean)[:, 0], np.asarray(spread)[:, 0]


def _quantiles(values: NDArray[np.uint16], fractions: Sequence[float]) -> Floats:
    """As ``np.quantile`` has them, of whole numbers that are not large."""
    below = np.cumsum(np.bincount(values.ravel()))
    places = np.array(fractions) * (values.size - 1)
    lower, upper = (np.searchsorted(below, rounded(places), side="right") for rounded in (np.floor, np.ceil))
    found: Floats = lower + (places - np.floor(places)) * (upper - lower)
    return found
