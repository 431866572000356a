"""Pascal VOC: one XML file per picture, in ``Annotations`` beside ``JPEGImages``, or beside the picture itself.

Coordinates are taken as they stand, ``xmin`` as x1 and ``xmax`` as x2, as Datumaro, CVAT and LabelImg do. (The VOC
development kit counts pixels from 1 and includes the last one; tools that write VOC today do not.)

A picture without an XML file is unlabelled. ``ImageSets/Main/{train,val,test}.txt`` give the split of a picture that
exactly one of them lists. Objects marked difficult or truncated count like the others; the boxes of an object's parts
do not. Pictures in ``SegmentationClass`` and ``SegmentationObject`` are masks and not read.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath
from xml.parsers import expat

from components.core.errors import InputError
from components.core.manifest import SPLITS
from components.ingest.dataset import DataSet, Folder, Label, LabelError, Pairs, Record, formats, pair_key

MASKS = {"segmentationclass", "segmentationobject"}
LOOKED_AT = 20  # files, to tell the format
LONGEST_VALUE = 100_000  # characters


@formats.register("voc")
class Voc:
    """The reader of Pascal VOC."""

    @staticmethod
    def detect(folder: Folder) -> bool:
        """Any of the first XML files has an annotation in it."""
        return not folder.index and any(_looks_right(folder, name) for name in folder.named(".xml")[:LOOKED_AT])

    @staticmethod
    def read(folder: Folder) -> DataSet:
        """Read each picture's XML; the classes are those found."""
        return DataSet(None, _records(folder))


def parse(data: bytes) -> tuple[tuple[Label, ...], tuple[int, int] | None]:
    """Read one annotation.

    Returns:
        The labels, and the picture's width and height as claimed; None where they are absent or 0.

    Raises:
        LabelError: not XML, not an annotation, with a document type (which is where entities are defined, and so
            every attack by expansion or inclusion), or with an object that has no name or box.
    """
    reader = _Reader()
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.text
    parser.StartDoctypeDeclHandler = _refuse
    try:
        parser.Parse(data, True)
    except (expat.ExpatError, ValueError, LookupError) as error:  # the latter two for encodings that are not known
        raise LabelError(f"annotation unreadable: not well-formed XML ({error})") from error
    return tuple(reader.labels), reader.size()


class _Reader:
    """Follows the parser; only what lies at a known path counts, so that an object's parts are passed over."""

    def __init__(self) -> None:
        self.labels: list[Label] = []
        self._path: list[str] = []
        self._characters = ""
        self._object: dict[str, str] = {}
        self._size: dict[str, str] = {}

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if not self._path and name != "annotation":
            raise LabelError(f"annotation unreadable: the XML is <{name[:40]}>, not <annotation>")
        self._path.append(name)
        self._characters = ""

    def text(self, characters: str) -> None:
        self._characters += characters
        if len(self._characters) > LONGEST_VALUE:
            raise LabelError(f"annotation unreadable: a value of more than {LONGEST_VALUE} characters")

    def end(self, name: str) -> None:
        match self._path[1:]:
            case ["object", "name"] | ["object", "bndbox", "xmin" | "ymin" | "xmax" | "ymax"]:
                self._object[name] = self._characters.strip()
            case ["object"]:
                self.labels.append(_label(self._object))
                self._object = {}
            case ["size", "width" | "height"]:
                self._size[name] = self._characters.strip()
        self._path.pop()

    def size(self) -> tuple[int, int] | None:
        try:
            width, height = (int(float(self._size.get(side) or 0)) for side in ("width", "height"))
        except (ValueError, OverflowError) as error:
            raise LabelError(f"annotation unreadable: size {self._size}") from error
        return (width, height) if width and height else None


def _label(found: dict[str, str]) -> Label:
    if not found.get("name"):
        raise LabelError("annotation unreadable: an object without a name")
    try:
        x1, y1, x2, y2 = (float(found[corner]) for corner in ("xmin", "ymin", "xmax", "ymax"))
    except KeyError as error:
        raise LabelError(f"annotation unreadable: {found['name']} without {error.args[0]}") from error
    except ValueError as error:
        raise LabelError(f"annotation unreadable: {found['name']}: {error}") from error
    return Label(found["name"], (x1, y1, x2, y2))


def _refuse(*_: object) -> None:
    raise LabelError("XML with a document type or entities: refused")


def _looks_right(folder: Folder, name: str) -> bool:
    return b"<annotation" in folder.head(name).replace(b"\0", b"")  # also in UTF-16


def _records(folder: Folder) -> Iterator[Record]:
    pictures = [name for name in folder.pictures if not MASKS & {part.lower() for part in name.split("/")}]
    labels = folder.named(".xml")
    pairs = Pairs.of(pictures, labels)
    splits = _splits(folder)
    for picture in pictures:
        split = splits.get(pair_key(picture), "")
        try:
            label = pairs.label(picture)
            if label:
                boxes, size = parse(folder.read(label))
                yield Record(picture, folder.path(picture), boxes, label, split, size)
            else:
                yield Record(picture, folder.path(picture), split=split)
        except LabelError as error:
            yield Record(picture, reason=str(error))
    for label in labels:
        if label not in pairs.pictures:
            yield Record(label, reason="label without picture")


def _splits(folder: Folder) -> dict[str, str]:
    """The split of each picture, by its pair key, where the lists leave no doubt."""
    listed: dict[str, set[str]] = {}
    for name in folder.named(".txt"):
        path = PurePosixPath(name)
        if path.parts[-3:-1] != ("ImageSets", "Main") or path.stem not in SPLITS:
            continue
        try:
            lines = folder.text(name).splitlines()
        except LabelError as error:
            raise InputError(f"VOC list of pictures: {error}") from error
        for line in lines:
            if line.strip():
                key = pair_key("/".join([*path.parts[:-3], "JPEGImages", line.split()[0] + ".jpg"]))
                listed.setdefault(key, set()).add(path.stem)
    return {key: splits.pop() for key, splits in listed.items() if len(splits) == 1}
