"""Where pictures come from: a video, a folder, a camera.

A finite source (video, folder) gives each of its pictures once, in an order that is the same every time, so that a
worker that was killed goes on after the last one it had finished. A live one (camera, RTSP) gives what is there now.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np

from components.core.errors import InputError
from components.core.runtimes.letterbox import Picture
from components.core.stores.addresses import folder_at, shown

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}
_COUNT_IS_ABOUT = 0.98  # containers that do not count their frames are off by a few

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Shot:
    """One picture of a source.

    Attributes:
        picture: (H, W, 3) uint8 RGB, as displayed.
        number: of the picture in its source, from 0.
        place: names the picture in its source; ``shots`` goes on after it.
        original: the bytes of the picture's own file; None where it has none.
        suffix: of that file, with its dot, in lower case.
    """

    picture: Picture
    number: int
    place: str
    original: bytes | None = None
    suffix: str = ".jpg"


class Source(Protocol):
    """Something that pictures come from.

    Attributes:
        name: as messages and sidecars show it, without secrets.
        identity: changes when the content is another, so that an old place does not count for it.
        live: it cannot be read again, and its newest picture is the one that matters.
        retries: how often it was opened again.
    """

    name: str
    identity: str
    live: bool
    retries: int

    def shots(self, stop: threading.Event, after: str = "", every: int = 1) -> Iterator[Shot]:
        """The pictures in their order.

        Args:
            stop: ends it early when set.
            after: place of the last one that is done with; empty: from the beginning.
            every: give each n-th picture only.

        Raises:
            InputError: there is not one picture in it.
        """
        ...


def open_source(address: str) -> Source:
    """The source at an address.

    Args:
        address: a video file, a folder of pictures, ``rtsp://...``, or the number of a camera.

    Raises:
        InputError: there is nothing there, or it is neither.
    """
    if address.isdigit() or re.match(r"(?i)rtsps?://", address):
        from components.serving.live import LiveSource

        return LiveSource(int(address) if address.isdigit() else address)
    path = folder_at(address)
    if path.is_dir():
        return FolderSource(path)
    if path.is_file():
        return VideoSource(path)
    raise InputError(
        f"source {shown(address)}: no such file or folder; give a video, a folder of pictures, rtsp://... or the "
        "number of a camera"
    )


class FolderSource:
    """The pictures in a folder and the folders in it, sorted by name; their files are kept as they are.

    Raises:
        InputError: there is no picture in it.
    """

    live = False
    retries = 0

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.name = self.identity = str(folder)
        if not self._names():
            raise InputError(f"source {folder}: no picture in it; known are {', '.join(sorted(SUFFIXES))}")

    def shots(self, stop: threading.Event, after: str = "", every: int = 1) -> Iterator[Shot]:
        """The pictures in their order; see :class:`Source`. One that cannot be read is passed over and said."""
        for number, name in enumerate(self._names()):
            if stop.is_set():
                return
            if name <= after or number % every:
                continue
            path = self._folder / name
            try:
                data = path.read_bytes()
                picture = _decode(data)
            except (OSError, cv2.error):
                picture = None
            if picture is None:
                log.warning("%s: not a picture that can be read: passed over", path)
                continue
            yield Shot(picture, number, name, data, path.suffix.lower())

    def _names(self) -> list[str]:
        found = (path for path in self._folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
        return sorted(path.relative_to(self._folder).as_posix() for path in found)


class VideoSource:
    """The frames of a video file.

    Raises:
        InputError: it is empty, or not a video that can be read.
    """

    live = False
    retries = 0

    def __init__(self, path: Path) -> None:
        self._path = path
        self.name = str(path)
        status = path.stat()
        self.identity = f"{path} {status.st_size} {status.st_mtime_ns}"
        if not status.st_size:
            raise InputError(f"source {path}: the file is empty; give a video")
        self._open().release()

    def shots(self, stop: threading.Event, after: str = "", every: int = 1) -> Iterator[Shot]:
        """The frames in their order; see :class:`Source`.

        Frames that are done with are decoded and left: jumping to a frame is not exact in every format.
        """
        capture = self._open()
        done, number = int(after or -1), 0
        try:
            while capture.grab():
                if stop.is_set():
                    return
                frame = None
                if number > done and number % every == 0:
                    found, frame = capture.retrieve()
                    frame = frame if found else None
                if frame is not None:
                    yield Shot(rgb(frame), number, str(number))
                number += 1
            self._check_end(number, capture.get(cv2.CAP_PROP_FRAME_COUNT))
        finally:
            capture.release()

    def _open(self) -> Any:
        capture = cv2.VideoCapture(str(self._path), cv2.CAP_FFMPEG)
        if not capture.isOpened():
            raise InputError(
                f"source {self._path}: not a video that can be read, or one that was cut off before its index was "
                "written; give another, or repair it with ffmpeg"
            )
        return capture

    def _check_end(self, frames: int, promised: float) -> None:
        if not frames:
            raise InputError(f"source {self._path}: no frame in it can be read; the video is damaged")
        if frames < _COUNT_IS_ABOUT * promised:
            log.warning(
                "%s: says %d frames, %d could be read and were used: the video is damaged or cut off",
                self._path, promised, frames,
            )  # fmt: skip


def rgb(frame: Any) -> Picture:
    """A frame (H, W, 3) as OpenCV gives it, in BGR, as RGB."""
    return np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def _decode(data: bytes) -> Picture | None:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB) if data else None
    return None if image is None else np.asarray(image, dtype=np.uint8)
