"""A helmet data set that needs no download: scenes of people at work, drawn by code.

Four sites in four lights, with things that look much like a helmet, people hidden behind others and images without
anybody. One seed always gives the same data set.
"""

from __future__ import annotations

import zipfile
from collections.abc import Collection, Sequence
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
from numpy.typing import NDArray

from components.core.errors import InputError
from components.core.stores.transfer import landing
from pipelines.demo.canvas import Canvas
from pipelines.demo.lights import LIGHTS, expose
from pipelines.demo.people import draw_worker
from pipelines.demo.sites import SITES, Floor, Prop

CLASSES = ("helmet", "head")
Box = tuple[str, int, int, int, int]  # class name, x1, y1, x2, y2 in pixels

_EMPTY_SHARE = 0.08  # images without people
_HELMET_SHARE = 0.55
_LEAST_VISIBLE = 0.35  # a head hidden more than that is not labelled
_LEAST_SIDE = 4  # pixels; nor is the sliver of one that is cut off by the edge
_ZIP_TIME = (2024, 1, 1, 0, 0, 0)


def draw_scene(
    rng: np.random.Generator, *, site: str, light: str, size: tuple[int, int]
) -> tuple[NDArray[np.uint8], list[Box]]:
    """Draw one image of people at work.

    Args:
        rng: decides everything that the other parameters leave open.
        site: a name of ``SITES``.
        light: a name of ``LIGHTS``.
        size: height and width, pixels.

    Returns:
        The image, (height, width, 3) uint8 RGB, and a box for each helmet and each bare head in it, tight around
        the part that can be seen.

    Raises:
        InputError: no such site or light.
    """
    _check_names("site", [site], SITES)
    _check_names("light", [light], LIGHTS)
    canvas = Canvas(*size)
    floor = SITES[site].paint(canvas, rng)
    owners = _draw_contents(canvas, rng, floor, SITES[site].props)
    return expose(canvas.finished(), light, canvas.lamps, rng), _labels(canvas, owners)


def make_dataset(
    path: Path,
    count: int,
    seed: int,
    *,
    sites: Sequence[str] = tuple(SITES),
    lights: Sequence[str] = tuple(LIGHTS),
) -> None:
    """Write a data set in Pascal VOC layout, zipped; the same arguments always give the same bytes.

    Args:
        path: the zip file to write.
        count: number of images; sites and lights take turns, so that each combination gets its share.
        seed: another seed gives other images. Image number n depends on the seed and on n, not on ``count``.
        sites: names of ``SITES``.
        lights: names of ``LIGHTS``.

    Raises:
        InputError: no such site or light, or none.
    """
    _check_names("site", sites, SITES)
    _check_names("light", lights, LIGHTS)
    with landing(path) as file, zipfile.ZipFile(file, "w") as archive:
        for number in range(count):
            rng = np.random.default_rng((seed, number))
            site, light = sites[number % len(sites)], lights[number // len(sites) % len(lights)]
            _write_image(archive, rng, f"{site}-{light}-{seed:03d}-{number:05d}", site, light)


def _draw_contents(
    canvas: Canvas, rng: np.random.Generator, floor: Floor, props: Sequence[Prop]
) -> dict[int, tuple[str, int]]:
    """Draw people and things from far to near.

    Returns:
        For each owner of pixels the class name and how many pixels it had before anything was drawn over it.
    """
    people = 0 if rng.random() < _EMPTY_SHARE else int(rng.integers(1, 5))
    things = int(rng.integers(1, 5))
    places = [(*_place(canvas, rng, floor, slot, people), True) for slot in range(people)]
    places += [(*_place(canvas, rng, Floor(floor.horizon), slot, things), False) for slot in range(things)]
    owners: dict[int, tuple[str, int]] = {}
    for y, x, height, is_person in sorted(places):
        if not is_person:
            props[int(rng.integers(len(props)))](canvas, rng, x, y, height * rng.uniform(0.4, 0.6))
            continue
        owner, helmet = len(owners) + 1, bool(rng.random() < _HELMET_SHARE)
        draw_worker(canvas, rng, x=x, feet=y, height=height, helmet=helmet, owner=owner)
        owners[owner] = (CLASSES[0] if helmet else CLASSES[1], canvas.area(owner))
    return owners


def _labels(canvas: Canvas, owners: dict[int, tuple[str, int]]) -> list[Box]:
    """The boxes of those helmets and heads that can be seen well enough."""
    boxes: list[Box] = []
    for owner, (name, area) in owners.items():
        x1, y1, x2, y2 = canvas.visible_box(owner)
        if min(x2 - x1, y2 - y1) >= _LEAST_SIDE and canvas.area(owner) >= _LEAST_VISIBLE * area:
            boxes.append((name, x1, y1, x2, y2))
    return boxes


def _place(canvas: Canvas, rng: np.random.Generator, floor: Floor, slot: int, slots: int) -> tuple[float, float, float]:
    """Where something stands: y, x and how tall a person is there, pixels; nearer is lower and larger."""
    x = canvas.width * (slot + rng.uniform(0.1, 0.9)) / slots
    if floor.decks and rng.random() < 0.4:
        return float(rng.choice(floor.decks)), x, canvas.height * rng.uniform(0.4, 0.44)
    nearness = rng.beta(1.3, 1.6)
    y = floor.horizon + (canvas.height * 1.25 - floor.horizon) * (0.06 + 0.94 * nearness)
    height = canvas.height * (0.42 + 0.5 * nearness) * rng.uniform(0.93, 1.07)
    return max(y, 1.05 * height), x, height


def _write_image(archive: zipfile.ZipFile, rng: np.random.Generator, stem: str, site: str, light: str) -> None:
    width = int(rng.integers(200, 321))
    height = int(width * rng.uniform(0.7, 0.85))
    image, boxes = draw_scene(rng, site=site, light=light, size=(height, width))
    quality = int(rng.integers(55, 96))
    _, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    archive.writestr(zipfile.ZipInfo(f"JPEGImages/{stem}.jpg", _ZIP_TIME), data.tobytes())
    archive.writestr(zipfile.ZipInfo(f"Annotations/{stem}.xml", _ZIP_TIME), _voc(f"{stem}.jpg", height, width, boxes))


def _voc(file_name: str, height: int, width: int, boxes: Sequence[Box]) -> bytes:
    """The labels of one image as Pascal VOC XML."""
    root = ElementTree.Element("annotation")
    ElementTree.SubElement(root, "filename").text = file_name
    _add_numbers(root, "size", width=width, height=height, depth=3)
    for name, x1, y1, x2, y2 in boxes:
        entry = ElementTree.SubElement(root, "object")
        ElementTree.SubElement(entry, "name").text = name
        _add_numbers(entry, "bndbox", xmin=x1, ymin=y1, xmax=x2, ymax=y2)
    ElementTree.indent(root)
    return bytes(ElementTree.tostring(root))


def _add_numbers(parent: ElementTree.Element, tag: str, **numbers: int) -> None:
    child = ElementTree.SubElement(parent, tag)
    for name, number in numbers.items():
        ElementTree.SubElement(child, name).text = str(number)


def _check_names(kind: str, given: Sequence[str], known: Collection[str]) -> None:
    unknown = sorted(set(given) - set(known))
    if unknown or not given:
        raise InputError(f"{kind} {', '.join(unknown) or 'list is empty'}: choose from {', '.join(known)}")
