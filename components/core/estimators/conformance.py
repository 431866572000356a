"""Does an estimator keep its contract? Every promise of ``Estimator`` is tried, on a few drawn images.

A new model is of use only if it can be resumed, exported and run like the others. ``check_estimator`` finds what it
gets wrong in a minute or so; the command line has it as ``conformance``.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any

from components.core.errors import InputError
from components.core.estimators.base import estimators
from components.core.estimators.examination import (
    _digest,
    examination_of,
)


def check_estimator(
    name: str,
    *,
    base_model: str,
    image_size: tuple[int, int] = (96, 96),
    options: Mapping[str, Any] | None = None,
    folder: Path,
) -> list[str]:
    """Try an estimator on drawn images, on the processor.

    What reaches the network or writes files without Python is not seen.

    Args:
        name: that it is registered under.
        base_model: what to start from.
        image_size: height and width in pixels to train at.
        options: its ``estimator_options``.
        folder: for everything that comes of it; created, and must be empty.

    Returns:
        One line for each promise it does not keep; a step that fails ends the examination. A training that cannot be
        repeated with the same seed is only warned of, in the log.

    Raises:
        InputError: no such estimator, or the folder is not empty.
    """
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise InputError(f"folder {folder} is not empty: give a new one")
    make = estimators.get(name)
    kind = examination_of(make.task)
    samples = kind.draw_samples(folder / "images")
    exam = kind(name, make, _local(base_model), image_size, dict(options or {}), folder, samples)
    with _enclosed(folder, exam.problems):
        exam.run()
    return exam.problems


@contextmanager
def _enclosed(folder: Path, problems: list[str]) -> Iterator[None]:
    """Work in an empty folder, with an empty home and no network; tell what was left or changed, and who was called.

    Libraries may keep caches where the system says.
    """
    here, home = folder / "here", folder / "home"
    for made in (here, home):
        made.mkdir()
    images = _contents(folder / "images")
    places = {
        "HOME": str(home),
        "XDG_CACHE_HOME": str(folder / "caches"),
        "XDG_CONFIG_HOME": str(folder / "caches"),
        "MPLCONFIGDIR": str(folder / "caches" / "matplotlib"),
    }
    before = {name: os.environ.get(name) for name in places}
    os.environ.update(places)
    try:
        with chdir(here), _no_network(problems):
            yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
    for place, words in ((here, "the working directory"), (home, "the home directory")):
        left = sorted(_contents(place))
        if left:
            problems.append(f"writes into {words}: {', '.join(left[:3])}")
    if _contents(folder / "images") != images:
        problems.append("modifies its input images or writes files next to them")


@contextmanager
def _no_network(problems: list[str]) -> Iterator[None]:
    """Refuse every connection but those within this machine's own files, and tell of it."""
    lookup, connect = socket.getaddrinfo, socket.socket.connect

    def refuse(whom: object) -> None:
        complaint = f"contacts {whom}"
        if complaint not in problems:
            problems.append(complaint)
        raise OSError("network access is blocked during the conformance test")

    def refuse_lookup(host: Any, *_: Any, **__: Any) -> Any:
        refuse(host)

    def refuse_connection(self: socket.socket, address: Any) -> None:
        if self.family == socket.AF_UNIX:
            connect(self, address)
        else:
            refuse(address[0])

    changed = ((socket, "getaddrinfo", refuse_lookup, lookup), (socket.socket, "connect", refuse_connection, connect))
    for owner, name, refusal, _ in changed:
        setattr(owner, name, refusal)
    try:
        yield
    finally:
        for owner, name, _, original in changed:
            setattr(owner, name, original)


def _local(base_model: str) -> str:
    """A file or folder by its whole name, since the examination works elsewhere."""
    return str(Path(base_model).resolve()) if Path(base_model).exists() else base_model


def _contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): _digest(path) for path in folder.rglob("*") if path.is_file()}
