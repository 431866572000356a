"""A knowledge base as a worker runs it: each frame goes to the model of its task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from components.core.bundle import Bundle
from components.core.lifelong.knowledge_base import SHARED, KnowledgeBase, Route
from components.core.lifelong.samples import Samples
from components.core.release import RELEASE, Release
from components.core.runtimes.base import Model, decoder_of
from components.core.runtimes.letterbox import ImageArray
from components.serving.loaded_models import Load, LoadedModels
from components.serving.model_cache import CachedModel, UnfitModelError


class KnowledgeBaseModels:
    """The models of a knowledge base, one for each task; those that frames need are loaded.

    As a model it is its shared one, with the classes of all.

    Args:
        cached: the release on this disk.
        loaded: the models in memory.
        load: loads one.
        origin: where the frames come from, as the beginning of a path in the feed.

    Attributes:
        bundle: of the shared model, with the classes of all models.

    Raises:
        InputError: the release cannot be used, here or at all.
    """

    def __init__(self, cached: CachedModel, loaded: LoadedModels, load: Load, origin: str = "") -> None:
        self._cached, self._loaded, self._load, self._origin = cached, loaded, load, origin
        release = Release.parse((cached.folder / RELEASE).read_bytes(), f"{cached.version}: {RELEASE}")
        self._base = KnowledgeBase.of(release, cached.version)
        self._base.check_allocation()
        self._handling = self._base.handling()
        self._bundles = {role: Bundle.read(member.folder) for role, member in cached.members.items()}
        self.bundle = _common(self._bundles)
        self._tables = {role: _table(one.classes, self.bundle.classes) for role, one in self._bundles.items()}
        self.routes([np.zeros((8, 8, 3), np.uint8)], [""])  # what is wrong with the routing shows here

    @property
    def members(self) -> Mapping[str, CachedModel]:
        """The models by their role."""
        return self._cached.members

    def warns(self, unseen: int, frames: int) -> bool:
        """Whether a warning is due where so many of so many frames are unseen."""
        return self._handling.warns(unseen, frames)

    @property
    def detection(self) -> str:
        """The name of the rule that says what is unseen."""
        return self._base.unseen.name

    def hardness(self, route: Route) -> float:
        """How little a frame is like those known, 0 to 1: 0.5 at the threshold from which it is unseen."""
        total = route.score + self._base.threshold
        return route.score / total if total > 0 else 1.0

    def routes(self, images: Sequence[ImageArray], places: Sequence[str]) -> list[Route]:
        """Where each of N frames goes.

        Args:
            images: (H, W, 3) uint8 RGB each.
            places: of each in its source; behind the origin it is the frame's path in the feed.
        """
        origin = self._origin.strip("/")
        paths = [f"{origin}/{place}" if origin else place for place in places]
        return self._base.routes(Samples.of(images, source=paths, group=[origin or path for path in paths]))

    def answers(self, route: Route) -> bool:
        """Whether a model looks at a frame of this route; not at unseen ones where the policy is to abstain."""
        return not route.unseen or self._handling.answers

    def network(self, role: str) -> Model[Any]:
        """A loaded model."""
        return self._loaded.get(self._cached.members[role], self._load)

    def integrated(self, answers: Sequence[Any]) -> Any:
        """One answer of those of the models that looked at a frame, in the class numbers of ``bundle``."""
        return self._base.integrated(answers)

    def numbered(self, role: str, found: Any) -> Any:
        """What a model found, in the class numbers of ``bundle``."""
        table = self._tables[role]
        return found if table is None else decoder_of(self._bundles[role]).renumbered(found, table)

    def preload(self) -> None:
        """Load models as far as there is memory for them, the shared one first."""
        roles = sorted(self._cached.members, key=lambda role: (role != SHARED, role))
        self._loaded.preload((self._cached.members[role] for role in roles), self._load)

    def predict(
        self, images: Sequence[ImageArray], *, confidence: float | None = None, nms: float | None = None
    ) -> list[Any]:
        """What the shared model says; see :class:`components.core.runtimes.base.Model`."""
        found = self.network(SHARED).predict(images, confidence=confidence, nms=nms)
        return [self.numbered(SHARED, one) for one in found]


def bundle_of(model: CachedModel) -> Bundle:
    """The description of a model, or of all models of a knowledge base as one.

    Raises:
        InputError: it is damaged.
    """
    if not model.members:
        return Bundle.read(model.folder)
    return _common({role: Bundle.read(member.folder) for role, member in model.members.items()})


def _common(bundles: Mapping[str, Bundle]) -> Bundle:
    """The bundle of the shared model, with the classes of all."""
    if SHARED not in bundles:
        raise UnfitModelError(f"it has no member {SHARED!r}")
    kinds = sorted({one.task for one in bundles.values()})
    if len(kinds) > 1:
        raise UnfitModelError(f"its members are for {' and '.join(kinds)}, but all must be for the same")
    every = [bundles[SHARED], *bundles.values()]
    return replace(bundles[SHARED], classes=tuple(dict.fromkeys(name for one in every for name in one.classes)))


def _table(own: Sequence[str], classes: Sequence[str]) -> list[int] | None:
    """The place of each of a model's classes among those of all; None where it has the same number in both."""
    return None if tuple(own) == tuple(classes[: len(own)]) else [classes.index(name) for name in own]
