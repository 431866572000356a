"""The manifest: an immutable table of samples, which every step reads and passes on.

It is a Parquet file of references. The images themselves stay in the store as blobs named by the SHA-256 of their
bytes. One row is one image:

================== ============ ============================================================================
column             type         meaning
================== ============ ============================================================================
id                 string       SHA-256 of the image's bytes, 64 hex digits; unique
uri                string       where the bytes lie: ``file:///...`` or ``s3://...``
width              int32        pixels, as displayed (EXIF orientation applied)
height             int32        pixels
split              string       ``train``, ``val``, ``test``, or empty before ``prepare`` has decided
group              string       samples that must share a split (one video, one site); the id where there is none
source             string       where it came from: the path inside the archive or folder
round              int32        the round that brought it in; 0 for a first import
annotations        list(struct) boxes (class_id, x1, y1, x2, y2); empty: nothing to see; null: unlabelled
mask               string       where the class of each pixel lies, as ``uri``; null: there is no mask
unlabelled_classes list(int32)  each ``class_id`` that was not labelled: an object of it may be there and have no
                                box, as with LVIS' ``not_exhaustive_category_ids``; null: every class was. Of boxes
                                alone: in a mask the void pixels are what was not labelled
================== ============ ============================================================================

Box coordinates are those of :class:`components.core.detections.Detections`. A mask is a blob, too: a PNG of 8 bits and
one channel, as wide and high as the image is displayed, whose pixels are ``class_id``, or 255 (void) where unlabelled;
see :mod:`components.core.masks`. The names of the classes, in the order of ``class_id``, are metadata of the
file.
"""

from __future__ import annotations

import io
import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from components.core.detections import Detections
from components.core.errors import InputError, NotFoundError
from components.core.stores.transfer import landing, os_errors

SPLITS = ("train", "val", "test")
ANNOTATION = pl.Struct({"class_id": pl.Int32, "x1": pl.Float32, "y1": pl.Float32, "x2": pl.Float32, "y2": pl.Float32})
SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "id": pl.String,
    "uri": pl.String,
    "width": pl.Int32,
    "height": pl.Int32,
    "split": pl.String,
    "group": pl.String,
    "source": pl.String,
    "round": pl.Int32,
    "annotations": pl.List(ANNOTATION),
    "mask": pl.String,
    "unlabelled_classes": pl.List(pl.Int32),
}
_WITHDRAWN = "withdrawn"
_ADDED = ("mask", "unlabelled_classes")  # columns that manifests did not always have
LABELLED = pl.col("annotations").is_not_null() | pl.col("mask").is_not_null()  # with boxes, or none to draw; or a mask


@dataclass(frozen=True)
class Manifest:
    """Samples and the names of their classes.

    Attributes:
        table: one row per sample, with the columns of ``SCHEMA``.
        classes: class names in the order of ``class_id``.
    """

    table: pl.DataFrame
    classes: tuple[str, ...]

    @classmethod
    def of(cls, rows: Sequence[dict[str, Any]], classes: Sequence[str]) -> Manifest:
        """Make a manifest from one dictionary per sample; what a dictionary does not have is null."""
        return cls(pl.DataFrame(rows, schema=SCHEMA), tuple(classes))

    @classmethod
    def read(cls, path: str | Path) -> Manifest:
        """Read a manifest and check that it is one; columns that an older one lacks are null.

        Raises:
            NotFoundError: no such file.
            InputError: not Parquet, other columns than a manifest's, or an annotation of a class without a name.
        """
        if not Path(path).is_file():
            raise NotFoundError(f"manifest {path}: no such file")
        try:
            table = with_added_columns(pl.read_parquet(path))
            metadata = pl.read_parquet_metadata(path)
        except (pl.exceptions.PolarsError, OSError) as error:
            raise InputError(f"manifest {path}: not a readable Parquet file ({error})") from error
        if dict(table.schema) != SCHEMA:
            different = sorted(
                name for name in {*table.schema, *SCHEMA} if dict(table.schema).get(name) != SCHEMA.get(name)
            )
            raise InputError(f"manifest {path}: columns missing, unknown or of a wrong type: {', '.join(different)}")
        manifest = cls(table, tuple(json.loads(metadata.get("classes", "[]"))))
        worst = manifest.boxes()["class_id"].max()
        if isinstance(worst, int) and worst >= len(manifest.classes):
            raise InputError(f"manifest {path}: class {worst} has no name; the classes are {list(manifest.classes)}")
        return manifest

    def write(self, path: str | Path, withdrawn: Collection[str] = ()) -> None:
        """Write the manifest as Parquet; a reader never sees half a file.

        Args:
            path: of the file.
            withdrawn: ids of other samples whose labels people have removed, see :func:`read_withdrawn`. They are in
                the file, since a step gets the metadata of its artifacts on a command line, which may have 128 KiB.
        """
        content = io.BytesIO()
        metadata = {"classes": json.dumps(self.classes)}
        if withdrawn:
            metadata[_WITHDRAWN] = json.dumps(list(withdrawn))
        self.table.write_parquet(content, metadata=metadata)
        with os_errors(f"manifest {path}"), landing(Path(path)) as file:
            file.write(content.getbuffer())

    def __len__(self) -> int:
        return self.table.height

    def where(self, *conditions: pl.Expr) -> Manifest:
        """The samples that meet every condition."""
        return Manifest(self.table.filter(*conditions), self.classes)

    def split(self, name: str) -> Manifest:
        """The samples of one split."""
        return self.where(pl.col("split") == name)

    def labelled(self) -> Manifest:
        """The samples somebody has labelled, with boxes or a mask; negatives are among them."""
        return self.where(LABELLED)

    def with_ids(self, ids: Collection[str]) -> Manifest:
        """The samples of some ids."""
        return self.where(pl.col("id").is_in(list(ids)))

    def without_labels(self, ids: Collection[str]) -> Manifest:
        """The same samples, of which some have no labels any more, and so no split."""
        gone = pl.col("id").is_in(list(ids))
        nothing = {"annotations": None, "mask": None, "unlabelled_classes": None, "split": ""}
        changed = [
            pl.when(gone).then(pl.lit(value)).otherwise(pl.col(name)).alias(name) for name, value in nothing.items()
        ]
        return Manifest(self.table.with_columns(changed), self.classes)

    def class_numbers(self, classes: Sequence[str], owner: str, advice: str) -> list[int]:
        """The numbers that a model's classes have here: in another order, perhaps, or among others.

        Args:
            classes: of the model, in its order.
            owner: what a message calls the model.
            advice: what it tells the user to do.

        Raises:
            InputError: the manifest does not have a class of the model.
        """
        unknown = ", ".join(name for name in classes if name not in self.classes)
        if unknown:
            raise InputError(
                f"{owner} predicts {unknown}, which has no labels in this manifest; its classes are "
                f"{', '.join(self.classes)}: {advice}"
            )
        return [self.classes.index(name) for name in classes]

    @property
    def has_masks(self) -> bool:
        """Whether any sample has a mask."""
        return bool(self.table["mask"].is_not_null().any())

    def boxes(self) -> pl.DataFrame:
        """One row per box, with its sample's id, width, height and split, and columns class_id, x1, y1, x2, y2."""
        return (
            self.table.select("id", "width", "height", "split", "annotations")
            .explode("annotations", empty_as_null=False, keep_nulls=False)
            .unnest("annotations")
        )

    def rows(self) -> Iterator[dict[str, Any]]:
        """Each sample as a dictionary, in table order."""
        return self.table.iter_rows(named=True)

    def unlabelled_classes(self) -> list[frozenset[int]]:
        """The classes of boxes that were not labelled in each sample, in table order; in masks void pixels say it."""
        return [frozenset(numbers or ()) for numbers in self.table["unlabelled_classes"].to_list()]

    @property
    def has_only_masks(self) -> bool:
        """Whether there are labels, and all of them are masks."""
        has = self.table.select(pl.col("mask").is_not_null().any(), pl.col("annotations").is_not_null().any())
        masks, boxes = has.row(0)
        return bool(masks and not boxes)

    def truths(self) -> list[Detections]:
        """The labelled boxes of each sample, in table order; none for an unlabelled sample."""
        return [truth(annotations) for annotations in self.table["annotations"].to_list()]


def read_withdrawn(path: str | Path) -> list[str]:
    """The ids of samples whose labels people have removed, as the manifest of arrivals names them."""
    ids: list[str] = json.loads(pl.read_parquet_metadata(path).get(_WITHDRAWN, "[]"))
    return ids


def with_added_columns(table: pl.DataFrame) -> pl.DataFrame:
    """A table with the columns that manifests did not always have, null where they are missing."""
    missing = [name for name in _ADDED if name not in table.columns]
    grown = table.with_columns(pl.lit(None, SCHEMA[name]).alias(name) for name in missing)
    strange = [name for name in grown.columns if name not in SCHEMA]
    return grown.select([name for name in SCHEMA if name in grown.columns] + strange)


def truth(annotations: Sequence[dict[str, Any]] | None) -> Detections:
    """The boxes of one row's annotations."""
    return Detections.of(
        [[a["x1"], a["y1"], a["x2"], a["y2"]] for a in annotations or ()], [a["class_id"] for a in annotations or ()]
    )
