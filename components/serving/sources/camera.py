"""Cameras: read until told to stop, opened again whenever they fall silent."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from typing import Any

import cv2

from components.core.backoff import Backoff
from components.core.stores.addresses import shown
from components.serving.sources.base import Shot, rgb

OPEN_SECONDS = 10.0
READ_SECONDS = 10.0  # of silence, after which a camera counts as gone
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 30.0

log = logging.getLogger(__name__)


class LiveSource:
    """A camera of this machine, or one that speaks RTSP.

    Args:
        address: the number of a camera, or ``rtsp://...``.
        open_s: seconds after which a camera that does not answer is given up, and tried again.
        read_s: the same for one that sends no image any more.
        pause_s: first wait before it is tried again; each further one doubles, up to 30 s.

    Attributes:
        retries: how often it was opened again.
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
        self._address, self._pause_s = address, pause_s
        self._limits = [
            cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, int(open_s * 1000), cv2.CAP_PROP_READ_TIMEOUT_MSEC, int(read_s * 1000),
        ]  # fmt: skip
        self.name = self.identity = f"camera {address}" if isinstance(address, int) else shown(address)
        self.retries = 0

    def shots(self, stop: threading.Event, after: str = "", every: int = 1) -> Iterator[Shot]:
        """The images as they come, until ``stop`` is set; there is no going back ``after`` one."""
        number, backoff = 0, Backoff(self._pause_s, LONGEST_PAUSE_SECONDS)
        while not stop.is_set():
            for frame in self._frames(stop):
                if number % every == 0:
                    yield Shot(rgb(frame), number, str(number))
                number += 1
                backoff.reset()
            wait = backoff.next()
            if not stop.is_set():
                log.warning("%s: no image; opening it again in %.1f s", self.name, wait)
            stop.wait(wait)
            self.retries += 1

    def _frames(self, stop: threading.Event) -> Iterator[Any]:
        """What one connection gives until it ends."""
        capture = self._open()
        try:
            while not stop.is_set():
                found, frame = capture.read()
                if not found:
                    return
                yield frame
        finally:
            capture.release()

    def _open(self) -> Any:
        if isinstance(self._address, int):
            return cv2.VideoCapture(self._address)
        return cv2.VideoCapture(self._address, cv2.CAP_FFMPEG, self._limits)
