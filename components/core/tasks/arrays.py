"""Many arrays in one file, each read when it is asked for."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class ArrayFile(Sequence[Array]):
    """Arrays of any shapes in an ``.npz`` file; all at once may take gigabytes, as class maps of large images do.

    Args:
        path: what ``write`` wrote.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with np.load(path) as arrays:
            self._names = sorted(arrays.files)

    @staticmethod
    def write(path: Path, arrays: Iterable[Array]) -> int:
        """Write arrays one after the other, and return how many there were."""
        count = 0
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
            for one in arrays:
                with file.open(f"{count:06d}.npy", "w") as part:
                    np.lib.format.write_array(part, one, allow_pickle=False)
                count += 1
        return count

    def __len__(self) -> int:
        return len(self._names)

    @overload
    def __getitem__(self, index: int) -> Array: ...
    @overload
    def __getitem__(self, index: slice) -> list[Array]: ...
    def __getitem__(self, index: int | slice) -> Array | list[Array]:
        """One array, or some."""
        with np.load(self._path) as arrays:
            names = self._names[index]
            return arrays[names] if isinstance(names, str) else [arrays[name] for name in names]
