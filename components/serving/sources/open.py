"""Where images come from: a video, a folder, a camera.

A finite source (video, folder) gives each of its images once, in an order that is the same every time, so that a
worker that was killed goes on after the last one it had finished. A live one (camera, RTSP) gives what is there now.
"""

from __future__ import annotations

import logging
import re

from components.core.errors import InputError
from components.core.stores.addresses import folder_at, shown
from components.serving.sources.base import Source
from components.serving.sources.folder import FolderSource
from components.serving.sources.video import VideoSource

log = logging.getLogger(__name__)


def open_source(address: str) -> Source:
    """The source at an address.

    Args:
        address: a video file, a folder of images, ``rtsp://...``, or the number of a camera.

    Raises:
        InputError: there is nothing there, or it is neither.
    """
    if address.isdigit() or re.match(r"(?i)rtsps?://", address):
        from components.serving.sources.camera import LiveSource

        return LiveSource(int(address) if address.isdigit() else address)
    path = folder_at(address)
    if path.is_dir():
        return FolderSource(path)
    if path.is_file():
        return VideoSource(path)
    raise InputError(
        f"source {shown(address)}: no such file or folder; give a video, a folder of images, rtsp://... or the "
        "number of a camera"
    )
