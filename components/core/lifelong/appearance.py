"""What an image looks like as a whole, in a few numbers: light, colour and sharpness, whatever the scene shows.

They tell the hours, the weather and a lens out of focus; two sites in the same light look much the same to them.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from components.core.runtimes.letterbox import ImageArray

NUMBERS = 22
_LONGER_SIDE = 256  # pixels of the reduced image, so that sharpness means the same whatever the size
_SCALES = 5
_LEAST_CONTRAST = 1e-3  # below it, differences are those of coding and rounding


def appearance(image: ImageArray) -> NDArray[np.float64]:
    """What an image is known by, (22,).

    Mean and spread of red, green and blue; five quantiles of the grey values; mean and spread of how colourful pixels
    are; mean and spread of the upper and the lower half; and the logarithm of the contrast at five scales, each twice
    as coarse as the one before (Laplacian pyramid; Burt and Adelson, 1983).

    Args:
        image: (H, W, 3) uint8 RGB.
    """
    height, width = image.shape[:2]
    factor = _LONGER_SIDE / max(height, width)
    size = max(round(width * factor), 8), max(round(height * factor), 8)
    method = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    pixels: Any = cv2.resize(image, size, interpolation=method).astype(np.float32) / 255
    grey, colourful = pixels.mean(axis=2), pixels.max(axis=2) - pixels.min(axis=2)
    halves = grey[: size[1] // 2], grey[size[1] // 2 :]
    numbers = [*pixels.mean(axis=(0, 1)), *pixels.std(axis=(0, 1)), *np.percentile(grey, (5, 25, 50, 75, 95))]
    numbers += [colourful.mean(), colourful.std(), *(half.mean() for half in halves), *(half.std() for half in halves)]
    for _ in range(_SCALES):
        coarser: Any = cv2.pyrDown(grey)
        detail = grey - cv2.pyrUp(coarser, dstsize=(grey.shape[1], grey.shape[0]))
        numbers.append(np.log(detail.std() + _LEAST_CONTRAST))
        grey = coarser
    return np.array(numbers, dtype=np.float64)
