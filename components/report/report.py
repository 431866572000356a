"""Report: one page for a whole run, kept with the job."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from components.core.parameters import ROWS, flat
from components.core.redaction import redacted
from components.core.reports import page as reports
from components.core.reports.page import Section
from components.core.stores.addresses import shown
from components.core.stores.open import Store, open_store


def run_section(
    model: str, data: str, job_root: str, run_id: str, settings: Mapping[str, Any], now: datetime
) -> Section:
    """What tells one run from another: its model, data, time, job and parameters.

    Args:
        model: where it was kept; empty where it was not.
        data: address of the data.
        job_root: the job.
        run_id: names the run.
        settings: parameters by section and name, as they were given; those that differ from their defaults are shown.
        now: the time, with its zone.
    """
    chosen = {
        name: value
        for name, value in flat({"settings": settings}).items()
        if name in ROWS and value != ROWS[name].get_default(call_default_factory=True)
    }
    facts = {
        "model": shown(model) or "not stored",
        "data": shown(data),
        "job": shown(job_root),
        "run": run_id,
        "time": f"{now:%Y-%m-%d %H:%M:%S %Z}",
    }
    table = reports.table(
        ["parameter", "value"], [[name, redacted(str(value))] for name, value in sorted(chosen.items())]
    )
    body = reports.table(["", ""], [[title, value] for title, value in facts.items()])
    return Section("Run", body + (table if chosen else reports.note("All parameters have their default values.")))


def keep(page: str, job_root: str, title: str, figures: Mapping[str, Any], run_id: str = "") -> str:
    """Put a page and its figures into the job's store.

    Args:
        page: the file.
        job_root: the job.
        title: of the page, from which its name is made.
        figures: by name; what is no number is left out.
        run_id: of the run that made it; empty where it is not known.

    Returns:
        URI of the page; the figures lie beside it as JSON.
    """
    store = open_store(job_root)
    name = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
    key = f"reports/{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}-{name}"
    finite = {metric: value for metric, value in figures.items() if isinstance(value, int | float)}
    store.write(f"{key}.json", json.dumps({"run": run_id} | finite, indent=2, sort_keys=True).encode())
    store.upload(Path(page), f"{key}.html")
    return store.uri_of(f"{key}.html")


def read_kept(store: Store, key: str) -> tuple[str, dict[str, float]]:
    """Read the figures that lie beside a page.

    Args:
        store: of the job.
        key: of the figures, such as ``reports/20260131T080000.000000Z-round-3.json``.

    Returns:
        The id of the run, empty where it is not known, and the figures by name.

    Raises:
        ValueError: the object is damaged.
        NotFoundError: there is no such object.
    """
    read = json.loads(store.read(key))
    if not isinstance(read, dict):
        raise ValueError("no object of JSON")
    numbers = {name: float(value) for name, value in read.items() if isinstance(value, int | float)}
    return str(read.get("run", "")), numbers
