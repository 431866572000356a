"""What the cloud server counts and measures, for Prometheus."""

from __future__ import annotations

from collections import Counter as Counts
from collections.abc import Callable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info

_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class CloudMetrics:
    """The server's counts.

    Attributes:
        registry: all of them, for Prometheus.
        inference: seconds of the model for one image.
        answered: seconds from a request's headers to its answer.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "cloud_requests", "Requests for a prediction, by status", ["code"], registry=self.registry
        )
        self._bytes = Counter("cloud_received_bytes", "Bytes of the images received", registry=self.registry)
        self._changes = Counter("cloud_model_changes", "Models activated and failed", ["event"], registry=self.registry)
        self._model = Info("cloud_model", "The model in use", registry=self.registry)
        self._objects = Counter("cloud_objects", "Objects found, by class", ["class"], registry=self.registry)
        self.inference = Histogram(
            "cloud_inference_seconds", "Inference time for one image", buckets=_BUCKETS, registry=self.registry
        )
        self.answered = Histogram(
            "cloud_request_seconds", "Time from a request to its answer", buckets=_BUCKETS, registry=self.registry
        )

    def count_request(self, code: int, size: int) -> None:
        """Count a request for a prediction, by its HTTP status and the bytes that came with it."""
        self._requests.labels(str(code)).inc()
        self._bytes.inc(size)

    def count_change(self, event: str) -> None:
        """Count ``model_swaps`` and ``model_failures``."""
        self._changes.labels(event).inc()

    def count_objects(self, names: Sequence[str]) -> None:
        """Count objects by the names of their classes."""
        for name, count in Counts(names).items():
            self._objects.labels(name).inc(count)

    def show_model(self, version: str, digest: str, classes: Sequence[str]) -> None:
        """Say which model is in use; each of its classes has a count from now on."""
        self._model.info({"version": version, "digest": digest})
        for name in classes:
            self._objects.labels(name)

    def show_queue(self, length: Callable[[], float]) -> None:
        """Show how many requests are under way when somebody looks."""
        Gauge("cloud_requests_waiting", "Requests under way", registry=self.registry).set_function(length)

    def requests(self, code: int) -> float:
        """How many requests ended with an HTTP status."""
        return self.registry.get_sample_value("cloud_requests_total", {"code": str(code)}) or 0.0
