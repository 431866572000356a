"""What the steps of a run leave in the job's store for its report, so that no step has to be handed the pages of all.

`steps/<run>/` has the page of each step, under the step's name, and what else the last steps read. It stays for a week,
so that a step that is tried again finds it, and so that what a run that failed has made can be read.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

from components.core.errors import InputError, NotFoundError, OutOfReachError
from components.core.reports.page import Section, note, sections_in
from components.core.stores.base import Store
from components.core.stores.open import open_store

log = logging.getLogger(__name__)

PARTS = "steps/"
KEPT = timedelta(days=7)

_NAME = re.compile(r"[\w][\w.@-]*")


def keep_part(job_root: str, run_id: str, name: str, path: str) -> None:
    """Put a file of a step into the run's folder; without a run's name do nothing.

    Args:
        job_root: the job's store.
        run_id: name of the run; empty for a step that is used by itself.
        name: of the file there, such as ``train.html``.
        path: the file.

    Raises:
        InputError: the store cannot be written, or the run's name cannot be part of a key. A page is not worth the
            step, which may have trained for hours: where the store is out of reach, the report has none of this step.
    """
    if not run_id:
        return
    try:
        open_store(job_root).upload(Path(path), _key(run_id, name))
    except OutOfReachError as error:
        if not name.endswith(".html"):
            raise
        log.warning("the report of this run lacks %s: %s", name, error)


def read_pages(job_root: str, run_id: str, steps: Sequence[str]) -> list[Section]:
    """The sections of the pages that steps of a run have kept, in the order given; of a step without one, a note.

    Raises:
        InputError: the store cannot be read, or a page is damaged.
    """
    store = open_store(job_root)
    found: list[Section] = []
    for step in steps:
        key = _key(run_id, f"{step}.html")
        try:
            page = store.read(key).decode("utf-8", errors="replace")
        except NotFoundError:
            found.append(Section(step, note(f"The step {step} has kept no page for this run.")))
            continue
        found.extend(sections_in(page, store.uri_of(key)))
    return found


def read_part(job_root: str, run_id: str, name: str) -> bytes:
    """The content of a file that a step of a run has kept.

    Raises:
        NotFoundError: there is none.
        InputError: the store cannot be read.
    """
    return open_store(job_root).read(_key(run_id, name))


def remove_old_parts(store: Store, now: datetime) -> None:
    """Remove what is older than ``KEPT``.

    Args:
        store: of the job.
        now: the time, with its zone.
    """
    for key in [info.key for info in store.list(PARTS) if info.modified < now - KEPT]:
        store.delete(key)


def _key(run_id: str, name: str) -> str:
    if not _NAME.fullmatch(run_id):
        raise InputError(
            f"run_id={run_id!r} cannot be the name of a folder: use letters, digits, '.', '_', '@' and '-'"
        )
    return f"{PARTS}{run_id}/{name}"
