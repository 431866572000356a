"""Masks: beside each image a PNG of its size whose pixels are numbers of classes.

Three ways to say which mask is whose:

- SegNet's: ``train/x.png`` and ``trainannot/x.png``, and so for ``val`` and ``test``; or ``train_masks/x.png``, or
  ``train/x_mask.png``;
- Ultralytics': ``images/train/x.jpg`` and ``masks/train/x.png``, with or without folders for splits; ``labels`` or
  ``annotations`` instead of ``masks`` will do;
- the text index of Sedna's lifelong learning, ``rgb.png depth.png label.png`` a line, with paths relative to the index:
  the first is the image, the last its mask, and what is between them is left out. An index is read if ``data_path``
  names it, or if no folders are named as above.

A folder with the name of a split says the split. The names of the classes stand in ``data.yaml`` (with Ultralytics'
``label_mapping``, if it has one), one a line from 0 in ``classes.txt``, or in Roboflow's ``_classes.csv``; or the user
gives them in order. 255 is for void pixels. An image without a mask is unlabelled.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from components.core.errors import InputError
from components.core.masks import VOID
from components.ingest.dataset import (
    IMAGE_SUFFIXES,
    MAX_INDEX_BYTES,
    DataSet,
    Folder,
    LabelError,
    Record,
    few,
    formats,
    suffix_of,
)
from components.ingest.formats.data_yaml import NAMES_FILES, ListedNames, description, descriptions, numbered_names
from components.ingest.formats.yolo import SPLIT_KEYS
from components.ingest.label_files import decoded
from components.ingest.masks import has_one_number
from components.ingest.pairs import Pairs, has_masks, image_key, masks_in, plain
from components.ingest.references import Images

LOOKED_AT_BYTES = 65536  # of a text file, to tell the format
SPLIT_FOLDERS = {**SPLIT_KEYS, "training": "train", "validation": "val"}
NAMES_TABLE = "_classes.csv"
IGNORED = ("ignore_label", "null", "~", "")  # what is written for 255, by Ultralytics and in YAML


@formats.register("masks")
class Masks:
    """The reader of masks."""

    @staticmethod
    def detect(folder: Folder) -> bool:
        """There are folders of images and of masks, or an index at the top, or the one that was named."""
        if folder.index and not _indexes(folder):
            return folder.index in descriptions(folder) and has_masks(folder)
        return (not folder.index and has_masks(folder)) or bool(_indexes(folder))

    @staticmethod
    def read(folder: Folder) -> DataSet:
        """Read the named index, or else the folders, or else every index at the top."""
        values, classes = _values(folder)
        named = suffix_of(folder.index) == ".txt"
        indexes = [folder.index] if named else _indexes(folder)
        if named or (indexes and not has_masks(folder)):
            try:
                texts = {name: folder.text(name, MAX_INDEX_BYTES) for name in indexes}
            except LabelError as error:
                raise InputError(f"index of masks: {error}") from error
            images = Images(folder)
            lines = (r for name in indexes for r in _listed(folder, images, name, texts[name]))
            return DataSet(classes, lines, values)
        return DataSet(classes, _records(folder), values)


def _records(folder: Folder) -> Iterator[Record]:
    masks = masks_in(folder)
    images = [name for name in folder.images if name not in masks]

    def key(name: str) -> str:
        return masks.get(name) or image_key(name)

    pairs = Pairs.of(images, masks, key, lambda name: plain(key(name)))
    bare: dict[str, list[str]] = {}
    for image in images:
        if image not in pairs.labels:
            bare.setdefault(PurePosixPath(plain(image)).stem, []).append(image)
    for image in images:
        alike = [other for other in bare.get(PurePosixPath(plain(image)).stem, []) if other != image]
        try:
            mask = pairs.label(image)
            if alike and not mask and has_one_number(folder.head(image, 32)):
                raise LabelError(f"label not read: judging by its name, it may be the mask of {few(alike, 2)}")
        except LabelError as error:
            yield Record(image, reason=str(error))
        else:
            yield _record(folder, image, mask)
    for mask in masks:
        if mask not in pairs.images:
            yield Record(mask, reason="label without image: no image matches the path and name of this mask")


def _listed(folder: Folder, images: Images, index: str, text: str) -> Iterator[Record]:
    for line in filter(None, map(_paths, text.splitlines())):
        try:
            image = images.find(index, line[0])
        except LabelError as error:
            yield Record(line[0], reason=str(error))
            continue
        try:
            mask = images.find(index, line[-1]) if len(line) > 1 else ""
        except LabelError:
            yield Record(image, reason=f"mask unreadable: {index} lists {line[-1][:200]!r}, which does not exist")
            continue
        if image == mask:
            yield Record(image, reason=f"annotation unreadable: {index} gives the image itself as its mask")
        else:
            yield _record(folder, image, mask)


def _record(folder: Folder, image: str, mask: str) -> Record:
    splits = {SPLIT_FOLDERS.get(part.lower(), "") for part in image.split("/")[:-1]} - {""}
    split = splits.pop() if len(splits) == 1 else ""
    return Record(image, folder.path(image), None, mask, split, mask=folder.path(mask) if mask else "")


def _paths(line: str) -> list[str]:
    return [str(PurePosixPath(path)) for path in line.replace("\\", "/").split()]


def _indexes(folder: Folder) -> list[str]:
    texts = [folder.index] if folder.index else [name for name in folder.files if "/" not in name]
    return [name for name in texts if suffix_of(name) == ".txt" and _looks_right(folder, name)]


def _looks_right(folder: Folder, name: str) -> bool:
    """Whether a line has two paths or more, of images all of them, the last one of a PNG."""
    if name in NAMES_FILES:
        return False
    lines = decoded(folder.head(name, LOOKED_AT_BYTES)).splitlines()
    return any(
        len(line) > 1 and suffix_of(line[-1]) == ".png" and all(suffix_of(path) in IMAGE_SUFFIXES for path in line)
        for line in map(_paths, lines)
    )


def _values(folder: Folder) -> tuple[dict[int, str], tuple[str, ...] | None]:
    """The names of the values, and the classes in their order; None: they have no names."""
    found = [folder.index] if folder.index in descriptions(folder) else descriptions(folder)
    if len(found) > 1:
        raise InputError(f"several data sets in the data: set data_path to one of {few(found)}")
    if not found:
        names = ListedNames(folder).only() or _table_of_names(folder)
        return names, tuple(dict.fromkeys(names.values())) or None
    content = description(folder, found[0])
    names = numbered_names(found[0], content)
    names.pop(VOID, None)
    return {**names, **_mapped(found[0], content.get("label_mapping"), names)}, tuple(dict.fromkeys(names.values()))


def _table_of_names(folder: Folder) -> dict[int, str]:
    """The names in Roboflow's tables of a value and a class a line, of which each split has one."""
    names: dict[int, str] = {}
    for name in (name for name in folder.named(".csv") if name.rpartition("/")[2] == NAMES_TABLE):
        try:
            lines = folder.text(name).splitlines()
        except LabelError as error:
            raise InputError(f"class names: {error}") from error
        for line in lines[1:]:
            value, _, title = (part.strip() for part in line.partition(","))
            if not title and not value:
                continue
            if not (value.isdecimal() and title) or names.setdefault(int(value), title) != title:
                raise InputError(f"{name}: {line[:80]!r} is no pixel value with its class, or contradicts another line")
    return names


def _mapped(name: str, mapping: Any, names: dict[int, str]) -> dict[int, str]:
    """The names of values that stand for the number of another class, or for none."""
    if mapping in (None, ""):
        return {}
    try:
        numbers = {int(value): VOID if number in IGNORED else int(number) for value, number in mapping.items()}
        return {value: "" if number == VOID else names[number] for value, number in numbers.items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{name}: 'label_mapping' must give numbers of named classes, or {IGNORED[0]}") from error
