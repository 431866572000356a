"""What polls of a feed tell each other without a round being committed; it only saves work, and may be removed."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import polars as pl

from components.core.stores.open import Store
from components.ingest.images import IngestedImage

FULL_LISTING = timedelta(hours=1)
MEMORY, PENDING = "feed/memory.json", "feed/pending.parquet"


@dataclass(frozen=True)
class PollMemory:
    """What polls tell each other without a round being committed.

    Attributes:
        bad: marks of the bad entries that were reported.
        listed: when everything was listed last.
        manifest: key of the job's manifest at that time; empty: there was none.
        classes: the class names in it.
    """

    bad: frozenset[str] = frozenset()
    listed: datetime | None = None
    manifest: str = ""
    classes: tuple[str, ...] = ()

    @classmethod
    def read(cls, store: Store) -> PollMemory:
        """Read it; a new one where there is none, or none that can be read."""
        found = store.read_versioned(MEMORY)
        try:
            data = json.loads(found[0]) if found else {}
            listed = data.get("listed")
            bad = frozenset(map(str, data.get("bad", ())))
            classes = tuple(map(str, data.get("classes", ())))
            when = datetime.fromisoformat(listed).astimezone(UTC) if listed else None
            return cls(bad, when, str(data.get("manifest", "")), classes)
        except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
            return cls()

    def write(self, store: Store, unless: PollMemory) -> None:
        """Write it, unless it is the same as another."""
        if self != unless:
            listed = self.listed.isoformat() if self.listed else None
            known = {"manifest": self.manifest, "classes": self.classes}
            store.write(MEMORY, json.dumps({"bad": sorted(self.bad), "listed": listed, **known}).encode())

    def listing_is_due(self) -> bool:
        """Whether the last full listing is long ago; or in the future, because a clock was put back."""
        return self.listed is None or abs(datetime.now(UTC) - self.listed) > FULL_LISTING

    def not_told(self, marks: Iterable[str]) -> list[str]:
        """Of the marks of bad entries those that are new."""
        return [mark for mark in marks if mark not in self.bad]

    def told(self, marks: Iterable[str], complete: bool) -> PollMemory:
        """The memory of a poll that reported bad entries, and may have listed everything."""
        due = complete and self.listing_is_due()
        return replace(self, bad=self.bad | set(marks), listed=datetime.now(UTC) if due else self.listed)

    def knowing(self, manifest: str | None, classes: tuple[str, ...]) -> PollMemory:
        """The memory of a poll that has read the class names of the job's manifest."""
        return replace(self, manifest=manifest or "", classes=classes)


def read_pending(store: Store, cursor: str) -> dict[int, IngestedImage]:
    """Images among the blobs that came after a cursor, by mark; once another is committed, they are no longer new."""
    found = store.read_versioned(PENDING)
    try:
        if found is None or pl.read_parquet_metadata(io.BytesIO(found[0])).get("cursor") != cursor:
            return {}
        return {mark: IngestedImage(*rest) for mark, *rest in pl.read_parquet(found[0]).iter_rows()}
    except (pl.exceptions.PolarsError, TypeError):
        return {}


def write_pending(store: Store, cursor: str, before: dict[int, IngestedImage], now: dict[int, IngestedImage]) -> None:
    """Write the images among the blobs that came after a cursor, by mark, unless they are those from before."""
    if now == before:
        return
    rows = [(mark, *image) for mark, image in now.items()]
    schema = {"mark": pl.UInt64, "id": pl.String, "suffix": pl.String, "width": pl.Int32, "height": pl.Int32}
    content = io.BytesIO()
    pl.DataFrame(rows, schema=schema, orient="row").write_parquet(content, metadata={"cursor": cursor})
    store.write(PENDING, content.getvalue())
