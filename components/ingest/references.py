"""Which image a label that lies elsewhere means, and the split that a path names."""

from __future__ import annotations

import itertools
import re
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

from components.ingest.dataset import Folder, LabelError, few
from components.ingest.pairs import UPLOAD, as_uploaded, own_folders, plain

_SPLIT = re.compile(r"(?<![a-z])(train|val|test)(?:id|idation|ing)?(?![a-z])")
_DRIVE = re.compile(r"^[A-Za-z]:(?=/)|^file://")


class Images:
    """The images of a data set by what an index may call them.

    Args:
        folder: the data set.
    """

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._by_name: dict[str, list[str]] = {}
        for image in folder.images:
            self._by_name.setdefault(plain(image.rpartition("/")[2]), []).append(image)
        self._by_upload: dict[str, list[str]] = {}
        for name, images in self._by_name.items():
            self._by_upload.setdefault(as_uploaded(name), []).extend(images)
        self._shared = _shared_folders(folder.images)

    def named(self, name: str) -> list[str]:
        """The images whose file has this name, whatever folder they are in.

        If there are none: those whose letters are capital or small, composed or not in another way; or those that would
        get this name when they are uploaded to Label Studio.
        """
        alike = self._by_name.get(plain(name), [])
        if not alike and UPLOAD.match(name):
            bare = plain(UPLOAD.sub("", name))
            alike = self._by_name.get(bare, []) or self._by_upload.get(bare, [])
        return [image for image in alike if image.rpartition("/")[2] == name] or alike

    def find(self, index: str, reference: str) -> str:
        """The image that an index means.

        It lies where the reference says, seen from the index, or in ``images`` beside it; or it is the only one whose
        path ends so; or the only one of that name whose folders do not contradict, since an index also names folders
        that were there on another machine.

        Args:
            index: path of the index.
            reference: what it calls the image; backslashes count as slashes.

        Raises:
            LabelError: there is none, or more than one.
        """
        wanted = PurePosixPath(_DRIVE.sub("", reference.strip().replace("\\", "/")))
        here = PurePosixPath(index).parent
        for place in (here / wanted, here / "images" / wanted, here.parent / "images" / wanted):
            name = inside(self._folder, place)
            if name and name in self._folder:
                return name
        named = self.named(wanted.name)
        if not named and "%" in wanted.name:
            wanted = PurePosixPath(unquote(str(wanted)))
            named = self.named(wanted.name)
        parts = [part for part in wanted.parts if part not in ("/", "..")]
        ending = plain(f"/{'/'.join(parts[:-1])}/") if len(parts) > 1 else "/"
        found = [image for image in named if plain(f"/{image.rpartition('/')[0]}/").endswith(ending)]
        if not found:
            folders = own_folders(parts[:-1])
            said = split_of("/".join(folders))
            foreign = wanted.is_absolute() or ".." in wanted.parts
            found = [
                image
                for image in named
                if self._agrees(image, here, folders, foreign) and (not said or split_of(image) in ("", said))
            ]
        split = split_of(index)
        same_split = [image for image in found if split and split_of(image) == split]
        found = same_split if len(found) > 1 and same_split else found
        if not found:
            elsewhere = (
                f"images of its name are {few(named, 3)}" if named else f"no image is called {wanted.name[:200]}"
            )
            raise LabelError(f"label without image: {index} lists it; {elsewhere}")
        return only(found, index)

    def _agrees(self, image: str, here: PurePosixPath, folders: list[str], foreign: bool) -> bool:
        """Whether the folders of an image are the last of those that a reference names.

        The folder that holds all images may have any name where the reference is one of another machine.
        """
        own = image.split("/")[:-1]
        skipped = self._shared if foreign else 0
        if here.parts and tuple(own[: len(here.parts)]) == here.parts:
            skipped = max(skipped, len(here.parts))
        kept = own_folders(own[skipped:])
        return not kept or folders[-len(kept) :] == kept


def path_in(reference: str) -> str:
    """What a reference calls a file: of an address its path, without what may be a secret behind it."""
    if "://" not in reference:
        return reference
    try:
        return unquote(urlsplit(reference).path)
    except ValueError:
        return reference.partition("?")[0]


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


def inside(folder: Folder, path: PurePosixPath) -> str | None:
    """A path below the folder without ``.`` and ``..``; empty for the folder itself; None if it leads out."""
    if path.is_absolute():
        if not path.is_relative_to(folder.root):
            return None
        path = path.relative_to(folder.root)
    parts: list[str] = []
    for part in path.parts:
        if part == ".." and not parts:
            return None
        parts = parts[:-1] if part == ".." else [*parts, part]
    return "/".join(parts)


def split_of(path: str) -> str:
    """The split that a path names last: ``train``, ``val`` or ``test``; empty if none."""
    found = _SPLIT.findall(path.lower())
    return str(found[-1]) if found else ""


def _shared_folders(images: tuple[str, ...]) -> int:
    """How many folders all images have in common."""
    first, last = (image.split("/")[:-1] for image in (min(images, default=""), max(images, default="")))
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False)))
