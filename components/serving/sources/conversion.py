"""Whether OpenCV converts the frames of a video; it reports success for every one of them, true or not.

An interlaced frame cannot be converted (FFmpeg's swscale: "Cannot convert interlaced to progressive frames"); the image
is then what its memory held before. That is said on standard error alone, so that is where it is looked for.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable
from typing import Any

from components.core.errors import InputError

FRAMES_BETWEEN = 100  # two looks; a stream can change
_GUARD = threading.Lock()
_STANDARD_ERROR = 2


def check_conversion(capture: Any, name: str) -> None:
    """Make sure that the frame just grabbed is converted.

    Args:
        capture: a ``cv2.VideoCapture``.
        name: of the source, for the message.

    Raises:
        InputError: it is interlaced.
    """
    if b"interlaced" in _said_by(capture.retrieve):
        raise InputError(
            f"source {name}: its frames are interlaced, which OpenCV cannot convert: set the camera to progressive "
            "(1080p, not 1080i), or convert the file with ffmpeg -i FILE -vf bwdif NEW.mp4"
        )


def _said_by(action: Callable[[], object]) -> bytes:
    """What is written to standard error while something is done; it is passed on afterwards."""
    with _GUARD, tempfile.TemporaryFile() as kept:
        before = os.dup(_STANDARD_ERROR)
        os.dup2(kept.fileno(), _STANDARD_ERROR)
        try:
            action()
        finally:
            os.dup2(before, _STANDARD_ERROR)
            os.close(before)
        said = os.pread(kept.fileno(), 1 << 16, 0)
        os.write(_STANDARD_ERROR, said)
        return said
