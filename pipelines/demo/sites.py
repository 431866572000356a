"""The places where people work, and what lies about there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from pipelines.demo.canvas import Canvas, Colour, box, darker, ellipse, lighter, mix
from pipelines.demo.people import HELMET_COLOURS

Prop = Callable[[Canvas, np.random.Generator, float, float, float], None]  # draws at x, on y, in a size, in pixels


@dataclass(frozen=True)
class Floor:
    """Where people and things stand: on the ground below the horizon, or on decks above it (y, pixels)."""

    horizon: float
    decks: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Site:
    """A kind of place: its background and the things that are found there."""

    paint: Callable[[Canvas, np.random.Generator], Floor]
    props: tuple[Prop, ...]


def paint_scaffold(canvas: Canvas, rng: np.random.Generator) -> Floor:
    """A facade behind scaffolding, with decks to stand on."""
    height, width = canvas.height, canvas.width
    horizon = height * rng.uniform(0.66, 0.74)
    canvas.gradient(0, horizon, [(120, 168, 214), (206, 222, 232)])
    wall = _vary(rng, (186, 142, 112))
    edge = width * rng.uniform(0.0, 0.2)
    canvas.fill(box(edge, height * 0.06, width, horizon), wall)
    window = width * rng.uniform(0.11, 0.15)
    for left in np.arange(edge + window * 0.4, width, window * 1.7):
        for top in np.arange(height * 0.12, horizon - window, window * 1.5):
            canvas.fill(box(left - 2, top - 2, left + window + 2, top + window + 3), lighter(wall, 0.3))
            canvas.fill(box(left, top, left + window, top + window), (84, 104, 124))
            canvas.fill(box(left, top, left + window * 0.45, top + window * 0.45), (132, 154, 172))
    canvas.gradient(horizon, height, [(150, 128, 98), (118, 98, 76)])
    canvas.roughen(rng, 0, height, 9)
    deck = height * rng.uniform(0.45, 0.5)
    for y in (deck, horizon):
        canvas.fill(box(0, y, width, y + 4), (168, 132, 84))
        canvas.fill(box(0, y + 4, width, y + 6), (96, 74, 50))
    for x in np.arange(width * rng.uniform(0.02, 0.2), width, width * rng.uniform(0.22, 0.3)):
        canvas.fill(box(x, 0, x + 3, horizon + 4), (142, 148, 152))
        canvas.fill(box(x, 0, x + 1, horizon + 4), (196, 202, 206))
    return Floor(horizon + 5, [deck])


def paint_roadworks(canvas: Canvas, rng: np.random.Generator) -> Floor:
    """A road under an open sky, with hills and trees."""
    height, width = canvas.height, canvas.width
    horizon = height * rng.uniform(0.34, 0.46)
    canvas.gradient(0, horizon, [(92, 148, 208), (212, 226, 232)])
    for _ in range(rng.integers(2, 5)):
        x, radius = rng.uniform(0, width), rng.uniform(0.1, 0.3) * width
        canvas.fill(ellipse(x, horizon + radius * 0.25, radius * 1.5, radius * 0.5), _vary(rng, (104, 138, 112)))
    for _ in range(rng.integers(1, 6)):
        x, radius = rng.uniform(0, width), rng.uniform(0.03, 0.07) * width
        canvas.fill(box(x - radius / 6, horizon - radius * 1.4, x + radius / 6, horizon), (84, 62, 44))
        canvas.shade(ellipse(x, horizon - radius * 1.9, radius, radius * 1.2), _vary(rng, (62, 112, 58)))
    canvas.gradient(horizon, height, [(136, 148, 96), (122, 126, 84)])
    vanishing, middle = width * rng.uniform(0.2, 0.8), width * rng.uniform(0.2, 0.8)
    road = [[vanishing - 6, horizon], [vanishing + 6, horizon], [middle + width, height], [middle - width, height]]
    canvas.fill(np.array(road), _vary(rng, (92, 92, 96), 6))
    for near in (0.12, 0.3, 0.52, 0.8):
        x, y, size = vanishing + (middle - vanishing) * near, horizon + (height - horizon) * near, near * 0.03 * width
        far_x, far_y = vanishing + (middle - vanishing) * near * 0.8, horizon + (height - horizon) * near * 0.8
        canvas.fill(
            np.array([[far_x - size, far_y], [far_x + size, far_y], [x + size, y], [x - size, y]]), (226, 222, 206)
        )
    canvas.roughen(rng, horizon, height, 12)
    return Floor(horizon)


def paint_warehouse(canvas: Canvas, rng: np.random.Generator) -> Floor:
    """Shelves full of boxes under rows of lamps."""
    height, width = canvas.height, canvas.width
    horizon = height * rng.uniform(0.48, 0.58)
    canvas.gradient(0, horizon, [(92, 98, 106), (146, 150, 152)])
    bay = width * rng.uniform(0.16, 0.24)
    start = -bay * rng.random()
    for shelf in np.linspace(height * 0.2, horizon - 2, 3):
        for x in np.arange(start, width, bay / 2.6):
            if rng.random() < 0.8:
                size = bay * rng.uniform(0.22, 0.34)
                carton = _vary(rng, (184, 146, 98))
                canvas.fill(box(x, shelf - size * 0.95, x + size, shelf), carton)
                canvas.fill(box(x + size * 0.7, shelf - size * 0.95, x + size, shelf), darker(carton, 0.25))
        canvas.fill(box(0, shelf, width, shelf + 3), (212, 104, 40))
    for x in np.arange(start, width, bay):
        canvas.fill(box(x, height * 0.08, x + 4, horizon + 3), (48, 84, 142))
    canvas.gradient(horizon + 2, height, [(122, 122, 118), (164, 162, 154)])
    canvas.fill(box(0, horizon + (height - horizon) * 0.3, width, horizon + (height - horizon) * 0.34), (214, 184, 52))
    canvas.roughen(rng, 0, height, 7)
    _hang_lamps(canvas, rng, dome=True)
    return Floor(horizon)


def paint_hall(canvas: Canvas, rng: np.random.Generator) -> Floor:
    """A bright hall with tall windows, pillars and round lamps."""
    height, width = canvas.height, canvas.width
    horizon = height * rng.uniform(0.46, 0.56)
    wall = _vary(rng, (206, 202, 188))
    canvas.gradient(0, horizon, [darker(wall, 0.25), wall])
    pitch = width * rng.uniform(0.18, 0.28)
    for x in np.arange(-pitch * rng.random(), width, pitch):
        pane = box(x, height * 0.12, x + pitch * 0.55, horizon * 0.72)
        canvas.fill(pane + np.array((-2, 2)), darker(wall, 0.35))
        canvas.fill(pane, (184, 214, 228))
        canvas.fill(box(x + pitch * 0.25, height * 0.12, x + pitch * 0.28, horizon * 0.72), (242, 242, 238))
        canvas.fill(box(x + pitch * 0.72, 0, x + pitch * 0.84, horizon), darker(wall, 0.15))
        canvas.fill(box(x + pitch * 0.72, 0, x + pitch * 0.75, horizon), lighter(wall, 0.3))
    canvas.gradient(horizon, height, [(126, 142, 136), (168, 178, 168)])
    vanishing = width / 2
    for x in np.linspace(-width, 2 * width, 14):
        canvas.stroke([(vanishing + (x - vanishing) * 0.4, horizon), (x, height)], 0.6, (112, 124, 118))
    canvas.roughen(rng, 0, height, 6)
    _hang_lamps(canvas, rng, dome=False)
    return Floor(horizon)


def draw_ball(canvas: Canvas, rng: np.random.Generator, x: float, y: float, size: float) -> None:
    """A ball or a buoy, as round and as bright as a helmet."""
    canvas.shadow(x, y, size * 0.3, size * 0.07)
    canvas.shade(ellipse(x, y - size * 0.24, size * 0.24, size * 0.24), _bright(rng))


def draw_barrel(canvas: Canvas, rng: np.random.Generator, x: float, y: float, size: float) -> None:
    """A steel drum."""
    colour, radius, top = _bright(rng), size * 0.26, y - size * 0.72
    canvas.shadow(x, y, radius * 1.4, radius * 0.4)
    for share, tone in (
        (1.0, darker(colour, 0.45)),
        (0.84, darker(colour, 0.15)),
        (0.5, colour),
        (0.18, lighter(colour)),
    ):
        shift = -radius * 0.28 * (1 - share)
        canvas.fill(box(x + shift - radius * share, top, x + shift + radius * share, y), tone)
    for hoop in (0.3, 0.66):
        canvas.stroke(
            [(x - radius, top + size * 0.72 * hoop), (x + radius, top + size * 0.72 * hoop)],
            size * 0.03,
            darker(colour, 0.5),
        )
    canvas.fill(ellipse(x, top, radius, radius * 0.28), darker(colour, 0.3))
    canvas.fill(ellipse(x, top, radius * 0.86, radius * 0.2), lighter(colour, 0.1))


def draw_cone(canvas: Canvas, rng: np.random.Generator, x: float, y: float, size: float) -> None:
    """A traffic cone."""
    colour = _vary(rng, (240, 104, 32))
    canvas.shadow(x, y, size * 0.3, size * 0.06)
    canvas.fill(box(x - size * 0.26, y - size * 0.07, x + size * 0.26, y), darker(colour, 0.3))
    for low, high, tone in (
        (0.0, 0.3, colour),
        (0.3, 0.5, (236, 236, 230)),
        (0.5, 0.75, colour),
        (0.75, 0.9, (236, 236, 230)),
        (0.9, 1.0, colour),
    ):
        wide, narrow = (size * (0.2 - 0.17 * share) for share in (low, high))
        bottom, top = (y - size * (0.06 + 0.6 * share) for share in (low, high))
        canvas.fill(np.array([[x - wide, bottom], [x - narrow, top], [x + narrow, top], [x + wide, bottom]]), tone)
        canvas.fill(
            np.array([[x + wide * 0.3, bottom], [x + narrow * 0.3, top], [x + narrow, top], [x + wide, bottom]]),
            darker(tone, 0.2),
        )


def draw_bucket(canvas: Canvas, rng: np.random.Generator, x: float, y: float, size: float) -> None:
    """A bucket turned over: a dome with a rim, much like a helmet on the ground."""
    colour, top = _bright(rng), y - size * 0.34
    canvas.shadow(x, y, size * 0.26, size * 0.06)
    outline = [[x - size * 0.21, y], [x - size * 0.15, top], [x + size * 0.15, top], [x + size * 0.21, y]]
    canvas.shade(np.array(outline), colour)
    canvas.fill(ellipse(x, top, size * 0.15, size * 0.04), lighter(colour, 0.2))
    canvas.fill(box(x - size * 0.23, y - size * 0.04, x + size * 0.23, y), darker(colour, 0.25))


def draw_crate(canvas: Canvas, rng: np.random.Generator, x: float, y: float, size: float) -> None:
    """A wooden crate, large enough to hide a person's legs."""
    colour = _vary(rng, (168, 126, 80))
    half = size * rng.uniform(0.3, 0.45)
    canvas.shadow(x, y, half * 1.25, half * 0.2)
    canvas.fill(box(x - half, y - half * 1.3, x + half, y), darker(colour, 0.3))
    for plank in np.linspace(-1.3, -0.36, 4):
        canvas.fill(box(x - half * 0.95, y + half * plank + 1, x + half * 0.95, y + half * (plank + 0.28)), colour)
    canvas.stroke(
        [(x - half * 0.8, y - half * 1.2), (x + half * 0.8, y - half * 0.1)], half * 0.14, lighter(colour, 0.15)
    )


def draw_barrier(canvas: Canvas, rng: np.random.Generator, x: float, y: float, size: float) -> None:
    """A barrier with red and white stripes."""
    half, top = size * rng.uniform(0.5, 0.9), y - size * 0.52
    for leg in (-0.8, 0.8):
        canvas.fill(box(x + half * leg - size * 0.03, top, x + half * leg + size * 0.03, y), (96, 98, 102))
    canvas.fill(box(x - half, top, x + half, top + size * 0.17), (236, 234, 228))
    for stripe in np.arange(-1, 0.9, 0.4):
        left, slant = x + half * stripe, half * 0.1
        corners = [
            [left, top + size * 0.17],
            [left + slant, top],
            [left + slant + half * 0.2, top],
            [left + half * 0.2, top + size * 0.17],
        ]
        canvas.fill(np.array(corners), (204, 46, 40))


def draw_work_light(canvas: Canvas, rng: np.random.Generator, x: float, y: float, size: float) -> None:
    """A round lamp on a tripod, at head height."""
    top, radius = y - size * rng.uniform(0.7, 1.0), size * 0.11
    for foot in (-0.16, 0.0, 0.16):
        canvas.stroke([(x, top), (x + size * foot, y)], size * 0.025, (62, 62, 66))
    canvas.fill(ellipse(x, top, radius * 1.2, radius * 1.2), (70, 70, 74))
    canvas.shade(ellipse(x, top, radius, radius), (250, 236, 178), lit=(0.5, 0.5))
    canvas.lamps.append((x, top))


SITES: dict[str, Site] = {
    "scaffold": Site(paint_scaffold, (draw_bucket, draw_crate, draw_barrel, draw_ball, draw_cone)),
    "roadworks": Site(paint_roadworks, (draw_cone, draw_cone, draw_barrier, draw_barrel, draw_work_light)),
    "warehouse": Site(paint_warehouse, (draw_crate, draw_crate, draw_barrel, draw_bucket, draw_cone)),
    "hall": Site(paint_hall, (draw_ball, draw_ball, draw_bucket, draw_work_light, draw_crate)),
}


def _hang_lamps(canvas: Canvas, rng: np.random.Generator, *, dome: bool) -> None:
    radius = canvas.width * rng.uniform(0.022, 0.04)
    y = canvas.height * rng.uniform(0.06, 0.2)
    for x in np.arange(canvas.width * rng.uniform(0.05, 0.2), canvas.width, canvas.width * rng.uniform(0.22, 0.34)):
        canvas.stroke([(x, 0), (x, y)], 1, (60, 60, 62))
        if dome:
            top = ellipse(x, y, radius * 1.3, radius * 1.1)[16:]
            canvas.fill(ellipse(x, y, radius * 1.1, radius * 0.45), (255, 244, 206))
            canvas.shade(top, _bright(rng))
        else:
            canvas.shade(ellipse(x, y, radius, radius), (252, 240, 204))
        canvas.lamps.append((x, y))


def _bright(rng: np.random.Generator) -> Colour:
    """A colour that helmets have too."""
    return _vary(rng, HELMET_COLOURS[rng.integers(len(HELMET_COLOURS))], 10)


def _vary(rng: np.random.Generator, colour: Colour, spread: float = 14) -> Colour:
    """The colour, a little lighter or darker, warmer or colder."""
    red, green, blue = (rng.normal(0, spread * 0.4, 3) + rng.normal(0, spread)).tolist()
    return mix((colour[0] + red, colour[1] + green, colour[2] + blue), (0, 0, 0), 0)
