"""Small drawn images for tests: red and blue squares on grey noise."""

import hashlib
import io
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from components.core.manifest import Manifest

CLASSES = ("red", "blue")


def squares(rng: np.random.Generator, size: int = 96, most: int = 3) -> tuple[np.ndarray, list[tuple[int, list[int]]]]:
    """One image (size, size, 3) RGB, and its boxes as (class id, [x1, y1, x2, y2])."""
    image = rng.integers(90, 150, (size, size, 3), dtype=np.uint8)
    boxes = []
    for index in range(rng.integers(1, most + 1)):
        side = int(rng.integers(size // 6, size // 3))
        x, y = int(rng.integers(0, size - side)), int(rng.integers(index * size // most, (index + 1) * size // most))
        y = min(y, size - side)
        class_id = int(rng.integers(0, 2))
        image[y : y + side, x : x + side] = (200, 30, 30) if class_id == 0 else (30, 30, 200)
        boxes.append((class_id, [x, y, x + side, y + side]))
    return image, boxes


def jpeg(image: np.ndarray) -> bytes:
    done, data = cv2.imencode(".jpg", image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])
    assert done
    return data.tobytes()


def job_with_images(job_root: Path, counts: dict[str, int], seed: int = 0, size: int = 96) -> Manifest:
    """A job root with blobs in it, and the manifest of them with the given number of samples per split."""
    rng = np.random.default_rng(seed)
    rows = []
    for split, count in counts.items():
        for _ in range(count):
            image, boxes = squares(rng, size)
            data = jpeg(image)
            identity = hashlib.sha256(data).hexdigest()
            blob = job_root / "blobs" / identity[:2] / f"{identity}.jpg"
            blob.parent.mkdir(parents=True, exist_ok=True)
            blob.write_bytes(data)
            rows.append(
                {
                    "id": identity, "uri": blob.as_uri(), "width": size, "height": size, "split": split,
                    "group": identity, "source": f"{len(rows)}.jpg", "round": 0,
                    "annotations": [
                        {"class_id": c, **dict(zip(("x1", "y1", "x2", "y2"), map(float, b), strict=True))}
                        for c, b in boxes
                    ],
                }
            )  # fmt: skip
    return Manifest.of(rows, CLASSES)


def mask_png(values: np.ndarray, mode: str = "L") -> bytes:
    """A mask (height, width) as PNG: ``L`` grey of 8 bits, ``P`` with a palette, or ``I;16`` grey of 16 bits."""
    image = Image.fromarray(values.astype(np.uint16 if mode == "I;16" else np.uint8))
    if mode == "P":
        image.putpalette([255 - channel for channel in range(256) for _ in range(3)])  # colours say nothing
    assert image.mode == mode
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
