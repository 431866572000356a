"""The way from the loop to a sink: a queue with an end, and a thread that a slow or broken sink may block."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Self

from components.core.backoff import Backoff
from components.core.detections import Detections
from components.core.runtimes.base import decoder_of
from components.core.stores.addresses import shown
from components.serving.mining import Inference
from components.serving.sinks.base import Result, Sink, open_sink
from components.serving.smoke_test import one_line

RESULTS_WAITING = 1000  # at most, for a sink that needs no images
IMAGES_WAITING = 8  # at most, for one that gets them, or masks: some megabytes each
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 60.0
_PATIENCE_SECONDS = 5.0

log = logging.getLogger(__name__)


class Outlet:
    """Hands results to one sink, in their order, in a separate thread.

    What a live source gives never waits here: when the queue is full, its oldest result is dropped and counted. The
    frames of a file wait for a sink that works. After a failure the sink gets a pause, a longer one each time.

    Args:
        name: of the sink, as messages show it.
        sink: what takes the results.
        live: whether the results are those of a live source.
        count: called for ``sink_written``, ``sink_failed`` and ``sink_dropped`` results.
    """

    def __init__(self, name: str, sink: Sink, *, live: bool, count: Callable[[str], None] = lambda _: None) -> None:
        self._name, self._sink, self._live, self._count = name, sink, live, count
        self._waiting: deque[Result] = deque()
        self._max_waiting = RESULTS_WAITING
        self._changed = threading.Condition()
        self._closing = False
        self._backoff = Backoff(FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS)
        self._failing = False
        self._thread = threading.Thread(target=self._run, name=f"sink {name}", daemon=True)
        self._thread.start()

    def put(self, result: Result) -> None:
        """Leave a result for the sink."""
        with self._changed:
            large = result.image is not None or result.mask is not None
            self._max_waiting = IMAGES_WAITING if large else RESULTS_WAITING
            if not self._live:
                self._changed.wait_for(self._has_room, _PATIENCE_SECONDS)
            if len(self._waiting) >= self._max_waiting:
                self._waiting.popleft()
                self._count("sink_dropped")
            self._waiting.append(result)
            self._changed.notify_all()

    def close(self, timeout_s: float = _PATIENCE_SECONDS) -> bool:
        """Wait for what is in the queue, and close the sink; whether it was done in that time."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _has_room(self) -> bool:
        return len(self._waiting) < self._max_waiting or self._failing

    def _run(self) -> None:
        while (result := self._next()) is not None:
            try:
                self._sink.write(result)
            except Exception as error:  # of a broker, a disk or a plug-in; the worker must not end
                self._failed(error)
            else:
                self._failing = False
                self._backoff.reset()
                self._count("sink_written")
        try:
            self._sink.close()
        except Exception as error:
            log.warning("sink %s: %s", self._name, one_line(error))

    def _next(self) -> Result | None:
        """The next result; None at the end. At the end a sink that fails gets no more."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closing)
            if self._closing and self._failing:
                for _ in range(len(self._waiting)):
                    self._count("sink_dropped")
                self._waiting.clear()
            if not self._waiting:
                return None
            self._changed.notify_all()
            return self._waiting.popleft()

    def _failed(self, error: Exception) -> None:
        self._count("sink_failed")
        if not self._failing:
            log.warning(
                "sink %s: %s; trying again, results that do not fit in the queue are dropped",
                self._name,
                one_line(error),
            )
        with self._changed:
            self._failing = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._closing, self._backoff.next())


class Outlets:
    """The sinks of a worker; as a context, they are closed with its end.

    Args:
        addresses: of the sinks.
        node: the worker.
        source: its name.
        live: whether the source is live.
        count: called for ``sink_written``, ``sink_failed`` and ``sink_dropped`` results.

    Raises:
        InputError: a sink that cannot be.
    """

    def __init__(
        self, addresses: Sequence[str], node: str, source: str, *, live: bool, count: Callable[[str], None]
    ) -> None:
        self._node, self._source = node, source
        opened = [(_name(address), open_sink(address)) for address in addresses]
        self._outlets = [(name, sink, Outlet(name, sink, live=live, count=count)) for name, sink in opened]
        self._without_masks: set[str] = set()  # sinks of which that has been said

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        for _, _, outlet in self._outlets:
            outlet.close()

    def put(self, seen: Inference) -> None:
        """Leave what a model found in a frame for every sink; a frame without an inference is left out.

        A frame on which a knowledge base abstains goes there too, with the reason; a late answer goes to the sinks that
        take late ones, or need no images.
        """
        if seen.model is None or not (seen.has_result or seen.is_unseen):
            return
        found = seen.final or Detections.none()
        shot, now = seen.shot, datetime.now(UTC)
        height, width = shot.image.shape[:2]
        bundle = seen.model.detector.bundle
        decoder = decoder_of(bundle)
        summary = {} if seen.found is None else decoder.summary(seen.found, bundle.classes)
        mask = None if seen.found is None else decoder.mask(seen.found)
        late = seen.joint is not None and seen.joint.late
        for name, sink, outlet in self._outlets:
            if late and sink.needs_image and not getattr(sink, "takes_late", False):
                continue
            takes_masks = getattr(sink, "takes_masks", False)
            if mask is not None and not takes_masks:
                self._say_without_masks(name)
            outlet.put(
                Result(
                    time=now, node=self._node, source=self._source, frame=shot.number, model=seen.version,
                    classes=bundle.classes, detections=found, width=width, height=height,
                    image=shot.image if sink.needs_image else None, joint=seen.joint, summary=summary,
                    mask=mask if takes_masks else None, route=seen.route,
                )
            )  # fmt: skip

    def _say_without_masks(self, name: str) -> None:
        """Say once of a sink that it gets no masks."""
        if name not in self._without_masks:
            self._without_masks.add(name)
            log.warning("sink %s takes no masks: it gets the fraction of the pixels of each class alone", name)


def _name(address: str) -> str:
    """A sink as messages show it: ``webhook:https://user:password@host`` without the user and password."""
    kind, _, target = address.partition(":")
    return shown(address) if target.startswith("//") else f"{kind}:{shown(target)}"
