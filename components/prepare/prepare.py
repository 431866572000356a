"""Prepare: decide which split each sample belongs to, and show what the data looks like.

A split is decided by a hash of the sample's group and the seed alone. It does not depend on the order in which samples
arrive, on how many there are, or on what else is in the manifest, so a sample keeps its split in every round.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from markupsafe import Markup
from numpy.typing import NDArray

from components.core.cache import fetch_blobs, fetch_masks
from components.core.colours import PALETTE
from components.core.errors import InputError
from components.core.manifest import LABELLED, SPLITS, Manifest
from components.core.masks import VOID, ClassMap, read_mask
from components.core.parameters import parse_group_pattern
from components.core.reports import page as reports
from components.core.runtimes.letterbox import read_image
from components.prepare.balance import balance, class_warnings, has_only_masks
from components.prepare.splits import assign

if TYPE_CHECKING:
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)

SHOWN_IMAGES = 8
# COCO's bounds between small, medium and large objects, in square pixels (https://cocodataset.org/#detection-eval)
SMALL_AREA, LARGE_AREA = 32**2, 96**2


@dataclass(frozen=True)
class Prepared:
    """A manifest whose samples have splits.

    Attributes:
        manifest: labelled and unlabelled samples; the unlabelled have no split.
        counts: samples per split, negatives, those with masks, the unlabelled, and how many warnings there are.
        warnings: what may go wrong in training, one line each.
    """

    manifest: Manifest
    counts: dict[str, int]
    warnings: list[str]

    def check(self) -> None:
        """Make sure that a model can be trained, chosen and tested on it.

        Raises:
            InputError: a split is empty.
        """
        if self.counts["unlabelled"] == len(self.manifest):
            raise InputError(
                f"none of the {len(self.manifest)} images has a label: give a data set with labels, or label them first"
            )
        empty = [split for split in SPLITS if not self.counts[split]]
        if empty:
            labelled = self.manifest.labelled().table
            shares = _shares({split: self.counts[split] for split in SPLITS})
            raise InputError(
                f"no samples for {' and '.join(empty)}: {len(labelled)} labelled samples in "
                f"{labelled['group'].n_unique()} groups were split {shares}; add more, or change train_ratio, "
                "val_ratio, group_pattern or split_by"
            )


def prepare(
    manifest: Manifest,
    *,
    train_ratio: float = 0.8,
    val_ratio: float = 0.1,
    split_by: str = "hash",
    group_pattern: str = "",
    seed: int = 0,
    known: Manifest | None = None,
) -> Prepared:
    """Give each labelled sample its split.

    Args:
        manifest: samples from ``ingest``.
        train_ratio: share of groups for training.
        val_ratio: share for choosing the best epoch; the rest is for testing.
        split_by: ``hash``, or ``source`` to keep the splits that the data set itself has; samples without one are
            decided by hash, and a data set without a test split gives half of its val split to it.
        group_pattern: regular expression over the source path with one group; the same match means the same split.
        seed: changes every decision.
        known: samples of the job, which keep the splits that they were given once.
    """
    grouped = _regroup(manifest.table, group_pattern)
    parts = {group: assign(group, train_ratio, val_ratio, seed) for group in grouped["group"].unique()}
    decided = pl.col("group").replace_strict(parts, return_dtype=pl.String)
    if split_by == "source":
        halves = {group: assign(group, 0, 0.5, seed) for group in parts}
        own = pl.col("split")
        if "test" not in manifest.table["split"].unique():
            own = (
                pl.when(own == "val")
                .then(pl.col("group").replace_strict(halves, return_dtype=pl.String))
                .otherwise(own)
            )
        decided = pl.when(pl.col("split") != "").then(own).otherwise(decided)
    table = grouped.with_columns(pl.when(LABELLED).then(decided).otherwise(pl.lit("")).alias("split"))
    if known is not None:
        before = dict(known.labelled().table.select("id", "split").iter_rows())
        kept = pl.col("id").replace_strict(before, default=pl.col("split"), return_dtype=pl.String)
        table = table.with_columns(pl.when(LABELLED).then(kept).otherwise(pl.col("split")).alias("split"))
    prepared = Manifest(table, manifest.classes)
    counts = {split: len(prepared.split(split)) for split in SPLITS}
    counts["unlabelled"] = len(manifest) - len(manifest.labelled())
    counts["negatives"] = len(prepared.where(pl.col("annotations").list.len() == 0))
    counts["masks"] = len(prepared.where(pl.col("mask").is_not_null()))
    warnings = class_warnings(prepared)
    for warning in warnings:
        logger.warning("%s", warning)
    return Prepared(prepared, counts | {"warnings": len(warnings)}, warnings)


def sections(prepared: Prepared, cache_folder: Path) -> list[reports.Section]:
    """What the report shows of the data: counts, class balance, box sizes, and some labelled images.

    Where there are masks and no boxes, or no classes, nothing is said of boxes.
    """
    manifest = prepared.manifest
    rows = [
        [manifest.classes[row["class_id"]], *(row[split] for split in SPLITS), sum(row[split] for split in SPLITS)]
        for row in balance(manifest).iter_rows(named=True)
    ]
    body = reports.facts(prepared.counts)
    for warning in prepared.warnings:
        body += reports.note(warning, "warn")
    if manifest.classes and not has_only_masks(manifest):
        body += reports.table(["class", *(f"{split} boxes" for split in SPLITS), "total"], rows)
        body += reports.figure(
            _box_sizes(manifest), "Box sizes; dashed lines: COCO's limits of small, medium and large."
        )
    return [reports.Section("Data", body), reports.Section("Labelled images", _examples(manifest, cache_folder))]


def _regroup(table: pl.DataFrame, group_pattern: str) -> pl.DataFrame:
    """The samples with the groups that a pattern finds, by Python's rules: those of Polars lack some of its forms."""
    pattern = parse_group_pattern(group_pattern)
    if pattern is None:
        return table
    found = [match[1] if (match := pattern.search(source)) else None for source in table["source"]]
    return table.with_columns(pl.coalesce(pl.Series(found, dtype=pl.String), pl.col("group")).alias("group"))


def _shares(counts: dict[str, int]) -> str:
    return ", ".join(f"{split} {count}" for split, count in counts.items())


def _box_sizes(manifest: Manifest) -> Figure:
    boxes = manifest.boxes().with_columns(side=((pl.col("x2") - pl.col("x1")) * (pl.col("y2") - pl.col("y1"))).sqrt())
    figure = reports.new_figure(6.4, 2.8)
    axes = figure.subplots()
    series = [boxes.filter(pl.col("class_id") == index)["side"].to_list() for index in range(len(manifest.classes))]
    axes.hist(series, bins=40, stacked=True, label=list(manifest.classes), color=_colours(len(series)))
    for bound in (SMALL_AREA, LARGE_AREA):
        axes.axvline(bound**0.5, color="#6b7a85", linestyle="--", linewidth=0.8)
    axes.set_xlabel("square root of box area (pixels)")
    axes.set_ylabel("boxes")
    axes.legend(frameon=False)
    return figure


def _colours(count: int) -> list[str]:
    return [PALETTE[index % len(PALETTE)] for index in range(count)]


def _examples(manifest: Manifest, cache_folder: Path) -> Markup:
    table = manifest.split("train").table
    # Ids are hashes, so the first by id are a fair draw, and the same on every run.
    shown = Manifest(table.sort("id").head(SHOWN_IMAGES), manifest.classes)
    paths = fetch_blobs(shown, cache_folder)
    masked = shown.where(pl.col("mask").is_not_null())
    masks = dict(zip(masked.table["id"], fetch_masks(masked, cache_folder), strict=True))
    images = []
    for row, truth, path in zip(shown.rows(), shown.truths(), paths, strict=True):
        image = read_image(path)
        if row["id"] in masks:
            image = _painted(image, read_mask(masks[row["id"]]))
        images.append((reports.draw(image, truth, manifest.classes), Path(row["source"]).name))
    return reports.images(images)


def _painted(image: NDArray[np.uint8], mask: ClassMap) -> NDArray[np.uint8]:
    """An image (height, width, 3) half covered by the colours of its mask's classes; void stays as it is."""
    hues = [[int(colour[place : place + 2], 16) for place in (1, 3, 5)] for colour in _colours(VOID)]
    colours = np.array([*hues, [0, 0, 0]], dtype=np.uint8)[mask]
    return np.where((mask == VOID)[..., None], image, image // 2 + colours // 2)
