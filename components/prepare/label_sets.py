"""Which classes were not labelled in a sample: those that came later, and the old ones in labels of a new one alone."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import polars as pl

from components.core.manifest import LABELLED, Manifest


def of_known(known: Manifest, classes: Sequence[str]) -> Manifest:
    """The samples of earlier rounds, in which nobody labelled a class that the job gets only now.

    Args:
        known: with the classes that the job had.
        classes: those that it has from now on; the old ones keep their places.
    """
    new = list(range(len(known.classes), len(classes)))
    if not new:
        return known
    before = pl.col("unlabelled_classes").fill_null(pl.lit([], pl.List(pl.Int32)))
    grown = pl.concat_list(before, pl.lit(new, pl.List(pl.Int32)))
    labelled = pl.when(LABELLED).then(grown).otherwise(pl.col("unlabelled_classes"))
    return Manifest(known.table.with_columns(unlabelled_classes=labelled), tuple(classes))


def of_arrivals(rows: Sequence[Mapping[str, Any]], known: Collection[int]) -> list[dict[str, Any]]:
    """The samples of a round, which may have labels of a new class alone.

    An older class without a box in a whole round that brings boxes of a new one was not labelled in that round.

    Args:
        rows: with boxes in the job's class numbers.
        known: numbers of the classes that the job had before; none in its first round.
    """
    shown = {box["class_id"] for row in rows for box in row["annotations"] or ()}
    left_out = set(known) - shown if known and shown - set(known) else set()
    if not left_out:
        return [dict(row) for row in rows]
    return [
        {**row, "unlabelled_classes": sorted({*(row.get("unlabelled_classes") or ()), *left_out})}
        if row["annotations"] is not None
        else dict(row)
        for row in rows
    ]
