"""How far a worker has come in a finite source, kept on disk."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from pathlib import Path

from components.core.stores.transfer import landing

SAVE_SECONDS = 1.0

log = logging.getLogger(__name__)


class Position:
    """The place of the last image that is done with.

    It is written now and then only. A worker that was killed does again what it had done since, which changes nothing:
    the spool knows its images.

    Args:
        path: the file.
        identity: of the source; the place in another one does not count.
        clock: seconds that only grow.

    Attributes:
        place: of the last one done with; empty at the beginning.
    """

    def __init__(self, path: Path, identity: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._path, self._identity, self._clock = path, identity, clock
        self.place = self._saved = _read(path, identity)
        self._last_save = clock()

    def advance(self, place: str, *, spooled: bool = False) -> None:
        """An image is done with: whatever was to be kept of it is on disk.

        Args:
            place: of the image.
            spooled: it was kept, which is worth a write.
        """
        self.place = place
        if spooled or self._clock() - self._last_save >= SAVE_SECONDS:
            self.save()

    def restart(self) -> None:
        """The source is read from its beginning again."""
        self.place = ""
        self.save()

    def save(self) -> None:
        """Write it down, if it is not. A full disk costs some images looked at twice, nothing else."""
        if self.place == self._saved:
            return
        try:
            with landing(self._path, durable=True) as file:
                file.write(json.dumps({"source": self._identity, "place": self.place}).encode())
            self._saved = self.place
        except OSError as error:
            log.warning(
                "%s: cannot be written (%s); after a restart some images are processed again", self._path, error
            )
        self._last_save = self._clock()


def _read(path: Path, identity: str) -> str:
    try:
        found = json.loads(path.read_bytes())
        return str(found["place"]) if found["source"] == identity else ""
    except FileNotFoundError:
        return ""
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        log.warning("%s: cannot be read; starting from the beginning of the source", path)
        return ""
