"""Folders of images of frames, named so that no start of the worker overwrites what an earlier one wrote."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cv2

from components.core.errors import InputError
from components.core.stores.transfer import os_errors


class RunFolders:
    """The folders of a sink; names in them begin with the time at which the worker started.

    Args:
        sink: name of the sink, for messages.
        target: the folder that holds them.
        names: of the folders, which are made.

    Raises:
        InputError: they cannot be made.
    """

    def __init__(self, sink: str, target: str, names: Sequence[str]) -> None:
        self._folder = Path(target).expanduser()
        self._run = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:6]}"
        with os_errors(f"sink {sink}:{target}"):
            for name in names:
                (self._folder / name).mkdir(parents=True, exist_ok=True)

    def path(self, name: str, end: str) -> Path:
        """A file of this start in a folder; ``end`` follows the time, such as ``.jsonl``."""
        return self._folder / name / f"{self._run}{end}"

    def write_image(self, name: str, frame: int, kind: str, pixels: Any, parameters: Sequence[int] = ()) -> None:
        """Write one frame.

        Args:
            name: of the folder.
            frame: its number.
            kind: ``png`` or ``jpeg``.
            pixels: as OpenCV writes them: BGR, or one channel.
            parameters: of OpenCV's encoder.

        Raises:
            InputError: it cannot be written.
        """
        path = self.path(name, f"-{frame:08}.{kind}")
        if not cv2.imwrite(str(path), pixels, list(parameters)):
            raise InputError(f"{path} cannot be written: is the disk full?")
