"""Masks: the class of every pixel of an image.

A mask (height, width) has the size of its image as displayed. A pixel is the number of its class among those of the
manifest, or ``VOID`` for void pixels. Such numbers have no values in between: whoever resizes a mask takes
the nearest pixel.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from components.core.errors import InputError

ClassMap: TypeAlias = NDArray[np.uint8]

VOID = 255


def read_mask(path: Path) -> ClassMap:
    """Read a mask (height, width) from a PNG.

    Raises:
        InputError: it cannot be read, or has colours, a palette or other than 8 bits a pixel.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"mask {path}: cannot be read ({error.strerror})") from error
    return decode_mask(data, str(path))


def decode_mask(data: bytes, name: str) -> ClassMap:
    """The mask (height, width) of a PNG.

    Args:
        data: the bytes of the file.
        name: of the file, for messages.

    Raises:
        InputError: as for ``read_mask``.
    """
    from PIL import Image  # the edge worker, which reads no mask, does without Pillow

    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            image.load()
            mode, mask = image.mode, np.array(image)
    except Exception as error:  # a decoder may raise anything at all on a damaged file
        raise InputError(f"mask {name}: cannot be read ({' '.join(str(error).split())[:200]})") from error
    if mode != "L":
        raise InputError(f"mask {name}: must have one channel of 8 bits, not {mode}")
    return mask.astype(np.uint8, copy=False)


def encode_mask(mask: ClassMap) -> bytes:
    """A mask (height, width) as PNG of one channel; the same mask gives the same bytes."""
    from PIL import Image

    content = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(mask)).save(content, "PNG")
    return content.getvalue()


def runs_of(mask: ClassMap) -> list[int]:
    """A mask as the lengths of its runs, row by row: class, pixels, class, pixels and so on."""
    pixels = mask.ravel()
    starts = np.flatnonzero(np.concatenate([[True], pixels[1:] != pixels[:-1]])) if pixels.size else np.array([], int)
    lengths = np.diff(np.append(starts, pixels.size))
    return [int(one) for one in np.stack([pixels[starts], lengths], axis=1).ravel()]


def from_runs(runs: Sequence[int], height: int, width: int) -> ClassMap:
    """The mask (height, width) that ``runs_of`` described.

    Raises:
        ValueError: the runs do not fill it.
    """
    pairs = np.asarray(runs, dtype=np.int64).reshape(-1, 2)
    return np.repeat(pairs[:, 0], pairs[:, 1]).astype(np.uint8).reshape(height, width)


def renumbering(places: Sequence[int]) -> ClassMap:
    """A table (256,) that makes other class numbers of a mask's when it is indexed with one; void stays void."""
    table = np.full(VOID + 1, VOID, np.uint8)
    table[: len(places)] = places
    return table
