"""What a worker counts and measures, as Prometheus metrics."""

from __future__ import annotations

import time
from collections import Counter as Counts
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info

LATENCIES_KEPT = 1000  # inferences over which the percentiles of the latency are taken
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)  # seconds


class Metrics:
    """A worker's metrics.

    Args:
        clock: seconds that only grow.

    Attributes:
        registry: all of them, for Prometheus.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.registry = CollectorRegistry()
        self._clock, self._last_sign = clock, clock()
        self._counters = {
            name: Counter(f"edge_{name}", text, registry=self.registry) for name, text in COUNTERS.items()
        }
        self._model = Info("edge_model", "The model in use", registry=self.registry)
        self._objects = Counter(
            "edge_objects", "Objects in the results that count, by class", ["class"], registry=self.registry
        )
        self._inference = self._timer("inference", "one inference")
        self._cloud = self._timer("joint_cloud", "one request to the cloud")

    def count(self, name: str, amount: float = 1) -> None:
        """Add to a counter; its name is without ``edge_`` and ``_total``."""
        self._counters[name].inc(amount)

    def show(self, name: str, text: str, value: Callable[[], float]) -> None:
        """Show a number, which is asked for at each scrape."""
        Gauge(f"edge_{name}", text, registry=self.registry).set_function(value)

    def value(self, name: str) -> float:
        """What has been counted."""
        return self.registry.get_sample_value(f"edge_{name}_total") or 0.0

    def inference(self) -> AbstractContextManager[None]:
        """Measure one inference: the body."""
        return self._inference.measure()

    def cloud(self) -> AbstractContextManager[None]:
        """Measure one question to the cloud: the body."""
        return self._cloud.measure()

    def latency(self, percent: float) -> float:
        """A percentile of the latest inferences, in seconds; 0 before the first."""
        return self._inference.percentile(percent)

    def count_objects(self, names: Sequence[str]) -> None:
        """Count objects by the names of their classes."""
        for name, count in Counts(names).items():
            self._objects.labels(name).inc(count)

    def show_model(self, version: str, classes: Sequence[str]) -> None:
        """Say which model is in use; each of its classes has a count from now on."""
        self._model.info({"version": version})
        for name in classes:
            self._objects.labels(name)

    def alive(self) -> None:
        """The loop gives a sign of life."""
        self._last_sign = self._clock()

    @property
    def silence(self) -> float:
        """Seconds since the last sign of life."""
        return self._clock() - self._last_sign

    def _timer(self, name: str, what: str) -> _Timer:
        """A histogram and percentiles of how long something takes."""
        histogram = Histogram(f"edge_{name}_seconds", f"Time of {what}", buckets=_BUCKETS, registry=self.registry)
        timer = _Timer(histogram)
        for percent in (50, 95):
            text = f"{percent}th percentile of the last {LATENCIES_KEPT} times of {what}"
            self.show(f"{name}_p{percent}_seconds", text, partial(timer.percentile, percent))
        return timer


class _Timer:
    """How long something takes: as a histogram since the start, and percentiles of the latest."""

    def __init__(self, histogram: Histogram) -> None:
        self._histogram = histogram
        self._latest: deque[float] = deque(maxlen=LATENCIES_KEPT)

    @contextmanager
    def measure(self) -> Iterator[None]:
        """Measure the body."""
        start = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - start
            self._histogram.observe(seconds)
            self._latest.append(seconds)

    def percentile(self, percent: float) -> float:
        """In seconds; 0 before the first."""
        latest = list(self._latest)
        return float(np.percentile(latest, percent)) if latest else 0.0


COUNTERS = {
    "frames": "Frames inferred",
    "failed_frames": "Frames for which inference failed",
    "easy": "Inferred frames that are neither hard nor unseen nor picked for auditing",
    "hard": "Hard examples found",
    "audit": "Easy frames picked for auditing",
    "unseen": "Frames of no task that the knowledge base knows",
    "unmined": "Inferred frames that the miner failed on",
    "duplicates": "Hard, audit and unseen frames skipped as near-duplicates",
    "withheld": "Hard, audit and unseen frames that the privacy filter did not let pass",
    "kept": "Hard, audit and unseen frames added to the spool",
    "known": "Hard, audit and unseen frames already in the spool or the store",
    "full": "Hard, audit and unseen frames refused by a full spool or disk",
    "unkept": "Hard, audit and unseen frames that the privacy filter failed on, or that could not be written",
    "dropped": "Examples dropped from a full spool",
    "damaged": "Examples whose files were damaged in the spool",
    "uploaded": "Examples uploaded to the store",
    "bytes_uploaded": "Bytes uploaded to the store",
    "retries": "Uploads that failed and were tried again",
    "sink_written": "Results written to a sink",
    "sink_failed": "Results a sink failed to write",
    "sink_dropped": "Results dropped because a sink was too slow or failing",
    "joint_frames": "Frames of joint inference",
    "joint_easy": "Frames that the miner calls easy",
    "joint_hard": "Frames that the miner calls hard: sent or kept",
    "joint_sent": "Hard frames sent to the cloud: answered or failed",
    "joint_kept": "Hard frames not sent: unchanged, over budget, or with the circuit open",
    "joint_unchanged": "Hard frames not sent because they look like the last one sent",
    "joint_over_budget": "Hard frames not sent because of the bandwidth limit",
    "joint_circuit_open": "Hard frames not sent because the circuit breaker is open",
    "joint_answered": "Hard frames that the cloud answered",
    "joint_failed": "Hard frames sent that got no usable answer",
    "joint_bytes_sent": "Bytes of images sent to the cloud",
    "joint_waited": "Hard frames without an answer, kept to be sent again",
    "joint_late_answered": "Hard frames that the cloud answered when they were sent again",
    "joint_late_dropped": "Hard frames not sent again: no room for them, or refused by the cloud",
    "node_conflicts": "Other workers found to use this worker's name",
    "model_swaps": "Models activated",
    "model_failures": "Models that failed",
    "model_loads": "Models of a knowledge base loaded into memory",
    "model_evictions": "Models of a knowledge base removed from memory for another",
}
