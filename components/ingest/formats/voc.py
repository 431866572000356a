"""Pascal VOC: one XML file per image, in ``Annotations`` beside ``JPEGImages``, or beside the image itself.

Coordinates are taken as they stand, ``xmin`` as x1 and ``xmax`` as x2, as Datumaro, CVAT and LabelImg do. (The VOC
development kit counts pixels from 1 and includes the last one; tools that write VOC today do not.)

An image without an XML file is unlabelled. ``ImageSets/Main/{train,val,test}.txt`` give the split of an image that
exactly one of them lists. Objects marked difficult or truncated count like the others; the boxes of an object's parts
do not. Images in ``SegmentationClass`` and ``SegmentationObject`` are masks and not read.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath
from xml.etree import ElementTree
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
        """Read each image's XML; the classes are those found."""
        return DataSet(None, _records(folder))


def parse(data: bytes) -> tuple[tuple[Label, ...], tuple[int, int] | None]:
    """Read one annotation.

    Returns:
        The labels, and the image's width and height as claimed; None where they are absent or 0.

    Raises:
        LabelError: not XML, not an annotation, with a document type (which is where entities are defined, and so
            every attack by expansion or inclusion), or with an object that has no name or box.
    """
    checker = expat.ParserCreate()
    checker.StartDoctypeDeclHandler = _refuse
    try:
        checker.Parse(data, True)
        root = ElementTree.fromstring(data)
    except (expat.ExpatError, ElementTree.ParseError, ValueError, LookupError) as error:
        # The latter two for encodings that are not known.
        raise LabelError(f"annotation unreadable: not well-formed XML ({error})") from error
    if root.tag != "annotation":
        raise LabelError(f"annotation unreadable: the XML is <{root.tag[:40]}>, not <annotation>")
    return tuple(_label(item) for item in root.iterfind("object")), _size(root)


def _label(item: ElementTree.Element) -> Label:
    name = _text(item, "name")
    if not name:
        raise LabelError("annotation unreadable: an object without a name")
    box = item.find("bndbox")
    if box is None:
        raise LabelError(f"annotation unreadable: {name} without a box")
    try:
        x1, y1, x2, y2 = (float(_text(box, corner)) for corner in ("xmin", "ymin", "xmax", "ymax"))
    except ValueError as error:
        raise LabelError(f"annotation unreadable: {name}: {error}") from error
    return Label(name, (x1, y1, x2, y2))


def _size(root: ElementTree.Element) -> tuple[int, int] | None:
    claimed = root.find("size")
    if claimed is None:
        return None
    try:
        width, height = (int(float(_text(claimed, side) or 0)) for side in ("width", "height"))
    except (ValueError, OverflowError) as error:
        raise LabelError(f"annotation unreadable: size: {error}") from error
    return (width, height) if width and height else None


def _text(item: ElementTree.Element, name: str) -> str:
    """The text of a child; empty where there is none.

    Raises:
        LabelError: it is too long to be a value.
    """
    text = item.findtext(name) or ""
    if len(text) > LONGEST_VALUE:
        raise LabelError(f"annotation unreadable: a value of more than {LONGEST_VALUE} characters")
    return text.strip()


def _refuse(*_: object) -> None:
    raise LabelError("XML with a document type or entities: refused")


def _looks_right(folder: Folder, name: str) -> bool:
    return b"<annotation" in folder.head(name).replace(b"\0", b"")  # also in UTF-16


def _records(folder: Folder) -> Iterator[Record]:
    images = [name for name in folder.images if not MASKS & {part.lower() for part in name.split("/")}]
    labels = folder.named(".xml")
    pairs = Pairs.of(images, labels)
    splits = _splits(folder)
    for image in images:
        split = splits.get(pair_key(image), "")
        try:
            label = pairs.label(image)
            if label:
                boxes, size = parse(folder.read(label))
                yield Record(image, folder.path(image), boxes, label, split, size)
            else:
                yield Record(image, folder.path(image), split=split)
        except LabelError as error:
            yield Record(image, reason=str(error))
    for label in labels:
        if label not in pairs.images:
            yield Record(label, reason="label without image")


def _splits(folder: Folder) -> dict[str, str]:
    """The split of each image, by its pair key, where the lists leave no doubt."""
    listed: dict[str, set[str]] = {}
    for name in folder.named(".txt"):
        path = PurePosixPath(name)
        if path.parts[-3:-1] != ("ImageSets", "Main") or path.stem not in SPLITS:
            continue
        try:
            lines = folder.text(name).splitlines()
        except LabelError as error:
            raise InputError(f"VOC list of images: {error}") from error
        for line in lines:
            if line.strip():
                key = pair_key("/".join([*path.parts[:-3], "JPEGImages", line.split()[0] + ".jpg"]))
                listed.setdefault(key, set()).add(path.stem)
    return {key: splits.pop() for key, splits in listed.items() if len(splits) == 1}
