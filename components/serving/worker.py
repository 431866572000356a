"""One worker, put together: the loop in this thread; source, updater and uploader in threads of their own."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from components.core import plugins
from components.core.bundle import LONGEST_NAME
from components.core.duplicates import Duplicates
from components.core.errors import InputError
from components.core.job.fleet import status_key
from components.core.miners.base import Miner, boxes_from, make_miner
from components.core.privacy.base import make_filter
from components.core.runtimes.base import runtimes
from components.core.stores.connections import Tls
from components.core.stores.open import RESERVED, Store, open_store
from components.core.stores.race import check_conditional_writes
from components.serving.active_model import ActiveModel
from components.serving.clock import is_set
from components.serving.cloud_client import CloudClient
from components.serving.frame_queue import FrameQueue
from components.serving.health import served
from components.serving.hot_update import HotUpdate, Loader
from components.serving.job_folder import job_folder, models_folder, take_over_models, warn_of_other_jobs
from components.serving.loaded_models import LoadedModels
from components.serving.loop import EdgeLoop
from components.serving.memory import free_bytes
from components.serving.metrics import Metrics
from components.serving.mining import Keeper, Mining
from components.serving.model_cache import ModelCache
from components.serving.offload import JointInference, OffloadRules
from components.serving.pointers import WHOLE, BundlePointer, JobPointer, PointerReader, SednaPointer
from components.serving.position import Position
from components.serving.resubmission import Resubmission
from components.serving.sinks.outlet import Outlets
from components.serving.sources.open import open_source
from components.serving.spool import Spool
from components.serving.status import StatusReport
from components.serving.uploader import Uploader

STUCK_UPLOAD_SECONDS = 30.0  # at the end of a source, without one example sent
_END_SECONDS = 4.0
_TURN_SECONDS = 0.1

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """Settings of a worker; the command line describes each.

    Attributes:
        job_root: the job's store.
        source: where the images come from.
        node: the worker's name.
        folder: for what outlives the process: place in the source, spool and models, in a folder for each job.
    """

    job_root: str
    source: str
    node: str
    folder: Path
    miner: str = "IBT"
    miner_parameters: Mapping[str, object] = field(default_factory=dict)
    keep_miner: str = ""
    privacy: str = ""
    privacy_parameters: Mapping[str, object] = field(default_factory=dict)
    audit_ratio: float = 0.01
    every: int = 1
    max_fps: float = 0.0
    spool_bytes: int = 1 << 30
    bandwidth: float | None = None
    duplicate_bits: int = 4
    jpeg_quality: int = 95
    poll_s: float = 10.0
    model_config: str = ""
    bundle: str = ""
    runtime: str = "onnx"
    threads: int = 0
    plugins: str = ""
    host: str = "127.0.0.1"
    port: int = 0
    loop: bool = False
    idle_at_end: bool = False
    sinks: tuple[str, ...] = ()
    board_check: bool = True
    member: str = WHOLE
    model_memory: int = 0
    origin: str = ""
    cloud: Cloud | None = None


@dataclass(frozen=True)
class Cloud:
    """The cloud server that hard frames go to.

    Attributes:
        url: of the server.
        token: that it asks for; empty for none.
        model: name of the model there.
        timeout_s: seconds that an image and its answer may take.
        tls: certificates, for an ``https://`` address.
        rules: what is sent.
    """

    url: str
    token: str = ""
    model: str = "model"
    timeout_s: float = 2.0
    tls: Tls = field(default_factory=Tls)
    rules: OffloadRules = field(default_factory=OffloadRules)


class Worker:
    """A worker that is ready to run.

    Args:
        options: its settings.

    Raises:
        InputError: an option that cannot be, a source that cannot be read, or a spool that another process uses.
    """

    def __init__(self, options: Options) -> None:
        self._options = options
        plugins.load(options.plugins)
        runtimes.get(options.runtime)
        self.metrics = Metrics()
        miner = make_miner(options.miner, options.miner_parameters)
        self._store = _store(options)
        self._pointer = self._make_pointer()
        self._source = open_source(options.source)
        keep_miner = make_miner(options.keep_miner, {}) if options.keep_miner else None
        privacy = make_filter(options.privacy, options.privacy_parameters) if options.privacy else None
        self._mining = Mining(
            miner, options.audit_ratio, options.jpeg_quality, options.node, self._source.name, keep_miner, privacy
        )
        self.folder = job_folder(options.folder, self._store.uri)
        self._spool = Spool(self.folder / "examples", options.spool_bytes, self.metrics.count)
        self._models = models_folder(self.folder, options.member)
        _clear_away(self.folder, self._models)  # no other process uses them, since the spool is ours
        take_over_models(options.folder, self._models, self._store)
        self._duplicates = Duplicates(options.duplicate_bits, kept=self._spool.fingerprints())
        self._uploader = Uploader(
            self._spool,
            self._store,
            bytes_per_s=options.bandwidth,
            on_event=self.metrics.count,
            check=partial(check_conditional_writes, self._store),
        )
        self.slot = ActiveModel()
        self._outlets = Outlets(
            options.sinks, options.node, self._source.name, live=self._source.live, count=self.metrics.count
        )
        self._joint = self._make_joint(miner) if options.cloud else None
        self._again = self._make_resubmission()
        self._loop = EdgeLoop(
            self.slot,
            self.metrics,
            max_fps=options.max_fps,
            outlets=self._outlets,
            joint=self._joint,
            again=self._again,
            boxes_from=boxes_from(keep_miner or miner),
        )
        self._updater = self._make_updater()
        self._feed: FrameQueue | None = None
        self._feed_ended = True
        self._show()
        warn_of_other_jobs(options.folder, self.folder)
        if not is_set(datetime.now(UTC)):
            log.warning(
                "this machine's clock is not set (%s): images get their date when they are uploaded",
                f"{datetime.now(UTC):%Y-%m-%d}",
            )

    def run(self, stop: threading.Event) -> bool:
        """Work until the source has ended, or ``stop`` is set. With ``idle_at_end`` only the latter ends it.

        Returns:
            Whether every thread has ended; one that is inside a driver or a request can take longer than one waits.

        Raises:
            InputError: the source cannot be read, or the port is in use.
        """
        with ExitStack() as stack:
            stack.callback(self._spool.close)
            if self._options.port:
                ready = self._has_model
                stack.enter_context(served(self._options.host, self._options.port, self.metrics, ready))
            stack.enter_context(self._outlets)
            uploads = stack.enter_context(_running(self._uploader.run, "uploads"))
            self._start_from_disk()
            updates = stack.enter_context(_running(self._updater.run, "updates"))
            if self._again is not None:
                stack.enter_context(_running(self._again.run, "resubmission"))
            self._work(stop)
            if not stop.is_set():
                self._await_uploads(stop)
            if self._options.idle_at_end and not stop.is_set():
                log.info("the source has ended; idling until stopped")
                self._loop.idle(stop)
        return self._feed_ended and not uploads.is_alive() and not updates.is_alive()

    def _start_from_disk(self) -> None:
        """Begin with the last good model; of bundles, with the one that was asked for alone."""
        bundle = self._pointer.read() if isinstance(self._pointer, BundlePointer) else None
        self._updater.start_from_disk(bundle.version if bundle else "")

    def _has_model(self) -> bool:
        return self.slot.current is not None

    def _work(self, stop: threading.Event) -> None:
        """Run the loop over the source, again and again with ``loop``."""
        position = None
        if not self._source.live:
            position = Position(self.folder / "position.json", self._source.identity)
            if position.place:
                log.info(
                    "source %s: continuing after %s, which an earlier run in this folder has processed; "
                    "give another --spool to begin at the first image",
                    self._source.name, position.place,
                )  # fmt: skip
        while True:
            self._feed = FrameQueue(self._source, after=position.place if position else "", every=self._options.every)
            keeper = Keeper(self._mining, self._spool, self._duplicates, self.metrics, position)
            try:
                ended = self._loop.run(self._feed, keeper, stop)
            finally:
                self._feed_ended = self._feed.close()
            if not (ended and self._options.loop and position):
                return
            position.restart()

    def _await_uploads(self, stop: threading.Event) -> None:
        """The source has ended: wait for the examples to be sent, and frames to be sent again, as long as any is."""
        waiting, since = self._unsent, time.monotonic()
        while sum(waiting) and not stop.wait(_TURN_SECONDS):
            self.metrics.alive()
            if self._unsent != waiting:
                waiting, since = self._unsent, time.monotonic()
            if time.monotonic() - since > STUCK_UPLOAD_SECONDS:
                log.warning(
                    "%d hard examples could not be sent, the next run in this folder sends them; "
                    "%d frames got no answer of the cloud",
                    *waiting,
                )
                return

    @property
    def _unsent(self) -> tuple[int, int]:
        """Hard examples that wait for their upload, and frames that wait to be sent to the cloud again."""
        return len(self._spool), len(self._again or ())

    def _make_joint(self, miner: Miner) -> JointInference:
        cloud = self._options.cloud
        assert cloud is not None
        client = CloudClient(cloud.url, cloud.token, cloud.timeout_s, cloud.model, cloud.tls)
        return JointInference(miner, client, cloud.rules, count=self.metrics.count, timed=self.metrics.cloud)

    def _make_resubmission(self) -> Resubmission | None:
        cloud = self._options.cloud
        if self._joint is None or cloud is None or not cloud.rules.resubmit_bytes:
            return None
        return Resubmission(self._joint, cloud.rules.resubmit_bytes, self._outlets.put, self.metrics.count)

    def _make_pointer(self) -> PointerReader:
        options = self._options
        if options.bundle:
            return BundlePointer(options.bundle)
        if options.model_config:
            return SednaPointer(options.model_config)
        return JobPointer(self._store, options.node, options.member)

    def _make_updater(self) -> HotUpdate:
        options = self._options
        cache = ModelCache(self._models, options.runtime, golden=options.board_check)
        memory = LoadedModels(options.model_memory or free_bytes() // 2, cache.bytes_of, self.metrics.count)
        self.metrics.show("loaded_models", "Models of a knowledge base in memory", lambda: len(memory))
        self.metrics.show("loaded_model_bytes", "Bytes of memory that these models take", lambda: memory.bytes)
        return HotUpdate(
            self._pointer,
            cache,
            Loader(options.runtime, options.threads, options.plugins, options.board_check, memory, options.origin),
            self.slot,
            StatusReport(
                self._store,
                options.node,
                lambda: self.slot.frames,
                self.metrics.latency,
                partial(self.metrics.count, "node_conflicts"),
            ),
            poll_s=options.poll_s,
            count=self.metrics.count,
        )

    def _show(self) -> None:
        """Show numbers that other objects keep among the metrics."""
        show = self.metrics.show
        show("silence_seconds", "Seconds since the loop was last active", lambda: self.metrics.silence)
        show("spool_bytes", "Disk space used by the spool in bytes", lambda: self._spool.used_bytes)
        show("spool_examples", "Examples waiting to be uploaded", lambda: len(self._spool))
        show("spool_oldest_seconds", "Age of the oldest waiting example in seconds", lambda: self._spool.oldest_age)
        show("source_retries", "Times the source was reopened", lambda: self._source.retries)
        show("joint_waiting", "Hard frames waiting to be sent again", lambda: len(self._again or ()))
        show("replaced_frames", "Images dropped for a newer one", lambda: self._feed.dropped if self._feed else 0)


def _store(options: Options) -> Store:
    store = open_store(options.job_root)
    if not options.node.isprintable() or len(options.node) > LONGEST_NAME:
        raise InputError(f"node {options.node[:40]!r}: give a name of at most {LONGEST_NAME} printable characters")
    try:
        store.uri_of(status_key(options.node))
    except InputError as error:
        raise InputError(f"node {options.node!r} cannot be used in a file name: {error}") from error
    return store


def _clear_away(*folders: Path) -> None:
    """Remove what a process that was killed left half-written."""
    for path in (path for folder in folders for path in folder.glob(f"{RESERVED}*")):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


@contextmanager
def _running(work: Callable[[threading.Event], None], name: str) -> Iterator[threading.Thread]:
    """A thread beside the body, which is stopped with it."""
    stop = threading.Event()
    thread = threading.Thread(target=work, args=(stop,), name=name, daemon=True)
    thread.start()
    try:
        yield thread
    finally:
        stop.set()
        thread.join(_END_SECONDS)
