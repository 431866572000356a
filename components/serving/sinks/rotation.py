"""Files of sinks that grow: one full file is kept beside the one that is written."""

from __future__ import annotations

from pathlib import Path


def make_room(path: Path) -> None:
    """Rename a full file, ``boxes.mp4`` to ``boxes.1.mp4``, in place of the one that was renamed before."""
    path.replace(path.with_suffix(f".1{path.suffix}"))
