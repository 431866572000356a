"""Pascal VOC: one XML file per image, in ``Annotations`` beside ``JPEGImages``, or beside the image itself.

Coordinates are taken as they stand, ``xmin`` as x1 and ``xmax`` as x2, as Datumaro, CVAT and LabelImg do. (The VOC
development kit counts pixels from 1 and includes the last one; tools that write VOC today do not.)

An image without an XML file is unlabelled. Lists in ``ImageSets/Main`` such as ``train.txt`` give the split of an image
that exactly one of them names. Objects marked difficult or truncated count like the others; the boxes of an object's
parts do not. Of an object with an outline alone, as LabelMe writes it, the upright box around it is taken; a turned box
(CVAT's ``rotation``) is refused. Images in ``SegmentationClass`` and ``SegmentationObject`` are masks and not read.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from xml.etree import ElementTree
from xml.parsers import expat

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
from components.ingest.pairs import Pairs, loose_key, without_masks

logger = logging.getLogger(__name__)

MASKS = {"segmentationclass", "segmentationobject"}
SETS = "imagesets"
SPLIT_KEYS = {"train": "train", "val": "val", "valid": "val", "test": "test"}
LONGEST_VALUE = 100_000  # characters
_ROOT = re.compile(rb"<annotation[\s>]")  # CVAT's own XML begins with <annotations>


@formats.register("voc")
class Voc:
    """The reader of Pascal VOC."""

    @staticmethod
    def detect(folder: Folder) -> bool:
        """An XML file has an annotation in it."""
        return not folder.index and any(_looks_right(folder, name) for name in folder.named(".xml"))

    @staticmethod
    def read(folder: Folder) -> DataSet:
        """Read each image's XML; the classes are those found."""
        masks = {name: "not read: a mask of Pascal VOC" for name in folder.images if _is_mask(name)}
        return DataSet(None, _records(folder), left_out=masks)


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
    objects = (item for item in root.iterfind("object") if _text(item, "deleted") != "1")  # LabelMe keeps those
    return tuple(map(_label, objects)), _size(root)


def _label(item: ElementTree.Element) -> Label:
    name = _text(item, "name")
    if not name:
        raise LabelError("annotation unreadable: an object without a name")
    if item.find("robndbox") is not None:  # roLabelImg's
        raise LabelError(f"turned box: {name} is a robndbox: draw it upright")
    if len(item.findall("bndbox")) > 1:
        raise LabelError(f"annotation unreadable: {name} with more than one box")
    box = item.find("bndbox")
    points = item.findall("polygon/pt")
    if box is None and len(points) < 3:
        raise LabelError(f"annotation unreadable: {name} without a box")
    try:
        if box is None:  # LabelMe's outline
            x, y = ([float(_text(point, side)) for point in points] for side in ("x", "y"))
            return Label(name, (min(x), min(y), max(x), max(y)))
        x1, y1, x2, y2 = (float(_text(box, corner)) for corner in ("xmin", "ymin", "xmax", "ymax"))
    except ValueError as error:
        raise LabelError(f"annotation unreadable: {name}: {error}") from error
    if _rotation(item):
        raise LabelError(f"turned box: {name} is rotated by {_rotation(item):g} degrees: draw it upright")
    return Label(name, (x1, y1, x2, y2))


def _rotation(item: ElementTree.Element) -> float:
    """By how many degrees a box is turned; CVAT gives the box before turning, and this beside it."""
    for attribute in item.iterfind("attributes/attribute"):
        if _text(attribute, "name").lower() == "rotation":
            try:
                return float(_text(attribute, "value") or 0)
            except ValueError:
                return 0.0
    return 0.0


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
    return bool(_ROOT.search(folder.head(name).replace(b"\0", b"")))  # also in UTF-16


def _records(folder: Folder) -> Iterator[Record]:
    images = [name for name in without_masks(folder) if not _is_mask(name)]
    pairs = Pairs.of(images, folder.named(".xml"))
    splits = _splits(folder, images)
    for image in images:
        split = splits.get(image, "")
        label = ""
        try:
            label = pairs.label(image)
            if label:
                boxes, size = parse(folder.read(label))
                yield Record(image, folder.path(image), boxes, label, split, size)
            else:
                yield Record(image, folder.path(image), split=split)
        except LabelError as error:
            yield Record(image, label_file=label, reason=str(error))


def _list_key(above: str, line: str) -> str:
    path = line.replace("\\", "/")
    names_file = suffix_of(path) in IMAGE_SUFFIXES or suffix_of(path) == ".xml"
    return loose_key(above + (path if names_file else f"{path}.jpg"))


def _is_mask(name: str) -> bool:
    return bool(MASKS & {part.lower() for part in name.split("/")})


def _splits(folder: Folder, images: list[str]) -> dict[str, str]:
    """The split of each image, where the lists leave no doubt.

    A list lies in ``ImageSets`` or in a folder below it. It names images by their stem; some name their file.
    """
    by_key = {loose_key(image): image for image in images}
    listed: dict[str, set[str]] = {}
    for name in folder.named(".txt"):
        *folders, last = PurePosixPath(name).parts
        split = SPLIT_KEYS.get(PurePosixPath(last).stem.lower(), "")
        lowered = [part.lower() for part in folders]
        if SETS not in lowered[-2:] or not split:
            continue
        above = "/".join([*folders[: lowered.index(SETS)], ""])
        try:
            lines = [line.strip() for line in folder.text(name).splitlines() if line.strip()]
        except LabelError as error:
            raise InputError(f"VOC list of images: {error}") from error
        missing = []
        for line in lines:
            spellings = (line, line.rpartition(" ")[0].strip())  # a number may stand behind the name
            image = next((found for one in spellings if one and (found := by_key.get(_list_key(above, one)))), None)
            if image is None:
                missing.append(line)
            else:
                listed.setdefault(image, set()).add(split)
        if missing:
            logger.warning("%s lists %d images that do not exist: %s", name, len(missing), few(missing, 3))
    return {image: splits.pop() for image, splits in listed.items() if len(splits) == 1}
