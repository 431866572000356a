"""The images that int8 takes its ranges from: training samples on the canvas that the model sees, some enlarged."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import polars as pl
from numpy.typing import NDArray

from components.core.bundle import Bundle
from components.core.detections import Detections
from components.core.errors import InputError
from components.core.manifest import Manifest
from components.core.runtimes.letterbox import ImageArray, letterbox, read_image

MIN_IMAGES = 20  # fewer see too little of what the model will see
ZOOM_EVERY = 4  # one image with boxes in so many is shown a second time, enlarged
ZOOM_FRACTIONS = (0.4, 0.6, 0.8)  # of the canvas, that an enlarged object takes, in turn
SLOW_ALGORITHMS = ("mmse",)  # 20 times as long as the others for each image


def draw_samples(samples: Manifest, count: int, seed: int) -> Manifest:
    """Some of the samples, the same ones whatever order they come in."""
    places = {name: hashlib.sha256(f"{seed}:{name}".encode()).hexdigest() for name in samples.table["id"]}
    chosen = sorted(places, key=places.__getitem__)[:count]
    return samples.where(pl.col("id").is_in(chosen))


def calibration_samples(manifest: Manifest, count: int, seed: int, *, needed: bool) -> Manifest:
    """Training samples to calibrate with, never those that the result is judged by.

    Raises:
        InputError: too few, though they are needed.
    """
    chosen = draw_samples(manifest.split("train"), count, seed)
    if needed and len(chosen) < MIN_IMAGES:
        raise InputError(
            f"{len(chosen)} training images to calibrate int8 with, at least {MIN_IMAGES} are needed: "
            "add more, raise calibration_size, or convert with quantization=fp16"
        )
    return chosen


def calibration_canvases(samples: Manifest, paths: Sequence[Path], bundle: Bundle) -> Iterator[ImageArray]:
    """Images as the model sees them, and every fourth one with boxes a second time, enlarged around its largest object.

    Each scale of a detector finds objects of some sizes. An output that is shown none of them gets a range that ends
    at a score of 0.5 or so, and no object that it finds can score higher on the chip.

    Args:
        samples: to calibrate with.
        paths: of their images, in table order.
        bundle: canvas size and padding.

    Yields:
        (height, width, 3) uint8 RGB, the size of the bundle's canvas.
    """
    with_boxes = 0
    for path, truth in zip(paths, samples.truths(), strict=True):
        image = read_image(path)
        yield letterbox(image, bundle.image_size, bundle.pad)[0]
        if len(truth):
            if with_boxes % ZOOM_EVERY == 0:
                fraction = ZOOM_FRACTIONS[with_boxes // ZOOM_EVERY % len(ZOOM_FRACTIONS)]
                yield letterbox(
                    zoom(image, largest(truth), bundle.image_size, fraction), bundle.image_size, bundle.pad
                )[0]
            with_boxes += 1


def zoom(image: ImageArray, box: NDArray[np.float32], canvas: tuple[int, int], fraction: float) -> ImageArray:
    """The part of an image around an object that shows the object large on a canvas.

    Args:
        image: (height, width, 3) RGB.
        box: of the object, (4,), ``x1, y1, x2, y2`` in pixels of the image.
        canvas: height and width of the model's canvas.
        fraction: of the canvas, 0..1, that the longer side of the object takes. The part never reaches beyond the
            image, so an object at its edge is not in the middle, and one that is larger already stays as it is.

    Returns:
        A view into the image.
    """
    size = np.array(image.shape[1::-1], np.float64)  # width and height, as x and y below
    corners = box.astype(np.float64).reshape(2, 2)
    shape = np.array(canvas[::-1], np.float64)
    window = np.minimum(np.max((corners[1] - corners[0]) / shape) / fraction * shape, size)
    begin = np.clip(corners.mean(axis=0) - window / 2, 0, size - window)
    left, top = np.floor(begin).astype(int)
    right, bottom = np.ceil(begin + window).astype(int)
    return image[top : max(bottom, top + 1), left : max(right, left + 1)]


def largest(boxes: Detections) -> NDArray[np.float32]:
    """The box, (4,), with the largest area."""
    sides = boxes.boxes[:, 2:] - boxes.boxes[:, :2]
    box: NDArray[np.float32] = boxes.boxes[np.argmax(sides.prod(axis=1))]
    return box


def write_canvases(canvases: Iterable[ImageArray], folder: Path) -> list[str]:
    """Write canvases as the toolkit reads them: RGB, lossless, names without spaces.

    The toolkit would stretch images of another shape, splits names at spaces, and reads few formats.

    Args:
        canvases: (height, width, 3) uint8 RGB each.
        folder: gets one PNG a canvas.

    Returns:
        Names of the files, in the order of the canvases.
    """
    names = []
    for index, canvas in enumerate(canvases):
        _, png = cv2.imencode(".png", canvas[:, :, ::-1])
        names.append(f"{index:05d}.png")
        (folder / names[-1]).write_bytes(png.tobytes())
    return names


def write_list(folder: Path, names: Sequence[str], algorithm: str) -> Path:
    """Write the list of canvases that the toolkit reads: all, or the few that a slow algorithm is given.

    Returns:
        The list, in the folder of the canvases, which its names are relative to.
    """
    target = folder / f"{algorithm}.txt"
    few = names[:MIN_IMAGES] if algorithm in SLOW_ALGORITHMS else names
    target.write_text("".join(f"{name}\n" for name in few), encoding="utf-8")
    return target
