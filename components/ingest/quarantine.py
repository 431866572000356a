"""The list of what did not come in, each with its reason."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from components.core.stores.open import Store

BAD, DUPLICATE, LEFT_OUT = "bad", "duplicate", "left out"
EXAMPLES, MAX_REASON = 3, 240  # in a message: files, and characters of a reason
COLUMNS = ("kind", "source", "reason")


@dataclass(frozen=True)
class Quarantined:
    """One file that did not come in.

    Attributes:
        source: its path inside the data set.
        reason: why, ``kind of fault: details``.
        kind: ``bad``; ``duplicate`` for an image that came in under another name; ``left out`` for what nothing
            depends on: images that the data set does not list, and labels of images that have theirs from elsewhere.
    """

    source: str
    reason: str
    kind: str = BAD


def as_csv(quarantine: Iterable[Quarantined]) -> str:
    """The list as CSV, with the columns kind, source and reason."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for entry in quarantine:
        is_formula = entry.source.startswith(("=", "+", "-", "@"))  # to a spreadsheet; with ./ it is the path it was
        writer.writerow((entry.kind, f"./{entry.source}" if is_formula else entry.source, entry.reason))
    return text.getvalue()


def write(quarantine: list[Quarantined], store: Store) -> str:
    """Put the list into the job's store, under the time.

    Returns:
        Its address; empty if the list is.
    """
    if not quarantine:
        return ""
    key = f"quarantine/{datetime.now(UTC):%Y-%m-%dT%H%M%S.%fZ}.csv"
    store.write(key, as_csv(quarantine).encode())
    return store.uri_of(key)


def most_frequent(quarantine: Iterable[Quarantined], most: int = 5) -> str:
    """The most frequent faults with their numbers, and three examples of the first, for a message."""
    bad = [entry for entry in quarantine if entry.kind == BAD]
    faults = Counter(entry.reason.partition(":")[0] for entry in bad).most_common(most)
    text = ", ".join(f"{fault} ({count})" for fault, count in faults)
    examples = [entry for entry in bad if faults and entry.reason.partition(":")[0] == faults[0][0]][:EXAMPLES]
    shown = (f"{one.source}: {one.reason.partition(':')[2].strip()[:MAX_REASON] or one.reason}" for one in examples)
    return f"{text}; for example {'; '.join(shown)}"
