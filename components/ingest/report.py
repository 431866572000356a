"""The page of an ingest: what came in, and a line for everything that did not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Protocol

from components.core.manifest import Manifest
from components.core.reports import page as reports
from components.core.reports.page import Section
from components.ingest.quarantine import BAD, Quarantined

# A page stays readable, and below what a browser takes; the whole list is an artifact and lies in the store.
MOST_LINES = 2000


class Intake(Protocol):
    """What an ingest or a poll of a feed came to."""

    @property
    def manifest(self) -> Manifest:
        """What came in."""

    @property
    def quarantine(self) -> Sequence[Quarantined]:
        """What did not."""

    @property
    def counts(self) -> Mapping[str, int]:
        """How many of each."""

    @property
    def warnings(self) -> Sequence[str]:
        """What stands out."""

    @property
    def quarantine_uri(self) -> str:
        """Where the whole list lies."""

    @property
    def pixels(self) -> Mapping[str, int]:
        """How many pixels of the masks each class has; empty if there are no masks."""


def sections(ingested: Intake) -> list[Section]:
    """Counts, the classes' shares of the masks, the faults by kind, and the quarantine list line by line."""
    body = reports.facts(
        {
            "classes": ", ".join(ingested.manifest.classes) or "none",
            **{name.replace("_", " "): count for name, count in ingested.counts.items()},
        }
    )
    for warning in ingested.warnings:
        body += reports.note(warning, "warn")
    if ingested.pixels:
        everywhere = sum(ingested.pixels.values())
        shares = [[name, count / everywhere] for name, count in ingested.pixels.items()]
        body += reports.table(["class", "fraction of the masks"], shares)
    if not ingested.quarantine:
        return [Section("Ingest", body + reports.note("Every file was ingested."))]
    faults = Counter(entry.reason.partition(":")[0] for entry in ingested.quarantine if entry.kind == BAD)
    body += reports.table(["fault", "files"], faults.most_common())
    listed = ingested.quarantine[:MOST_LINES]
    rest = len(ingested.quarantine) - len(listed)
    lines = reports.table(["file", "kind", "reason"], [[entry.source, entry.kind, entry.reason] for entry in listed])
    if rest:
        lines += reports.note(f"{rest:,} more are in {ingested.quarantine_uri}")
    body += reports.folded(f"{len(ingested.quarantine):,} files that were not ingested", lines)
    return [Section("Ingest", body)]
