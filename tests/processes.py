"""What a run leaves in its temporary folder, and which processes go on there."""

from pathlib import Path

import psutil


def working_in(folder: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            found += [process] * process.environ().get("TMPDIR", "").startswith(str(folder))
        except psutil.Error:
            continue
    return found


def nothing_is_left(folder: Path) -> None:
    assert list(folder.iterdir()) == []
    assert working_in(folder) == []
