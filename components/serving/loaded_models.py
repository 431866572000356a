"""The models of a knowledge base that are in memory: those used last, within a limit."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any

from components.core.runtimes.base import Model
from components.serving.model_cache import CachedModel

Load = Callable[[CachedModel], Model[Any]]


@dataclass(frozen=True)
class _Loaded:
    network: Model[Any]
    size: int  # bytes


class LoadedModels:
    """Loads models as they are needed, and forgets those that were not used for longest.

    Two releases share the models that are in both. One model is always kept, however large it is.

    Args:
        max_bytes: of memory that all of them may take.
        bytes_of: of memory that one takes.
        count: called for ``model_loads`` and ``model_evictions``.
    """

    def __init__(
        self, max_bytes: int, bytes_of: Callable[[CachedModel], int], count: Callable[[str], None] = lambda _: None
    ) -> None:
        self._max_bytes, self._bytes_of, self._count = max_bytes, bytes_of, count
        self._guard = threading.Lock()  # the updater loads ahead of the loop
        self._loaded: OrderedDict[str, _Loaded] = OrderedDict()  # by digest, that used last at the end

    @property
    def bytes(self) -> int:
        """Bytes of memory that the loaded models take."""
        with self._guard:
            return self._bytes()

    def __len__(self) -> int:
        with self._guard:
            return len(self._loaded)

    def get(self, model: CachedModel, load: Load) -> Model[Any]:
        """A model, loaded; others make room for it.

        Raises:
            Exception: whatever ``load`` raises.
        """
        with self._guard:
            if model.digest in self._loaded:
                self._loaded.move_to_end(model.digest)
                return self._loaded[model.digest].network
            size = self._bytes_of(model)
            self._make_room(size)
        network = load(model)
        with self._guard:
            self._loaded[model.digest] = _Loaded(network, size)
            self._loaded.move_to_end(model.digest)
            self._make_room(0)
            self._count("model_loads")
        return network

    def preload(self, models: Iterable[CachedModel], load: Load) -> None:
        """Load models as far as there is room for them beside those that are loaded.

        Raises:
            Exception: whatever ``load`` raises.
        """
        for model in models:
            size = self._bytes_of(model)
            with self._guard:
                fits = model.digest not in self._loaded and self._bytes() + size <= self._max_bytes
            if not fits:
                continue
            network = load(model)
            with self._guard:
                if model.digest not in self._loaded and self._bytes() + size <= self._max_bytes:
                    self._loaded[model.digest] = _Loaded(network, size)
                    self._loaded.move_to_end(model.digest, last=False)  # nobody has used it yet
                    self._count("model_loads")

    def keep(self, digests: Collection[str]) -> None:
        """Forget all other models: no release needs them any more."""
        with self._guard:
            for digest in self._loaded.keys() - set(digests):
                del self._loaded[digest]

    def _bytes(self) -> int:
        return sum(one.size for one in self._loaded.values())

    def _make_room(self, size: int) -> None:
        """Forget models, the one used longest ago first, until so many bytes more fit; the last one goes for others."""
        least = 0 if size else 1
        while len(self._loaded) > least and self._bytes() + size > self._max_bytes:
            self._loaded.popitem(last=False)
            self._count("model_evictions")
