"""What a benchmark keeps in its job root: finished cases by their digest, and the tables of the last run."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from components.benchmark.algorithms import Case
from components.benchmark.row import Row
from components.core.stores.open import open_store

log = logging.getLogger(__name__)

FOLDER = "benchmark"


def kept(job_root: str, case: Case) -> Row | None:
    """The row of a case that is finished already, under its name of today; None if it is not, or cannot be read."""
    key = _key(case.digest)
    found = open_store(job_root).read_versioned(key)
    if found is None:
        return None
    try:
        row = Row.model_validate_json(found[0])
    except ValidationError:
        log.warning("%s/%s cannot be read: the case is run again", job_root, key)
        return None
    return row.model_copy(update={"algorithm": case.algorithm.name})


def keep(job_root: str, row: Row) -> None:
    """Keep a finished case; one that failed is run again the next time."""
    if not row.error:
        open_store(job_root).write(_key(row.case), row.model_dump_json(indent=1).encode())


def keep_tables(job_root: str, files: Mapping[str, str]) -> None:
    """Put files beside the cases, by name; those of the run before are replaced."""
    store = open_store(job_root)
    for name, path in files.items():
        store.upload(Path(path), f"{FOLDER}/{name}")


def _key(digest: str) -> str:
    return f"{FOLDER}/cases/{digest}.json"
