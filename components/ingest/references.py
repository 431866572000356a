"""Which image a label that lies elsewhere means, and the split that a path names."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from components.ingest.dataset import Folder, LabelError, few

_SPLIT = re.compile(r"(?<![a-z])(train|val|test)(?:id|idation|ing)?(?![a-z])")


class Images:
    """The images of a data set by what an index may call them.

    Args:
        folder: the data set.
    """

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._by_name: dict[str, list[str]] = {}
        for image in folder.images:
            self._by_name.setdefault(image.rpartition("/")[2], []).append(image)

    def named(self, name: str) -> list[str]:
        """The images whose file has this name, whatever folder they are in."""
        return self._by_name.get(name, [])

    def find(self, index: str, reference: str) -> str:
        """The image that an index means: beside it, in ``images`` beside it, or the only one whose path ends so.

        Args:
            index: path of the index.
            reference: what it calls the image; backslashes count as slashes.

        Raises:
            LabelError: there is none, or more than one.
        """
        wanted = PurePosixPath(reference.replace("\\", "/"))
        here = PurePosixPath(index).parent
        for place in (here / wanted, here / "images" / wanted, here.parent / "images" / wanted):
            if str(place) in self._folder:
                return str(place)
        ending = f"/{str(wanted).removeprefix('/')}"
        found = [image for image in self.named(wanted.name) if f"/{image}".endswith(ending)]
        split = split_of(index)
        same_split = [image for image in found if split and split_of(image) == split]
        return only(same_split if len(found) > 1 and same_split else found, index)


def only(found: list[str], index: str) -> str:
    """The one image that an index means.

    Raises:
        LabelError: there is none, or more than one.
    """
    if not found:
        raise LabelError(f"label without image: {index} lists it")
    if len(found) > 1:
        raise LabelError(f"ambiguous: {len(found)} images fit: {few(found)}")
    return found[0]


def split_of(path: str) -> str:
    """The split that a path names last: ``train``, ``val`` or ``test``; empty if none."""
    found = _SPLIT.findall(path.lower())
    return str(found[-1]) if found else ""
