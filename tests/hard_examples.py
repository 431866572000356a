"""Hard examples for tests, and a spool for them."""

import hashlib
import random
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

from components.core.job.hard_examples import Sidecar, image_key, sidecar_key
from components.serving.spool import Spool
from components.serving.uploader import Uploader

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)


def example(number: int, image: bytes | None = None, **changes: object) -> tuple[bytes, Sidecar]:
    """The bytes of an image, 3000 random ones unless given, and its sidecar."""
    image = random.Random(number).randbytes(3000) if image is None else image
    seen = {
        "image": hashlib.sha256(image).hexdigest(), "width": 640, "height": 480,
        "captured": NOON + timedelta(seconds=number), "node": "gate-7", "source": "yard.mp4", "frame": number,
        "kind": "hard", "miner": "IBT", "score": 0.5, "reason": "2 of 4 boxes score 0.5 or less", "model": "round-3",
        "classes": ("helmet", "head"), "boxes": ((1, 2, 30, 40),), "scores": (0.3,), "class_ids": (1,),
    }  # fmt: skip
    return image, Sidecar.model_validate(seen | changes)


def open_spool(folder: Path, max_bytes: int = 10_000_000, **options) -> Spool:
    return Spool(folder, max_bytes, **options)


def drain(spool, store, **options) -> None:
    """Upload until nothing is left, without waiting."""

    def sleep(stop: threading.Event, seconds: float) -> None:
        if not len(spool):
            stop.set()

    Uploader(spool, store, sleep=sleep, **options).run(threading.Event())


def check_stored(store, examples) -> None:
    """The store has exactly these examples, whole."""
    examples = list(examples)
    expected = {image_key(sidecar): image for image, sidecar in examples}
    expected |= {sidecar_key(sidecar): sidecar.model_dump_json().encode() for _, sidecar in examples}
    assert {found.key for found in store.list()} == set(expected)
    assert all(store.read(key) == data for key, data in expected.items())


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())
