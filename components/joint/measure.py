"""Two measured models as a pair, with what each image weighs on the wire."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from components.core.cache import fetch_blobs
from components.core.detections import Detections
from components.core.errors import InputError
from components.core.manifest import Manifest
from components.core.runtimes.letterbox import ImageArray, read_image
from components.core.tasks.base import Measurement
from components.core.wire import encode_image
from components.joint.cascade import Pair

JPEG_QUALITY = 90  # what edge workers send with, unless told otherwise
_TIMED = 5  # images; the first one, which is slow, does not count


def pair_of(little: Measurement[Any], big: Measurement[Any], cache_folder: Path) -> Pair:
    """Two models that were measured on the same samples.

    Args:
        little: what was measured of the edge's model.
        big: of the cloud's model.
        cache_folder: where the images are.

    Raises:
        InputError: the models are not for detection.
    """
    if not (little.task.gives_boxes and big.task.gives_boxes):
        raise InputError(f"joint inference needs detection models, but these are for {little.task.name}")
    samples = little.samples
    paths = fetch_blobs(samples, cache_folder)
    return Pair(
        truths=samples.truths(),
        little=little.results,
        big=big.results,
        classes=samples.classes,
        sizes=np.array([len(encode_image(read_image(path), JPEG_QUALITY)) for path in paths], dtype=float),
        confidences=(little.confidence, big.confidence),
        keys=samples.table["id"].to_list(),
    )


def time_of(predict: Callable[[ImageArray], Detections], samples: Manifest, cache_folder: Path) -> float:
    """Milliseconds of a model for an image, here: the median of a few."""
    few = Manifest(samples.table.head(_TIMED), samples.classes)
    seconds = []
    for path in fetch_blobs(few, cache_folder):
        image = read_image(path)
        start = time.perf_counter()
        predict(image)
        seconds.append(time.perf_counter() - start)
    return 1000 * float(np.median(seconds[1:] or seconds))
