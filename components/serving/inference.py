"""Images through the active model, or through the one before where a new model fails."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from components.core.lifelong.knowledge_base import Route
from components.core.runtimes.base import Model
from components.core.runtimes.letterbox import ImageArray
from components.serving.active_model import ActiveModel, LoadedModel
from components.serving.smoke_test import check_numbers, one_line

TRIES = 3  # of a model at one image, before it counts as failed there
FAILURES = 5  # images in a row that a model may fail at, before it is given up


@dataclass(frozen=True)
class Seen:
    """What a model found in an image.

    Attributes:
        model: that was used.
        found: boxes, or what its kind of task gives; None where a knowledge base abstains.
        route: where the knowledge base sent the image; None where the model is one.
        confidence: score from which its boxes count.
    """

    model: LoadedModel
    found: Any
    route: Route | None = None
    confidence: float = 0.0


class ModelRunner:
    """Runs the active model; for several threads, if the runtime's models are.

    Args:
        active: gives the model, and hears how it does.
        timed: measures one inference: a context around it.
    """

    def __init__(self, active: ActiveModel, timed: Callable[[], AbstractContextManager[object]]) -> None:
        self._active, self._timed = active, timed
        self._failures: Counter[str] = Counter()  # in a row, of each model of a knowledge base

    def look(self, image: ImageArray, place: str = "", boxes_from: float | None = None) -> Seen | str:
        """What the active model finds, or the one before where that fails; else what is wrong.

        Args:
            image: (H, W, 3) uint8 RGB. Neither model may be able to look at it.
            place: of the image in its source.
            boxes_from: score from which boxes are wanted that do not count; None for none of these.
        """
        return self.look_at([(image, place)], boxes_from)[0]

    def look_at(self, images: Sequence[tuple[ImageArray, str]], boxes_from: float | None = None) -> list[Seen | str]:
        """The same for several images, in their order; a knowledge base looks at those of one task after the other.

        Args:
            images: each with its place in its source.
            boxes_from: see ``look``.
        """
        model = self._active.current
        if model is None:
            return ["no model yet"] * len(images)
        routes = self._routes(model, images)
        seen: dict[int, Seen | str] = {}
        for at in sorted(range(len(images)), key=lambda at: _role(routes[at])):  # stable, so in order within a task
            image, place = images[at]
            if self._active.current is model:
                seen[at] = self._look(model, image, place, routes[at], boxes_from)
            else:  # it was given up meanwhile
                seen[at] = self.look(image, place, boxes_from)
        return [seen[at] for at in range(len(images))]

    def _look(
        self, model: LoadedModel, image: ImageArray, place: str, route: Route | str | None, boxes_from: float | None
    ) -> Seen | str:
        """What a model finds in an image that goes a certain way, or the model before."""
        found = self._try(model, image, route, boxes_from)
        if isinstance(found, Seen):
            self._failures[_role(route)] = 0
            self._active.succeeded(model)
            return found
        before = self._active.before
        if before is not None:
            (other,) = self._routes(before, [(image, place)])
            if isinstance(seen := self._try(before, image, other, boxes_from), Seen):
                self._give_up(model, found)
                return seen
        self._failures[_role(route)] += 1
        if self._failures[_role(route)] >= FAILURES:
            self._give_up(model, found)
        return f"model {model.version} inference failed: {found}"

    def _give_up(self, model: LoadedModel, problem: str) -> None:
        self._active.go_back(model, problem)
        self._failures.clear()

    def _routes(self, model: LoadedModel, images: Sequence[tuple[ImageArray, str]]) -> Sequence[Route | str | None]:
        """Where each image goes in a knowledge base, or why that is not known; None where the model is one."""
        if model.base is None:
            return [None] * len(images)
        try:
            return model.base.routes([image for image, _ in images], [place for _, place in images])
        except Exception as error:  # of a plug-in of the routing
            return [f"routing: {one_line(error)}"] * len(images)

    def _try(
        self, model: LoadedModel, image: ImageArray, route: Route | str | None, boxes_from: float | None
    ) -> Seen | str:
        """What a model finds, or what is wrong with it."""
        if isinstance(route, str):
            return route
        base, problem = model.base, ""
        if base is not None and route is not None and not base.answers(route):
            return Seen(model, None, route)
        for _ in range(TRIES):
            try:
                if base is None or route is None:
                    found, own = self._predict(model.detector, image, boxes_from)
                else:
                    answers = [self._predict(base.network(role), image, boxes_from) for role in route.models]
                    numbered = [base.numbered(role, one)
                                for role, (one, _) in zip(route.models, answers, strict=True)]  # fmt: skip
                    found, own = base.integrated(numbered), answers[0][1]
            except Exception as error:  # whatever a runtime raises; who runs it must not end
                problem = one_line(error)
            else:
                return Seen(model, found, route, own)
        return problem

    def _predict(self, network: Model[Any], image: ImageArray, boxes_from: float | None) -> tuple[Any, float]:
        """What a network finds, and the score from which its boxes count."""
        own = network.bundle.confidence_threshold
        confidence = boxes_from if boxes_from is not None and boxes_from < own else None
        with self._timed():
            (found,) = network.predict([image], confidence=confidence)
        check_numbers(network, found)
        return found, own


def _role(route: Route | str | None) -> str:
    """Which model of a knowledge base an image goes to."""
    return route.member if isinstance(route, Route) else ""
