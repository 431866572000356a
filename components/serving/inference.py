"""One image through the active model, or through the one before where a new model fails."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from components.core.runtimes.letterbox import ImageArray
from components.serving.active_model import ActiveModel, LoadedModel
from components.serving.smoke_test import check_numbers, one_line

TRIES = 3  # of a model at one image, before it counts as failed there
FAILURES = 5  # images in a row that a model may fail at, before it is given up


@dataclass(frozen=True)
class Seen:
    """What a model found in an image: boxes, or what its kind of task gives."""

    model: LoadedModel
    found: Any


class ModelRunner:
    """Runs the active model; for one thread.

    Args:
        active: gives the model, and hears how it does.
        timed: measures one inference: a context around it.
    """

    def __init__(self, active: ActiveModel, timed: Callable[[], AbstractContextManager[object]]) -> None:
        self._active, self._timed = active, timed
        self._failures = 0

    def look(self, image: ImageArray, boxes_from: float | None = None) -> Seen | str:
        """What the active model finds, or the one before where that fails; else what is wrong.

        Args:
            image: (H, W, 3) uint8 RGB. Neither model may be able to look at it.
            boxes_from: score from which boxes are wanted that do not count; None for none of these.
        """
        model = self._active.current
        if model is None:
            return "no model yet"
        found = self._try(model, image, boxes_from)
        if not isinstance(found, str):
            self._failures = 0
            self._active.succeeded()
            return Seen(model, found)
        before = self._active.before
        if before is not None and not isinstance(found_before := self._try(before, image, boxes_from), str):
            self._active.go_back(found)
            return Seen(before, found_before)
        self._failures += 1
        if self._failures >= FAILURES:
            self._active.go_back(found)
            self._failures = 0
        return f"model {model.version} inference failed: {found}"

    def _try(self, model: LoadedModel, image: ImageArray, boxes_from: float | None) -> Any:
        """What a model finds, or what is wrong with it as text, which no result is."""
        problem, own = "", model.detector.bundle.confidence_threshold
        confidence = boxes_from if boxes_from is not None and boxes_from < own else None
        for _ in range(TRIES):
            try:
                with self._timed():
                    (found,) = model.detector.predict([image], confidence=confidence)
                check_numbers(model.detector, found)
            except Exception as error:  # whatever a runtime raises; who runs it must not end
                problem = one_line(error)
            else:
                return found
        return problem
