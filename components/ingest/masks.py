"""Turn the masks of a data set into those of a job: the same classes under the manifest's numbers.

Only a PNG with one whole number for each pixel will do. What a colour stands for would have to be guessed at, and so
would shades of 1, 2 or 4 bits, which some tools write for classes and others for brightness. A mask of another size is
never fitted to its image: along every edge that would make up classes that are not there.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from components.core.masks import VOID, ClassMap
from components.ingest.dataset import LabelError, few

_BITS_AT, _KIND_AT = 24, 25  # bytes of a PNG
_GREY, _PALETTE = 0, 3  # its kinds with one number for each pixel


@dataclass(frozen=True)
class Values:
    """What the pixel values of a data set's masks mean.

    Attributes:
        names: what the data set calls them.
        places: class numbers of the manifest, or ``VOID``, by value; a value that is not here is unknown.
    """

    names: Mapping[int, str]
    places: Mapping[int, int]

    def apply(self, mask: NDArray[np.unsignedinteger]) -> ClassMap:
        """A mask (height, width) of the data set's values as one of the manifest's classes.

        Raises:
            LabelError: a value is unknown.
        """
        unknown = [value for value in np.flatnonzero(np.bincount(mask.ravel())).tolist() if value not in self.places]
        if unknown:
            raise LabelError(f"unknown class: {few(self.names.get(value) or f'number {value}' for value in unknown)}")
        table = np.full(VOID + 1, VOID, dtype=np.uint8)
        table[list(self.places)] = list(self.places.values())
        return np.asarray(table[mask], dtype=np.uint8)


def has_one_number(head: bytes) -> bool:
    """Whether the first bytes of a file are those of a PNG with one whole number for each pixel."""
    return head.startswith(b"\x89PNG") and len(head) > _KIND_AT and head[_KIND_AT] in (_GREY, _PALETTE)


def decode(data: bytes, name: str, size: tuple[int, int]) -> NDArray[np.unsignedinteger]:
    """The values (height, width) of a data set's mask, 8 or 16 bits each; of a palette the places, not the colours.

    Args:
        data: the bytes of the file.
        name: of the file, for messages.
        size: width and height of the image as displayed.

    Raises:
        LabelError: not a whole PNG, of another size, or without one whole number for each pixel.
    """
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            bits, kind = data[_BITS_AT], data[_KIND_AT]
            if kind not in (_GREY, _PALETTE):
                raise LabelError(f"colour mask: {name} is {image.mode}, not one class number per pixel")
            if kind == _GREY and bits < 8:
                raise LabelError(f"mask unreadable: {name} has {bits} bits per pixel: use 8 for class numbers")
            # Anything of another size is not worth unpacking.
            upright = ImageOps.exif_transpose(image) if sorted(image.size) == sorted(size) else image
            if upright.size != size:
                (width, height), (across, down) = upright.size, size
                raise LabelError(f"size contradicts the image: {width}x{height} in the mask, {across}x{down}")
            return np.asarray(upright)
    except LabelError:
        raise
    except Exception as error:  # a decoder may raise anything at all on a hostile file
        raise LabelError(f"mask unreadable: {name}: {' '.join(str(error).split())[:200]}") from error
