"""YOLO: one text file per image with a line ``class cx cy w h`` per box, in 0..1 of the image's width and height.

``data.yaml`` names the classes and which folders (or text files that list images) are for ``train``, ``val`` and
``test``. Without it every image counts, and the names stand in ``classes.txt``, or the numbers are the names.

An image's text file lies beside it or in the ``labels`` folder beside its ``images`` folder. As for Ultralytics, a
image without a text file shows nothing (a negative), and a line with more numbers is the outline of an object, of
which the smallest upright box around it is taken.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from components.core.documents import read_yaml
from components.core.errors import InputError
from components.ingest.dataset import (
    DataSet,
    Folder,
    Label,
    LabelError,
    Pairs,
    Record,
    few,
    formats,
    has_masks,
    pair_key,
)

logger = logging.getLogger(__name__)

MAX_YAML_BYTES = 2**18
MAX_LIST_BYTES = 2**30
LOOKED_AT = 20  # label files, to tell the format
SPLIT_KEYS = {"train": "train", "val": "val", "valid": "val", "test": "test"}
NAMES_FILES = ("classes.txt", "obj.names")


@formats.register("yolo")
class Yolo:
    """The reader of YOLO."""

    @staticmethod
    def detect(folder: Folder) -> bool:
        """There is a text file of five numbers a line beside an image; or a ``data.yaml``, and no masks."""
        if folder.index and folder.index not in yamls(folder):
            return False
        pairs = Pairs.of(folder.images, folder.named(".txt"))
        if any(_looks_right(folder, name) for name in list(pairs.images)[:LOOKED_AT]):
            return True
        return bool(yamls(folder)) and not has_masks(folder)

    @staticmethod
    def read(folder: Folder) -> DataSet:
        """Read what ``data.yaml`` names, or else every image."""
        found = [folder.index] if folder.index else yamls(folder)
        if len(found) > 1:
            raise InputError(f"several YOLO data sets in the data: name one of {few(found)} in data_path")
        described = _described(folder, found[0]) if found else _undescribed(folder)
        classes = tuple(dict.fromkeys(described.names.values())) if described.names else None
        return DataSet(classes, _records(folder, described))


@dataclass(frozen=True)
class _Described:
    """What the data set says of itself.

    Attributes:
        names: class names by number; empty: none are given, the numbers are the names.
        splits: the split of each image that belongs to it; empty where it has none, or more than one.
        missing: images that a list names and that are not there, with the list.
        lists: the lists.
    """

    names: dict[int, str]
    splits: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    lists: set[str] = field(default_factory=set)


def parse(text: str, names: dict[int, str]) -> tuple[Label, ...]:
    """Read one label file.

    Args:
        text: its lines.
        names: class names by number; if empty, the numbers are the names.

    Raises:
        LabelError: a line that is not five numbers, or a number and an outline of three points or more.
    """
    return tuple(_label(number, line, names) for number, line in enumerate(text.splitlines(), 1) if line.strip())


def _label(number: int, line: str, names: dict[int, str]) -> Label:
    fields = line.split()
    if len(fields) != 5 and (len(fields) < 7 or len(fields) % 2 == 0):
        raise LabelError(f"annotation unreadable: line {number} has {len(fields)} columns: class cx cy w h are five")
    try:
        index, *values = map(float, fields)
    except ValueError as error:
        raise LabelError(f"annotation unreadable: line {number}: {error}") from error
    if not all(map(math.isfinite, (index, *values))):
        raise LabelError(f"NaN or infinite: line {number}")
    if not index.is_integer():
        raise LabelError(f"annotation unreadable: line {number}: the class {fields[0][:40]} is no whole number")
    name = names.get(int(index), f"number {int(index)}") if names else str(int(index))
    if len(values) == 4:
        x, y, width, height = values
        return Label(name, (x - width / 2, y - height / 2, x + width / 2, y + height / 2), normalised=True)
    return Label(name, (min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2])), normalised=True)


def _looks_right(folder: Folder, name: str) -> bool:
    try:
        return bool(parse(folder.text(name), {}))
    except LabelError:
        return False


def _records(folder: Folder, described: _Described) -> Iterator[Record]:
    texts = [text for text in folder.named(".txt") if text not in described.lists]
    # A label's folder decides the images it is for; all images of the folder count here, not only the listed ones.
    pairs = Pairs.of(folder.images, texts)
    for image, split in described.splits.items():
        try:
            label = pairs.label(image)
            labels = parse(folder.text(label), described.names) if label else ()
            yield Record(image, folder.path(image), labels, label, split)
        except LabelError as error:
            yield Record(image, reason=str(error))
    for image, listing in described.missing.items():
        yield Record(image, reason=f"label without image: {listing} lists it")
    label_folders = {pair_key(image).rpartition("/")[0] for image in described.splits}
    for text in texts:
        if text not in pairs.images and pair_key(text).rpartition("/")[0] in label_folders and _is_label(text):
            yield Record(text, reason="label without image")


def _is_label(text: str) -> bool:
    """Other texts that lie among labels: names, lists of images, notes."""
    stem = PurePosixPath(text).stem.lower()
    return stem not in {"classes", *SPLIT_KEYS} and not stem.startswith(("readme", "license"))


def yamls(folder: Folder) -> list[str]:
    """The descriptions of a data set in the folder that lie highest."""
    found = [name for name in folder.named(".yaml", ".yml") if "names" in description(folder, name)]
    top = min((name.count("/") for name in found), default=0)
    return [name for name in found if name.count("/") == top]


def description(folder: Folder, name: str) -> dict[str, Any]:
    """What a ``data.yaml`` says; nothing if it cannot be read."""
    try:
        content = read_yaml(folder.text(name, MAX_YAML_BYTES), name)
    except (LabelError, InputError):
        return {}
    return content if isinstance(content, dict) else {}


def listed_names(folder: Folder) -> dict[int, str]:
    """Class names by the number of their line, from 0, in ``classes.txt``; none if there is no such file."""
    names_file = next((n for n in folder.files if PurePosixPath(n).name in NAMES_FILES), None)
    try:
        lines = folder.text(names_file).splitlines() if names_file else []
    except LabelError as error:
        raise InputError(f"YOLO class names: {error}") from error
    return {number: line.strip() for number, line in enumerate(lines) if line.strip()}


def _undescribed(folder: Folder) -> _Described:
    return _Described(listed_names(folder), dict.fromkeys(folder.images, ""))


def _described(folder: Folder, name: str) -> _Described:
    content = description(folder, name)
    described = _Described(numbered_names(name, content.get("names")))
    entries = [(split, entry) for key, split in SPLIT_KEYS.items() for entry in _texts(content.get(key))]
    path = "".join(_texts(content.get("path")))
    absent = [entry for split, entry in entries if not _add_entry(folder, name, path, split, entry, described)]
    if not entries:
        described.splits.update(dict.fromkeys(folder.images, ""))
    if not described.splits:
        there = sorted({file.partition("/")[0] for file in folder.files})
        raise InputError(f"{name}: no images where it says they are ({few(absent)}); in the data are {few(there)}")
    for entry in absent:
        logger.warning("%s names %s, which is not in the data", name, entry)
    return described


def numbered_names(name: str, given: object) -> dict[int, str]:
    """The class names of a ``data.yaml`` by number.

    Args:
        name: of the file, for messages.
        given: what it has under ``names``.

    Raises:
        InputError: neither a list of names nor names by number.
    """
    named = dict(enumerate(given)) if isinstance(given, list) else given
    if not isinstance(named, dict) or not named:
        raise InputError(f"{name}: 'names' must list the classes, or give them by number")
    for key, value in named.items():
        if not (isinstance(key, int) and isinstance(value, str | int | float)):
            raise InputError(f"{name}: 'names' must be text by number; it has {str(key)[:40]!r}")
    return {key: str(value).strip() for key, value in named.items()}


def _texts(value: object) -> list[str]:
    return [entry for entry in (value if isinstance(value, list) else [value]) if isinstance(entry, str) and entry]


def _add_entry(folder: Folder, name: str, path: str, split: str, entry: str, described: _Described) -> bool:
    """Add the images of one entry; False if there is no such folder or list.

    ``path`` and the entry are tried as tools write them: as they stand, without ``path`` (which names a folder on
    somebody's machine), and without the ``../`` that Roboflow puts before folders that lie beside ``data.yaml``.
    """
    here = PurePosixPath(name).parent
    for place in (here / path / entry, here / entry, here / entry.removeprefix("../")):
        inside = _inside(folder, place)
        if inside is None:
            continue
        if inside in folder and inside.endswith(".txt"):
            _add_list(folder, inside, split, described)
            return True
        images = [image for image in folder.images if not inside or image.startswith(f"{inside}/")]
        for image in images:
            _add(image, split, described)
        if images:
            return True
    return False


def _add_list(folder: Folder, listing: str, split: str, described: _Described) -> None:
    try:
        lines = folder.text(listing, MAX_LIST_BYTES).splitlines()
    except LabelError as error:
        raise InputError(f"YOLO list of images: {error}") from error
    described.lists.add(listing)
    for line in filter(None, map(str.strip, lines)):
        places = (_inside(folder, PurePosixPath(listing).parent / line), _inside(folder, PurePosixPath(line)))
        found = next((place for place in places if place in folder), None)
        if found is None:
            described.missing[line] = listing
        else:
            _add(found, split, described)


def _add(image: str, split: str, described: _Described) -> None:
    if described.splits.setdefault(image, split) != split:
        described.splits[image] = ""


def _inside(folder: Folder, path: PurePosixPath) -> str | None:
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
