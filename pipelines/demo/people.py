"""Workers on site, with a helmet or with a bare head."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.demo.canvas import Canvas, Colour, Points, darker, ellipse, lighter, mix

HELMET_COLOURS: tuple[Colour, ...] = (
    (246, 201, 30),
    (240, 240, 236),
    (238, 120, 28),
    (205, 44, 40),
    (38, 98, 190),
    (52, 148, 78),
)
_VESTS: tuple[Colour, ...] = ((214, 232, 52), (250, 128, 36), (226, 70, 52))
_SHIRTS: tuple[Colour, ...] = ((70, 92, 128), (112, 104, 98), (150, 60, 58), (54, 110, 96), (176, 168, 150))
_TROUSERS: tuple[Colour, ...] = ((52, 62, 92), (88, 80, 70), (60, 62, 64), (112, 98, 66))
_SKINS: tuple[Colour, ...] = ((241, 199, 166), (222, 170, 130), (176, 118, 80), (120, 78, 52), (86, 56, 42))
_HAIRS: tuple[Colour, ...] = ((38, 30, 28), (84, 56, 36), (140, 98, 52), (196, 164, 104), (150, 148, 146))
_HEAD_SCALE = 1.3  # a little larger than life, as in a comic
_STRIPE: Colour = (232, 234, 226)


@dataclass(frozen=True)
class _Frame:
    """Where the points of a body part lie in the image; a worker is 100 units tall and looks to the right."""

    origin: Points
    matrix: NDArray[np.float64]

    def __call__(self, *points: tuple[float, float]) -> Points:
        return self.outline(np.array(points, np.float64))

    def outline(self, points: Points) -> Points:
        return self.origin + points @ self.matrix.T


def draw_worker(
    canvas: Canvas, rng: np.random.Generator, *, x: float, feet: float, height: float, helmet: bool, owner: int
) -> None:
    """Draw one worker.

    Args:
        canvas: what to draw on.
        rng: decides clothes, pose and colours.
        x: of the middle between the feet, pixels.
        feet: the y on which the worker stands, pixels.
        height: of the worker standing upright, pixels.
        helmet: whether the worker wears one.
        owner: gets the pixels of the helmet's shell, or those of the bare head with its hair.
    """
    unit = height / 100
    side = float(rng.choice((-1, 1)))
    body = _Frame(np.array([x, feet]), unit * np.array([[side, side * rng.normal(0, 0.07)], [0, -1]]))
    hip = 40 * rng.choice((1.0, rng.uniform(0.65, 1.0)), p=(0.75, 0.25))
    shirt = _pick(rng, _SHIRTS)
    canvas.shadow(x, feet, 20 * unit, 4 * unit)
    _draw_legs(canvas, rng, body, unit, hip)
    _draw_torso(canvas, rng, body, unit, hip, shirt)
    skin = _pick(rng, _SKINS)
    _draw_arms(canvas, rng, body, unit, hip, darker(shirt, 0.12), skin)
    canvas.stroke(body((0, hip + 30), (0.5, hip + 38)), 8 * unit, darker(skin, 0.25))
    tilt = rng.normal(0, 0.13)
    turn = np.array([[side * np.cos(tilt), -side * np.sin(tilt)], [-np.sin(tilt), -np.cos(tilt)]])
    head = _Frame(body((0.5, hip + 34))[0], unit * _HEAD_SCALE * turn)
    if helmet:
        _draw_face(canvas, rng, head, unit * _HEAD_SCALE, skin, owner=0)
        _draw_helmet(canvas, rng, head, unit * _HEAD_SCALE, owner)
    else:
        _draw_face(canvas, rng, head, unit * _HEAD_SCALE, skin, owner)


def _draw_legs(canvas: Canvas, rng: np.random.Generator, body: _Frame, unit: float, hip: float) -> None:
    trousers = _pick(rng, _TROUSERS)
    spread = rng.uniform(4, 9)
    bend = (40 - hip) * 0.35
    for foot, colour in ((-spread, darker(trousers, 0.25)), (spread, trousers)):
        canvas.stroke(body((foot * 0.5, hip), (foot * 0.9 + bend, hip * 0.52), (foot, 4)), 9 * unit, colour)
        canvas.stroke(body((foot - 0.5, 2.2), (foot + 4, 2)), 5 * unit, (44, 36, 32))


def _draw_torso(canvas: Canvas, rng: np.random.Generator, body: _Frame, unit: float, hip: float, shirt: Colour) -> None:
    colour = _pick(rng, _VESTS) if rng.random() < 0.6 else shirt
    torso = ((-9.5, hip - 4), (-13, hip + 24), (-10, hip + 31), (10, hip + 31), (13, hip + 24), (9.5, hip - 4))
    canvas.fill(body(*torso), colour)
    canvas.fill(
        body((-9.5, hip - 4), (-13, hip + 24), (-10, hip + 31), (-5, hip + 30), (-5, hip - 4)), darker(colour, 0.2)
    )
    if colour is shirt:
        return
    canvas.stroke(body((-10.5, hip + 9), (10.5, hip + 9)), 2.6 * unit, _STRIPE)
    for strap in (-6.5, 6.5):
        canvas.stroke(body((strap, hip + 9), (strap, hip + 29)), 2.4 * unit, _STRIPE)


def _draw_arms(
    canvas: Canvas, rng: np.random.Generator, body: _Frame, unit: float, hip: float, sleeve: Colour, skin: Colour
) -> None:
    for shoulder in (-12.5, 12.5):
        angle = rng.choice((rng.uniform(-1.4, -1.1), rng.uniform(-0.6, 0.9)), p=(0.7, 0.3))
        elbow = (shoulder + np.sign(shoulder) * 13 * np.cos(angle), hip + 27 + 13 * np.sin(angle))
        bend = angle + rng.uniform(-0.5, 0.9)
        hand = (elbow[0] + np.sign(shoulder) * 12 * np.cos(bend), elbow[1] + 12 * np.sin(bend))
        canvas.stroke(body((shoulder, hip + 27), elbow, hand), 6 * unit, sleeve)
        palm_x, palm_y = body(hand)[0]
        canvas.shade(ellipse(palm_x, palm_y, 3.4 * unit, 3.4 * unit), skin)


def _draw_face(canvas: Canvas, rng: np.random.Generator, head: _Frame, unit: float, skin: Colour, owner: int) -> None:
    """Draw a head from chin (0, 0) to crown (0, 24), seen from the front, the side or the back."""
    hair = _pick(rng, _HAIRS)
    style = rng.choice(("short", "long", "bald", "cap"), p=(0.5, 0.22, 0.16, 0.12))
    if style == "long":
        canvas.fill(head.outline(ellipse(-2, 11, 10.5, 13.5)), darker(hair, 0.2), owner)
    canvas.shade(head.outline(ellipse(0, 12, 9, 12)), skin, owner)
    if rng.random() < 0.2:
        canvas.shade(head.outline(ellipse(-0.5, 12.2, 9.4, 12)), darker(hair, 0.25), owner)  # seen from behind
        return
    gaze = rng.choice((0.0, 3.5))
    canvas.fill(head.outline(ellipse(-6.5 + gaze * 0.5 if gaze else -8.8, 11, 1.8, 2.8)), darker(skin, 0.25), owner)
    for eye in (gaze - 3, gaze + 3.2):
        canvas.fill(head.outline(ellipse(eye, 13, 1.1, 1.3)), (40, 30, 30), owner)
    canvas.stroke(head((gaze - 2, 6), (gaze + 2, 6)), 1.1 * unit, darker(skin, 0.45), owner)
    if rng.random() < 0.2:
        canvas.fill(head.outline(_arc(0.5, 8, 8.2, 8.2, np.pi, 2 * np.pi)), hair, owner)
    if style in {"short", "long"}:
        canvas.fill(head.outline(_arc(-0.6, 14.5, 9.6, 10.5, -0.1, np.pi + 0.35)), hair, owner)
        canvas.fill(head.outline(_arc(-2, 17, 5, 6, 0.4, np.pi - 0.3)), lighter(hair, 0.15), owner)
    elif style == "cap":
        canvas.fill(head.outline(_arc(-0.4, 15, 9.8, 9.8, -0.05, np.pi + 0.2)), _pick(rng, _SHIRTS), owner)


def _draw_helmet(canvas: Canvas, rng: np.random.Generator, head: _Frame, unit: float, owner: int) -> None:
    colour = _pick(rng, HELMET_COLOURS)
    peak = rng.choice((0.5, 4.5))
    canvas.shade(head.outline(_arc(0, 15.5, 11.2, 12.5, -0.08, np.pi + 0.08)), colour, owner)
    canvas.stroke(head.outline(_arc(-0.5, 16, 4, 12, 0.5, np.pi - 0.9)), 1.6 * unit, lighter(colour, 0.35), owner)
    canvas.fill(head.outline(ellipse(peak, 15.4, 12.6, 2.3)), darker(colour, 0.22), owner)
    canvas.fill(head.outline(ellipse(peak, 16.1, 12.2, 1.6)), lighter(colour, 0.1), owner)


def _arc(x: float, y: float, radius_x: float, radius_y: float, start: float, end: float) -> Points:
    """The outline of a segment of an ellipse, from one angle to another, closed by a straight line."""
    angles = np.linspace(start, end, 18)
    return np.stack([x + radius_x * np.cos(angles), y + radius_y * np.sin(angles)], axis=1)


def _pick(rng: np.random.Generator, colours: tuple[Colour, ...]) -> Colour:
    """One of the colours, faded or dirtied a little."""
    return mix(colours[rng.integers(len(colours))], (128, 118, 108), rng.uniform(0, 0.22))
