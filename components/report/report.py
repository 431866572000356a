"""Report: one page for a whole run, kept with the job."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from components.core.reports.page import read_sections, write_page
from components.core.stores.open import open_store


def join(page: str, title: str, parts: Sequence[str]) -> None:
    """Write one page with the sections of others, in the order given."""
    write_page(page, title, [section for part in parts for section in read_sections(part)])


def keep(page: str, job_root: str, title: str, figures: Mapping[str, Any]) -> str:
    """Put a page and its figures into the job's store.

    Returns:
        URI of the page; the figures lie beside it as JSON.
    """
    store = open_store(job_root)
    name = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
    key = f"reports/{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}-{name}"
    finite = {metric: value for metric, value in figures.items() if isinstance(value, int | float)}
    store.write(f"{key}.json", json.dumps(finite, indent=2, sort_keys=True).encode())
    store.upload(Path(page), f"{key}.html")
    return store.uri_of(f"{key}.html")
