"""The place of the model in the loop: a new one waits there until an image is done with, an old one until it is sure.

Several threads meet here. The updater offers models; those that run them take them between two images and say how they
do.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from queue import SimpleQueue
from typing import Any, Literal

from components.core.runtimes.base import Model
from components.serving.knowledge_base import KnowledgeBaseModels
from components.serving.model_cache import CachedModel
from components.serving.pointers import DesiredModel

PROVEN_AFTER = 10  # images without a failure; until then the model before it stays loaded


@dataclass(frozen=True)
class LoadedModel:
    """A model that can look at images.

    Attributes:
        detector: itself; of a knowledge base all models as one.
        cached: where it lies on disk.
        desired: what asked for it; None for one that was started from disk.
    """

    detector: Model[Any]
    cached: CachedModel
    desired: DesiredModel | None = None

    @property
    def version(self) -> str:
        """Its name."""
        return self.cached.version

    @property
    def base(self) -> KnowledgeBaseModels | None:
        """The knowledge base; None where it is one model."""
        return self.detector if isinstance(self.detector, KnowledgeBaseModels) else None


@dataclass(frozen=True)
class Event:
    """What happened to a model in the loop: it came into use, proved itself, or failed."""

    kind: Literal["in use", "proven", "failed"]
    model: LoadedModel
    error: str = ""


class ActiveModel:
    """The model in use, the one that waits to be, and the one to go back to.

    Args:
        proven_after: images that a new model must have looked at before the one before it is freed.

    Attributes:
        events: what happened, for the updater.
        frames: images that the model in use has looked at.
        awaited: for people, what the loop waits for as long as there is no model; empty until that is known.
    """

    def __init__(self, proven_after: int = PROVEN_AFTER) -> None:
        self._proven_after = proven_after
        self._lock = threading.Lock()
        self._current: LoadedModel | None = None
        self._before: LoadedModel | None = None
        self._offered: LoadedModel | None = None
        self.events: SimpleQueue[Event] = SimpleQueue()
        self.frames = 0
        self.awaited = ""

    @property
    def current(self) -> LoadedModel | None:
        """The model in use; None before the first, or when there is none that works."""
        with self._lock:
            return self._current

    @property
    def coming(self) -> LoadedModel | None:
        """The model for the next image."""
        with self._lock:
            return self._offered or self._current

    @property
    def before(self) -> LoadedModel | None:
        """The model that was in use before, as long as the present one has not proven itself."""
        with self._lock:
            return self._before

    def offer(self, model: LoadedModel) -> None:
        """Put a model there for the loop to take; it replaces one that was not taken yet."""
        with self._lock:
            self._offered = model

    def confirm(self, desired: DesiredModel) -> None:
        """The model in use is the one that is asked for now, perhaps as a part of another release."""
        with self._lock:
            if self._current is not None:
                self._current = replace(self._current, desired=desired)

    def next(self) -> LoadedModel | None:
        """The model for the next image; the loop calls this between two images, and changes models here alone."""
        with self._lock:
            if self._offered is not None:
                self._before, self._current, self._offered = self._current, self._offered, None
                self.frames = 0
                self.events.put(Event("in use", self._current))
            return self._current

    def succeeded(self, model: LoadedModel) -> None:
        """A model has looked at one more image, which counts if it is the one in use."""
        with self._lock:
            if not self._is_current(model):
                return
            self.frames += 1
            if self.frames == self._proven_after and self._current is not None:
                self._before = None
                self.events.put(Event("proven", self._current))

    def go_back(self, model: LoadedModel, error: str) -> None:
        """The model in use works no more: put the one before in use again, or none if there is none any more.

        Args:
            model: that works no more; another than the one in use has been given up already.
            error: what it did.
        """
        with self._lock:
            if self._current is None or not self._is_current(model):
                return
            self.events.put(Event("failed", self._current, error))
            self._current, self._before, self.frames = self._before, None, 0

    def _is_current(self, model: LoadedModel) -> bool:
        """Whether a model is the one in use, perhaps as a part of another release; with the lock held."""
        return self._current is not None and self._current.detector is model.detector
