"""The images in a folder."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from components.core.errors import InputError
from components.core.runtimes.letterbox import ImageArray
from components.serving.sources.base import Shot

log = logging.getLogger(__name__)

MAX_BYTES = 256 << 20  # of one file; a larger one would take the memory of a small board
SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}


class FolderSource:
    """The images in a folder and the folders in it, sorted by name; their files are kept as they are.

    Raises:
        InputError: there is no image in it.
    """

    live = False
    retries = 0

    def __init__(self, folder: Path) -> None:
        self._folder, self.read = folder, 0
        self.name = self.identity = str(folder)
        self._names()

    def shots(self, stop: threading.Event, after: str = "", every: int = 1) -> Iterator[Shot]:
        """The images in their order; see :class:`Source`. One that cannot be read is passed over and said."""
        for number, name in enumerate(self._names()):
            if stop.is_set():
                return
            self.read += 1
            if name <= after or number % every:
                continue
            path = self._folder / name
            try:
                data = path.read_bytes() if path.stat().st_size <= MAX_BYTES else b""
                image = _decode(data)
            except (OSError, cv2.error):  # the latter of more pixels than OPENCV_IO_MAX_IMAGE_PIXELS, too
                image = None
            if image is None:
                log.warning("%s: not a readable image, or too large: skipped", path)
                continue
            yield Shot(image, number, name, data, path.suffix.lower())

    def _names(self) -> list[str]:
        found = (path for path in self._folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
        names = sorted(path.relative_to(self._folder).as_posix() for path in found)
        if not names:
            raise InputError(f"source {self._folder}: no image in it; supported are {', '.join(sorted(SUFFIXES))}")
        return names


def _decode(data: bytes) -> ImageArray | None:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB) if data else None
    return None if image is None else np.asarray(image, dtype=np.uint8)
