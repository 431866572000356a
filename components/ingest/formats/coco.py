"""COCO: one JSON file with ``images``, ``annotations`` (``bbox`` is x, y, width, height in pixels) and ``categories``.

Several such files in one folder (one per split) are one data set; if the names of some begin with ``instances``, as in
COCO's own download, the others beside them hold captions or key points and are passed over. A file name or folder that
says train, val or test gives the split. An image without annotations shows nothing (a negative). Annotations with
``iscrowd`` are no single object and are left out, as COCO's own evaluation leaves them out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from components.core.errors import InputError
from components.ingest.dataset import DataSet, Folder, Label, LabelError, Record, few, formats
from components.ingest.references import Images, split_of

_KEYS = re.compile(rb'"(images|annotations|categories)"\s*:\s*\[|"(info|licenses)"\s*:')
_OBJECT = re.compile(rb"(\xef\xbb\xbf)?\s*\{")  # a list with such keys is Label Studio's


@formats.register("coco")
class Coco:
    """The reader of COCO."""

    @staticmethod
    def detect(folder: Folder) -> bool:
        """A JSON file begins with one of COCO's keys."""
        return bool(_indexes(folder))

    @staticmethod
    def read(folder: Folder) -> DataSet:
        """Read every index."""
        indexes = [_Index.of(folder, name) for name in _indexes(folder)]
        if not indexes:
            raise InputError(f"no COCO file in the data: JSON files are {few(folder.named('.json'))}")
        names = dict.fromkeys(name for index in indexes for name in index.names.values())
        return DataSet(tuple(names), _records(folder, indexes))


@dataclass(frozen=True)
class _Index:
    """One JSON file.

    Attributes:
        name: its path.
        names: category names by id, in the order of the ids.
        images: each image's entry by id; None: the id is given twice.
        annotations: the annotations by image id.
        nameless: entries of ``images`` without an id or file name, by position.
    """

    name: str
    names: dict[int, str]
    images: dict[object, dict[str, Any] | None] = field(default_factory=dict)
    annotations: dict[object, list[Any]] = field(default_factory=dict)
    nameless: list[int] = field(default_factory=list)

    @classmethod
    def of(cls, folder: Folder, name: str) -> _Index:
        try:
            content = json.loads(folder.read(name, 2**32))
            categories = sorted((int(c["id"]), str(c["name"])) for c in content.get("categories", []))
            index = cls(name, dict(categories))
            for position, image in enumerate(content["images"]):
                index._add_image(position, image)
            for annotation in content.get("annotations", []):
                image_id = annotation.get("image_id") if isinstance(annotation, dict) else None
                index.annotations.setdefault(_hashable(image_id), []).append(annotation)
        except LabelError as error:
            raise InputError(f"COCO file: {error}") from error
        except KeyError as error:
            raise InputError(f"COCO file {name}: the key {error} is missing") from error
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise InputError(f"COCO file {name} cannot be read: {' '.join(str(error).split())[:200]}") from error
        return index

    def _add_image(self, position: int, image: Any) -> None:
        well_formed = isinstance(image, dict) and isinstance(image.get("file_name"), str) and "id" in image
        if not well_formed:
            self.nameless.append(position)
        else:
            image_id = _hashable(image["id"])
            self.images[image_id] = None if image_id in self.images else image


def _hashable(image_id: object) -> object:
    return image_id if isinstance(image_id, int | str) else str(image_id)


def _indexes(folder: Folder) -> list[str]:
    if folder.index:
        return [folder.index] if _looks_right(folder, folder.index) else []
    found = [name for name in folder.named(".json") if _looks_right(folder, name)]
    return [name for name in found if PurePosixPath(name).name.startswith("instances")] or found


def _looks_right(folder: Folder, name: str) -> bool:
    head = folder.head(name)
    return bool(_OBJECT.match(head) and _KEYS.search(head))


def _records(folder: Folder, indexes: list[_Index]) -> Iterator[Record]:
    images = Images(folder)
    taken: dict[str, str] = {}
    for index in indexes:
        split = split_of(index.name)
        for position in index.nameless:
            yield Record(f"{index.name}#images/{position}", reason="annotation unreadable: no id or file_name")
        for image_id, entry in index.images.items():
            if entry is None:
                yield Record(f"{index.name}#{image_id}", reason="ambiguous: two images have this id")
                continue
            try:
                image = images.find(index.name, entry["file_name"])
            except LabelError as error:
                yield Record(entry["file_name"], reason=str(error))
                continue
            if taken.setdefault(image, index.name) != index.name:
                yield Record(image, reason=f"ambiguous: both {taken[image]} and {index.name} label it")
                continue
            try:
                labels, crowds = _labels(index, image_id)
                size = _size(entry)
                yield Record(image, folder.path(image), labels, index.name, split, size, crowds)
            except LabelError as error:
                yield Record(image, reason=str(error))
        for image_id in (i for i in index.annotations if i not in index.images):
            yield Record(f"{index.name}#{image_id}", reason="label without image: no image has this id")


def _size(image: dict[str, Any]) -> tuple[int, int] | None:
    try:
        width, height = int(image.get("width") or 0), int(image.get("height") or 0)
    except (TypeError, ValueError, OverflowError) as error:
        raise LabelError("annotation unreadable: width or height is no number") from error
    return (width, height) if width and height else None


def _labels(index: _Index, image_id: object) -> tuple[tuple[Label, ...], int]:
    """The labels of one image and how many crowds were left out."""
    annotations = index.annotations.get(image_id, [])
    single = [a for a in annotations if not a.get("iscrowd")]
    return tuple(_label(index.names, a) for a in single), len(annotations) - len(single)


def _label(names: dict[int, str], annotation: dict[str, Any]) -> Label:
    try:
        x, y, width, height = map(float, annotation["bbox"])
        number = int(annotation["category_id"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        what = f"annotation {annotation.get('id', '?')}"
        raise LabelError(f"annotation unreadable: {what} has no category_id and bbox of four numbers") from error
    return Label(names.get(number, f"number {number}"), (x, y, x + width, y + height))
