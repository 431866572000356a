"""What labels are worth that people are asked for by `mine`, against as many boxes on random images.

A job knows one site; its devices see others too. Of three sets of images

drawn      60 drawn scenes of one site by day; the pool has four sites in four lights
helmets    60 photos of helmets on one site; the pool has as many more of it and photos of others
pcb        30 circuit boards of one group with missing and excess copper; the pool has those of three other groups

the champion is trained on the first. What is left is cut by chance into the pool and a held-out part. Each arm then
chooses images of the pool until their labels have a fifth of the pool's boxes. The champion is trained on with these
and a replay of what it knows, as a round does and for as many steps whatever was chosen, and its exported ONNX is
measured on the held-out part:

champion   as it is
random     images drawn at random
default    chosen as `mine` does with a budget in boxes
images     chosen as it does with a budget in images, until there are as many boxes
score, score+diversity, score+classes, diversity    parts of that alone
<miner>    as the default, ranked by another miner
all        the labels of the whole pool, with a fifth of the steps or with all of them (``all*5``)

Results are written as they come, and a run that was ended goes on where it was.

Example:
    python benchmarks/selection.py helmets --data helmet --base helmet-little-320.pt --folder FOLDER
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import itertools
import json
import math
import os
import shutil
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))
os.environ.setdefault("YOLO_OFFLINE", "true")

import polars as pl  # noqa: E402

import benchmarks.deeppcb  # noqa: E402, F401 - registers its format
from components.core.cache import cache_folder  # noqa: E402
from components.core.manifest import Manifest  # noqa: E402
from components.core.miners.chance import draw as chance  # noqa: E402
from components.core.parameters import MineSettings, read  # noqa: E402
from components.core.runtimes.base import Detector, open_detector  # noqa: E402
from components.evaluate.evaluate import evaluate  # noqa: E402
from components.evaluate.predictor import open_predictor  # noqa: E402
from components.ingest.ingest import ingest  # noqa: E402
from components.mine.embeddings import by_champion  # noqa: E402
from components.mine.mine import make_rule, vectors_of  # noqa: E402
from components.mine.pool import Candidate  # noqa: E402
from components.mine.score_pool import Inference, score_pool  # noqa: E402
from components.mine.selection import Selection, Vectors, choose, weights_of  # noqa: E402
from components.prepare.replay import draw  # noqa: E402
from components.train.train import train  # noqa: E402
from pipelines.demo.scenes import make_dataset  # noqa: E402

OPTIONS = {
    "mosaic": 0.0, "nbs": 16, "scale": 0.25, "warmup_epochs": 1.0, "warmup_bias_lr": 0.0, "optimizer": "AdamW",
    "cache": "ram",
}  # fmt: skip
BATCH = 16
HELMETS = ("head", "helmet")
DEFAULTS = read(MineSettings, {})
BUDGET = 0.2  # of the pool's boxes
HELD_OUT = 0.4  # of the images that are not of the first site's set
VALIDATION = 0.2, 0.1  # of what is known and of what is new: choose the epoch


@dataclass(frozen=True)
class Arm:
    """A way of choosing.

    Attributes:
        miner: ranks.
        random: share of the budget drawn at random.
        empty: share of the budget for images without detections.
        shortlist: as `mine` takes it.
        classes: whether rare classes count more.
        in_boxes: whether it ranks as for a budget in boxes.
    """

    miner: str = DEFAULTS.miner
    random: float = DEFAULTS.random_fraction
    empty: float = DEFAULTS.empty_fraction
    shortlist: float = DEFAULTS.shortlist
    classes: bool = True
    in_boxes: bool = True


SCORE = Arm(random=0, empty=0, shortlist=1, classes=False)
ARMS = {
    "default": Arm(),
    "images": Arm(in_boxes=False),
    "score": SCORE,
    "score+diversity": replace(SCORE, shortlist=DEFAULTS.shortlist),
    "score+classes": replace(SCORE, classes=True),
    "diversity": replace(SCORE, miner="CloudOnly", shortlist=math.inf, in_boxes=False),
}


@dataclass(frozen=True)
class Set:
    """Images with labels.

    Attributes:
        first: what the champion may know.
        later: what the pool and the held-out part are drawn from.
        known: how many images of the first it knows.
    """

    first: Manifest
    later: Manifest
    known: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", choices=("drawn", "helmets", "pcb"), help="what is learned")
    parser.add_argument("--folder", type=Path, required=True, help="for data, models and results")
    parser.add_argument("--data", type=Path, help="of pcb DeepPCB; of helmets the folder of VOC2007.zip, feed, site-b")
    parser.add_argument("--base", default="yolo11n.yaml", help="what the champion starts from (default yolo11n.yaml)")
    parser.add_argument("--arms", default=",".join(("random", *ARMS, "all")), help="by commas (default: as above)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], help="which (default 0 1 2 3 4)")
    parser.add_argument("--images", type=int, default=500, help="of drawn (default 500)")
    parser.add_argument("--image-size", type=int, default=128, help="pixels (default 128)")
    parser.add_argument("--first-steps", type=int, default=100, help="of the champion's training (default 100)")
    parser.add_argument("--steps", type=int, default=60, help="of a training after it; 0: choose alone (default 60)")
    parser.add_argument("--rate", type=float, default=0.001, help="rate of learning (default 0.001)")
    parser.add_argument("--freeze", type=int, default=0, help="layers that stay as they are (default 0; backbone 10)")
    parser.add_argument("--device", default="cpu", help="cpu, or a GPU's number (default cpu)")
    parser.add_argument("--only-report", action="store_true", help="print what has been measured so far")
    given = parser.parse_args()
    results = given.folder / f"{given.set}.jsonl"
    if not given.only_report:
        given.folder.mkdir(parents=True, exist_ok=True)
        chosen = {"drawn": drawn, "helmets": helmets, "pcb": boards}[given.set](given)
        for seed in given.seeds:
            Trial(chosen, seed, given, results).run()
    report(_read(results), given)


# What is learned


def drawn(given: argparse.Namespace) -> Set:
    """A site by day, then four sites in four lights."""
    first, later = given.folder / "first.zip", given.folder / f"later-{given.images}.zip"
    if not later.exists():
        make_dataset(first, 100, 1, sites=["hall"], lights=["day"])
        make_dataset(later, given.images, 2)
    return Set(_taken_in(first, given, "head,helmet"), _taken_in(later, given, "head,helmet"), known=60)


def helmets(given: argparse.Namespace) -> Set:
    """A site, then more of it and others."""
    first = _taken_in(given.data / "VOC2007.zip", given, "person:head,hat:helmet")
    feed = _taken_in(given.data / "feed" / "train_data.txt", given, "person:head,hat:helmet")
    others = _taken_in(given.data / "site-b", given, "no-helmet:head,helmet:helmet", ignored="*")
    later = pl.concat([feed.table, others.table]).filter(~pl.col("id").is_in(first.table["id"].to_list()))
    return Set(first, Manifest(later, first.classes), known=60)


def boards(given: argparse.Namespace) -> Set:
    """A group of boards, then others."""
    classes = "open:missing,mousebite:missing,pin-hole:missing,short:excess,spur:excess,copper:excess"
    found = _taken_in(given.data, given, classes, data_format="deeppcb")
    of_first = pl.col("source").str.contains("group00041/")
    return Set(found.where(of_first), found.where(~of_first), known=30)


def _taken_in(
    source: Path, given: argparse.Namespace, classes: str, ignored: str = "", data_format: str = "auto"
) -> Manifest:
    kept = given.folder / f"{given.set}-{source.stem}.parquet"
    if not kept.exists():
        taken = ingest(str(source), _job(given), classes=classes, ignore_classes=ignored, data_format=data_format)
        taken.manifest.labelled().write(kept)
    return Manifest.read(kept)


def _job(given: argparse.Namespace) -> str:
    return str(given.folder / "job")


# What is measured


@dataclass(frozen=True)
class Cut:
    """The images in three parts, each in an order by chance."""

    known: Manifest
    pool: Manifest
    test: Manifest

    @classmethod
    def of(cls, images: Set, seed: int) -> Cut:
        first, later = _shuffled(images.first, seed), _shuffled(images.later, seed)
        held_out = round(len(later) * HELD_OUT)
        parts = first.table[: images.known], later.table[held_out:], later.table[:held_out]
        return cls(*(Manifest(part, images.first.classes) for part in parts))


def _shuffled(images: Manifest, seed: int) -> Manifest:
    key = pl.Series("key", [chance(id_, f"cut {seed}") for id_ in images.table["id"]])
    return Manifest(images.table.with_columns(key).sort("key").drop("key"), images.classes)


class Trial:
    """All arms on a set with one seed."""

    def __init__(self, images: Set, seed: int, given: argparse.Namespace, results: Path) -> None:
        self._cut = Cut.of(images, seed)
        self._seed = seed
        self._given = given
        self._results = results
        self._blobs = cache_folder(_job(given)) / "blobs"
        self._done = {e["arm"] for e in _read(results) if e["seed"] == seed and e["settings"] == settings(given)}
        self._champion = champion_folder(given, seed)
        self._rows = {row["id"]: row for row in self._cut.pool.rows()}
        self._looked_at: dict[str, Sequence[Inference]] = {}  # by the miner that ranked

    def run(self) -> None:
        """Measure every arm; what has been measured is not done again."""
        self._measured("champion", self._train_champion)
        for arm in self._given.arms.split(","):
            self._measured(arm, functools.partial(self._trained_on, arm))

    def _measured(self, arm: str, make: Callable[[], tuple[Path, Manifest]]) -> None:
        if arm in self._done:
            return
        folder, chosen = make()
        test = Manifest(self._cut.test.table.with_columns(split=pl.lit("test")), self._cut.test.classes)
        flat = evaluate(
            test, open_predictor(folder, nms_threshold=0.7), confidence_threshold=0.25, cache_folder=self._blobs
        ).as_flat()
        boxes = chosen.boxes()
        counts = dict(boxes["class_id"].value_counts().iter_rows())
        entry = {
            "seed": self._seed, "settings": settings(self._given), "arm": arm, "chosen": len(chosen),
            "boxes": boxes.height, "by_class": [counts.get(place, 0) for place in range(len(chosen.classes))],
            "scores": {name: flat[name] for name in ("map50", "map50_95")},
        }  # fmt: skip
        with self._results.open("a") as file:
            file.write(json.dumps(entry) + "\n")
        told = f"{entry['chosen']} chosen, {entry['boxes']} boxes, by class {entry['by_class']}"
        print(f"{self._given.set} seed {self._seed}  {arm:16} mAP50 {flat['map50']:.3f}  {told}", flush=True)

    def _train_champion(self) -> tuple[Path, Manifest]:
        nothing = self._cut.pool.with_ids([])
        self._train(self._champion, self._given.base, self._training(nothing), self._given.first_steps)
        return self._champion, nothing

    def _trained_on(self, arm: str) -> tuple[Path, Manifest]:
        name, _, times = arm.partition("*")
        chosen = self._cut.pool if name == "all" else self._cut.pool.with_ids(self._chosen(name))
        steps = self._given.steps * int(times or 1)
        if not steps:
            return self._champion, chosen
        folder = self._given.folder / f"{self._given.set}-{self._seed}-candidate"
        self._train(folder, str(self._champion), self._training(chosen), steps)
        return folder, chosen

    def _training(self, new: Manifest) -> Manifest:
        """What is new with a replay of what is known, or all that is known, and what chooses the epoch."""
        known, fresh = (_with_val(part, share) for part, share in zip((self._cut.known, new), VALIDATION, strict=True))
        before = known.split("train")
        replayed = draw(before, round(len(new)), str(self._seed)) if len(new) else before
        parts = [fresh.table, replayed.table, known.split("val").table]
        return Manifest(pl.concat(parts).sort("id"), known.classes)

    def _train(self, folder: Path, base: str, training: Manifest, steps: int) -> None:
        """Train for so many steps, or an epoch's less or more."""
        shutil.rmtree(folder, ignore_errors=True)
        epochs = min(steps, max(1, round(steps * BATCH / len(training.split("train")))))
        train(
            training, folder, job_root=_job(self._given), base_model=base, epochs=epochs,
            image_size=str(self._given.image_size), batch=BATCH, patience=0, device=self._given.device, workers=0,
            seed=self._seed, estimator_options={**OPTIONS, "lr0": self._given.rate, "freeze": self._given.freeze},
        )  # fmt: skip

    def _chosen(self, name: str) -> list[str]:
        """The ids that an arm asks for, until the budget of boxes is drawn."""
        budget = round(BUDGET * self._cut.pool.boxes().height)
        if name == "random":  # by the seed: `mine` draws the same of the same images every time
            order = sorted(self._rows, key=lambda id_: chance(id_, f"random {self._seed}"))
            return drawn_up_to(budget, order, self._rows)
        arm = ARMS.get(name) or Arm(miner=name)
        seen = self._seen(arm.miner)
        weights = self._class_weights() if arm.classes else []

        def ranked(expected: int) -> Selection:
            """As `mine` chooses when it expects so many boxes."""
            return choose(
                seen, expected, random_fraction=arm.random, empty_fraction=arm.empty, in_boxes=arm.in_boxes,
                shortlist=arm.shortlist, class_weights=weights, vectors=self._vectors,
            )  # fmt: skip

        each = 1.0 if arm.in_boxes else max(1.0, statistics.mean(len(one.detections) for one in seen))
        return up_to(budget, each, len(seen), self._rows, ranked)

    @functools.cached_property
    def _detector(self) -> Detector:
        return open_detector("onnx", self._champion)

    @functools.cached_property
    def _vectors(self) -> Vectors:
        return vectors_of(by_champion(self._champion), self._blobs)

    def _seen(self, miner: str) -> Sequence[Inference]:
        if miner not in self._looked_at:
            candidates = [
                Candidate(id_, row["uri"], row["source"], id_, "unlabelled") for id_, row in sorted(self._rows.items())
            ]
            rule = make_rule(miner, {})
            self._looked_at[miner] = score_pool(candidates, self._detector, rule, DEFAULTS.min_score, self._blobs).seen
        return self._looked_at[miner]

    def _class_weights(self) -> list[float]:
        known = self._cut.known
        counts = dict(known.boxes()["class_id"].value_counts().iter_rows())
        boxes = {name: counts.get(place, 0) for place, name in enumerate(known.classes)}
        return weights_of(boxes, self._detector.bundle.classes)


def drawn_up_to(budget: int, order: Sequence[str], rows: Mapping[str, Any]) -> list[str]:
    """The first ids of an order whose images have as many boxes as the budget, or one image more."""
    before = itertools.accumulate((len(rows[id_]["annotations"]) for id_ in order), initial=0)
    return [id_ for id_, boxes in zip(order, before, strict=False) if boxes < budget]


def up_to(
    budget: int, each: float, images: int, rows: Mapping[str, Any], ranked: Callable[[int], Selection]
) -> list[str]:
    """The first of a ranking whose labels have as many boxes as the budget, or hardly more.

    Args:
        budget: boxes.
        each: boxes that one of what is ranked is expected to have.
        images: in the pool.
        rows: of these, by id.
        ranked: gives the choice of so many.
    """
    expected = math.ceil(budget / each)
    while True:
        selection = ranked(expected)
        chosen = drawn_up_to(budget, [pick.seen.candidate.id for pick in selection.picks], rows)
        boxes = sum(len(rows[id_]["annotations"]) for id_ in chosen)
        if boxes >= budget or len(selection.picks) + selection.duplicates >= images:
            return chosen
        expected = math.ceil(expected * 1.5)  # the champion found boxes that are none


def _with_val(images: Manifest, share: float) -> Manifest:
    """The first of the images choose the epoch."""
    count = round(share * len(images))
    splits = pl.Series("split", ["val"] * count + ["train"] * (len(images) - count), dtype=pl.String)
    return Manifest(images.table.with_columns(splits), images.classes)


def settings(given: argparse.Namespace) -> dict[str, Any]:
    """What results must have in common to be compared."""
    names = ("images", "image_size", "first_steps", "steps", "rate", "freeze")
    return {"base": Path(given.base).name, **{name: getattr(given, name) for name in names}}


def champion_folder(given: argparse.Namespace, seed: int) -> Path:
    """Where the champion lies, to which runs with the same settings add arms."""
    key = hashlib.sha256(json.dumps(settings(given)).encode()).hexdigest()[:8]
    return Path(given.folder) / f"{given.set}-{seed}-champion-{key}"


def _read(results: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []


# What is reported


def report(entries: Sequence[Mapping[str, Any]], given: argparse.Namespace) -> None:
    """Print what each arm scored, and its distance from random in points, seed by seed."""
    by_arm: dict[str, dict[int, Any]] = {}
    for entry in entries:
        if entry["settings"] == settings(given) and entry["seed"] in given.seeds:
            by_arm.setdefault(entry["arm"], {})[entry["seed"]] = entry
    random = by_arm.get("random", {})
    print(f"\n{given.set} {settings(given)}\n| arm | mAP50 | points over random | by seed | images | boxes by class |")
    for arm, found in by_arm.items():
        scores = [100 * entry["scores"]["map50"] for entry in found.values()]
        gains = [
            100 * (found[seed]["scores"]["map50"] - random[seed]["scores"]["map50"])
            for seed in sorted(found)
            if seed in random
        ]
        images = statistics.mean(entry["chosen"] for entry in found.values())
        by_class = zip(*(entry["by_class"] for entry in found.values()), strict=True)
        boxes = ", ".join(f"{statistics.mean(counts):.0f}" for counts in by_class)
        listed = " ".join(f"{gain:+.1f}" for gain in gains)
        print(f"| {arm} | {spread(scores)} | {interval(gains)} | {listed} | {images:.0f} | {boxes} |")


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation."""
    deviation = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{deviation}"


def interval(values: Sequence[float]) -> str:
    """Mean and, of two values or more, its 95 % interval by Student's t."""
    if not values:
        return ""
    if len(values) == 1:
        return f"{values[0]:+.1f}"
    mean, error = statistics.mean(values), statistics.stdev(values) / math.sqrt(len(values))
    reach = error * _T[min(len(values) - 1, len(_T)) - 1]
    return f"{mean:+.1f} ({mean - reach:+.1f} to {mean + reach:+.1f})"


_T = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)  # 97.5 % quantiles for 1, 2, ... degrees of freedom

if __name__ == "__main__":
    main()
