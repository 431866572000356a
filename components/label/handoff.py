"""What a labelling tool is handed, and the registry of the tools' formats.

A hand-off is a folder or a zip file with the images, each named by its content (``<sha256>.jpg``), and what a model
found in them as labels that need only be corrected. The names are what brings the labels back to the right sample, so
a tool may move the files and put something before their names. A tool that writes the images anew, as some do when
they turn or compress them, makes other images of them; their labels come in with those, and the sample that was asked
for stays unlabelled.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import NamedTuple, Protocol

from components.core.errors import InputError, OutOfReachError
from components.core.job.label_requests import LabelRequest, LabelRequests
from components.core.masks import VOID, ClassMap, decode_mask
from components.core.plugins import Registry
from components.core.stores.open import Store

log = logging.getLogger(__name__)


class Prelabel(NamedTuple):
    """One box that a model found.

    Attributes:
        class_id: index into the list's ``classes``.
        x1: pixels, as in :class:`components.core.detections.Detections`, inside the image.
        y1: pixels.
        x2: pixels.
        y2: pixels.
        score: 0..1.
    """

    class_id: int
    x1: float
    y1: float
    x2: float
    y2: float
    score: float


Masks = Callable[[LabelRequest], ClassMap | None]
"""The mask (height, width) that a model proposes for an image, in class ids of its list; None where there is none."""


class Writer(Protocol):
    """Writes the format of one kind of tool.

    Attributes:
        images: the folder for the images inside the hand-off.
        packed: whether the tool takes one zip file; otherwise it reads the files of a folder.
    """

    images: str
    packed: bool

    def files(self, wanted: LabelRequests, address: Callable[[LabelRequest], str], masks: Masks) -> dict[str, bytes]:
        """Everything but the images.

        Args:
            wanted: the list.
            address: of an image's file, by which a tool that reads a folder finds it.
            masks: the mask that a model proposes for an image, for formats that have masks.

        Returns:
            Contents by path inside the hand-off, in the order in which they are to be written.
        """


writers: Registry[Writer] = Registry(
    "label format", [f"components.label.formats.{name}" for name in ("label_studio", "coco", "yolo", "voc")]
)


def file_name(image: LabelRequest) -> str:
    """The name of an image's file: its content's, with the suffix that it has in the store."""
    return image.id + PurePosixPath(image.uri).suffix.lower()


def prelabels(image: LabelRequest) -> Iterator[Prelabel]:
    """What a model found, cut off at the image's edges; what then has no area is left out."""
    found = image.to_correct
    for (x1, y1, x2, y2), score, class_id in zip(found.boxes, found.scores, found.class_ids, strict=True):
        left, right = max(x1, 0.0), min(x2, float(image.width))
        top, bottom = max(y1, 0.0), min(y2, float(image.height))
        if left < right and top < bottom:
            yield Prelabel(class_id, left, top, right, bottom, score)


def masks_in(store: Store, classes: int) -> Masks:
    """The masks that a job's lists name.

    Args:
        store: the job's root.
        classes: how many the list has.
    """

    def mask_of(image: LabelRequest) -> ClassMap | None:
        found = image.to_correct.mask
        if found is None:
            return None
        try:
            mask = decode_mask(store.read(found.key), store.uri_of(found.key))
            shape, highest = mask.shape, int(mask[mask != VOID].max(initial=0))
            if shape != (image.height, image.width) or highest >= classes:
                raise InputError(f"{store.uri_of(found.key)}: not a mask of {image.width}x{image.height} pixels")
        except OutOfReachError:
            raise
        except InputError as error:
            log.warning("%s goes out without a mask: %s", image.uri, error)
            return None
        return mask

    return mask_of


def names_file(wanted: LabelRequests) -> bytes:
    """The class names, one per line in the order of their ids, as many tools take them."""
    return "".join(f"{name}\n" for name in wanted.classes).encode()
