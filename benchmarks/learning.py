"""What a loop of small rounds learns and forgets, against its alternatives.

The first site's images come first, a large set and then rounds of 60; after them a new site's come in rounds of 60.
A quarter of the way or so, a network trained from nothing on the large set is all there is. From there on:

frozen     that first model, for ever
new only   each round trains the last model on the round's new samples alone, as KubeEdge Sedna's job does
ours       each round trains the last model on the new samples and a replay of known ones, as the plan step draws it
full       a network trained from nothing on everything so far, at the very end

All see the same samples in the same splits, and are measured with the exported ONNX on the same held-out images of
both sites, those that arrive later among them. The gate is left out: what is compared is the learning. Results are
written as they come, and a run that is ended goes on where it was.

Example:
    python benchmarks/learning.py --first VOC2007.zip --feed feed/train_data.txt --new-site site-b --folder FOLDER
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import math
import os
import shutil
import statistics
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))
os.environ.setdefault("YOLO_OFFLINE", "true")

import polars as pl  # noqa: E402

from components.core.cache import cache_folder  # noqa: E402
from components.core.manifest import Manifest  # noqa: E402
from components.evaluate.evaluate import evaluate  # noqa: E402
from components.evaluate.predictor import open_predictor  # noqa: E402
from components.ingest.ingest import ingest  # noqa: E402
from components.prepare.replay import round_manifest  # noqa: E402
from components.train.train import train  # noqa: E402

CLASSES = ("helmet", "head")
SPLITS: dict[str, Any] = {"train_ratio": 0.7, "val_ratio": 0.1}
OPTIONS = {"mosaic": 0.0, "nbs": 16, "scale": 0.25, "warmup_epochs": 1.0, "warmup_bias_lr": 0.0}
STRATEGIES = ("frozen", "new only", "ours", "full")


@dataclass(frozen=True)
class Stream:
    """What arrives, in the order of arrival.

    Attributes:
        rounds: the first is the large set, each other one a round.
        first_site: how many of the rounds are of the first site.
    """

    rounds: list[Manifest]
    first_site: int

    def site(self, name: str) -> Manifest:
        """Every sample of one site."""
        chosen = self.rounds[: self.first_site] if name == "first" else self.rounds[self.first_site :]
        return Manifest(pl.concat([part.table for part in chosen]), CLASSES)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--first", required=True, help="the first site's large set")
    parser.add_argument("--feed", required=True, help="what comes from there in rounds")
    parser.add_argument("--new-site", required=True, help="what comes from another site")
    parser.add_argument("--folder", type=Path, required=True, help="for data, models and results")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="which (default 0 1 2)")
    parser.add_argument("--round-size", type=int, default=60, help="samples (default 60)")
    parser.add_argument("--image-size", type=int, default=160, help="pixels (default 160)")
    parser.add_argument("--epochs", type=int, default=20, help="of a training from nothing (default 20)")
    parser.add_argument("--round-epochs", type=int, default=8, help="of a round (default 8)")
    parser.add_argument("--round-rate", type=float, default=0.001, help="learning rate of a round (default 0.001)")
    parser.add_argument("--middle", action="store_true", help="train from nothing at the end of the first site, too")
    parser.add_argument("--replay-ratio", type=float, default=3.0, help="known samples for each new one (default 3)")
    parser.add_argument("--device", default="cpu", help="cpu, or a GPU's number (default cpu)")
    parser.add_argument("--only-report", action="store_true", help="print what has been measured so far")
    given = parser.parse_args()
    results = given.folder / "results.jsonl"
    if not given.only_report:
        stream = arrivals(given)
        for seed in given.seeds:
            Trial(stream, seed, given, results).run()
    report([json.loads(line) for line in results.read_text().splitlines()], given)


def arrivals(given: argparse.Namespace) -> Stream:
    """Take the three sources in, and cut the last two into rounds."""
    first = _taken_in(given.first, given, "hat:helmet,person:head")
    feed = _taken_in(given.feed, given, "person:head,hat:helmet")
    new_site = _taken_in(given.new_site, given, "helmet:helmet,no-helmet:head", ignore="*")
    fed = [first, *_rounds(feed, first, given.round_size)]
    return Stream([*fed, *_rounds(new_site, first, given.round_size)], len(fed))


def _taken_in(source: str, given: argparse.Namespace, classes: str, ignore: str = "") -> Manifest:
    manifest = ingest(source, str(given.folder / "job"), classes=classes, ignore_classes=ignore).manifest
    places = [CLASSES.index(name) for name in manifest.classes]
    rows = [
        {**row, "annotations": [{**box, "class_id": places[box["class_id"]]} for box in row["annotations"]]}
        for row in manifest.rows()
    ]
    return Manifest.of(rows, CLASSES)


def _rounds(manifest: Manifest, known: Manifest, size: int) -> Iterator[Manifest]:
    """Rounds of a size in an order by image digest, the last with what is over; no image that is known already."""
    fresh = manifest.table.filter(~pl.col("id").is_in(known.table["id"].to_list())).sort("id")
    starts = range(0, max(size, len(fresh) - len(fresh) % size), size)
    for start in starts:
        yield Manifest(fresh.slice(start, size if start != starts[-1] else len(fresh)), manifest.classes)


class Trial:
    """All strategies with one seed."""

    def __init__(self, stream: Stream, seed: int, given: argparse.Namespace, results: Path) -> None:
        self._stream = stream
        self._seed = seed
        self._given = given
        self._results = results
        self._job = str(given.folder / "job")
        self._done = {
            (entry["strategy"], entry["round"]): entry
            for entry in _read(results)
            if entry["seed"] == seed and entry["settings"] == settings(given, entry["strategy"])
        }

    def run(self) -> None:
        """Go through the rounds; what has been measured is not done again."""
        tests = self._tests()
        known: Manifest | None = None
        last = {"new only": self._folder("full", 1), "ours": self._folder("full", 1)}
        count = len(self._stream.rounds)
        for number, arrived in enumerate(self._stream.rounds, 1):
            replay_ratio = self._given.replay_ratio
            data = round_manifest(
                known, arrived, round_number=number, seed=self._seed, replay_ratio=replay_ratio, **SPLITS
            )
            known = data.manifest
            everything = Manifest(pl.concat([known.split("train").table, known.split("val").table]).sort("id"), CLASSES)
            if number in (1, count) or (self._given.middle and number == self._stream.first_site):
                self._train("full", number, everything, "yolo11n.yaml", self._given.epochs, OPTIONS, tests)
            if number == 1:
                continue
            is_new = (pl.col("round") == number) | (pl.col("split") == "val")
            for strategy, samples in (("new only", data.training.where(is_new)), ("ours", data.training)):
                base = str(last[strategy])
                # Its own rate, since a trained network is not to be shaken up.
                options = {**OPTIONS, "optimizer": "AdamW", "lr0": self._given.round_rate}
                self._train(strategy, number, samples, base, self._given.round_epochs, options, tests)
                last[strategy] = self._folder(strategy, number)

    def _tests(self) -> dict[str, Manifest]:
        """The held-out images of each site, of all rounds: who is on which side depends on nothing but the seed."""
        from components.prepare.splits import assign

        sites = {}
        for name in ("first", "new"):
            site = self._stream.site(name)
            sides = [
                assign(group, SPLITS["train_ratio"], SPLITS["val_ratio"], self._seed) for group in site.table["group"]
            ]
            sites[name] = Manifest(site.table.with_columns(split=pl.Series(sides, dtype=pl.String)), CLASSES).split(
                "test"
            )
        return sites

    def _folder(self, strategy: str, number: int) -> Path:
        return model_folder(self._given, self._seed, strategy, number)

    def _train(
        self,
        strategy: str,
        number: int,
        samples: Manifest,
        base: str,
        epochs: int,
        options: dict[str, Any],
        tests: dict[str, Manifest],
    ) -> None:
        if (strategy, number) in self._done:
            return
        folder = self._folder(strategy, number)
        shutil.rmtree(folder, ignore_errors=True)  # of a run that ended before it was measured
        train(
            samples, folder, job_root=self._job, base_model=base, epochs=epochs,
            image_size=str(self._given.image_size), patience=0, device=self._given.device, workers=1, seed=self._seed,
            estimator_options=options,
        )  # fmt: skip
        scores = {site: self._score(folder, manifest) for site, manifest in tests.items()}
        entry = {
            "seed": self._seed,
            "settings": settings(self._given, strategy),
            "strategy": strategy,
            "round": number,
            "rounds": len(self._stream.rounds),
            "first_site": self._stream.first_site,
            "sample_epochs": len(samples.split("train")) * epochs,
            "scores": scores,
            "tests": {site: len(manifest) for site, manifest in tests.items()},
        }
        with self._results.open("a") as file:
            file.write(json.dumps(entry) + "\n")
        told = "  ".join(f"{site} {found['map50']:.3f}/{found['map50_95']:.3f}" for site, found in scores.items())
        print(f"seed {self._seed}  round {number:2d}  {strategy:8}  {told}", flush=True)

    def _score(self, folder: Path, manifest: Manifest) -> dict[str, float]:
        found = evaluate(
            manifest,
            open_predictor(folder, nms_threshold=0.7),
            confidence_threshold=0.25,
            cache_folder=cache_folder(self._job) / "blobs",
        ).as_flat()
        return {name: found[name] for name in ("map50", "map50_95")}


def settings(given: argparse.Namespace, strategy: str = "ours") -> dict[str, Any]:
    """What results of a strategy must have in common to be compared."""
    names = ["round_size", "image_size", "epochs"]
    if strategy != "full":
        names += ["round_epochs", "round_rate", "replay_ratio"]
    return {name: getattr(given, name) for name in names}


def model_folder(given: argparse.Namespace, seed: int, strategy: str, number: int) -> Path:
    """Where a model lies, with which a run that was ended, and has the same settings, goes on."""
    key = hashlib.sha256(json.dumps(settings(given, strategy)).encode()).hexdigest()[:8]
    return Path(given.folder) / f"seed{seed}" / f"{strategy.replace(' ', '-')}-{number:02d}-{key}"


def _read(results: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []


def report(entries: list[dict[str, Any]], given: argparse.Namespace) -> None:
    """Print the tables of the seeds that are complete."""
    mine = [entry for entry in entries if entry["settings"] == settings(given, entry["strategy"])]
    by_seed = {seed: [e for e in mine if e["seed"] == seed] for seed in sorted({e["seed"] for e in mine})}
    whole = {
        seed: found for seed, found in by_seed.items()
        if {"full", "ours", "new only"} == {e["strategy"] for e in found if e["round"] == e["rounds"]}
    }  # fmt: skip
    if not whole:
        raise SystemExit("no seed is complete yet")
    print(f"\n{len(whole)} seeds, {settings(given)}\n")
    _curves(whole)
    _ends(whole)


def _curves(whole: dict[int, list[dict[str, Any]]]) -> None:
    print("mAP50 / mAP50-95 by round, mean over the seeds: first site | new site")
    some = next(iter(whole.values()))
    for number in range(1, some[0]["rounds"] + 1):
        cells = []
        for strategy in STRATEGIES[1:]:
            found = [e["scores"] for e in _all(whole) if e["strategy"] == strategy and e["round"] == number]
            cells.append(f"{strategy}: {_pair(found, 'first')} | {_pair(found, 'new')}" if found else "")
        print(f"  round {number:2d}  " + "    ".join(filter(None, cells)))


def _pair(found: list[dict[str, Any]], site: str) -> str:
    return " / ".join(f"{statistics.mean(f[site][m] for f in found):.3f}" for m in ("map50", "map50_95"))


def _ends(whole: dict[int, list[dict[str, Any]]]) -> None:
    print("\nat the end: first site mAP50 / mAP50-95, new site, forgetting, backward transfer (points), sample-epochs")
    for strategy in STRATEGIES:
        rows = [_end(found, strategy) for found in whole.values()]
        names = list(rows[0])
        print(f"  {strategy:8}  " + "  ".join(f"{n} {_spread([row[n] for row in rows])}" for n in names))
    ratios = [
        _end(found, "ours")[f"{site} 50-95"] / (_end(found, "full")[f"{site} 50-95"] or math.nan)
        for found in whole.values() for site in ("first", "new")
    ]  # fmt: skip
    print("\nours / full in mAP50-95, first site and new site of each seed: " + ", ".join(f"{r:.3f}" for r in ratios))
    budgets = [
        (_end(f, "ours")["sample-epochs"], _end(f, "full")["sample-epochs"], _every_round(f)) for f in whole.values()
    ]
    print("sample-epochs, ours / full as measured, and / full if it were done in every round: ", end="")
    print(", ".join(f"{ours / full:.3f} and {ours / each:.3f}" for ours, full, each in budgets))


def _end(found: list[dict[str, Any]], strategy: str) -> dict[str, float]:
    """The last figures of a strategy, and what it has lost of the first site's since that ended.

    Forgetting is how far mAP50 on the first site is below its highest of any round (Chaudhry et al., 2018); backward
    transfer how far it is above what it was when the new site began (Lopez-Paz and Ranzato, 2017). In points.
    """
    start = next(e for e in found if e["strategy"] == "full" and e["round"] == 1)
    mine = (
        [start]
        if strategy == "frozen"
        else [start, *(e for e in found if e["strategy"] == strategy and e["round"] > 1)]
    )
    last = mine[-1]["scores"]
    first_site = [e["scores"]["first"]["map50"] for e in mine]
    before = [e["scores"]["first"]["map50"] for e in mine if e["round"] <= e["first_site"]][-1]
    return {
        "first 50": last["first"]["map50"],
        "first 50-95": last["first"]["map50_95"],
        "new 50": last["new"]["map50"],
        "new 50-95": last["new"]["map50_95"],
        "forgetting": 100 * (max(first_site) - first_site[-1]),
        "backward": 100 * (first_site[-1] - before),
        "sample-epochs": sum(e["sample_epochs"] for e in mine),
    }


def _every_round(found: list[dict[str, Any]]) -> float:
    """Sample-epochs of full retraining in every round, from its training sets, which grow evenly between its points."""
    points = sorted((e["round"], e["sample_epochs"]) for e in found if e["strategy"] == "full")
    total = float(points[0][1])
    for (a, low), (b, high) in itertools.pairwise(points):
        total += sum(low + (high - low) * (step - a) / (b - a) for step in range(a + 1, b + 1))
    return total


def _spread(values: list[float]) -> str:
    mean = statistics.mean(values)
    shown = f"{mean:.0f}" if mean > 100 else f"{mean:.3f}" if abs(mean) < 1 else f"{mean:.2f}"
    return f"{shown} ({min(values):.3g} to {max(values):.3g})"


def _all(whole: dict[int, list[dict[str, Any]]]) -> Iterable[dict[str, Any]]:
    return (entry for found in whole.values() for entry in found)


if __name__ == "__main__":
    main()
