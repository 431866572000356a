"""How many boxes of each class there are in each split, and where that is too few."""

from __future__ import annotations

import polars as pl

from components.core.manifest import SPLITS, Manifest

FEW_BOXES = 20  # of one class in training, under which the report warns
FEW_TEST_BOXES = 10  # of one class in test, under which the report warns


def balance(manifest: Manifest) -> pl.DataFrame:
    """Boxes per class and split, with a row for a class that has none.

    Returns:
        Columns ``class_id`` and one per split, ordered by class.
    """
    classes = pl.DataFrame({"class_id": range(len(manifest.classes))}, schema={"class_id": pl.Int32})
    boxes = manifest.boxes()
    per_split = [
        boxes.filter(pl.col("split") == split).group_by("class_id").agg(pl.len().cast(pl.Int64).alias(split))
        for split in SPLITS
    ]
    for counts in per_split:
        classes = classes.join(counts, on="class_id", how="left")
    return classes.fill_null(0).sort("class_id")


def class_warnings(manifest: Manifest) -> list[str]:
    """What may go wrong for want of boxes of a class, a line each; nothing where there are masks alone."""
    found: list[str] = []
    if has_only_masks(manifest):
        return found
    for row in balance(manifest).iter_rows(named=True):
        name = manifest.classes[row["class_id"]]
        if row["train"] < FEW_BOXES:
            found.append(f"class {name} has {row['train']} training boxes; a detector needs hundreds")
        found += [f"class {name} has no boxes in {split}" for split in ("val", "test") if not row[split]]
        if 0 < row["test"] < FEW_TEST_BOXES:
            found.append(f"class {name} has {row['test']} test boxes, too few for a reliable evaluation")
    return found


def has_only_masks(manifest: Manifest) -> bool:
    """Whether there are masks and no boxes."""
    return manifest.has_masks and manifest.boxes().is_empty()
