"""Privacy at the edge: what is done to an image before the worker keeps it, and the plug-in registry of the filters.

The edge worker calls its filter for every image that it is about to put into its spool, so nothing that the filter
takes out is written to the worker's disk or leaves the device as a hard example. A filter keeps the image, changes it,
or drops it. What it did stands in the sidecar. If it fails or returns an image of another size, the image is dropped.

A filter of one's own is a class or function, registered under a name, that makes something with ``protect``::

    @privacy_filters.register("no-night-shift")
    class NoNightShift:
        def protect(self, image: ImageArray, look: Look) -> Protected:
            return Protected(None, "taken at night") if image.mean() < 20 else Protected(image, "")

It gets the worker's own model as ``look``, and may have one of its own, such as a detector of faces.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

from pydantic import ValidationError

from components.core.detections import Detections
from components.core.errors import InputError, one_line
from components.core.plugins import Registry
from components.core.runtimes.letterbox import ImageArray


class Protected(NamedTuple):
    """What a filter made of an image.

    Attributes:
        image: (H, W, 3) uint8 RGB of the same size; the very array that the filter got, if it changed nothing; None:
            the image is not kept.
        done: what was done, in a few words for the sidecar; empty if nothing.
    """

    image: ImageArray | None
    done: str


class Look(Protocol):
    """The worker's model."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of the boxes' numbers."""

    def boxes(self, confidence: float) -> Detections:
        """What the model finds in the image.

        Args:
            confidence: least score of a box, 0 to 1; below the deployed one the model looks again.

        Raises:
            InputError: it is a model that gives no boxes.
        """


class PrivacyFilter(Protocol):
    """Says what of an image may be kept."""

    def protect(self, image: ImageArray, look: Look) -> Protected:
        """Look at one image.

        Args:
            image: (H, W, 3) uint8 RGB, which cannot be changed in place: change a copy.
            look: the worker's model.
        """


privacy_filters: Registry[Callable[..., PrivacyFilter]] = Registry("privacy filter", ["components.core.privacy.blur"])


def make_filter(name: str, parameters: Mapping[str, object]) -> PrivacyFilter:
    """Make the filter of a name.

    Args:
        name: such as ``blur``.
        parameters: by name; numbers may be text.

    Raises:
        InputError: no such filter or parameter, or a value that cannot be.
    """
    make = privacy_filters.get(name)
    known = inspect.signature(make)
    try:
        known.bind(**parameters)
        return make(**parameters)
    except ValidationError as error:
        raise InputError(f"privacy filter {name!r}: {one_line(error)}") from None
    except (TypeError, ValueError) as error:
        listed = ", ".join(known.parameters) or "none"
        raise InputError(f"privacy filter {name!r}: {error}; its parameters are {listed}") from error
