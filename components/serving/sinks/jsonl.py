"""Detections as JSON lines, in a file or on standard output."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TextIO

from components.core.stores.transfer import os_errors
from components.serving.sinks.base import Result, sinks
from components.serving.sinks.rotation import make_room

MAX_BYTES = 100 << 20  # of one file; the one before it is kept, too


@sinks.register("jsonl")
class JsonLines:
    """One JSON object a line, in UTF-8. A file of 100 MiB is renamed, with ``.1`` before its suffix, and begun anew.

    Args:
        target: the file, or ``-`` for standard output.
        max_bytes: of one file.

    Raises:
        InputError: the file cannot be written.
    """

    needs_image, takes_masks = False, True

    def __init__(self, target: str, max_bytes: int = MAX_BYTES) -> None:
        self._path = None if target == "-" else Path(target).expanduser()
        self._max_bytes = max_bytes
        self._file = self._open()

    def write(self, result: Result) -> None:
        """Append one line, which a reader sees at once."""
        if self._path is not None and not self._file.closed and self._file.tell() >= self._max_bytes:
            self._file.close()
            make_room(self._path)
        if self._file.closed:
            self._file = self._open()
        self._file.write(json.dumps(result.record(), ensure_ascii=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        if self._path is not None:
            self._file.close()

    def _open(self) -> TextIO:
        if self._path is None:
            return sys.stdout
        with os_errors(f"sink jsonl:{self._path}"):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            return self._path.open("a", encoding="utf-8")
