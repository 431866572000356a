"""What a job has of the images that a poll of its feed brings."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from components.core.cache import local_file
from components.core.errors import InputError
from components.core.job.state import State
from components.core.manifest import Manifest, with_added_columns
from components.core.stores.open import Store


@dataclass(frozen=True)
class Known:
    """What the job has of the images of a poll.

    Attributes:
        classes: the job's class names.
        labels: boxes and mask by image id.
    """

    classes: tuple[str, ...]
    labels: dict[str, tuple[list[dict[str, Any]] | None, str | None]]

    @classmethod
    def of(cls, store: Store, state: State, folder: Path, ids: list[str]) -> Known:
        """Read what a job has of some images.

        Args:
            store: the job's root.
            state: of the job.
            folder: where copies of objects may be kept.
            ids: of the images; empty: only the class names are read.

        Raises:
            InputError: the job's manifest cannot be read.
        """
        if state.manifest is None:
            return cls((), {})
        path = local_file(store, state.manifest, folder)
        try:
            classes = tuple(json.loads(pl.read_parquet_metadata(path).get("classes", "[]")))
            if not ids:
                return cls(classes, {})
            rows = with_added_columns(pl.scan_parquet(path).filter(pl.col("id").is_in(ids)).collect())
        except (pl.exceptions.PolarsError, ValueError, OSError) as error:
            raise InputError(f"manifest {store.uri_of(state.manifest)}: cannot be read ({error})") from error
        labels = rows.select("id", "annotations", "mask").iter_rows()
        return cls(classes, {sample: (boxes, mask) for sample, boxes, mask in labels})

    def classes_with(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """The job's classes, whose ids stay as they are, and then those that are new."""
        return tuple(dict.fromkeys((*self.classes, *names)))

    def compared(self, manifest: Manifest) -> tuple[list[bool], dict[str, int]]:
        """Which samples are news to the job, and how many are not, or are news about a sample that it has."""
        new = []
        counts = {"known": 0, "newly_labelled": 0, "relabelled": 0}
        for sample, boxes, mask in manifest.table.select("id", "annotations", "mask").iter_rows():
            boxes_before, mask_before = self.labels.get(sample, (None, None))
            same = (boxes is None or _same(boxes, boxes_before)) and mask in (None, mask_before)
            if sample in self.labels:
                labelled_before = boxes_before is not None or mask_before is not None
                counts["known" if same else "relabelled" if labelled_before else "newly_labelled"] += 1
            new.append(sample not in self.labels or not same)
        return new, counts


def _same(these: list[dict[str, Any]], those: list[dict[str, Any]] | None) -> bool:
    return those is not None and sorted(tuple(a.values()) for a in these) == sorted(tuple(a.values()) for a in those)
