"""The frames with their boxes drawn or their masks painted, as a video."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np

from components.core.colours import paint
from components.core.errors import InputError
from components.core.stores.transfer import os_errors
from components.serving.sinks.base import Result, sinks
from components.serving.sinks.rotation import make_room

FPS = 25  # frames a second when it is played; the source's own rate is not known
MAX_FRAMES = 15_000  # of one file, 10 minutes; the one before it is kept, too
_ENCODINGS = {".mp4": "mp4v", ".avi": "MJPG"}


@sinks.register("video")
class BoxVideo:
    """A video at 25 frames a second. After 15,000 frames it is renamed, with ``.1`` before its suffix, and begun anew.

    A frame of another size than the first is scaled to that.

    Args:
        target: the file, ``.mp4`` or ``.avi``; what was there is replaced.
        max_frames: of one file.

    Raises:
        InputError: another suffix, or a folder that cannot be written.
    """

    needs_image = takes_masks = True

    def __init__(self, target: str, max_frames: int = MAX_FRAMES) -> None:
        self._path, self._max_frames = Path(target).expanduser(), max_frames
        if self._path.suffix.lower() not in _ENCODINGS:
            raise InputError(f"sink video:{target}: give a file that ends in .mp4 or .avi")
        with os_errors(f"sink video:{target}"):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.open("ab").close()
        self._writer: Any = None
        self._size = (0, 0)
        self._frames = 0

    def write(self, result: Result) -> None:
        """Draw and append one frame."""
        if self._frames >= self._max_frames:
            self.close()
            make_room(self._path)
        if self._writer is None:
            self._begin(result.width, result.height)
        frame = drawn(result)
        if (result.width, result.height) != self._size:
            frame = cv2.resize(frame, self._size)
        self._writer.write(frame)
        self._frames += 1

    def close(self) -> None:
        """Finish the file."""
        if self._writer is not None:
            self._writer.release()
        self._writer = None

    def _begin(self, width: int, height: int) -> None:
        code = cv2.VideoWriter.fourcc(*_ENCODINGS[self._path.suffix.lower()])
        self._writer = cv2.VideoWriter(str(self._path), cv2.CAP_FFMPEG, code, FPS, (width, height))
        self._size, self._frames = (width, height), 0
        if not self._writer.isOpened():
            self._writer = None
            raise InputError(f"sink video:{self._path}: a video of {width} x {height} pixels cannot be written")


def drawn(result: Result) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The frame in BGR, as OpenCV writes it, its mask in colours and each box with its class and score."""
    assert result.image is not None
    painted = result.image if result.mask is None else paint(result.image, result.mask)
    frame = cv2.cvtColor(painted, cv2.COLOR_RGB2BGR)
    thickness = max(1, round(max(result.width, result.height) / 640))
    found = result.detections
    for box, score, index in zip(found.boxes.tolist(), found.scores.tolist(), found.classes.tolist(), strict=True):
        x1, y1, x2, y2 = (round(side) for side in box)
        colour = _COLOURS[index % len(_COLOURS)]
        cv2.rectangle(frame, (x1, y1), (x2, y2), colour, thickness)
        text = f"{result.classes[index]} {score:.2f}"
        (wide, high), base = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.5 * thickness, thickness)
        left, bottom = max(0, min(x1, result.width - wide)), max(high + base, y1)  # inside the frame
        cv2.rectangle(frame, (left, bottom - high - base), (left + wide, bottom), colour, cv2.FILLED)
        cv2.putText(
            frame, text, (left, bottom - base), cv2.FONT_HERSHEY_SIMPLEX, 0.5 * thickness, (255, 255, 255), thickness
        )
    return np.asarray(frame, dtype=np.uint8)


_COLOURS = ((40, 39, 214), (180, 119, 31), (44, 160, 44), (14, 127, 255), (189, 103, 148), (75, 86, 140))  # BGR
