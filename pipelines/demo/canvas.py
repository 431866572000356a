"""An image in the making that knows which pixels belong to whom."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

Colour = tuple[float, float, float]  # RGB, 0..255
Points = NDArray[np.float64]  # (N, 2), x and y in pixels of the finished image

OVERSAMPLING = 2
_FRACTION_BITS = 4  # OpenCV takes sub-pixel coordinates as fixed-point integers
_CIRCLE = np.linspace(0, 2 * np.pi, 33)


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """The colour between two: the first at 0, the second at 1."""
    red, green, blue = (min(max(a + (b - a) * share, 0.0), 255.0) for a, b in zip(first, second, strict=True))
    return red, green, blue


def darker(colour: Colour, share: float = 0.4) -> Colour:
    """The colour in shadow."""
    return mix(colour, (18, 18, 34), share)


def lighter(colour: Colour, share: float = 0.4) -> Colour:
    """The colour in bright light."""
    return mix(colour, (255, 252, 240), share)


def ellipse(x: float, y: float, radius_x: float, radius_y: float) -> Points:
    """The outline of an ellipse."""
    return np.stack([x + radius_x * np.cos(_CIRCLE), y + radius_y * np.sin(_CIRCLE)], axis=1)


def box(left: float, top: float, right: float, bottom: float) -> Points:
    """The outline of an upright rectangle."""
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]], dtype=np.float64)


class Canvas:
    """An RGB image, drawn at twice its size and reduced at the end so that every edge is smooth.

    Beside each colour the canvas keeps the owner of the pixel: what is painted over is lost to its owner, so the box
    of an owner is always tight around the part that can still be seen.

    Args:
        height: of the finished image, pixels.
        width: of the finished image, pixels.
    """

    def __init__(self, height: int, width: int) -> None:
        self.height, self.width = height, width
        self.lamps: list[tuple[float, float]] = []
        self._colours = np.zeros((height * OVERSAMPLING, width * OVERSAMPLING, 3), np.uint8)
        self._owners = np.zeros(self._colours.shape[:2], np.uint8)

    def fill(self, outline: Points, colour: Colour, owner: int = 0) -> None:
        """Paint a filled polygon; pixels of owner 0 belong to nobody."""
        corners = [_fixed_point(outline)]
        cv2.fillPoly(self._colours, corners, colour, cv2.LINE_AA, _FRACTION_BITS)
        cv2.fillPoly(self._owners, corners, owner, cv2.LINE_8, _FRACTION_BITS)

    def stroke(self, path: ArrayLike, width: float, colour: Colour, owner: int = 0) -> None:
        """Paint a line with round ends along points, ``width`` pixels thick."""
        corners = [_fixed_point(np.asarray(path, np.float64))]
        thickness = max(1, round(width * OVERSAMPLING))
        cv2.polylines(self._colours, corners, False, colour, thickness, cv2.LINE_AA, _FRACTION_BITS)
        cv2.polylines(self._owners, corners, False, owner, thickness, cv2.LINE_8, _FRACTION_BITS)

    def shade(self, outline: Points, colour: Colour, owner: int = 0, lit: tuple[float, float] = (0.34, 0.3)) -> None:
        """Paint a rounded body: shadow at its rim, light around one point of it.

        Args:
            outline: a polygon that can be seen whole from the lit point.
            colour: of the body in even light.
            owner: as in ``fill``.
            lit: the lit point, as a share of the outline's width and height.
        """
        corner, size = outline.min(axis=0), np.ptp(outline, axis=0)
        centre = corner + size * lit
        dark, bright = darker(colour, 0.38), lighter(colour, 0.42)
        rings = int(np.clip(size.max() / 4, 4, 9))
        for scale in np.linspace(1.0, 0.2, rings):
            ring = mix(dark, colour, (1 - scale) / 0.4) if scale > 0.6 else mix(colour, bright, (0.6 - scale) / 0.4)
            self.fill(centre + (outline - centre) * scale, ring, owner)

    def gradient(self, top: float, bottom: float, colours: Sequence[Colour]) -> None:
        """Paint the rows between two heights with colours that run into each other from top to bottom."""
        first, last = (int(np.clip(y, 0, self.height)) * OVERSAMPLING for y in (top, bottom))
        places = np.linspace(0, 1, len(colours))
        rows = np.linspace(0, 1, last - first)
        column = np.stack([np.interp(rows, places, channel) for channel in zip(*colours, strict=True)], axis=1)
        self._colours[first:last] = cv2.repeat(column[:, None, :].astype(np.uint8), 1, self._colours.shape[1])
        self._owners[first:last] = 0

    def roughen(self, rng: np.random.Generator, top: float, bottom: float, strength: float) -> None:
        """Give the rows between two heights the grain of asphalt, earth or plaster."""
        rows = self._colours[int(top) * OVERSAMPLING : int(bottom) * OVERSAMPLING]
        if not rows.size:
            return
        grain = rng.normal(128, strength, (max(2, rows.shape[0] // 4), max(2, rows.shape[1] // 4)))
        smooth = cv2.resize(grain.clip(0, 255).astype(np.uint8), rows.shape[1::-1], interpolation=cv2.INTER_LINEAR)
        rows[:] = cv2.addWeighted(rows, 1.0, cv2.merge([smooth] * 3), 1.0, -128)

    def shadow(self, x: float, y: float, radius_x: float, radius_y: float, depth: float = 0.35) -> None:
        """Darken an ellipse of ground."""
        outline = _fixed_point(ellipse(x, y, radius_x, radius_y)) >> _FRACTION_BITS
        left, top, width, height = cv2.boundingRect(np.asarray(outline, np.int32))
        window = (slice(max(0, top), max(0, top + height)), slice(max(0, left), max(0, left + width)))
        patch = self._colours[window]
        if not patch.size:
            return
        mask = np.zeros(patch.shape[:2], np.uint8)
        offset = (-window[1].start, -window[0].start)
        cv2.fillPoly(mask, [outline], 255, cv2.LINE_AA, 0, offset)
        patch[:] = patch * (1 - depth * (mask[:, :, None] / np.float32(255)))

    def area(self, owner: int) -> int:
        """How many pixels of the drawing belong to an owner now."""
        return int(cv2.countNonZero(cv2.compare(self._owners, owner, cv2.CMP_EQ)))

    def visible_box(self, owner: int) -> tuple[int, int, int, int]:
        """The box around what can be seen of an owner: x1, y1, x2, y2 in whole pixels of the finished image."""
        left, top, width, height = cv2.boundingRect(cv2.compare(self._owners, owner, cv2.CMP_EQ))
        # OpenCV paints the outline too, which makes everything half a pixel larger on each side.
        return (
            (left + 1) // OVERSAMPLING,
            (top + 1) // OVERSAMPLING,
            (left + width) // OVERSAMPLING,
            (top + height) // OVERSAMPLING,
        )

    def finished(self) -> NDArray[np.uint8]:
        """The image in its own size: (height, width, 3), RGB."""
        reduced = cv2.resize(self._colours, (self.width, self.height), interpolation=cv2.INTER_AREA)
        return np.asarray(reduced, np.uint8)


def _fixed_point(points: Points) -> NDArray[np.int32]:
    # Pixel centres lie at whole numbers for OpenCV, at halves for us.
    return np.rint((points * OVERSAMPLING - 0.5) * (1 << _FRACTION_BITS)).astype(np.int32)
