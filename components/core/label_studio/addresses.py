"""Where Label Studio finds the images of a job, and until when.

Those of a job in a bucket have presigned addresses, which end after seven days at the latest. So they are renewed long
before, whenever tasks are sent or listed, and an image can be labelled however long it waits. Those of a job in a
folder are among the local files that the server serves below its document root.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

from urllib3.exceptions import HTTPError

from components.core.label_studio.client import LabelStudio
from components.core.label_studio.project import Project
from components.core.stores.connections import open_pool
from components.core.stores.open import Store

KEY, EXPIRES = "key", "expires"  # in a task's meta: of the image in the job's root; when its address ends
LIFETIME = timedelta(days=7)  # of a presigned address, the longest that S3 allows
LOCAL_FILES = "/data/local-files/?d="

# Credentials of a role end with their session, which is seldom shorter than this; nothing in them says when.
_SESSION = timedelta(hours=1)
_OF_SESSION = "X-Amz-Security-Token"


@dataclass(frozen=True)
class Images:
    """The images of a job as Label Studio reaches them.

    Attributes:
        store: the job's root.
        below: where the job's folder lies below the server's document root, ``""`` or with a ``/`` at its end; not of a
            bucket.
        path: of the server's address, such as ``/label-studio``; empty: it has none.
    """

    store: Store
    below: str = ""
    path: str = ""

    def address(self, key: str) -> tuple[str, datetime | None]:
        """Where browsers find an image, and until when; None: for ever."""
        if self.store.local_path(key) is not None:
            return f"{self.path}{LOCAL_FILES}{quote(self.below + key)}", None
        address = self.store.presigned(key, LIFETIME)
        return address, datetime.now(UTC) + (_SESSION if _OF_SESSION in address else LIFETIME)

    def fields(self, key: str) -> tuple[str, dict[str, str]]:
        """The address of an image, and what a task's meta says of it."""
        address, expires = self.address(key)
        return address, {KEY: key, **({EXPIRES: expires.isoformat()} if expires else {})}


def shown_by_browsers(address: str, origin: str) -> bool | None:
    """Whether a browser with a page of an origin may show the image of a presigned address (CORS).

    Args:
        address: of the image.
        origin: such as ``http://label-studio:8080``.

    Returns:
        None where the store does not answer.
    """
    try:
        answer = open_pool(address).once(
            "GET", address, headers={"Origin": origin, "Range": "bytes=0-0"}, redirect=False
        )
    except HTTPError:
        return None
    return answer.headers.get("Access-Control-Allow-Origin") in ("*", origin)


def found_below(studio: LabelStudio, store: Store, key: str) -> str | None:
    """Where a job's folder lies below the server's document root, see :class:`Images`; None: the server has it not.

    Args:
        studio: the server.
        store: the job's root, a folder.
        key: of an image that is there.

    Raises:
        InputError: the server cannot be asked.
    """
    path = store.local_path(key)
    assert path is not None, "the job lies in a folder"
    return next((below for below in _places(path, key) if studio.has(f"{LOCAL_FILES}{quote(below + key)}")), None)


def _places(path: Path, key: str) -> Iterator[str]:
    parts = path.parts[1 : len(path.parts) - len(PurePosixPath(key).parts)]
    for count in range(len(parts) + 1):
        yield "".join(f"{part}/" for part in parts[len(parts) - count :])


def renew(studio: LabelStudio, store: Store, project: Project, waiting: Iterable[Mapping[str, Any]]) -> None:
    """Give images that wait for an answer new addresses before theirs end.

    Args:
        studio: the server.
        store: the job's root.
        project: of the job.
        waiting: tasks that wait for an answer, each with ``id``, ``data`` and ``meta``.

    Raises:
        InputError: the server or the store refuses it.
    """
    soon = datetime.now(UTC) + LIFETIME / 2
    images = Images(store)
    for one in waiting:
        meta = one.get("meta") or {}
        key = str(meta.get(KEY, ""))
        if key and _ends_before(str(meta.get(EXPIRES, "")), soon):
            address, fields = images.fields(key)
            body = {"data": {**one["data"], project.key: address}, "meta": {**meta, **fields}}
            studio.send("PATCH", f"/api/tasks/{one['id']}/", body)


def _ends_before(expires: str, moment: datetime) -> bool:
    """Whether an address ends before a moment; one of which that is not known ends never."""
    try:
        return bool(expires) and datetime.fromisoformat(expires) < moment
    except (ValueError, TypeError):  # somebody has changed it
        return True
