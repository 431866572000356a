"""The hours and the weather, and what the camera makes of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

Light = Callable[[NDArray[np.float32], Sequence[tuple[float, float]], np.random.Generator], NDArray[np.float32]]


def day(
    image: NDArray[np.float32], lamps: Sequence[tuple[float, float]], rng: np.random.Generator
) -> NDArray[np.float32]:
    """Daylight, from dull to sunny."""
    return image * np.float32(rng.uniform(0.82, 1.12)) + np.float32(rng.uniform(-8, 10))


def dusk(
    image: NDArray[np.float32], lamps: Sequence[tuple[float, float]], rng: np.random.Generator
) -> NDArray[np.float32]:
    """The sun is down: violet above, orange below, everything dim."""
    above, below = np.array((0.5, 0.42, 0.62)), np.array((0.86, 0.6, 0.46))
    rows = np.linspace(0, 1, len(image))[:, None, None]
    gain = (above + (below - above) * rows) * rng.uniform(0.9, 1.15)
    return np.asarray(image * gain.astype(np.float32) + np.float32(6))


def night(
    image: NDArray[np.float32], lamps: Sequence[tuple[float, float]], rng: np.random.Generator
) -> NDArray[np.float32]:
    """Darkness around a few lamps."""
    height, width = image.shape[:2]
    sources = list(lamps) or [(rng.uniform(0, width), rng.uniform(0, height * 0.3)) for _ in range(2)]
    rows, columns = np.mgrid[0:height:8, 0:width:8].astype(np.float32)
    reach = np.float32(width * rng.uniform(0.2, 0.32))
    glow = np.zeros_like(rows)
    for x, y in sources[:5]:
        glow += 1 / (1 + ((columns - x) ** 2 + (rows - y) ** 2) / reach**2) ** 2
    glow = np.minimum(glow, 1.0)[:, :, None]
    gain = np.array((0.34, 0.37, 0.5), np.float32) + glow * np.array((0.8, 0.68, 0.46), np.float32)
    return np.asarray(image * cv2.resize(gain, (width, height)) + cv2.resize(glow**3 * 30, (width, height))[:, :, None])


def haze(
    image: NDArray[np.float32], lamps: Sequence[tuple[float, float]], rng: np.random.Generator
) -> NDArray[np.float32]:
    """Fog or dust: far things, which are higher in the image, fade most."""
    thickness = rng.uniform(0.35, 0.6)
    veil = np.linspace(thickness, thickness * 0.5, len(image), dtype=np.float32)[:, None, None]
    colour = np.array((206, 208, 208) if rng.random() < 0.6 else (204, 186, 152), np.float32)
    return np.asarray(cv2.GaussianBlur(image, (0, 0), 0.7) * (1 - veil) + colour * veil)


LIGHTS: dict[str, Light] = {"day": day, "dusk": dusk, "night": night, "haze": haze}


def expose(
    image: NDArray[np.uint8], light: str, lamps: Sequence[tuple[float, float]], rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Take the photograph: light, a shaken camera now and then, and the sensor's noise.

    Args:
        image: (height, width, 3) uint8 RGB, in even light.
        light: a name of ``LIGHTS``.
        lamps: x, y of each lamp in the image, pixels.
        rng: decides strength, blur and noise.

    Returns:
        The same shape and type.
    """
    lit = LIGHTS[light](image.astype(np.float32), lamps, rng)
    if rng.random() < 0.2:
        lit = _shake(lit, rng)
    strength = rng.uniform(1, 4) * (1.6 if light in {"night", "dusk"} else 1)
    lit += rng.standard_normal(lit.shape[:2], np.float32)[:, :, None] * np.float32(strength)
    return lit.clip(0, 255).astype(np.uint8)


def _shake(image: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Blur along a line of 3 to 5 pixels."""
    size = int(rng.choice((3, 5)))
    kernel = np.zeros((size, size), np.float32)
    angle = rng.uniform(0, np.pi)
    for step in np.linspace(-1, 1, 4 * size):
        column, row = (round(size // 2 * (1 + step * part)) for part in (np.cos(angle), np.sin(angle)))
        kernel[row, column] = 1
    return np.asarray(cv2.filter2D(image, -1, kernel / kernel.sum()))
