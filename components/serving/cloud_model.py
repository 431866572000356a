"""The big model behind a bounded queue: as many requests as there is room for, one image at a time, none too late."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from starlette.concurrency import run_in_threadpool

from components.core.runtimes.base import decoder_of
from components.core.runtimes.letterbox import ImageArray
from components.core.wire import Answer
from components.serving.active_model import ActiveModel, LoadedModel
from components.serving.cloud_metrics import CloudMetrics
from components.serving.inference import ModelRunner

STUCK_SECONDS = 60.0  # with one image, after which the server counts as stuck
_DECODED = 2  # images in memory: the one in hand, and the next
_SMOOTHING = 0.1  # of the mean time per image


class BusyError(Exception):
    """There is no room for another request.

    Attributes:
        retry_after_s: seconds after which there should be.
    """

    def __init__(self, reason: str, retry_after_s: int) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


class FailedInferenceError(Exception):
    """The model cannot look at this image."""


class CloudModel:
    """Answers with the active model.

    The networks of bundles take one image at a time, and ONNX Runtime spreads each over all processors. So requests
    are not batched: one thread runs the model, and others decode the next images meanwhile.

    Args:
        active: the model in use.
        metrics: counts.
        room: requests that may be under way at a time, the one that the model works at among them.
    """

    def __init__(self, active: ActiveModel, metrics: CloudMetrics, room: int) -> None:
        self.active, self.room, self._metrics = active, room, metrics
        self.under_way = 0
        self._runner = ModelRunner(active, metrics.inference.time)
        self._lane = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._decoded = asyncio.Semaphore(_DECODED)
        self._since: float | None = None
        self._mean_s = 0.1
        self._shown = ""
        metrics.show_queue(lambda: self.under_way)

    @property
    def model(self) -> LoadedModel | None:
        """The model for the next image."""
        return self.active.coming

    @property
    def stuck(self) -> bool:
        """Whether the model has been at one image for longer than it can take."""
        since = self._since
        return since is not None and time.monotonic() - since > STUCK_SECONDS

    @contextmanager
    def place(self) -> Iterator[None]:
        """A place in the queue while the body runs.

        Raises:
            BusyError: the queue is full, or there is no model yet.
        """
        if self.model is None:
            raise BusyError("no model is loaded yet", 5)
        if self.under_way >= self.room:
            wait = max(1, math.ceil(self.room * self._mean_s))
            raise BusyError(f"{self.under_way} requests are already in progress", wait)
        self.under_way += 1
        try:
            yield
        finally:
            self.under_way -= 1

    async def answer(self, read: Callable[[], ImageArray]) -> Answer:
        """What the model finds; a request that is cancelled before its turn costs nothing.

        Args:
            read: gives the image; called in its turn, so that few images lie decoded at a time.

        Raises:
            FailedInferenceError: the model cannot look at this image.
            BusyError: there is no model any more.
            InputError: whatever ``read`` raises.
        """
        async with self._decoded:
            image = await run_in_threadpool(read)
            return await asyncio.get_running_loop().run_in_executor(self._lane, self._infer, image)

    def close(self) -> None:
        """End the thread, after the image in hand."""
        self._lane.shutdown(cancel_futures=True)

    def _infer(self, image: ImageArray) -> Answer:
        self._since = started = time.monotonic()
        try:
            model = self.active.next()
            if model is None:
                raise BusyError("the model was unloaded", 5)
            if model.version != self._shown:
                self._shown = model.version
                self._metrics.show_model(model.version, model.cached.digest)
            seen = self._runner.look(image)
        finally:
            self._since = None
            self._mean_s += _SMOOTHING * (time.monotonic() - started - self._mean_s)
        if isinstance(seen, str):
            raise FailedInferenceError(seen)
        used = seen.model
        boxes = decoder_of(used.detector.bundle).boxes(seen.found)
        if boxes is None:
            raise FailedInferenceError(f"model {used.version} is for {used.detector.bundle.task} and gives no boxes")
        return Answer.of(boxes, image, used.version, used.cached.digest, used.detector.bundle.classes)
