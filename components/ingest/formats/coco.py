"""COCO: one JSON file with ``images``, ``annotations`` (``bbox`` is x, y, width, height in pixels) and ``categories``.

Several such files in one folder (one per split) are one data set; if the names of some begin with ``instances``, as in
COCO's own download, the others beside them hold captions or key points and are left out. A file name or folder that
says train, val or test gives the split. An image without annotations shows nothing (a negative); in a file without the
key ``annotations``, such as COCO's ``image_info``, all are unlabelled. Several entries of one image count together.
Annotations with ``iscrowd`` are no single object and are left out, as COCO's own evaluation leaves them out, and so are
those with ``ignore``. Where ``bbox`` is missing, the upright box around the outline is taken; a turned box (CVAT's
``rotation``) is refused.

A category that only groups others, as Roboflow writes one for the project (it has no annotation and is the
``supercategory`` of others), is no class.
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from components.core.errors import InputError
from components.ingest.dataset import (
    MAX_INDEX_BYTES,
    DataSet,
    Folder,
    Label,
    LabelError,
    Record,
    few,
    formats,
)
from components.ingest.references import Images, path_in, split_of

logger = logging.getLogger(__name__)

_ENTRIES = re.compile(rb'"images"\s*:\s*\[')
_OTHERS = re.compile(rb'"(info|licenses|categories|annotations)"\s*:')
_OBJECT = re.compile(rb"(\xef\xbb\xbf)?\s*\{")  # a list with such keys is Label Studio's
PIECE_BYTES = 2**20
AREA = 1e-3  # to which two areas are the same
LONGEST_ID = 100  # characters; Python makes no number of some thousand digits
XYWH_ABS = 1  # Detectron2's number for boxes as COCO has them


@formats.register("coco")
class Coco:
    """The reader of COCO."""

    @staticmethod
    def detect(folder: Folder) -> bool:
        """A JSON file has COCO's images."""
        return bool(_indexes(folder)[0])

    @staticmethod
    def read(folder: Folder) -> DataSet:
        """Read every index."""
        names, others = _indexes(folder)
        indexes = [_Index.of(folder, name) for name in names]
        if not indexes:
            raise InputError(f"no COCO file in the data: JSON files are {few(folder.named('.json'))}")
        groups = _groups(indexes)
        if groups:
            logger.warning("%s: ignored, because it only groups other classes and has no boxes", few(sorted(groups)))
        classes = dict.fromkeys(name for index in indexes for name in index.names.values() if name not in groups)
        left_out = dict.fromkeys(others, "not read, because there are COCO files named instances")
        return DataSet(tuple(classes), _records(folder, indexes), left_out=left_out)


@dataclass(frozen=True)
class _Index:
    """One JSON file.

    Attributes:
        name: its path.
        labelled: it has annotations, be they none.
        names: category names by id, in the order of the ids.
        groups: names of categories that are the supercategory of others.
        images: each image's entry by id; None: the id is given twice.
        annotations: the annotations by image id.
        nameless: entries of ``images`` without an id or file name, by position.
    """

    name: str
    labelled: bool
    names: dict[int, str]
    groups: set[str]
    images: dict[object, dict[str, Any] | None] = field(default_factory=dict)
    annotations: dict[object, list[Any]] = field(default_factory=dict)
    nameless: list[int] = field(default_factory=list)

    @classmethod
    def of(cls, folder: Folder, name: str) -> _Index:
        try:
            content = json.loads(folder.read(name, MAX_INDEX_BYTES))
            categories = content.get("categories") or []
            names = _names(name, categories)
            groups = {str(c.get("supercategory")) for c in categories if c.get("supercategory") != c["name"]}
            index = cls(name, content.get("annotations") is not None, names, groups & set(names.values()))
            for position, image in enumerate(content["images"]):
                index._add_image(position, image)
            for annotation in content.get("annotations") or []:
                image_id = annotation.get("image_id") if isinstance(annotation, dict) else None
                index.annotations.setdefault(_id(image_id), []).append(annotation)
            _check_boxes(name, content.get("annotations") or [])
        except InputError:
            raise
        except LabelError as error:
            raise InputError(f"COCO file: {error}") from error
        except KeyError as error:
            raise InputError(f"COCO file {name}: the key {error} is missing") from error
        except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise InputError(f"COCO file {name} cannot be read: {' '.join(str(error).split())[:200]}") from error
        return index

    def _add_image(self, position: int, image: Any) -> None:
        well_formed = isinstance(image, dict) and isinstance(image.get("file_name"), str) and "id" in image
        if not well_formed:
            self.nameless.append(position)
        else:
            image_id = _id(image["id"])
            named = image | {"file_name": path_in(image["file_name"])}
            self.images[image_id] = None if image_id in self.images else named


def _names(name: str, categories: list[dict[str, Any]]) -> dict[int, str]:
    """Category names by id, in the order of the ids.

    Raises:
        InputError: two of them have the same id.
    """
    names: dict[int, str] = {}
    for number, category in sorted((int(c["id"]), str(c["name"])) for c in categories):
        if names.setdefault(number, category) != category:
            raise InputError(
                f"COCO file {name}: the categories {names[number]} and {category} both have the id {number}"
            )
    return names


def _check_boxes(name: str, annotations: list[Any]) -> None:
    """Refuse boxes that are corners: the area that stands beside each is that of ``x1, y1, x2, y2``.

    Raises:
        InputError: they are.
    """
    corners = 0
    for annotation in annotations:
        try:
            area = float(annotation["area"])
            a, b, c, d = map(float, annotation["bbox"])
        except (KeyError, TypeError, ValueError):
            continue
        if math.isclose(area, c * d, rel_tol=AREA) or not math.isclose(area, (c - a) * (d - b), rel_tol=AREA):
            return
        corners += 1
    if corners:
        raise InputError(
            f"COCO file {name}: by its 'area' every bbox is x1, y1, x2, y2: convert them to x, y, width, height"
        )


def _id(value: object) -> object:
    """An id to compare with; converters write the same number as text, or with a point."""
    if isinstance(value, str) and value.strip().isdecimal() and len(value) <= LONGEST_ID:
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int | str) else str(value)


def _groups(indexes: list[_Index]) -> set[str]:
    """Names of the categories that only group others."""
    used = {
        index.names.get(number)
        for index in indexes
        for annotations in index.annotations.values()
        for annotation in annotations
        if isinstance(annotation, dict) and isinstance(number := _id(annotation.get("category_id")), int)
    }
    return {name for index in indexes for name in index.groups} - used


def _indexes(folder: Folder) -> tuple[list[str], list[str]]:
    """The files to read, and those that are left out beside them."""
    if folder.index:
        return ([folder.index] if _looks_right(folder, folder.index) else []), []
    found = [name for name in folder.named(".json") if _looks_right(folder, name)]
    instances = [name for name in found if PurePosixPath(name).name.startswith("instances")]
    return (instances, [name for name in found if name not in instances]) if instances else (found, [])


def _looks_right(folder: Folder, name: str) -> bool:
    head = folder.head(name)
    if not _OBJECT.match(head):
        return False
    return bool(_ENTRIES.search(head)) or (bool(_OTHERS.search(head)) and _has_entries(folder, name))


def _has_entries(folder: Folder, name: str) -> bool:
    """Whether images come later in a file, behind what else it begins with."""
    try:
        with Path(folder.path(name)).open("rb") as file:
            before = b""
            while piece := file.read(PIECE_BYTES):
                if _ENTRIES.search(before + piece):
                    return True
                before = piece[-64:]
    except OSError:
        pass
    return False


def _records(folder: Folder, indexes: list[_Index]) -> Iterator[Record]:
    images = Images(folder)
    found: dict[str, list[tuple[_Index, list[object]]]] = {}
    references: dict[str, set[str]] = {}
    for index in indexes:
        for position in index.nameless:
            yield Record(f"{index.name}#images/{position}", reason="annotation unreadable: no id or file_name")
        entries: dict[str, list[object]] = {}
        for image_id, image in index.images.items():
            if image is None:
                yield Record(f"{index.name}#{image_id}", reason="ambiguous: two images have this id")
                continue
            try:
                name = images.find(index.name, image["file_name"])
            except LabelError as error:
                yield Record(image["file_name"], reason=str(error))
                continue
            entries.setdefault(name, []).append(image_id)
            references.setdefault(name, set()).add(image["file_name"])
        for name, ids in entries.items():
            found.setdefault(name, []).append((index, ids))
        for image_id in (i for i in index.annotations if i not in index.images):
            yield Record(f"{index.name}#{image_id}", reason="label without image: no image has this id")
    for name, entries_of in found.items():
        yield _record(folder, name, entries_of, references[name])


def _record(folder: Folder, name: str, entries: list[tuple[_Index, list[object]]], references: set[str]) -> Record:
    """What the entries of one image say together."""
    labelled = [entry for entry in entries if entry[0].labelled] or entries[:1]
    index, ids = labelled[0]
    try:
        if len(labelled) > 1:
            raise LabelError(f"ambiguous: both {index.name} and {labelled[1][0].name} label it")
        if len(references) > 1 and len(ids) > 1:
            raise LabelError(f"ambiguous: {index.name} means it by {few(sorted(references))}")
        sizes = {size for image_id in ids if (size := _size(index.images[image_id] or {}))}
        if len(sizes) > 1:
            raise LabelError(f"ambiguous: {index.name} gives the image different sizes")
        size = sizes.pop() if sizes else None
        if not index.labelled:
            return Record(name, folder.path(name), split=split_of(index.name), size=size)
        labels, crowds = _labels(index, ids)
        return Record(name, folder.path(name), labels, index.name, split_of(index.name), size, crowds)
    except LabelError as error:
        return Record(name, label_file=index.name, reason=str(error))


def _size(image: dict[str, Any]) -> tuple[int, int] | None:
    try:
        width, height = int(image.get("width") or 0), int(image.get("height") or 0)
    except (TypeError, ValueError, OverflowError) as error:
        raise LabelError("annotation unreadable: width or height is not a number") from error
    return (width, height) if width and height else None


def _labels(index: _Index, ids: list[object]) -> tuple[tuple[Label, ...], int]:
    """The labels of one image and how many crowds were left out."""
    annotations = [annotation for image_id in ids for annotation in index.annotations.get(image_id, [])]
    single = [a for a in annotations if not (_is_set(a, "iscrowd") or _is_set(a, "ignore"))]
    return tuple(_label(index.names, a) for a in single), len(annotations) - len(single)


def _is_set(annotation: dict[str, Any], flag: str) -> bool:
    """Whether a flag of an annotation is set; converters write its 0 or 1 as text, or as false or true."""
    value = annotation.get(flag)
    if isinstance(value, str):
        value = {"": 0, "0": 0, "false": 0, "1": 1, "true": 1}.get(value.strip().lower(), value)
    if isinstance(value, str):
        raise LabelError(f"annotation unreadable: annotation {annotation.get('id', '?')}: {flag} {value[:40]!r}")
    return bool(value)


def _label(names: dict[int, str], annotation: dict[str, Any]) -> Label:
    what = f"annotation {annotation.get('id', '?')}"
    try:
        number = int(annotation["category_id"])
        x, y, width, height = map(float, annotation.get("bbox") or _around(annotation["segmentation"]))
        turned = _rotation(annotation)
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise LabelError(
            f"annotation unreadable: {what} has no category_id and bbox of four numbers, nor an outline"
        ) from error
    if annotation.get("bbox_mode") not in (None, XYWH_ABS):
        raise LabelError(
            f"annotation unreadable: {what} has bbox_mode {annotation['bbox_mode']!r}: give x, y, width, height"
        )
    if turned:
        raise LabelError(f"turned box: {what} is rotated by {turned:g} degrees: draw it upright")
    return Label(names.get(number, f"number {number}"), (x, y, x + width, y + height))


def _rotation(annotation: dict[str, Any]) -> float:
    """By how many degrees a box is turned, as CVAT and others write it."""
    attributes = annotation.get("attributes")
    given = [annotation.get("rotation"), annotation.get("angle")]
    given += [attributes.get("rotation")] if isinstance(attributes, dict) else []
    return next((float(value) for value in given if isinstance(value, int | float) and value), 0.0)


def _around(outlines: list[list[float]]) -> tuple[float, float, float, float]:
    """The upright box x, y, width, height around outlines of three points or more."""
    if any(len(outline) < 6 or len(outline) % 2 for outline in outlines):
        raise ValueError("no outline")
    x = [float(value) for outline in outlines for value in outline[::2]]
    y = [float(value) for outline in outlines for value in outline[1::2]]
    return min(x), min(y), max(x) - min(x), max(y) - min(y)
