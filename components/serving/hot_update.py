"""Change models while the loop runs: read the pointer, fetch, smoke-test, load beside the running one, hand over."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from queue import Empty
from typing import Any

from components.core.backoff import Backoff
from components.core.bundle import Bundle
from components.core.errors import InputError, NoRuntimeError
from components.core.runtimes.base import Model, open_model
from components.serving.active_model import ActiveModel, Event, LoadedModel
from components.serving.knowledge_base import KnowledgeBaseModels, bundle_of
from components.serving.loaded_models import LoadedModels
from components.serving.model_cache import CachedModel, ModelCache, UnfitModelError
from components.serving.pointers import DesiredModel, PointerReader
from components.serving.smoke_test import InterruptedSmokeTestError, one_line, run_smoke_test, warm_up
from components.serving.status import StatusReport

LONGEST_PAUSE_SECONDS = 300.0  # between two looks that fail
_TURN_SECONDS = 0.25

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Loader:
    """How models are loaded here.

    Attributes:
        runtime: name of the runtime.
        threads: processor threads; 0 lets the runtime decide.
        modules: of plug-ins, separated by commas.
        board_check: compare a model with the golden tensors that it brings for this board in its smoke test.
        memory: the models of a knowledge base that are loaded; None where knowledge bases cannot be run.
        origin: where frames come from, for the routing of a knowledge base.
    """

    runtime: str
    threads: int = 0
    modules: str = ""
    board_check: bool = True
    memory: LoadedModels | None = None
    origin: str = ""

    def try_out(self, model: CachedModel, stop: threading.Event) -> int:
        """Run a model once in another process; the bytes of memory that it took. See :func:`run_smoke_test`."""
        return run_smoke_test(
            model.folder, self.runtime, threads=self.threads, modules=self.modules, stop=stop,
            board_check=self.board_check,
        )  # fmt: skip

    def load(self, model: CachedModel, desired: DesiredModel | None) -> LoadedModel:
        """Load a model and run it once; of a knowledge base as many as there is memory for.

        Raises:
            UnfitModelError: it does not work.
            NoRuntimeError: none would on this machine.
        """
        try:
            if not model.members:
                return LoadedModel(self._open(model), model, desired)
            base = self.open_base(model)
            base.preload()
        except (UnfitModelError, NoRuntimeError):
            raise
        except Exception as error:  # a broken model ends in whatever its runtime raises
            raise UnfitModelError(one_line(error)) from error
        return LoadedModel(base, model, desired)

    def open_base(self, model: CachedModel) -> KnowledgeBaseModels:
        """A knowledge base without any of its models loaded.

        Raises:
            UnfitModelError: its routing cannot be used, or a model is damaged.
        """
        assert self.memory is not None
        try:
            return KnowledgeBaseModels(model, self.memory, self._open, self.origin)
        except Exception as error:  # of a plug-in of the routing, too
            raise UnfitModelError(f"its routing cannot be used: {one_line(error)}") from error

    def _open(self, model: CachedModel) -> Model[Any]:
        network = open_model(self.runtime, model.folder, self.threads)
        warm_up(network)
        return network


class HotUpdate:
    """The updater: one thread beside the loop, which hands it models through a slot.

    Args:
        pointer: says which model to run.
        cache: the models on disk.
        loader: loads them.
        slot: where the loop takes them.
        status: what is reported to the job.
        poll_s: seconds between two looks at the pointer, more or less.
        count: is called with ``model_swaps`` or ``model_failures`` when there was one.
    """

    def __init__(
        self,
        pointer: PointerReader,
        cache: ModelCache,
        loader: Loader,
        slot: ActiveModel,
        status: StatusReport,
        *,
        poll_s: float,
        count: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._pointer, self._cache, self._loader = pointer, cache, loader
        self._slot, self._status, self._poll_s, self._count = slot, status, poll_s, count
        self._asked: DesiredModel | None = None  # the last one
        self._handled: tuple[str, str] | None = None  # version and move of the last one that came to its end
        self._complaint = ""

    def start_from_disk(self, version: str = "") -> bool:
        """Offer the last good model on this disk; False if there is none. Needs no network.

        Args:
            version: of the only one that will do; empty for any.

        Raises:
            NoRuntimeError: none would work on this machine; they stay on the disk.
        """
        running = self._slot.current
        for model in self._cache.good():
            if (running is not None and model == running.cached) or version not in ("", model.version):
                continue
            try:
                self._slot.offer(self._loader.load(model, None))
            except UnfitModelError as error:
                log.warning("cached model %s can no longer be used: %s", model.version, error)
                self._note_on_disk(self._cache.forget, model)
                continue
            log.info("using cached model %s", model.version)
            return True
        return False

    def run(self, stop: threading.Event) -> None:
        """Update until asked to stop; nothing that goes wrong ends it."""
        next_look, backoff = 0.0, Backoff(self._poll_s, max(self._poll_s, LONGEST_PAUSE_SECONDS), jitter=0.25)
        while not stop.is_set():
            try:
                self._follow_loop()
                self._status.beat()
                if time.monotonic() >= next_look:
                    self._look(stop)
                    self._complaint = ""
                    backoff.reset()
                    next_look = time.monotonic() + backoff.next()
            except InterruptedSmokeTestError:
                break
            except InputError as error:
                next_look = time.monotonic() + backoff.next()
                self._complain(str(error))
            except Exception:
                next_look = time.monotonic() + backoff.next()
                log.exception("the model update failed; trying again")
            stop.wait(_TURN_SECONDS)
        self._end()

    def _end(self) -> None:
        """Leave the cache so that the next start can resume."""
        try:
            self._follow_loop()
            current = self._slot.current
            if current is not None and self._slot.frames:  # a short run gives no more proof than this
                self._cache.accept(current.cached)
            self._cache.pause()
            self._status.beat(now=True)
        except InputError as error:
            log.warning("%s", error)

    def _look(self, stop: threading.Event) -> None:
        desired = self._pointer.read()
        if desired is None:
            self._slot.awaited = self._slot.awaited or self._pointer.awaited
            return
        if (desired.version, desired.generation) == self._handled:
            return
        self._asked = desired
        self._slot.awaited = f"{desired.version} is being loaded and tested"
        if self._runs(desired):
            self._slot.confirm(desired)
            self._status.say(desired.version, "loaded")
            self._handled = desired.version, desired.generation
        elif known := self._cache.failure(desired):
            self._fail(desired, known)  # in an earlier process, which may have had no time to report it
        else:
            self._follow(desired, stop)

    def _follow(self, desired: DesiredModel, stop: threading.Event) -> None:
        try:
            model = self._cache.bring(desired)
            self._check_classes(model)
            self._try_out(model, stop)
            self._cache.begin(model)
            loaded = self._loader.load(model, desired)
        except UnfitModelError as error:
            self._note_on_disk(self._cache.reject, desired, str(error))
            self._fail(desired, str(error))
            return
        self._handled = desired.version, desired.generation
        self._slot.offer(loaded)

    def _try_out(self, model: CachedModel, stop: threading.Event) -> None:
        """See that every model works that has not done so before, and that the routing of a knowledge base does."""
        if not model.members:
            self._loader.try_out(model, stop)
            return
        self._loader.open_base(model)
        for role, part in self._cache.untried(model).items():
            try:
                self._cache.measured(part, self._loader.try_out(part, stop))
            except UnfitModelError as error:
                raise UnfitModelError(f"member {role}: {error}") from error

    def _runs(self, desired: DesiredModel) -> bool:
        """Whether the model in use is the one to run; a release may change while the member that runs here does not."""
        current = self._slot.current
        if current is None or current.version != desired.bundle_version:
            return False
        same_request = current.desired is not None and current.desired.generation == desired.generation
        return current.cached.digest == desired.digest if desired.digest else same_request

    def _check_classes(self, new: CachedModel) -> None:
        """Refuse a model that lacks a class of the running one, unless it is one to go back to."""
        running = self._slot.coming
        if running is None or new.digest in {model.digest for model in self._cache.good()}:
            return
        wrong = _class_problem(running.detector.bundle, bundle_of(new))
        if wrong:
            raise UnfitModelError(wrong)

    def _follow_loop(self) -> None:
        """Take note of what has happened in the loop."""
        while True:
            try:
                event = self._slot.events.get_nowait()
            except Empty:
                return
            self._note(event)

    def _note(self, event: Event) -> None:
        model = event.model
        if event.kind == "in use":
            self._count("model_swaps")
            log.info("model %s is in use", model.version)
            if model.desired is not None:
                self._status.say(model.desired.version, "loaded")
        elif event.kind == "proven":
            self._note_on_disk(self._cache.accept, model.cached)
            if self._loader.memory is not None:
                self._loader.memory.keep({part.digest for part in model.cached.members.values()})
        else:
            self._note_on_disk(self._cache.forget, model.cached)
            desired = self._request_for(model)
            self._note_on_disk(self._cache.reject, desired, event.error)
            if self._slot.coming is None and not self.start_from_disk():
                log.error("no working model left; waiting for another")
            self._fail(desired, event.error)

    def _note_on_disk(self, note: Callable[..., None], *what: object) -> None:
        """Write down what became of a model; a full disk must not keep the worker from acting on it."""
        try:
            note(*what)
        except InputError as error:
            self._complain(str(error))

    def _request_for(self, model: LoadedModel) -> DesiredModel:
        """What asked for a model last; one from disk may be in use before the pointer was ever read."""
        if self._asked is not None and self._asked.bundle_version == model.version:
            return self._asked
        return model.desired or DesiredModel(model.version, "", "")

    def _fail(self, desired: DesiredModel, reason: str) -> None:
        """Say once that a model cannot be used."""
        self._count("model_failures")
        self._handled = desired.version, desired.generation
        self._slot.awaited = f"{desired.version} cannot be used; waiting for another"
        coming = self._slot.coming
        goes_on = f"continuing with {coming.version}" if coming else "and there is no other model yet"
        log.error("model %s cannot be used, %s: %s", desired.version, goes_on, reason)
        self._status.say(desired.version, "failed", reason)

    def _complain(self, message: str) -> None:
        """Say what is wrong once, until it is something else."""
        if message != self._complaint:
            log.warning("%s", message)
        self._complaint = message


def _class_problem(running: Bundle, new: Bundle) -> str:
    """Why a model's classes do not do in place of another's; empty if they do."""
    if set(new.classes) == set(running.classes):
        return ""
    if tuple(name for name in new.classes if name in running.classes) == running.classes:
        return ""
    return f"its classes are {list(new.classes)}, but {list(running.classes)} must stay in their order"
