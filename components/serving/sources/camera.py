"""Cameras: read until stopped, opened again whenever they fall silent."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from typing import Any

import cv2

from components.core.backoff import Backoff
from components.core.errors import InputError
from components.core.stores.addresses import shown
from components.serving.sources.base import Shot, codec, rgb
from components.serving.sources.conversion import FRAMES_BETWEEN, check_conversion
from components.serving.sources.diagnosis import why_silent

OPEN_SECONDS = 10.0
READ_SECONDS = 10.0  # of silence, after which a camera counts as gone
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 30.0

log = logging.getLogger(__name__)


class CameraSource:
    """A camera of this machine, or a stream on the network.

    OpenCV scales frames to the size of the first one when their size changes within a connection.

    Args:
        address: the number of a camera, its device (``/dev/video0``), the address of a stream (``rtsp://...``), or a
            pipeline of GStreamer (``... ! appsink``).
        open_s: seconds after which a camera that does not answer is given up, and tried again.
        read_s: the same for one that sends no image any more.
        pause_s: first wait before it is tried again; each further one doubles, up to 30 s.

    Attributes:
        retries: how often it was opened again.
        read: how many images it has read.
    """

    live = True

    def __init__(
        self,
        address: int | str,
        *,
        open_s: float = OPEN_SECONDS,
        read_s: float = READ_SECONDS,
        pause_s: float = FIRST_PAUSE_SECONDS,
    ) -> None:
        self._address, self._open_s, self._pause_s = address, open_s, pause_s
        self._backend = _backend_for(address)
        self._limits = [
            cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, int(open_s * 1000), cv2.CAP_PROP_READ_TIMEOUT_MSEC, int(read_s * 1000),
        ]  # fmt: skip
        self.name = self.identity = f"camera {address}" if isinstance(address, int) else shown(address)
        self.retries = self.read = 0

    def shots(self, stop: threading.Event, after: str = "", every: int = 1) -> Iterator[Shot]:
        """The frames as they come, until ``stop`` is set; there is no going back ``after`` one."""
        number, backoff = 0, Backoff(self._pause_s, LONGEST_PAUSE_SECONDS)
        while not stop.is_set():
            reason = "the stream has ended"
            try:
                for frame in self._frames(stop):
                    self.read += 1
                    if number % every == 0:
                        yield Shot(rgb(frame), number, str(number))
                    number += 1
                    backoff.reset()
            except InputError as error:
                reason = str(error).removeprefix(f"source {self.name}: ")
            wait = backoff.next()
            if not stop.is_set():
                log.warning("%s: %s; opening it again in %.1f s", self.name, reason, wait)
            stop.wait(wait)
            self.retries += 1

    def _frames(self, stop: threading.Event) -> Iterator[Any]:
        """What one connection gives until it ends.

        Raises:
            InputError: it gives no frame, or none that can be used.
        """
        capture = self._open()
        try:
            number = 0
            while not stop.is_set():
                found, frame = capture.read()
                if not found and number:
                    return
                if not found:
                    raise InputError(self._why_no_frame(capture))
                if number % FRAMES_BETWEEN == 0:
                    check_conversion(capture, self.name)
                yield frame
                number += 1
        finally:
            capture.release()

    def _why_no_frame(self, capture: Any) -> str:
        if not isinstance(self._address, int) and self._backend != cv2.CAP_FFMPEG:
            return f"no frame: {self._address} does not exist, is in use, or gives no video"
        if isinstance(self._address, int):
            return "no frame: no such camera, another program uses it, or this user lacks permission to read it"
        if capture.isOpened():
            return f"no frame can be decoded (codec {codec(capture)}): set the camera to H.264 or H.265"
        return why_silent(self._address, self._open_s) or "no frame"

    def _open(self) -> Any:
        if self._backend == cv2.CAP_FFMPEG:
            return cv2.VideoCapture(self._address, self._backend, self._limits)
        return cv2.VideoCapture(self._address, self._backend)


def _backend_for(address: int | str) -> int:
    """What OpenCV is to open a camera with."""
    if isinstance(address, int):
        return int(cv2.CAP_ANY)
    if " ! " in address:
        return int(cv2.CAP_GSTREAMER)
    return int(cv2.CAP_V4L2 if address.startswith("/dev/") else cv2.CAP_FFMPEG)
