"""Label Studio's brush masks: the run-length code of ``value.rle`` in the result of a ``BrushLabels`` control.

The code is that of thi.ng's rle-pack (https://github.com/thi-ng/umbrella/tree/develop/packages/rle-pack): a stream of
bits, the highest of a byte first. It begins with the number of values (32 bits), the bits of a value less one (5) and
four sizes of run lengths in bits, each less one (4 each). Runs follow: a bit that says whether one value is repeated, 2
bits that choose one of the sizes, the length less one in so many bits, and the value, or as many values as the run is
long. The values are those of a canvas in a browser, row by row: red, green, blue and alpha of each pixel. A pixel is
marked where its alpha is not 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Marked: TypeAlias = NDArray[np.bool_]

CHANNELS = 4
_WORD = 8  # bits of a value that is written
_SIZES = (3, 4, 8, 16)  # of run lengths that are written, those of Label Studio's own exporter


def encode(marked: Marked) -> list[int]:
    """The code of a mask.

    Args:
        marked: (height, width), whether each pixel is marked.

    Returns:
        Bytes, 0..255, as they stand in the JSON of a task.
    """
    pixels = marked.ravel()
    starts = np.flatnonzero(np.concatenate([[True], pixels[1:] != pixels[:-1]])) if pixels.size else np.array([], int)
    lengths = CHANNELS * np.diff(np.append(starts, pixels.size))
    bits = [f"{CHANNELS * pixels.size:032b}{_WORD - 1:05b}", *(f"{size - 1:04b}" for size in _SIZES)]
    longest = 1 << _SIZES[-1]
    for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
        value = "11111111" if pixels[start] else "00000000"
        whole, rest = divmod(length, longest)
        bits += [f"111{longest - 1:0{_SIZES[-1]}b}{value}"] * whole
        if rest:
            choice = next(place for place, size in enumerate(_SIZES) if rest <= 1 << size)
            bits.append(f"1{choice:02b}{rest - 1:0{_SIZES[choice]}b}{value}")
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    return list(int(text, 2).to_bytes(len(text) // 8, "big"))


def decode(code: Sequence[int] | bytes, height: int, width: int) -> Marked:
    """The mask (height, width) of a code.

    Args:
        code: bytes, 0..255.
        height: pixels.
        width: pixels.

    Raises:
        ValueError: it is no such code, or the code of a mask of another size.
    """
    bits = _Bits(bytes(code))
    expected = CHANNELS * height * width
    count = bits.number(32)
    if count != expected:
        raise ValueError(f"{count} values instead of the {expected} of {width}x{height} pixels")
    word = bits.number(5) + 1
    sizes = [bits.number(4) + 1 for _ in range(4)]
    values = np.zeros(count, np.bool_)
    place = 0
    while place < count:
        is_repeated = bits.number(1)
        end = place + 1 + bits.number(sizes[bits.number(2)])
        if end > count:
            raise ValueError("a run reaches beyond the last pixel")
        values[place:end] = bits.number(word) if is_repeated else bits.words(end - place, word).any(axis=1)
        place = end
    return np.ascontiguousarray(values[CHANNELS - 1 :: CHANNELS].reshape(height, width))


class _Bits:
    """A stream of bits that is read from its beginning."""

    def __init__(self, data: bytes) -> None:
        self._data, self._place = data, 0
        self._bits = np.unpackbits(np.frombuffer(data, np.uint8))

    def number(self, size: int) -> int:
        """The next number of up to 32 bits."""
        first, last = self._place, self._advance(size)
        taken = self._data[first >> 3 : (last + 7) >> 3]
        return (int.from_bytes(taken, "big") >> (-last % 8)) & ((1 << size) - 1)

    def words(self, count: int, size: int) -> NDArray[np.uint8]:
        """The bits (count, size) of the next numbers."""
        first, last = self._place, self._advance(count * size)
        return self._bits[first:last].reshape(count, size)

    def _advance(self, size: int) -> int:
        self._place += size
        if self._place > len(self._bits):
            raise ValueError("it ends early")
        return self._place
