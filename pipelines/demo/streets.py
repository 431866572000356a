"""Street scenes with a class for each pixel, drawn by code: a data set of masks that needs no download.

One seed always gives the same scenes. They come as an index of lines ``image mask``, as Sedna's lifelong learning has
them, in folders named by the light: the first folder of a path is the task.

Example:
    python -m pipelines.demo.streets feed day --count 40
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import typer
from numpy.typing import NDArray

from components.core.command_line import App
from components.core.errors import InputError
from components.core.masks import ClassMap, encode_mask
from pipelines.demo.lights import LIGHTS, expose
from pipelines.terminal import one_line_errors

app = App(add_completion=False)

CLASSES = ("sky", "building", "road", "pavement", "tree", "car", "person")
INDEX = "index.txt"

_SKY, _BUILDING, _ROAD, _PAVEMENT, _TREE, _CAR, _PERSON = range(len(CLASSES))
_COLOURS = (
    (150, 190, 235),
    (165, 125, 105),
    (95, 95, 100),
    (170, 165, 160),
    (70, 120, 55),
    (170, 40, 45),
    (55, 70, 150),
)


def draw_street(
    rng: np.random.Generator, *, light: str, size: tuple[int, int] = (64, 96)
) -> tuple[NDArray[np.uint8], ClassMap]:
    """Draw one street.

    Args:
        rng: decides everything that the other parameters leave open.
        light: a name of ``LIGHTS``.
        size: height and width, pixels.

    Returns:
        The image, (height, width, 3) uint8 RGB, and its mask, (height, width) uint8 with places in ``CLASSES``.

    Raises:
        InputError: no such light.
    """
    if light not in LIGHTS:
        raise InputError(f"light {light!r}: choose from {', '.join(LIGHTS)}")
    height, width = size
    image, mask = np.zeros((height, width, 3), np.uint8), np.zeros(size, np.uint8)

    def paint(class_id: int, outline: list[tuple[float, float]]) -> None:
        """Fill a polygon, given by shares of width and height, with a class and a shade of its colour."""
        corners = [np.rint(np.array(outline) * (width, height)).astype(np.int32)]
        shade = np.clip(np.array(_COLOURS[class_id]) * rng.uniform(0.8, 1.2), 0, 255).tolist()
        cv2.fillPoly(image, corners, shade)
        cv2.fillPoly(mask, corners, class_id)

    horizon, vanishing = rng.uniform(0.35, 0.5), rng.uniform(0.35, 0.65)
    paint(_SKY, _box(0, 0, 1, 1))
    left = -rng.uniform(0, 0.1)
    while left < 1:
        right = left + rng.uniform(0.12, 0.3)
        if rng.random() < 0.8:
            paint(_BUILDING, _box(left, horizon - rng.uniform(0.1, 0.35), right, horizon + 0.05))
        left = right
    paint(_PAVEMENT, _box(0, horizon, 1, 1))
    kerbs = rng.uniform(0, 0.2), rng.uniform(0.8, 1)
    paint(_ROAD, [(vanishing - 0.04, horizon), (vanishing + 0.04, horizon), (kerbs[1], 1), (kerbs[0], 1)])
    for _ in range(rng.integers(1, 4)):
        x, reach = rng.uniform(0, 1), rng.uniform(0.06, 0.12)
        angles = np.linspace(0, 2 * np.pi, 9)
        paint(_TREE, [(x + reach * np.cos(a), horizon - 0.12 + 1.3 * reach * np.sin(a)) for a in angles])
    for _ in range(rng.integers(1, 4)):
        near = rng.uniform(0.15, 0.9)
        x, y, side = vanishing + (rng.uniform(0.1, 0.9) - vanishing) * near, horizon + (1 - horizon) * near, 0.22 * near
        paint(_CAR, _box(x - side, y - 0.9 * side, x + side, y))
    for _ in range(rng.integers(1, 4)):
        near, at_left = rng.uniform(0.2, 0.8), rng.random() < 0.5
        x, y = rng.uniform(0, 0.25) if at_left else rng.uniform(0.75, 1), horizon + (1 - horizon) * near
        paint(_PERSON, _box(x - 0.07 * near, y - 0.5 * near, x + 0.07 * near, y))
    return expose(image, light, [], rng), mask


def write_streets(folder: Path, light: str, count: int, *, seed: int = 0, size: tuple[int, int] = (64, 96)) -> None:
    """Write scenes of one light, and add them to the index of the folder.

    Args:
        folder: gets ``<light>/<seed>-<number>.png``, its mask beside it, and ``index.txt``.
        light: a name of ``LIGHTS``.
        count: number of scenes.
        seed: another seed gives other scenes.
        size: height and width, pixels.

    Raises:
        InputError: no such light.
    """
    lines = []
    for number in range(count):
        rng = np.random.default_rng((seed, number, *light.encode()))
        image, mask = draw_street(rng, light=light, size=size)
        stem = f"{light}/{seed:03d}-{number:04d}"
        (folder / light).mkdir(parents=True, exist_ok=True)
        _, data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        (folder / f"{stem}.png").write_bytes(data.tobytes())
        (folder / f"{stem}-mask.png").write_bytes(encode_mask(mask))
        lines.append(f"{stem}.png {stem}-mask.png\n")
    with (folder / INDEX).open("a", encoding="utf-8") as index:
        index.writelines(lines)


def _box(left: float, top: float, right: float, bottom: float) -> list[tuple[float, float]]:
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


@app.command()
def _command(
    folder: Annotated[Path, typer.Argument(help="Where scenes and index go.")],
    light: Annotated[str, typer.Argument(help=f"One of {', '.join(LIGHTS)}.")],
    count: Annotated[int, typer.Option(min=1, help="Number of scenes.")] = 40,
    seed: Annotated[int, typer.Option(min=0, help="Another seed gives other scenes.")] = 0,
) -> None:
    """Draw street scenes with masks."""
    with one_line_errors():
        write_streets(folder, light, count, seed=seed)


if __name__ == "__main__":
    app()
