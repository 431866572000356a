"""Where images come from: a video, a folder, a camera.

A finite source (video, folder) gives each of its images once, in an order that is the same every time, so that a
worker that was killed goes on after the last one it had finished. A live one (camera, stream) gives what is there now.
"""

from __future__ import annotations

import cv2

from components.core.errors import InputError
from components.core.stores.addresses import folder_at, shown
from components.serving.sources.base import Source
from components.serving.sources.camera import CameraSource
from components.serving.sources.folder import FolderSource
from components.serving.sources.video import VideoSource

STREAMS = ("rtsp", "rtsps", "http", "https", "rtmp", "rtmps", "udp", "rtp", "srt")
_POSSIBLE = (
    "a video file, a folder of images, the number of a camera (0) or its device (/dev/video0), or a stream "
    f"({', '.join(f'{scheme}://' for scheme in STREAMS)})"
)


def open_source(address: str) -> Source:
    """The source at an address.

    Args:
        address: a video file, a folder of images, the number or the device of a camera of this machine, the address of
            a stream, or, where OpenCV was built with it, a pipeline of GStreamer.

    Raises:
        InputError: there is nothing there, or it is none of these.
    """
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)  # sources themselves say what OpenCV warns of
    scheme = address.partition("://")[0].lower() if "://" in address else ""
    if address.isdigit():
        return CameraSource(int(address))
    if address.startswith("/dev/") or scheme in STREAMS:
        return CameraSource(address)
    if " ! " in address:
        return _pipeline(address)
    if scheme not in ("", "file"):
        raise InputError(f"source {shown(address)}: {scheme}:// is not supported; give {_POSSIBLE}")
    path = folder_at(address)
    if path.is_dir():
        return FolderSource(path)
    if path.is_file():
        return VideoSource(path)
    raise InputError(f"source {shown(address)}: no such file or folder; give {_POSSIBLE}")


def _pipeline(address: str) -> Source:
    if not cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER):
        raise InputError(
            f"source {address!r}: this OpenCV is built without GStreamer; give the camera's own device or address, "
            "such as /dev/video0 or rtsp://..., or install an OpenCV with GStreamer"
        )
    return CameraSource(address)
