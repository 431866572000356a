"""Sedna's index: a text file with one image per line, ``path x1,y1,x2,y2,class x1,y1,x2,y2,class ...``.

Paths are relative to the index; boxes are corners in pixels; the class is a number, whose names stand one per line in
``classes.txt`` beside the index (without that file, the numbers are the names). Several indexes in one folder are one
data set. A line without boxes is an image with nothing to see, unless no line of the index has any: then it is a list
of unlabelled images.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath

from components.core.errors import InputError
from components.ingest.dataset import MAX_INDEX_BYTES, DataSet, Folder, Label, LabelError, Record, few, formats
from components.ingest.formats.data_yaml import NAMES_FILES, ListedNames
from components.ingest.label_files import decoded
from components.ingest.references import Images

LOOKED_AT_BYTES = 65536  # of a text file, to tell the format


@formats.register("sedna")
class Sedna:
    """The reader of Sedna's index."""

    @staticmethod
    def detect(folder: Folder) -> bool:
        """A text file at the top, or the one that was named, has a line with a box."""
        return any(_looks_right(folder, name) for name in _candidates(folder))

    @staticmethod
    def read(folder: Folder) -> DataSet:
        """Read the named index, or every index at the top of the folder."""
        indexes = [folder.index] if folder.index else [n for n in _candidates(folder) if _looks_right(folder, n)]
        if not indexes:
            raise InputError(f"no Sedna index in the data: text files at its top are {few(_candidates(folder))}")
        listed = ListedNames(folder)
        try:
            names = {name: listed.of(name) for name in indexes}
            lines = {name: _lines(folder.text(name, MAX_INDEX_BYTES)) for name in indexes}
        except LabelError as error:
            raise InputError(f"Sedna index: {error}") from error
        images = Images(folder)
        classes = dict.fromkeys(name for own in names.values() for name in own.values())
        return DataSet(
            tuple(classes) or None,
            (record for name in indexes for record in _records(folder, images, name, lines[name], names[name])),
        )


def _candidates(folder: Folder) -> list[str]:
    texts = [folder.index] if folder.index else [name for name in folder.files if "/" not in name]
    return [name for name in texts if name.lower().endswith(".txt") and name.lower() not in NAMES_FILES]


def _looks_right(folder: Folder, name: str) -> bool:
    lines = decoded(folder.head(name, LOOKED_AT_BYTES)).splitlines()
    return any(boxes and all(box.count(",") == 4 for box in boxes) for _, boxes in map(_split, lines))


def _lines(text: str) -> list[tuple[str, list[str]]]:
    return [_split(line) for line in text.splitlines() if line.strip()]


def _split(line: str) -> tuple[str, list[str]]:
    """The path, which may hold spaces, and the boxes: the fields at the end that hold commas."""
    fields = line.split()
    first = len(fields)
    while first > 1 and "," in fields[first - 1]:
        first -= 1
    return " ".join(fields[:first]), fields[first:]


def _records(
    folder: Folder, images: Images, index: str, lines: list[tuple[str, list[str]]], names: dict[int, str]
) -> Iterator[Record]:
    labelled = any(boxes for _, boxes in lines)
    for path, boxes in lines:
        try:
            image = images.find(index, path)
        except LabelError as error:
            yield Record(str(PurePosixPath(path.replace("\\", "/"))), reason=str(error))
            continue
        try:
            labels = tuple(_label(box, names) for box in boxes) if labelled else None
        except LabelError as error:
            yield Record(image, label_file=index, reason=str(error))
        else:
            yield Record(image, folder.path(image), labels, index if labelled else "")


def _label(field: str, names: dict[int, str]) -> Label:
    *corners, number = field.split(",")
    try:
        x1, y1, x2, y2 = map(float, corners)
        index = int(number)
    except ValueError as error:
        raise LabelError(f"annotation unreadable: {field[:80]!r} is not x1,y1,x2,y2,class") from error
    return Label(names.get(index, f"number {index}") if names else str(index), (x1, y1, x2, y2))
