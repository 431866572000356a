"""Hard frames that the cloud did not answer, sent again when it is back, in a thread beside the loop.

They wait in memory, the oldest first, and are given up where there is no room for newer ones, where the server says
that it cannot answer for an image, or with the end of the worker. So::

    joint_waited = joint_late_answered + joint_late_dropped + those that wait

What a hard example is kept for does not depend on this: it is spooled and uploaded whether it was answered or not.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from components.core.errors import InputError
from components.core.runtimes.letterbox import ImageArray
from components.serving.cloud_client import CloudError
from components.serving.mining import Inference
from components.serving.offload import JointInference

_TURN_SECONDS = 0.2


class Resubmission:
    """Sends frames again.

    Args:
        joint: asks the cloud, within its bandwidth.
        max_bytes: of the frames that wait.
        answered: takes an inference with its late answer; its image is what was sent of the frame, or black.
        count: told of ``joint_waited``, ``joint_late_...``.
    """

    def __init__(
        self,
        joint: JointInference,
        max_bytes: int,
        answered: Callable[[Inference], None],
        count: Callable[[str], None],
    ) -> None:
        self._joint, self._max_bytes, self._answered, self._count = joint, max_bytes, answered, count
        self._waiting: deque[Inference] = deque()
        self._bytes, self._lock = 0, threading.Lock()

    def __len__(self) -> int:
        """How many frames wait, the one that is being sent among them."""
        return len(self._waiting)

    def put(self, seen: Inference) -> None:
        """Take a frame that got no answer; others are let go by."""
        if seen.joint is None or seen.joint.unsent is None or seen.model is None:
            return
        black = np.broadcast_to(np.uint8(0), seen.shot.image.shape)  # has the size, but takes no memory
        with self._lock:
            self._waiting.append(replace(seen, shot=replace(seen.shot, image=black, original=None)))
            self._bytes += _size(seen)
            self._count("joint_waited")
            while self._bytes > self._max_bytes and len(self._waiting) > 1:
                self._drop(self._waiting[0])

    def run(self, stop: threading.Event) -> None:
        """Send what waits, until ``stop`` is set."""
        while not stop.wait(0.0 if self._turn() else _TURN_SECONDS):
            pass

    def _turn(self) -> bool:
        """Send the oldest frame, if that may be; whether it is done with."""
        with self._lock:
            oldest = self._waiting[0] if self._waiting else None
        if oldest is None or not self._joint.may_ask_again():
            return False
        assert oldest.joint is not None and oldest.model is not None
        try:
            result = self._joint.ask_again(oldest.joint, oldest.model.detector.bundle.classes)
        except CloudError as error:
            with self._lock:
                if error.refused:
                    self._drop(oldest)
            return error.refused
        with self._lock:
            if self._take(oldest):
                self._count("joint_late_answered")
                self._answered(replace(oldest, shot=replace(oldest.shot, image=_sent(oldest)), joint=result))
        return True

    def _drop(self, seen: Inference) -> None:
        if self._take(seen):
            self._count("joint_late_dropped")

    def _take(self, seen: Inference) -> bool:
        """Take a frame out, if it is the oldest still."""
        if not self._waiting or self._waiting[0] is not seen:
            return False
        self._bytes -= _size(self._waiting.popleft())
        return True


def _sent(seen: Inference) -> ImageArray:
    """What was sent of a frame, in the frame's size; all black if it cannot be read."""
    assert seen.joint is not None and seen.joint.unsent is not None
    height, width = seen.shot.image.shape[:2]
    try:
        return seen.joint.unsent.as_frame(width, height)
    except InputError:
        return seen.shot.image


def _size(seen: Inference) -> int:
    assert seen.joint is not None and seen.joint.unsent is not None
    return len(seen.joint.unsent.data)
