"""What a worker shows of itself over HTTP: whether it lives, whether it is ready, and its counts for Prometheus."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest

from components.core.errors import InputError

SILENT_SECONDS = 60.0  # without an image or another try, after which a worker counts as stuck
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class Metrics:
    """A worker's counts.

    Args:
        clock: seconds that only grow.

    Attributes:
        registry: all of them, for Prometheus.
        inference: seconds per image.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.registry = CollectorRegistry()
        self._clock, self._last_sign = clock, clock()
        self._counters = {
            name: Counter(f"edge_{name}", text, registry=self.registry) for name, text in _COUNTERS.items()
        }
        self._model = Info("edge_model", "The model in use", registry=self.registry)
        self.inference = Histogram(
            "edge_inference_seconds", "Time that the model takes for one image", buckets=_SECONDS,
            registry=self.registry,
        )  # fmt: skip

    def count(self, name: str, amount: float = 1) -> None:
        """Add to a counter; its name is without ``edge_`` and ``_total``. One that is not known is not counted."""
        if name in self._counters:
            self._counters[name].inc(amount)

    def show(self, name: str, text: str, value: Callable[[], float]) -> None:
        """Show a number that is asked for when somebody looks."""
        Gauge(f"edge_{name}", text, registry=self.registry).set_function(value)

    def value(self, name: str) -> float:
        """What has been counted."""
        return self.registry.get_sample_value(f"edge_{name}_total") or 0.0

    def show_model(self, version: str) -> None:
        """Say which model is in use."""
        self._model.info({"version": version})

    def alive(self) -> None:
        """The loop gives a sign of life."""
        self._last_sign = self._clock()

    @property
    def silence(self) -> float:
        """Seconds since the last sign of life."""
        return self._clock() - self._last_sign


@contextmanager
def served(port: int, metrics: Metrics, ready: Callable[[], bool]) -> Iterator[int]:
    """Answer ``/healthz``, ``/readyz`` and ``/metrics`` while the body runs.

    Args:
        port: of all interfaces; 0 for any that is free.
        metrics: what is shown.
        ready: whether a model is loaded.

    Yields:
        The port.

    Raises:
        InputError: the port is in use.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, kind, body = _answer(self.path.partition("?")[0], metrics, ready)
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass  # a probe every few seconds is no news

    try:
        server = ThreadingHTTPServer(("", port), Handler)
    except (OSError, OverflowError) as error:
        raise InputError(f"port {port} cannot be used ({error}): give another, or 0 for none") from error
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, name="health", daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _answer(path: str, metrics: Metrics, ready: Callable[[], bool]) -> tuple[int, str, bytes]:
    if path == "/metrics":
        return 200, CONTENT_TYPE_LATEST, generate_latest(metrics.registry)
    if path == "/healthz":
        silence = metrics.silence
        well, text = silence < SILENT_SECONDS, f"last sign of life {silence:.0f} s ago\n"
    elif path == "/readyz":
        well = ready()
        text = "a model is loaded\n" if well else "no model yet\n"
    else:
        return 404, "text/plain", b"there are /healthz, /readyz and /metrics\n"
    return (200 if well else 503), "text/plain", text.encode()


_COUNTERS = {
    "frames": "Images that the model has looked at",
    "failed_frames": "Images that no model or miner could look at",
    "hard": "Hard examples found",
    "audit": "Easy images picked for auditing",
    "duplicates": "Images left out since they are much like one kept before",
    "kept": "Images taken into the spool",
    "known": "Images that the spool had already",
    "full": "Images refused by a full spool or disk",
    "dropped": "Images dropped from a full spool",
    "damaged": "Images that broke in the spool",
    "uploaded": "Examples brought to the store",
    "bytes_uploaded": "Bytes brought to the store",
    "retries": "Tries to upload that failed",
    "model_swaps": "Models that came into use",
    "model_failures": "Models that could not be used",
}
