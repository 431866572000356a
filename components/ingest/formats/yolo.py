"""YOLO: one text file per image with a line ``class cx cy w h`` per box, in 0..1 of the image's width and height.

``data.yaml`` names the classes and which folders (or text files that list images) are for ``train``, ``val`` and
``test``. Without it every image counts, and the names stand in ``classes.txt``, or the numbers are the names.

An image's text file lies beside it or in the ``labels`` folder beside its ``images`` folder; see
:mod:`components.ingest.pairs`. As for Ultralytics, an image without a text file shows nothing (a negative), and a line
with more numbers is the outline of an object, of which the smallest upright box around it is taken. Of key points,
which ``kpt_shape`` in ``data.yaml`` announces, the box before them is taken. Turned boxes (four corners of a rectangle
that does not stand upright) are refused: no upright box says the same.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from components.core.errors import InputError
from components.ingest.dataset import (
    IMAGE_SUFFIXES,
    DataSet,
    Folder,
    Label,
    LabelError,
    Record,
    few,
    formats,
    suffix_of,
)
from components.ingest.formats.data_yaml import (
    ListedNames,
    description,
    descriptions,
    key_point_columns,
    numbered_names,
)
from components.ingest.label_files import decoded
from components.ingest.pairs import Pairs, has_masks, own_folders, plain, without_masks
from components.ingest.references import Images, inside

logger = logging.getLogger(__name__)

MAX_LIST_BYTES = 2**30
LARGEST_CLASS = 1_000_000
LOOKED_AT = 20  # label files with a line in them, to tell the format
SPLIT_KEYS = {"train": "train", "val": "val", "valid": "val", "test": "test"}
SKEW = 1e-3  # of the image's side; corners are rounded


@formats.register("yolo")
class Yolo:
    """The reader of YOLO."""

    @staticmethod
    def detect(folder: Folder) -> bool:
        """There is a text file of five numbers a line beside an image; or a ``data.yaml``, and no masks."""
        if folder.index and folder.index not in descriptions(folder):
            return False
        pairs = Pairs.of(folder.images, folder.named(".txt"))
        filled = 0
        for name in pairs.images:
            line = next((line for line in decoded(folder.head(name)).splitlines() if line.strip()), "")
            if line and _looks_right(line):
                return True
            filled += bool(line)
            if filled == LOOKED_AT:
                break
        return bool(descriptions(folder)) and not has_masks(folder)

    @staticmethod
    def read(folder: Folder) -> DataSet:
        """Read what ``data.yaml`` names, or else every image."""
        found = [folder.index] if folder.index else descriptions(folder)
        if len(found) > 1:
            raise InputError(f"several YOLO data sets in the data: set data_path to one of {few(found)}")
        listed = ListedNames(folder)
        described = _described(folder, found[0]) if found else _undescribed(folder)
        names = tuple(described.names.values()) or listed.names()
        if described.names and listed.names() and set(listed.names()) != set(names):
            logger.warning(
                "%s names the classes %s; classes.txt, which names %s, is ignored",
                found[0],
                few(names),
                few(listed.names()),
            )
        return DataSet(tuple(dict.fromkeys(names)) or None, _records(folder, described, listed))


@dataclass(frozen=True)
class _Described:
    """What the data set says of itself.

    Attributes:
        names: class names by number; empty: none are given.
        splits: the split of each image that belongs to it; empty where it has none, or more than one.
        key_points: columns of key points behind each box.
        missing: images that a list names and that are not there, with the reason.
        lists: the lists.
    """

    names: dict[int, str]
    splits: dict[str, str] = field(default_factory=dict)
    key_points: int = 0
    missing: dict[str, str] = field(default_factory=dict)
    lists: set[str] = field(default_factory=set)


def parse(text: str, names: dict[int, str], key_points: int = 0) -> tuple[Label, ...]:
    """Read one label file.

    Args:
        text: its lines.
        names: class names by number; if empty, the numbers are the names.
        key_points: columns of key points behind each box; 0: what is behind a class is a box or an outline.

    Raises:
        LabelError: a line that is not five numbers, or a number and an outline of three points or more; a turned box;
            or outlines that may as well be key points.
    """
    lines = [(number, line.split()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    labels = tuple(_label(number, fields, names, key_points) for number, fields in lines)
    if not key_points and any(len(fields) > 9 for _, fields in lines):
        _check_outlines([list(map(float, fields[1:])) for _, fields in lines])
    return labels


def _label(number: int, fields: list[str], names: dict[int, str], key_points: int) -> Label:
    count = len(fields)
    if key_points and count not in (5, 5 + key_points):
        raise LabelError(
            f"annotation unreadable: line {number} has {count} columns: by kpt_shape they are {5 + key_points}"
        )
    if not key_points and count != 5 and (count < 7 or count % 2 == 0):
        raise LabelError(f"annotation unreadable: line {number} has {count} columns: class cx cy w h are five")
    try:
        index, *values = map(float, fields)
    except ValueError as error:
        raise LabelError(f"annotation unreadable: line {number}: {error}") from error
    if not all(map(math.isfinite, (index, *values))):
        raise LabelError(f"NaN or infinite: line {number}")
    if not index.is_integer() or abs(index) > LARGEST_CLASS:
        raise LabelError(f"annotation unreadable: line {number}: the class {fields[0][:40]} is not a whole number")
    name = names.get(int(index), f"number {int(index)}") if names else str(int(index))
    if key_points or count == 5:
        x, y, width, height = values[:4]
        return Label(name, (x - width / 2, y - height / 2, x + width / 2, y + height / 2), normalised=True)
    across, down = values[::2], values[1::2]
    if len(across) == 4 and _is_turned(across, down):
        raise LabelError(f"turned box: line {number}: four corners of a rotated box")
    return Label(name, (min(across), min(down), max(across), max(down)), normalised=True)


def _is_turned(x: list[float], y: list[float]) -> bool:
    """Whether four points are the corners of a turned box: in 0..1 of both sides it is a parallelogram."""
    parallel = abs(x[0] + x[2] - x[1] - x[3]) < SKEW and abs(y[0] + y[2] - y[1] - y[3]) < SKEW
    sides = [(abs(x[i] - x[i - 1]), abs(y[i] - y[i - 1])) for i in range(4)]
    return parallel and any(min(side) > SKEW for side in sides)


def _check_outlines(lines: list[list[float]]) -> None:
    """Refuse outlines that may be key points: in every line the first four numbers are a box around all points behind.

    Raises:
        LabelError: they may be.
    """
    counts = {len(values) for values in lines}
    if len(counts) == 1 and all(_is_boxed(values, 2) or _is_boxed(values, 3) for values in lines):
        raise LabelError(
            f"ambiguous: {counts.pop() + 1} columns can be an outline or a box with key points: "
            "for key points set kpt_shape in data.yaml"
        )


def _is_boxed(values: list[float], step: int) -> bool:
    x, y, width, height = values[:4]
    points = values[4:]
    if len(points) % step or (step == 3 and not set(points[2::3]) <= {0.0, 1.0, 2.0}):
        return False
    seen = [point for point in zip(points[::step], points[1::step], strict=True) if point != (0.0, 0.0)]
    return all(abs(px - x) <= width / 2 + SKEW and abs(py - y) <= height / 2 + SKEW for px, py in seen)


def _looks_right(line: str) -> bool:
    try:
        return bool(_label(1, line.split(), {}, 0))
    except LabelError as error:
        return str(error).startswith("turned box")


def _records(folder: Folder, described: _Described, listed: ListedNames) -> Iterator[Record]:
    texts = [text for text in folder.named(".txt") if text not in described.lists]
    # A label's folder decides the images it is for; all images of the folder count here, not only the listed ones.
    pairs = Pairs.of(folder.images, texts)
    for image, split in described.splits.items():
        label = ""
        try:
            label = pairs.label(image)
            names = described.names or listed.of(label)
            labels = parse(folder.text(label), names, described.key_points) if label else ()
            yield Record(image, folder.path(image), labels, label, split)
        except LabelError as error:
            yield Record(image, label_file=label, reason=str(error))
    for image, reason in described.missing.items():
        yield Record(image, reason=reason)


def _undescribed(folder: Folder) -> _Described:
    """Every image; the split of those that a list at the top names, as Darknet and CVAT put it there."""
    described = _Described({}, dict.fromkeys(without_masks(folder), ""))
    listed = _Described({})
    images = Images(folder)
    for name in folder.named(".txt"):
        split = "" if "/" in name else SPLIT_KEYS.get(PurePosixPath(name).stem.lower(), "")
        lines = decoded(folder.head(name)).splitlines() if split else []
        if lines and suffix_of(lines[0].strip()) in IMAGE_SUFFIXES:
            _add_list(folder, images, name, split, listed)
    described.splits.update(listed.splits)
    return _Described({}, described.splits, missing=listed.missing, lists=listed.lists)


def _described(folder: Folder, name: str) -> _Described:
    content = description(folder, name)
    described = _Described(numbered_names(name, content), key_points=key_point_columns(name, content))
    entries = [(split, entry) for key, split in SPLIT_KEYS.items() for entry in _texts(content.get(key))]
    path = "".join(_texts(content.get("path")))
    images, places = Images(folder), _Places(folder)
    absent = []
    for split, entry in entries:
        place = places.find(PurePosixPath(name).parent, path, entry)
        if place is None:
            absent.append(entry)
        elif place in folder:
            _add_list(folder, images, place, split, described)
        else:
            for image in places.images(place):
                _add(image, split, described)
    if not entries:
        described.splits.update(dict.fromkeys(without_masks(folder), ""))
    there = few(sorted({file.partition("/")[0] for file in folder.files}))
    if not described.splits and not described.missing:
        raise InputError(f"{name}: no images at the given paths ({few(absent)}); the data has {there}")
    _check_absent(folder, name, absent, described)
    return described


def _check_absent(folder: Folder, name: str, absent: list[str], described: _Described) -> None:
    """Tell of entries that are not there; with labelled images that no entry names, one of them is mistaken.

    Raises:
        InputError: there are such images.
    """
    if not absent:
        return
    unlisted = [image for image in folder.images if image not in described.splits]
    labelled = Pairs.of(unlisted, (text for text in folder.named(".txt") if text not in described.lists)).labels
    if labelled:
        raise InputError(
            f"{name} lists {few(absent)}, which is not in the data, while {len(labelled)} labelled images are not "
            f"in any entry ({few(labelled, 3)}): correct the entries"
        )
    logger.warning("%s lists %s, which is not in the data", name, few(absent))


def _texts(value: object) -> list[str]:
    return [entry for entry in (value if isinstance(value, list) else [value]) if isinstance(entry, str) and entry]


class _Places:
    """The folders of a data set that hold images, and its text files, by what an entry of ``data.yaml`` calls them."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._images: dict[str, list[str]] = {"": without_masks(folder)}
        for image in self._images[""]:
            place = image.rpartition("/")[0]
            while place:
                self._images.setdefault(place, []).append(image)
                place = place.rpartition("/")[0]
        self._by_plain: dict[str, list[str]] = {}
        for place in (*self._images, *folder.named(".txt")):
            self._by_plain.setdefault(plain(place), []).append(place)

    def images(self, place: str) -> list[str]:
        """The images in a folder and below it."""
        return self._images[place]

    def find(self, here: PurePosixPath, path: str, entry: str) -> str | None:
        """The folder or list that an entry means; None if there is none.

        ``path`` and the entry are tried as tools write them: as they stand, without ``path`` (which names a folder on
        somebody's machine), without the ``../`` that Roboflow puts before folders that lie beside ``data.yaml``, and
        without the folders before, as long as these name no split.

        Args:
            here: the folder of ``data.yaml``.
            path: what it has under ``path``.
            entry: what it has for a split.
        """
        path, entry = path.replace("\\", "/"), entry.replace("\\", "/")
        parts = [part for part in PurePosixPath(entry).parts if part not in ("/", "..")]
        places = [here / path / entry, here / entry]
        for dropped in range(len(parts)):
            if set(own_folders(parts[:dropped])) & {*SPLIT_KEYS, "training", "validation", "testing"}:
                break
            places.append(here.joinpath(*parts[dropped:]))
        for place in places:
            name = inside(self._folder, place)
            if name is None:
                continue
            if name in self._images or (name in self._folder and name.endswith(".txt")):
                return name
            alike = self._by_plain.get(plain(name), [])
            if len(alike) == 1:
                return alike[0]
        return None


def _add_list(folder: Folder, images: Images, listing: str, split: str, described: _Described) -> None:
    try:
        lines = folder.text(listing, MAX_LIST_BYTES).splitlines()
    except LabelError as error:
        raise InputError(f"YOLO list of images: {error}") from error
    described.lists.add(listing)
    for line in filter(None, map(str.strip, lines)):
        try:
            _add(images.find(listing, line), split, described)
        except LabelError as error:
            described.missing[line] = str(error)


def _add(image: str, split: str, described: _Described) -> None:
    if described.splits.setdefault(image, split) != split:
        described.splits[image] = ""
