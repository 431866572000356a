"""Held-out scenes, on which the demos measure each model, whatever the job itself tests on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import polars as pl

from components.core.manifest import Manifest
from components.evaluate.evaluate import evaluate
from components.evaluate.predictor import open_predictor
from components.ingest.ingest import ingest
from pipelines.demo.stage import Feed, Scenery


class HeldOut:
    """A test set of each scenery.

    Args:
        folder: for the scenes.
        sceneries: by the name that figures have.
        count: scenes of each.
        seed: of the scenes, none of which is among those of a feed or a camera.
    """

    def __init__(self, folder: Path, sceneries: Mapping[str, Scenery], count: int, seed: int) -> None:
        self._folder = folder
        self._sets = {
            name: self._ingested(number, scenery, count, seed + 1000 + number)
            for number, (name, scenery) in enumerate(sceneries.items())
        }

    def map50(self, bundle: Path) -> dict[str, float]:
        """The mAP50 of a model on each scenery."""
        predictor, cache = open_predictor(bundle, nms_threshold=0.7), self._folder / "cache"
        return {
            name: evaluate(scenes, predictor, confidence_threshold=0.25, cache_folder=cache).measured.flat["map50"]
            for name, scenes in self._sets.items()
        }

    def _ingested(self, number: int, scenery: Scenery, count: int, seed: int) -> Manifest:
        feed = Feed(self._folder / f"feed-{number}")
        feed.add_scenes(scenery, count, seed)
        manifest = ingest(str(feed.index), str(self._folder / "job"), classes="helmet,head").manifest
        return Manifest(manifest.table.with_columns(split=pl.lit("test")), manifest.classes)
