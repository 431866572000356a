"""Masks that no format reads: images that, by their names and their pixels, are the labels of others.

Two images are compared where their names are the same but for the folder and for endings such as ``_gt``. A mask has
few colours, and the photograph that it belongs to has many.
"""

from __future__ import annotations

import re
from collections.abc import Container
from pathlib import PurePosixPath

import numpy as np
from PIL import Image

from components.ingest.dataset import Folder, suffix_of
from components.ingest.pairs import image_key, masks_of_other_kinds, plain

MOST_COLOURS = 64  # of a mask; what one image shows are few of the classes
LOOKED_AT = 12  # groups of images with the same name
MOST_ALIKE = 6  # images looked at of each
MAX_PIXELS = 50_000_000
_LOSSLESS = (".png", ".bmp", ".tif", ".tiff", ".gif")  # a mask in JPEG has many colours

_WORDS = (
    r"masks?|seg|segm|segmentation|semantic|gt|gtfine|gtcoarse|ground[_-]?truth|labels?|label(?:train)?ids"
    r"|instance(?:train)?ids|colou?r|annot(?:ation)?s?|l"
)
_ENDING = re.compile(rf"(?:[._-](?:{_WORDS}|leftimg8bit|image|img|rgb|sat))+$")

ADVICE = (
    "and no format reads masks there: put them as PNG files with one class number per pixel into a folder masks beside "
    "images, and the class names into classes.txt"
)


def unread_masks(folder: Folder, among: Container[str] | None = None) -> str:
    """Say that images of a folder look like masks of others, and what to do; empty if they do not.

    Args:
        folder: the data set; what is not there yet, as in a bucket, is not looked at.
        among: which of them could be unread masks; None: all.
    """
    by_stem: dict[str, list[str]] = {}
    for name in () if folder.index else folder.images:
        by_stem.setdefault(_stem(name), []).append(name)
    groups = [
        names for names in by_stem.values() if len(names) > 1 and (among is None or any(n in among for n in names))
    ]
    by_place = masks_of_other_kinds(folder) if groups else {}
    for mask, key in by_place.items():
        if among is None or mask in among:
            image = next(name for name in folder.images if name not in by_place and image_key(name) == key)
            return f"{mask} looks like the mask of {image}, {ADVICE}"
    looked_at = groups[:: -(-len(groups) // LOOKED_AT)] if groups else []
    found = [pair for names in looked_at if (pair := _pair(folder, names[:MOST_ALIKE], among))]
    if 2 * len(found) < len(looked_at) or not found:
        return ""
    mask, image = found[0]
    return f"{mask} looks like the mask of {image}, as others do, {ADVICE}"


def _stem(name: str) -> str:
    return _ENDING.sub("", PurePosixPath(plain(name)).stem)


def _pair(folder: Folder, names: list[str], among: Container[str] | None) -> tuple[str, str] | None:
    """A mask among images with the same name, and an image that it may belong to."""
    flat = {name: _is_flat(folder, name) for name in names}
    masks = [n for n in names if flat[n] and suffix_of(n) in _LOSSLESS and (among is None or n in among)]
    images = [name for name in names if flat[name] is False]
    return (masks[0], images[0]) if masks and images else None


def _is_flat(folder: Folder, name: str) -> bool | None:
    """Whether an image has few colours; None if it cannot be read."""
    try:
        with Image.open(folder.path(name)) as image:
            if image.width * image.height > MAX_PIXELS:
                return None
            has_one = image.mode in ("1", "L", "P", "I", "I;16", "I;16B")
            values = np.asarray(image if has_one else image.convert("RGB")).astype(np.int64)
    except Exception:  # a decoder may raise anything at all on a broken file
        return None
    values = values if values.ndim == 2 else values @ np.array([1 << 16, 1 << 8, 1])
    return len(np.unique(values)) <= MOST_COLOURS
