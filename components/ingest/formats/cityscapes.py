"""Cityscapes: ``leftImg8bit/train/ulm/x_leftImg8bit.png`` and its mask ``gtFine/train/ulm/x_gtFine_labelIds.png``.

The values of the masks are the numbers of Cityscapes' classes: in ``_labelIds`` 0 to 33, in ``_labelTrainIds`` 0 to 18.
The 19 classes that its benchmark counts are read, all others are void. CVAT and Datumaro write other classes in the
same way, and name them in ``label_colors.txt``: ``R G B name`` a line, from 0. Of an image the fine mask is read rather
than the coarse one; colours, instances and polygons are left out. A folder with the name of a split says the split.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from components.core.errors import InputError
from components.ingest.dataset import DataSet, Folder, LabelError, Record, formats
from components.ingest.formats.yolo import SPLIT_KEYS

NAMES = {
    7: "road", 8: "sidewalk", 11: "building", 12: "wall", 13: "fence", 17: "pole", 19: "traffic light",
    20: "traffic sign", 21: "vegetation", 22: "terrain", 23: "sky", 24: "person", 25: "rider", 26: "car", 27: "truck",
    28: "bus", 31: "train", 32: "motorcycle", 33: "bicycle",
}  # fmt: skip
HIGHEST = 33
NAMES_FILE = "label_colors.txt"

_IMAGE = re.compile(r"(?P<key>.+)_leftImg8bit\.(?:png|jpe?g)", re.IGNORECASE)
_LABEL = re.compile(r"(?P<key>.+)_(?P<fine>gtFine|gtCoarse)_(?P<kind>\w+)\.(?:png|json)", re.IGNORECASE)
_SIDE = re.compile(r"(?:leftImg8bit|gtFine|gtCoarse)(?:_\w+)?", re.IGNORECASE)
_COLOUR_AND_NAME = re.compile(r"\s*\d+\s+\d+\s+\d+\s+(\S.*?)\s*")
_NUMBERS = {"labelids": "labelIds", "labeltrainids": "labelTrainIds"}  # masks with a class number for each pixel


class _Label(NamedTuple):
    """What the name of a label file says."""

    key: str
    fine: bool
    kind: str


@formats.register("cityscapes")
class Cityscapes:
    """The reader of Cityscapes and of what is exported like it."""

    @staticmethod
    def detect(folder: Folder) -> bool:
        """There are images and masks with Cityscapes' names."""
        return (
            not folder.index
            and any(_IMAGE.fullmatch(name) for name in folder.images)
            and any(label.kind in _NUMBERS for label in _labels(folder).values())
        )

    @staticmethod
    def read(folder: Folder) -> DataSet:
        """Pair the images with their masks by name."""
        labels = _labels(folder)
        kinds = {label.kind for label in labels.values()}
        kind = next((kind for kind in _NUMBERS if kind in kinds), "")
        if not kind:
            raise InputError(
                "no mask of Cityscapes in the data, such as gtFine/train/ulm/x_gtFine_labelIds.png: make them of the "
                "polygons with csCreateTrainIdLabelImgs of cityscapesscripts"
            )
        masks: dict[str, str] = {}
        for name in sorted((n for n, one in labels.items() if one.kind == kind), key=lambda n: not labels[n].fine):
            masks.setdefault(labels[name].key, name)
        taken = set(masks.values())
        reason = f"not read: {_NUMBERS[kind]} of Cityscapes says the same"
        left_out = {name: reason for name in labels if name not in taken}
        values = _values(folder, kind)
        classes = tuple(dict.fromkeys(filter(None, values.values())))
        return DataSet(classes, _records(folder, masks), values, left_out)


def _labels(folder: Folder) -> dict[str, _Label]:
    found = {name: _LABEL.fullmatch(name) for name in folder.named(".png", ".json")}
    return {
        name: _Label(_key(match["key"]), match["fine"].lower() == "gtfine", match["kind"].lower())
        for name, match in found.items()
        if match
    }


def _key(path: str) -> str:
    """What the paths of an image and of its label have in common."""
    *folders, last = path.split("/")
    return "/".join([*(part for part in folders if not _SIDE.fullmatch(part)), last])


def _records(folder: Folder, masks: dict[str, str]) -> Iterator[Record]:
    images = set()
    for name in folder.images:
        if match := _IMAGE.fullmatch(name):
            key = _key(match["key"])
            images.add(key)
            mask = masks.get(key, "")
            yield Record(name, folder.path(name), None, mask, _split(name), mask=folder.path(mask) if mask else "")
    for key, mask in masks.items():
        if key not in images:
            yield Record(mask, reason="label without image: no image matches the path and name of this mask")


def _split(name: str) -> str:
    splits = {SPLIT_KEYS.get(part.lower(), "") for part in name.split("/")[:-1]} - {""}
    return splits.pop() if len(splits) == 1 else ""


def _values(folder: Folder, kind: str) -> dict[int, str]:
    """The names of the values; of those that do not count empty ones."""
    for name in folder.named(".txt"):
        if name.rpartition("/")[2] == NAMES_FILE:
            return _named(folder, name)
    if kind == "labeltrainids":
        return dict(enumerate(NAMES.values()))
    return {value: NAMES.get(value, "") for value in range(HIGHEST + 1)}


def _named(folder: Folder, name: str) -> dict[int, str]:
    try:
        lines = [line for line in folder.text(name).splitlines() if line.strip() and not line.startswith("#")]
    except LabelError as error:
        raise InputError(f"class names: {error}") from error
    named = [_COLOUR_AND_NAME.fullmatch(line) for line in lines]
    if not lines or not all(named):
        raise InputError(f"{name}: must have a class in each line, written as R G B name")
    return {number: match[1] for number, match in enumerate(named) if match}
