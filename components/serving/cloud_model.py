"""The big model behind a bounded queue: as many requests as there is room for, few images at a time, none too late."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from components.core.runtimes.base import decoder_of
from components.core.runtimes.letterbox import ImageArray
from components.core.wire import Answer
from components.serving.active_model import ActiveModel, LoadedModel
from components.serving.cloud_metrics import CloudMetrics
from components.serving.inference import ModelRunner

STUCK_SECONDS = 60.0  # with one image, after which the server counts as stuck
LANES = {"onnx": 3}  # images that a runtime looks at at a time; one where its models may be for one thread alone
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

    The networks of bundles take one image at a time, and ONNX Runtime spreads each over all processors, a part of which
    idles for want of work. So requests are not batched, which saves nothing on a processor: a few threads each decode
    an image and run the same model on it.

    Args:
        active: the model in use.
        metrics: counts.
        room: requests that may be under way at a time, those that the model works at among them.
        lanes: images that the model looks at at a time.
    """

    def __init__(self, active: ActiveModel, metrics: CloudMetrics, room: int, lanes: int = 1) -> None:
        self.active, self.room, self._metrics, self._lanes = active, room, metrics, lanes
        self.under_way = 0
        self._runner = ModelRunner(active, metrics.inference.time)
        self._pool = ThreadPoolExecutor(lanes, thread_name_prefix="model")
        self._since: dict[int, float] = {}  # when each thread began with its image
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
        since = min(self._since.copy().values(), default=math.inf)
        return time.monotonic() - since > STUCK_SECONDS

    @contextmanager
    def place(self) -> Iterator[None]:
        """A place in the queue while the body runs.

        Raises:
            BusyError: the queue is full, or there is no model yet.
        """
        if self.model is None:
            raise BusyError("no model is loaded yet", 5)
        if self.under_way >= self.room:
            wait = max(1, math.ceil(self.room * self._mean_s / self._lanes))
            raise BusyError(f"{self.under_way} requests are already in progress", wait)
        self.under_way += 1
        try:
            yield
        finally:
            self.under_way -= 1

    async def answer(self, read: Callable[[], ImageArray]) -> Answer:
        """What the model finds; a request that is cancelled before its turn costs nothing.

        Args:
            read: gives the image; called in its turn in another thread, so that few images lie decoded at a time.

        Raises:
            FailedInferenceError: the model cannot look at this image.
            BusyError: there is no model any more.
            InputError: whatever ``read`` raises.
        """
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._infer, read)

    def close(self) -> None:
        """End the threads, after the images in hand."""
        self._pool.shutdown(cancel_futures=True)

    def _infer(self, read: Callable[[], ImageArray]) -> Answer:
        lane = threading.get_ident()
        self._since[lane] = started = time.monotonic()
        try:
            image = read()
            model = self.active.next()
            if model is None:
                raise BusyError("the model was unloaded", 5)
            if model.version != self._shown:
                self._shown = model.version
                self._metrics.show_model(model.version, model.cached.digest, model.detector.bundle.classes)
            seen = self._runner.look(image)
        finally:
            del self._since[lane]
            self._mean_s += _SMOOTHING * (time.monotonic() - started - self._mean_s)
        if isinstance(seen, str):
            raise FailedInferenceError(seen)
        used = seen.model
        boxes = decoder_of(used.detector.bundle).boxes(seen.found)
        if boxes is None:
            raise FailedInferenceError(f"model {used.version} is for {used.detector.bundle.task} and gives no boxes")
        classes = used.detector.bundle.classes
        self._metrics.count_objects([classes[index] for index in boxes.classes.tolist()])
        return Answer.of(boxes, image, used.version, used.cached.digest, classes)
