"""The frames of a video file."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2

from components.core.errors import InputError
from components.serving.sources.base import Shot, codec, rgb
from components.serving.sources.conversion import FRAMES_BETWEEN, check_conversion

log = logging.getLogger(__name__)

_COUNT_IS_ABOUT = 0.98  # containers that do not count their frames are off by a few


class VideoSource:
    """The frames of a video file.

    OpenCV scales frames to the size of the first one when their size changes within the video.

    Raises:
        InputError: it is empty, or not a video that can be read.
    """

    live = False
    retries = 0

    def __init__(self, path: Path) -> None:
        self._path, self.read = path, 0
        self.name = str(path)
        status = path.stat()
        self.identity = f"{path} {status.st_size} {status.st_mtime_ns}"
        if not status.st_size:
            raise InputError(f"source {path}: the file is empty; give a video")
        capture = self._open()
        if not capture.grab():
            raise self._no_frame(capture)
        check_conversion(capture, self.name)
        capture.release()

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
                self.read += 1
                frame = None
                if number > done and number % every == 0:
                    found, frame = capture.retrieve()
                    frame = frame if found else None
                if number % FRAMES_BETWEEN == 0:
                    check_conversion(capture, self.name)
                if frame is not None:
                    yield Shot(rgb(frame), number, str(number))
                number += 1
            if not number:
                raise self._no_frame(capture)
            self._check_end(number, capture.get(cv2.CAP_PROP_FRAME_COUNT))
        finally:
            capture.release()

    def _open(self) -> Any:
        capture = cv2.VideoCapture(str(self._path), cv2.CAP_FFMPEG)
        if not capture.isOpened():
            raise InputError(
                f"source {self._path}: not a readable video, or cut off before its index was "
                "written; give another, or repair it with ffmpeg"
            )
        return capture

    def _no_frame(self, capture: Any) -> InputError:
        return InputError(
            f"source {self._path}: no frame in it can be read: it is damaged, or this OpenCV has no decoder for its "
            f"codec {codec(capture)}; convert it with ffmpeg -i FILE -c:v libx264 NEW.mp4"
        )

    def _check_end(self, frames: int, promised: float) -> None:
        if frames < _COUNT_IS_ABOUT * promised:
            log.warning(
                "%s: has %d frames by its header, %d could be read and were used: the video is damaged or cut off",
                self._path, promised, frames,
            )  # fmt: skip
