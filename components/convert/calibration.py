"""The images that int8 takes its ranges from: some training samples, on the canvas that the model sees."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import cv2
import polars as pl

from components.core.bundle import Bundle
from components.core.errors import InputError
from components.core.manifest import Manifest
from components.core.runtimes.letterbox import letterbox, read_image

LEAST_IMAGES = 20  # fewer see too little of what the model will see
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
    if needed and len(chosen) < LEAST_IMAGES:
        raise InputError(
            f"{len(chosen)} training images to calibrate int8 with, at least {LEAST_IMAGES} are needed: "
            "bring in more, raise calibration_size, or convert with quantization=fp16"
        )
    return chosen


def write_canvases(paths: Sequence[Path], folder: Path, bundle: Bundle) -> list[str]:
    """Write images as the model sees them: letterboxed, RGB, lossless, names without spaces.

    The toolkit would stretch images of another shape, splits names at spaces, and reads few formats.

    Args:
        paths: of the images.
        folder: gets one PNG an image.
        bundle: canvas size and padding.

    Returns:
        Names of the files, in the order of the images.
    """
    names = [f"{index:05d}.png" for index in range(len(paths))]
    for path, name in zip(paths, names, strict=True):
        canvas, _ = letterbox(read_image(path), bundle.image_size, bundle.pad)
        _, png = cv2.imencode(".png", canvas[:, :, ::-1])
        (folder / name).write_bytes(png.tobytes())
    return names


def write_list(folder: Path, names: Sequence[str], algorithm: str) -> Path:
    """Write the list of canvases that the toolkit reads: all, or the few that a slow algorithm is given.

    Returns:
        The list, in the folder of the canvases, which its names are relative to.
    """
    target = folder / f"{algorithm}.txt"
    few = names[:LEAST_IMAGES] if algorithm in SLOW_ALGORITHMS else names
    target.write_text("".join(f"{name}\n" for name in few), encoding="utf-8")
    return target
