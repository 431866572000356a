"""What labels are worth that people are asked for by `mine`, against as many boxes on random images.

The images are cut by chance into a held-out part, a weak set and a pool. A network trained from nothing on the weak
set alone is the weak model. Each arm then ranks the pool, gets the labels of the first images, until a budget of boxes
is drawn, trains the weak model on with the weak set and these, and is measured on the held-out part with the exported
ONNX:

weak       the weak model itself
random     images drawn at random
<miner>    images chosen as `mine` does with a budget in boxes and its defaults, ranked by that miner;
           ``entropy:boxes=mean`` gives it a parameter, ``IBT@0.25`` shows it only boxes of that score or more, and
           ``entropy-sum/1`` compares no images with each other (a ``shortlist`` of 1)
all        the labels of the whole pool

Results are written as they come, and a run that is ended goes on where it was.

Example:
    python benchmarks/selection.py VOC2007.zip --classes hat:helmet,person:head --folder FOLDER
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))
os.environ.setdefault("YOLO_OFFLINE", "true")

import polars as pl  # noqa: E402

from components.core.cache import cache_folder  # noqa: E402
from components.core.manifest import Manifest  # noqa: E402
from components.core.miners.chance import draw  # noqa: E402
from components.core.parameters import MineSettings, read  # noqa: E402
from components.core.runtimes.base import open_detector  # noqa: E402
from components.evaluate.evaluate import evaluate  # noqa: E402
from components.evaluate.predictor import open_predictor  # noqa: E402
from components.ingest.ingest import ingest  # noqa: E402
from components.mine.embeddings import by_champion  # noqa: E402
from components.mine.mine import make_rule, vectors_of  # noqa: E402
from components.mine.pool import Candidate  # noqa: E402
from components.mine.score_pool import Inference, score_pool  # noqa: E402
from components.mine.selection import Selection, choose, weights_of  # noqa: E402
from components.train.train import train  # noqa: E402

OPTIONS = {"mosaic": 0.0, "nbs": 16, "scale": 0.25, "warmup_epochs": 1.0, "warmup_bias_lr": 0.0}
FURTHER_OPTIONS = {**OPTIONS, "optimizer": "AdamW", "lr0": 0.0005}  # a trained network is not to be shaken up
DEFAULTS = read(MineSettings, {})
VALIDATION = 0.2  # of the weak set: chooses the epoch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="labelled images, as ingest takes them")
    parser.add_argument("--classes", default="", help="as ingest takes them")
    parser.add_argument("--folder", type=Path, required=True, help="for data, models and results")
    parser.add_argument(
        "--arms",
        default="random,entropy-sum,entropy-sum/1",
        help="by commas",
    )
    parser.add_argument("--seeds", type=int, default=5, help="how many (default 5)")
    parser.add_argument("--weak", type=int, default=100, help="images of the weak set (default 100)")
    parser.add_argument("--budget", type=float, default=0.2, help="share of the pool's boxes to draw (default 0.2)")
    parser.add_argument("--held-out", type=float, default=0.25, help="share of all images to test on (default 0.25)")
    parser.add_argument("--image-size", type=int, default=160, help="pixels (default 160)")
    parser.add_argument("--weak-epochs", type=int, default=40, help="of the weak model (default 40)")
    parser.add_argument("--epochs", type=int, default=20, help="of the training after it (default 20)")
    parser.add_argument("--device", default="cpu", help="cpu, or a GPU's number (default cpu)")
    parser.add_argument("--only-report", action="store_true", help="print what has been measured so far")
    given = parser.parse_args()
    results = given.folder / "results.jsonl"
    if not given.only_report:
        samples = ingest(given.source, str(given.folder / "job"), classes=given.classes).manifest.labelled()
        for seed in range(given.seeds):
            Trial(samples, seed, given, results).run()
    report([json.loads(line) for line in results.read_text().splitlines()], given)


@dataclass(frozen=True)
class Cut:
    """The images in three parts, by ids."""

    test: list[str]
    weak: list[str]
    pool: list[str]

    @classmethod
    def of(cls, samples: Manifest, seed: int, given: argparse.Namespace) -> Cut:
        ids = sorted(samples.table["id"], key=lambda id_: draw(id_, f"cut {seed}"))
        held_out = round(len(ids) * given.held_out)
        return cls(ids[:held_out], ids[held_out : held_out + given.weak], ids[held_out + given.weak :])


class Trial:
    """All arms with one seed."""

    def __init__(self, samples: Manifest, seed: int, given: argparse.Namespace, results: Path) -> None:
        self._samples = samples
        self._cut = Cut.of(samples, seed, given)
        self._seed = seed
        self._given = given
        self._results = results
        self._job = str(given.folder / "job")
        self._done = {e["arm"] for e in _read(results) if e["seed"] == seed and e["settings"] == settings(given)}

    def run(self) -> None:
        """Measure every arm; what has been measured is not done again."""
        weak = self._folder("weak")
        self._arm("weak", [], "yolo11n.yaml", self._given.weak_epochs, OPTIONS)
        for arm in self._given.arms.split(","):
            if arm not in self._done:
                chosen = self._cut.pool if arm == "all" else self._chosen(arm, weak)
                self._arm(arm, chosen, str(weak), self._given.epochs, FURTHER_OPTIONS)

    def _chosen(self, arm: str, weak: Path) -> list[str]:
        """The ids that an arm asks for, until the budget of boxes is drawn."""
        rule, _, shortlist = arm.partition("/")
        rule, _, min_score = rule.partition("@")
        name, _, parameters = rule.partition(":")
        miner = make_rule(
            "Random" if name == "random" else name, dict(p.split("=") for p in parameters.split(";") if p)
        )
        rows = {row["id"]: row for row in self._samples.where(pl.col("id").is_in(self._cut.pool)).rows()}
        candidates = [Candidate(id_, rows[id_]["uri"], rows[id_]["source"], id_, "unlabelled") for id_ in sorted(rows)]
        least = float(min_score or DEFAULTS.min_score)
        detector, blobs = open_detector("onnx", weak), cache_folder(self._job) / "blobs"
        seen = score_pool(candidates, detector, miner, least, blobs).seen
        shares = (1.0, 0.0) if name == "random" else (DEFAULTS.random_fraction, DEFAULTS.empty_fraction)
        budget = round(self._given.budget * sum(len(row["annotations"]) for row in rows.values()))

        weights, vectors = self._class_weights(detector.bundle.classes), vectors_of(by_champion(weak), blobs)

        def ranked(expected: int) -> Selection:
            """As `mine` chooses when it expects so many boxes."""
            return choose(
                seen, expected, random_fraction=shares[0], empty_fraction=shares[1], in_boxes=True,
                shortlist=float(shortlist or DEFAULTS.shortlist), class_weights=weights, vectors=vectors,
            )  # fmt: skip

        selection, chosen = self._up_to(budget, seen, rows, ranked)
        print(f"seed {self._seed}  {arm}: {_told(selection)}", flush=True)
        return chosen

    @staticmethod
    def _up_to(
        budget: int, seen: Sequence[Inference], rows: Mapping[str, Any], ranked: Callable[[int], Selection]
    ) -> tuple[Selection, list[str]]:
        """The first of a ranking whose labels have as many boxes as the budget, or hardly more."""
        expected = budget
        while True:
            selection, chosen, drawn = ranked(expected), list[str](), 0
            for pick in selection.picks:
                if drawn >= budget:
                    return selection, chosen
                chosen.append(pick.seen.candidate.id)
                drawn += len(rows[chosen[-1]]["annotations"])
            if drawn >= budget or len(chosen) + selection.duplicates >= len(seen):
                return selection, chosen
            expected = round(expected * 1.5)  # the model found boxes that are none

    def _class_weights(self, classes: Sequence[str]) -> list[float]:
        """By the labels of the weak set, which are all that is known."""
        boxes = self._samples.where(pl.col("id").is_in(self._cut.weak)).boxes()
        counts = dict(boxes["class_id"].value_counts().iter_rows())
        return weights_of({name: counts.get(number, 0) for number, name in enumerate(self._samples.classes)}, classes)

    def _arm(self, arm: str, chosen: list[str], base: str, epochs: int, options: dict[str, Any]) -> None:
        if arm in self._done:
            return
        training = self._training(chosen)
        folder = self._folder(arm)
        train(
            training, folder, job_root=self._job, base_model=base, epochs=epochs,
            image_size=str(self._given.image_size), patience=0, device=self._given.device, workers=1, seed=self._seed,
            estimator_options=options,
        )  # fmt: skip
        held_out = self._samples.where(pl.col("id").is_in(self._cut.test))
        measured = evaluate(
            Manifest(held_out.table.with_columns(split=pl.lit("test")), held_out.classes),
            open_predictor(folder, nms_threshold=0.7),
            confidence_threshold=0.25,
            cache_folder=cache_folder(self._job) / "blobs",
        ).as_flat()
        boxes = self._samples.where(pl.col("id").is_in(chosen)).boxes().height
        entry = {
            "seed": self._seed, "settings": settings(self._given), "arm": arm, "chosen": len(chosen), "boxes": boxes,
            "scores": {name: measured[name] for name in ("map50", "map50_95", "recall_micro")},
        }  # fmt: skip
        with self._results.open("a") as file:
            file.write(json.dumps(entry) + "\n")
        self._done.add(arm)
        print(
            f"seed {self._seed}  {arm:20}  mAP50 {measured['map50']:.3f}  {len(chosen)} chosen, {boxes} boxes",
            flush=True,
        )

    def _training(self, chosen: list[str]) -> Manifest:
        """The weak set, part of which chooses the epoch, and what was chosen."""
        val = self._cut.weak[: round(VALIDATION * len(self._cut.weak))]
        used = self._samples.where(pl.col("id").is_in([*self._cut.weak, *chosen]))
        split = pl.when(pl.col("id").is_in(val)).then(pl.lit("val")).otherwise(pl.lit("train"))
        return Manifest(used.table.with_columns(split=split).sort("id"), used.classes)

    def _folder(self, arm: str) -> Path:
        name = arm.replace(":", "-").replace("=", "-")
        return Path(self._given.folder) / f"seed{self._seed}" / name


def settings(given: argparse.Namespace) -> dict[str, Any]:
    """What results must have in common to be compared."""
    names = ("weak", "budget", "held_out", "image_size", "weak_epochs", "epochs")
    return {name: getattr(given, name) for name in names}


def _told(selection: Selection) -> str:
    counts = ", ".join(f"{selection.count(share)} {share}" for share in ("hardest", "empty", "random"))
    return f"{counts}, {selection.duplicates} near-duplicates passed over"


def _read(results: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []


def report(entries: list[dict[str, Any]], given: argparse.Namespace) -> None:
    """Print what each arm scored, and its distance from random in points, seed by seed."""
    mine = [entry for entry in entries if entry["settings"] == settings(given)]
    by_arm: dict[str, dict[int, dict[str, Any]]] = {}
    for entry in mine:
        by_arm.setdefault(entry["arm"], {})[entry["seed"]] = entry
    random = by_arm.get("random", {})
    print(f"\n{settings(given)}\nmAP50 (mean), points over random by seed (mean), boxes labelled (mean)")
    for arm, found in by_arm.items():
        scores = {seed: entry["scores"]["map50"] for seed, entry in found.items()}
        gains = [100 * (scores[seed] - random[seed]["scores"]["map50"]) for seed in sorted(scores) if seed in random]
        listed = " ".join(f"{gain:+.1f}" for gain in gains) + (f" ({statistics.mean(gains):+.2f})" if gains else "")
        boxes = statistics.mean(entry["boxes"] for entry in found.values())
        print(f"  {arm:20}  {statistics.mean(scores.values()):.3f}  {listed:32}  {boxes:.0f}")


if __name__ == "__main__":
    main()
