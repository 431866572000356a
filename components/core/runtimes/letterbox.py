"""The way of an image onto a model's canvas and of boxes back; the same wherever a bundle runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from components.core.errors import InputError

ImageArray = NDArray[np.uint8]  # (height, width, 3) RGB


@dataclass(frozen=True)
class Placement:
    """Where an image lies on a canvas.

    Attributes:
        scale: canvas pixels per image pixel, along x and along y; they differ where a side was rounded.
        left: first column of the image on the canvas.
        top: first row.
        width: of the image itself, pixels.
        height: of the image itself, pixels.
    """

    scale: tuple[float, float]
    left: int
    top: int
    width: int
    height: int


def letterbox(image: ImageArray, size: tuple[int, int], pad: int = 114) -> tuple[ImageArray, Placement]:
    """Scale an image as large as a canvas allows, keeping its shape, and centre it.

    Args:
        image: (H, W, 3) uint8.
        size: height and width of the canvas.
        pad: grey value of what the image does not cover.

    Returns:
        The canvas, (height, width, 3) uint8, and where the image lies on it.
    """
    height, width = image.shape[:2]
    ratio = min(size[0] / height, size[1] / width)
    scaled_width, scaled_height = max(round(width * ratio), 1), max(round(height * ratio), 1)
    scaled: Any = image
    if (scaled_width, scaled_height) != (width, height):
        scaled = cv2.resize(image, (scaled_width, scaled_height), interpolation=cv2.INTER_LINEAR)
    # An odd row or column of padding goes to the bottom or right: halves are rounded down here, as in training.
    left, top = (size[1] - scaled_width) // 2, (size[0] - scaled_height) // 2
    canvas = np.full((*size, 3), pad, dtype=np.uint8)
    canvas[top : top + scaled_height, left : left + scaled_width] = scaled
    return canvas, Placement((scaled_width / width, scaled_height / height), left, top, width, height)


def undo(boxes: NDArray[np.float32], placement: Placement) -> NDArray[np.float32]:
    """Boxes on a canvas, (N, 4), as boxes on its image, clipped to the image."""
    offset = np.array([placement.left, placement.top] * 2, dtype=np.float32)
    scale = np.array(placement.scale * 2, dtype=np.float32)
    limit = np.array([placement.width, placement.height] * 2, dtype=np.float32)
    clipped: NDArray[np.float32] = np.clip((boxes - offset) / scale, 0, limit)
    return clipped


def read_image(path: Path) -> ImageArray:
    """Read an image as it is displayed: (height, width, 3) RGB, 8 bits, EXIF orientation applied.

    Raises:
        InputError: no such file, or not an image that OpenCV can decode.
    """
    try:
        content = np.fromfile(path, dtype=np.uint8)
    except OSError:
        content = np.empty(0, dtype=np.uint8)
    # From memory, since OpenCV's imread fails on a TIFF that is to be turned.
    image = cv2.imdecode(content, cv2.IMREAD_COLOR_RGB) if content.size else None
    if image is None:
        raise InputError(f"image {path}: cannot be read: it is missing, damaged or of an unknown format")
    return np.asarray(image, dtype=np.uint8)
