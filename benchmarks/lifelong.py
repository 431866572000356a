"""Lifelong learning against its alternatives, where one domain comes after the other.

A round brings the images of one domain: streets by day, at dusk, in fog; or one building site after the other. Five
ways to learn see the same images in the same splits, with the same network, options and epochs a training:

sequential  one model; each round trains it on with the new domain alone
replay      one model; each round trains it on with the new domain and as many earlier samples again
retrain     one model; each round trains a new one on everything so far
separate    a model for each domain, trained on that alone; who asks knows the domain
lifelong    the knowledge base, as a round of ``lifelong-round`` makes it: a shared model, which learns as in `replay`,
            and one for each task; ``val`` chooses the model of each task, ``definition`` finds the task of an image
router      the same models, tasks found by what an image looks like; ``val`` chooses the model for the images that each
            task is then given
looks       the same, where the router does not know the size of an image

All are measured on the same held-out images of every domain after every round. Recognition is measured when a domain
first arrives: the area under the ROC curve of the scores that the knowledge base, which does not know the domain yet,
gives its images and the held-out images of the known domains. What could be told at all is measured beside it: a linear
discriminant that has learned from 60 % of the new domain, on held-out images. Each training and each knowledge base is
a cell, stored as JSON when it is done; a run that was ended goes on with the cells that are missing.

Example:
    python benchmarks/lifelong.py drawn --folder FOLDER
    python benchmarks/lifelong.py camvid --data CamVid --folder FOLDER
    python benchmarks/lifelong.py helmets --data helmet --base little.pt --folder FOLDER
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))
os.environ.setdefault("YOLO_OFFLINE", "true")

import cv2  # noqa: E402
import numpy as np  # noqa: E402
import polars as pl  # noqa: E402

from components.core import plugins  # noqa: E402
from components.core.cache import cache_folder  # noqa: E402
from components.core.lifelong.appearance import LOOKS, NUMBERS  # noqa: E402
from components.core.lifelong.knowledge_base import SHARED, Chosen, KnowledgeBase  # noqa: E402
from components.core.lifelong.plug_points import make, task_allocations, unseen_detections  # noqa: E402
from components.core.lifelong.samples import Projection, Samples  # noqa: E402
from components.core.manifest import Manifest  # noqa: E402
from components.core.masks import VOID, encode_mask  # noqa: E402
from components.core.metrics.continual import continual_metrics  # noqa: E402
from components.core.metrics.recognition import auroc  # noqa: E402
from components.core.parameters import LifelongSettings  # noqa: E402
from components.core.reports import page  # noqa: E402
from components.core.rules.conditions import Condition  # noqa: E402
from components.core.tasks.base import Measurement  # noqa: E402
from components.evaluate.evaluate import evaluate  # noqa: E402
from components.evaluate.predictor import open_predictor  # noqa: E402
from components.ingest.ingest import ingest  # noqa: E402
from components.lifelong.learn import learn, with_models  # noqa: E402
from components.lifelong.look import look_at  # noqa: E402
from components.lifelong.plan import Plan, base_of, plan_models, samples_to_train  # noqa: E402
from components.lifelong.serve import Matrix, choose_models, places_to_answer, unless_shared_is_better  # noqa: E402
from components.prepare.replay import draw  # noqa: E402
from components.train.train import train  # noqa: E402
from pipelines.demo.streets import CLASSES as STREET_CLASSES  # noqa: E402
from pipelines.demo.streets import write_streets  # noqa: E402

METHODS = ("sequential", "replay", "retrain", "separate", "lifelong", "router", "looks")
DETECTORS = ("knn", "mahalanobis", "energy")
SUPERVISED = "with labels of the new domain"
LOOKS_ALONE, AND_SIZES = "", ", by size too"
RECOGNITION = tuple(f"{name}{way}" for way in (LOOKS_ALONE, AND_SIZES) for name in (*DETECTORS, SUPERVISED))
CAMVID = ("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist")
HELMETS = ("head", "helmet")
SEGMENTER = {"estimator": "small-segmenter", "plugin_modules": "pipelines.demo.small_segmenter"}
YOLO_OPTIONS = {"mosaic": 0.0, "nbs": 16, "scale": 0.25, "warmup_epochs": 1.0, "warmup_bias_lr": 0.0}


@dataclass(frozen=True)
class Set:
    """Domains in the order of arrival, and how models of them are trained.

    Attributes:
        domains: by name; sources begin with the name, splits are not decided yet.
        initial: model that a training starts from that has none before it.
        training: further arguments of ``train``.
        block: how many neighbours in a domain's order share a split.
    """

    domains: dict[str, Manifest]
    initial: str
    training: dict[str, Any]
    block: int = 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", choices=("drawn", "camvid", "helmets"), help="what is learned")
    parser.add_argument("--folder", type=Path, required=True, help="for data, models and results")
    parser.add_argument("--data", type=Path, help="of camvid the folder; of helmets that of VOC2007.zip, feed, site-b")
    parser.add_argument("--base", default="yolo11n.yaml", help="of helmets: what all start from (default yolo11n.yaml)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="which (default 0 1 2)")
    parser.add_argument("--epochs", type=int, default=30, help="of each training (default 30)")
    parser.add_argument("--images", type=int, default=60, help="most of each domain (default 60)")
    parser.add_argument("--image-size", default="96,128", help="height,width or one side, pixels (default 96,128)")
    parser.add_argument("--rate", type=float, default=0.01, help="rate of learning (default 0.01)")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default 1)")
    parser.add_argument("--only-recognition", action="store_true", help="measure what needs no training")
    parser.add_argument("--only-report", action="store_true", help="report what has been measured so far")
    given = parser.parse_args()
    names = ("set", "epochs", "images", "image_size", "rate", "base")
    settings = {name: getattr(given, name) for name in names}
    if not given.only_report:
        import torch

        torch.set_num_threads(given.threads)
        chosen = {"drawn": drawn, "camvid": camvid, "helmets": helmets}[given.set](given)
        for seed in given.seeds:
            trial = Trial(chosen, seed, given.folder, settings)
            trial.recognise()
            if not given.only_recognition:
                trial.run()
    report(given.folder, given.set, given.seeds, settings)


# What is learned


def drawn(given: argparse.Namespace) -> Set:
    """Drawn streets by day, at dusk and by night."""
    height, width = (int(side) for side in given.image_size.split(","))
    domains = {}
    for seed, light in enumerate(("day", "dusk", "night")):
        folder = given.folder / "data" / light
        shutil.rmtree(folder, ignore_errors=True)
        write_streets(folder, light, given.images, seed=seed, size=(height, width))
        taken = ingest(f"{folder}/index.txt", _job(given), classes=",".join(STREET_CLASSES), ignore_classes="*")
        domains[light] = taken.manifest
    return Set(domains, "untrained", _segmenting(given))


def camvid(given: argparse.Namespace) -> Set:
    """Streets by day, the sequence at dusk, and fog that is laid over other frames of the day."""
    frames = sorted(path for split in ("train", "val") for path in (given.data / split).glob("*.png"))
    day = [path for path in frames if not path.name.startswith("0001TP")]
    half = min(given.images, len(day) // 2)
    parts = {
        "day": day[:half],
        "dusk": [path for path in frames if path.name.startswith("0001TP")][: given.images],
        "fog": day[-half:],
    }
    domains = {}
    for name, paths in parts.items():
        folder = given.folder / "data" / name
        shutil.rmtree(folder, ignore_errors=True)
        for kind in ("images", "masks"):
            (folder / name / kind).mkdir(parents=True)
        lines = []
        for path in paths:
            image = cv2.imread(str(path))
            mask = cv2.imread(str(path.parent.parent / f"{path.parent.name}annot" / path.name), cv2.IMREAD_UNCHANGED)
            image, mask = cv2.resize(image, (240, 180)), cv2.resize(mask, (240, 180), interpolation=cv2.INTER_NEAREST)
            cv2.imwrite(str(folder / name / "images" / path.name), fogged(image) if name == "fog" else image)
            mask[mask >= len(CAMVID)] = VOID
            (folder / name / "masks" / path.name).write_bytes(encode_mask(mask))
            lines.append(f"{name}/images/{path.name} {name}/masks/{path.name}\n")
        (folder / "index.txt").write_text("".join(lines))
        taken = ingest(f"{folder}/index.txt", _job(given), classes=",".join(CAMVID), ignore_classes="*")
        domains[name] = taken.manifest
    return Set(domains, "untrained", _segmenting(given), block=2)


def fogged(image: Any) -> Any:
    """An image in fog, which is thicker farther away: higher up, in a street."""
    thickness = np.linspace(0.75, 0.3, len(image))[:, None, None]
    return (image * (1 - thickness) + 200 * thickness).astype(np.uint8)


def helmets(given: argparse.Namespace) -> Set:
    """Helmets on one site, on others, and at dusk out of focus."""
    feed = ingest(str(given.data / "feed" / "train_data.txt"), _job(given), classes="person:head,hat:helmet").manifest
    first = ingest(str(given.data / "VOC2007.zip"), _job(given), classes="person:head,hat:helmet").manifest
    names = "no-helmet:head,helmet:helmet"
    others = ingest(str(given.data / "site-b"), _job(given), classes=names, ignore_classes="*").manifest
    kept, dark = first.table.sort("id")[: given.images], given.folder / "data" / "dark"
    shutil.rmtree(dark, ignore_errors=True)
    dark.mkdir(parents=True)
    lines = []
    for row in feed.table.sort("id")[: given.images].iter_rows(named=True):
        image: Any = cv2.imread(row["uri"].removeprefix("file://"))
        image = (cv2.GaussianBlur(image, (0, 0), 1 + image.shape[1] / 400) * 0.35).astype(np.uint8)
        cv2.imwrite(str(dark / f"{row['id'][:16]}.png"), image)
        boxes = [[box[side] for side in ("x1", "y1", "x2", "y2")] for box in row["annotations"]]
        labels = [feed.classes[box["class_id"]] for box in row["annotations"]]
        lines.append(json.dumps({"image": f"{row['id'][:16]}.png", "boxes": boxes, "labels": labels}) + "\n")
    (dark / "labels.jsonl").write_text("".join(lines))
    domains = {
        "site-a": Manifest(kept, first.classes),
        "site-b": Manifest(others.table.sort("id")[: given.images], others.classes),
        "dark": ingest(str(dark), _job(given), classes="head,helmet").manifest,
    }
    options = {**YOLO_OPTIONS, "optimizer": "AdamW", "lr0": given.rate}
    training = {"image_size": given.image_size, "epochs": given.epochs, "workers": 0, "estimator_options": options}
    return Set({name: _of_classes(one, HELMETS) for name, one in domains.items()}, given.base, training)


def _of_classes(manifest: Manifest, classes: tuple[str, ...]) -> Manifest:
    places = [classes.index(name) for name in manifest.classes]
    rows = [
        {**row, "annotations": [{**box, "class_id": places[box["class_id"]]} for box in row["annotations"]]}
        for row in manifest.rows()
    ]
    return Manifest.of(rows, classes)


def _job(given: argparse.Namespace) -> str:
    return str(given.folder / "job")


def _segmenting(given: argparse.Namespace) -> dict[str, Any]:
    size = {"image_size": given.image_size, "epochs": given.epochs}
    return {**SEGMENTER, **size, "workers": 0, "estimator_options": {"lr": given.rate}}


# How it is learned


class Trial:
    """All ways to learn with one seed."""

    def __init__(self, chosen: Set, seed: int, folder: Path, settings: Mapping[str, Any]) -> None:
        plugins.load(str(chosen.training.get("plugin_modules", "")))
        self._chosen, self._seed, self._folder, self._settings = chosen, seed, folder, settings
        self._blobs = cache_folder(str(folder / "job")) / "blobs"
        self._domains = {
            name: self._divided(number, name, manifest)
            for number, (name, manifest) in enumerate(chosen.domains.items(), 1)
        }
        self._measured: dict[tuple[str, str], Measurement[Any]] = {}
        self._tests = self._split("test")

    def recognise(self) -> None:
        """Measure for each round how well the next domain is recognised."""
        for number in range(1, len(self._domains)):
            if self._stored(f"recognition-{number}") is None:
                self._store(f"recognition-{number}", self._recognition(number, self._everything(number)))

    def run(self) -> None:
        """Go through the rounds; what has been measured is not done again."""
        known: KnowledgeBase | None = None
        for number, name in enumerate(self._domains, 1):
            scores = self._alternatives(number, name)
            bases, members = self._knowledge_bases(number, known)
            known = bases["lifelong"]
            scores |= self._lifelong(number, bases, members)
            for method, found in scores.items():
                told = "  ".join(f"{domain} {score:.3f}" for domain, score in found.items())
                print(f"seed {self._seed}  round {number}  {method:10}  {told}", flush=True)

    def _divided(self, number: int, name: str, manifest: Manifest) -> Manifest:
        """A domain as its round brings it, with splits: 60 % train, 10 % val, 30 % test, neighbours on one side."""
        table = manifest.table.sort("source" if self._chosen.block > 1 else "id")
        blocks = np.arange(len(table)) // self._chosen.block
        order = np.random.default_rng((self._seed, number)).permutation(int(blocks[-1]) + 1)
        ranks = np.argsort(order)[blocks] / len(order)
        splits = ["train" if rank < 0.6 else "val" if rank < 0.7 else "test" for rank in ranks]
        sources = [f"{name}/{source}" for source in table["source"]]
        table = table.with_columns(
            pl.Series("split", splits), pl.Series("source", sources),
            pl.Series("round", [number] * len(table), dtype=pl.Int32),
        )  # fmt: skip
        return Manifest(table, manifest.classes)

    def _split(self, split: str, until: int = 99) -> Manifest:
        parts = [one.split(split).table for one in list(self._domains.values())[:until]]
        return Manifest(pl.concat(parts).sort("id"), next(iter(self._domains.values())).classes)

    def _everything(self, number: int) -> Manifest:
        return self._joined(*(self._split(split, number) for split in ("train", "val", "test")))

    def _with_replay(self, number: int) -> Manifest:
        """The samples of a round as the plan step draws them: new ones, as many known ones, and all of ``val``."""
        new = list(self._domains.values())[number - 1].split("train")
        parts = [new, self._split("val", number)]
        if number > 1:
            parts.append(draw(self._split("train", number - 1), len(new), f"{self._seed}:{number}"))
        return self._joined(*parts)

    @staticmethod
    def _joined(*parts: Manifest) -> Manifest:
        return Manifest(pl.concat([part.table for part in parts]).sort("id"), parts[0].classes)

    def _alternatives(self, number: int, name: str) -> dict[str, dict[str, float]]:
        """The scores of the four other ways after a round, by way and domain."""
        domain, first = self._domains[name], self._model("first", self._everything(1), self._chosen.initial)
        models = dict.fromkeys(METHODS[:4], first)
        separate = dict.fromkeys(self._domains, first)
        if number > 1:
            before = {one: self._path(f"{one}-{number - 1}") if number > 2 else first for one in METHODS[:2]}
            models = {
                "sequential": self._model(f"sequential-{number}", domain, str(before["sequential"])),
                "replay": self._model(f"replay-{number}", self._with_replay(number), str(before["replay"])),
                "retrain": self._model(f"retrain-{number}", self._everything(number), self._chosen.initial),
            }
            for place, one in enumerate(list(self._domains)[1:number], 2):
                separate[one] = self._model(f"separate-{place}", self._domains[one], self._chosen.initial)
        found = {
            method: self._scores(f"{method}-{number}", dict.fromkeys(self._domains, models[method]))
            for method in METHODS[:3]
        }
        return found | {"separate": self._scores(f"separate-{number}", separate)}

    def _scores(self, cell: str, models: Mapping[str, Path]) -> dict[str, float]:
        """The main figure of each domain's test samples with the model that answers for it."""
        stored = self._stored(f"scores-{cell}")
        if stored is None:
            matrix = {one: self._matrix({"": path}, self._tests) for one, path in models.items()}
            stored = {one: matrix[one].scores[""].get(one, 0.0) for one in models}
            self._store(f"scores-{cell}", stored)
        return {one: float(stored[one]) for one in models}

    def _path(self, name: str) -> Path:
        return self._folder / f"seed{self._seed}" / name

    def _model(self, name: str, samples: Manifest, base: str) -> Path:
        """A trained model: one cell."""
        if self._stored(f"model-{name}") is None:
            shutil.rmtree(self._path(name), ignore_errors=True)  # of a run that ended before it was done
            labelled = samples.where(pl.col("split").is_in(["train", "val"]))
            job = str(self._folder / "job")
            trained = train(
                labelled, self._path(name), job_root=job, base_model=base, patience=0, device="cpu",
                seed=self._seed, **self._chosen.training,
            )  # fmt: skip
            passes = len(labelled.split("train")) * len(trained.history)
            self._store(f"model-{name}", {"sample_epochs": passes})
        return self._path(name)

    def _knowledge_bases(
        self, number: int, known: KnowledgeBase | None
    ) -> tuple[dict[str, KnowledgeBase], dict[str, Path]]:
        """The knowledge base that a round makes of its models, for each way to find tasks; and the models, which are
        those of the alternatives where it has the same."""
        everything = self._everything(number)
        tasks = {row["id"]: row["source"].split("/")[0] for row in everything.rows()}
        domains = list(self._domains)[:number]
        settings = LifelongSettings.model_validate({})
        plan = Plan(
            round=number,
            champion=f"round-{number - 1}" if known else None,
            models=plan_models(
                everything, tasks, self._domains[domains[-1]].table["id"].to_list(), round_number=number, known=known,
                members=[SHARED, *domains[:-1]] if known else [], min_task_samples=settings.min_task_samples,
            ),
            tasks=dict(tasks),
            definition={},
        )  # fmt: skip
        paths = {SHARED: self._path("first" if number == 1 else f"replay-{number}"), domains[0]: self._path("first")}
        for place, one in enumerate(domains[1:], 2):
            chosen = samples_to_train(everything, self._with_replay(place), plan, one)
            base = base_of(plan, one, "champion", self._chosen.initial)
            paths[one] = self._model(f"separate-{place}", chosen, base)
        held_out = self._split("val", number)
        matrix, looked = self._matrix(paths, held_out), look_at(held_out, self._blobs)

        def answered(base: KnowledgeBase) -> KnowledgeBase:
            places = places_to_answer(base.routes(looked), matrix.places)
            keep = Condition.parse(settings.keep_conditions)
            served = choose_models(plan, matrix.at(places), keep=keep, max_forgetting=1.0)
            chosen = with_models(base, served, plan.round)
            together = matrix.joined([route.member for route in chosen.routes(looked)])
            return with_models(base, unless_shared_is_better(served, matrix, together), plan.round)

        learned = learn(plan, everything, self._blobs, known, settings)
        bases = {
            "lifelong": learned,
            "router": self._routed(learned, everything, NUMBERS),
            "looks": self._routed(learned, everything, LOOKS),
        }
        return {method: answered(base) for method, base in bases.items()}, paths

    def _lifelong(
        self, number: int, bases: Mapping[str, KnowledgeBase], members: Mapping[str, Path]
    ) -> dict[str, dict[str, float]]:
        """The scores of knowledge bases on every domain."""
        found = self._stored(f"lifelong-{number}")
        if found is None:
            test, matrix, found = look_at(self._tests, self._blobs), self._matrix(members, self._tests), {}
            for method, one in bases.items():
                routes = one.routes(test)
                measured = matrix.joined([route.member for route in routes])
                found[f"{method} members"] = {name: entry.member for name, entry in one.tasks.items()}
                found[f"{method} tasks"] = {
                    name: [str(routes[place].task) for place in matrix.places[name]] for name in self._domains
                }
                joined = Matrix.of({"": measured}, matrix.places)
                found[method] = {name: joined.scores[""].get(name, 0.0) for name in self._domains}
            self._store(f"lifelong-{number}", found)
        return {method: found[method] for method in METHODS[4:]}

    def _routed(self, base: KnowledgeBase, everything: Manifest, numbers: int) -> KnowledgeBase:
        """A knowledge base with a router that knows images by the first numbers of their appearance."""
        samples = look_at(everything.split("train"), self._blobs)
        tasks = [source.split("/")[0] for source in samples.columns["source"]]
        known = Samples(samples.columns, samples.features[:, :numbers])
        state = make(task_allocations, "router", {}).fit(known, tasks)
        return base.model_copy(update={"allocation": Chosen(name="router", state=state)})

    def _recognition(self, number: int, everything: Manifest) -> dict[str, float]:
        """The area under the ROC curve of each score, for the domain that comes next."""
        domains = list(self._domains)
        known = look_at(everything.split("train"), self._blobs)
        tasks = [source.split("/")[0] for source in known.columns["source"]]
        seen = look_at(self._split("test", number), self._blobs)
        unseen = look_at(self._domains[domains[number]], self._blobs)
        held_out, learned = (
            look_at(self._domains[domains[number]].split(one), self._blobs) for one in ("test", "train")
        )
        found = {}
        for way, sizes in ((LOOKS_ALONE, False), (AND_SIZES, True)):
            projection = Projection.fit(known.features, sizes=sizes)
            for name in DETECTORS:
                detector = make(unseen_detections, name, {})
                state = detector.fit(projection.apply(known.features), tasks)
                scores = [detector.score(projection.apply(one.features), state) for one in (seen, unseen)]
                found[f"{name}{way}"] = auroc(*scores) or 0.0
            width = NUMBERS if sizes else LOOKS
            both = np.concatenate([known.features, learned.features])[:, :width]
            apart = Projection.between(both, ["known"] * len(known) + ["new"] * len(learned))
            ends = [apart.apply(one.features).mean() for one in (known, learned)]
            scores = [apart.apply(one.features)[:, 0] * np.sign(ends[1] - ends[0]) for one in (seen, held_out)]
            found[f"{SUPERVISED}{way}"] = auroc(*scores) or 0.0
        return found

    def _matrix(self, paths: Mapping[str, Path], samples: Manifest) -> Matrix:
        """Models on samples of one split; a model that was measured on them is not measured again."""
        split = samples.table["split"][0]
        key = f"{split}{len(samples)}"
        for path in paths.values():
            if (str(path), key) not in self._measured:
                predictor = open_predictor(path, nms_threshold=0.7)
                self._measured[str(path), key] = evaluate(
                    samples, predictor, split=split, confidence_threshold=0.25, cache_folder=self._blobs
                ).measured
        measured = {name: self._measured[str(path), key] for name, path in paths.items()}
        sources = next(iter(measured.values())).samples.table["source"].to_list()
        places = {
            name: [place for place, source in enumerate(sources) if source.startswith(f"{name}/")]
            for name in self._domains
        }
        return Matrix.of(measured, {**places, SHARED: list(range(len(sources)))})

    def _cell(self, name: str) -> Path:
        return self._folder / "cells" / f"seed{self._seed}-{name}.json"

    def _stored(self, name: str) -> dict[str, Any] | None:
        return read_cell(self._cell(name), self._settings)

    def _store(self, name: str, content: Mapping[str, Any]) -> None:
        path = self._cell(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(".part")
        beside.write_text(json.dumps({"settings": self._settings, **content}))
        beside.replace(path)


def read_cell(path: Path, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """What is stored of a cell; None if it is not there, or of other settings."""
    if not path.is_file():
        return None
    content: dict[str, Any] = json.loads(path.read_text())
    return content if content.pop("settings") == settings else None


# What came of it


def report(folder: Path, title: str, seeds: Sequence[int], settings: Mapping[str, Any]) -> None:
    """Print the tables of the seeds that are complete, and write them with the curves as one page."""
    cells = folder / "cells"
    known = []
    for seed in seeds:
        pair = [read_cell(cells / f"seed{seed}-recognition-{number}.json", settings) for number in (1, 2)]
        known += [[one for one in pair if one is not None]] if None not in pair else []
    runs = {seed: _run(cells, seed, settings) for seed in seeds}
    whole = {seed: run for seed, run in runs.items() if run}
    print(f"\n{title}, {dict(settings)}")
    parts = []
    if whole:
        figures = {method: [_figures(run[method]) for run in whole.values()] for method in METHODS}
        names = list(figures["lifelong"][0])
        rows = [[method, *(_spread([one[name] for one in figures[method]]) for name in names)] for method in METHODS]
        print(f"\nafter the last round, {len(whole)} seeds")
        _print((("method", *names), *rows))
        for name, met in _aims(figures).items():
            print(f"{name}: {'met' if met else 'missed'}")
        parts += [
            page.Section("After the last round", page.table(("method", *names), rows)),
            page.Section("After each round", _curves(whole)),
        ]
    if known:
        heads = ("detector", "second domain", "third domain")
        recognition = [
            [name, *(_spread([pair[place][name] for pair in known]) for place in (0, 1))] for name in RECOGNITION
        ]
        print(f"\nrecognition of a domain when it first arrives (AUROC), {len(known)} seeds")
        _print((heads, *recognition))
        parts.append(page.Section("Recognition (AUROC)", page.table(heads, recognition)))
    if not parts:
        raise SystemExit("no seed is complete yet")
    page.write_page(folder / "report.html", f"Lifelong learning: {title}", parts)
    print(f"\n{folder / 'report.html'}")


def _run(cells: Path, seed: int, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The scores of a seed by method, (rounds, domains); empty if a cell is missing."""
    found: dict[str, Any] = {method: [] for method in METHODS}
    for number in range(1, 4):
        ours = read_cell(cells / f"seed{seed}-lifelong-{number}.json", settings)
        if ours is None:
            return {}
        for method in METHODS:
            of = ours[method] if method in METHODS[4:] else None
            of = of or read_cell(cells / f"seed{seed}-scores-{method}-{number}.json", settings)
            if of is None:
                return {}
            found[method].append(list(of.values()))
    return found


def _figures(scores: Sequence[Sequence[float]]) -> dict[str, float]:
    """Each domain's score at the end, and what was kept and forgotten, in points."""
    found = continual_metrics(scores, [0, 1, 2])
    ends = dict(zip(("first", "second", "third"), scores[-1], strict=True))
    points = {**ends, "mean": found["average_accuracy"], "forgetting": found["forgetting"]}
    points |= {"BWT": found["backward_transfer"], "FWT": found["forward_transfer"]}
    return {name: 100 * value for name, value in points.items()} | {"retention": found.get("retention", 0.0)}


def _aims(figures: Mapping[str, Sequence[Mapping[str, float]]]) -> dict[str, bool]:
    def mean(method: str, name: str) -> float:
        return statistics.mean(one[name] for one in figures[method])

    ours, best = mean("lifelong", "mean"), max(mean(method, "mean") for method in METHODS[:4])
    return {
        f"forgetting {mean('lifelong', 'forgetting'):.1f}, at most 3.6 points": mean("lifelong", "forgetting") <= 3.6,
        f"{ours - mean('sequential', 'mean'):+.1f} points against sequential, at least +5":
            ours - mean("sequential", "mean") >= 5,
        f"{ours - best:+.1f} points against the best other, at least -1": ours - best >= -1,
    }  # fmt: skip


def _spread(values: Sequence[float]) -> str:
    shown = [f"{value:.3f}" if max(map(abs, values)) <= 1 else f"{value:.1f}" for value in values]
    mean = f"{statistics.mean(values):.3f}" if max(map(abs, values)) <= 1 else f"{statistics.mean(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ({min(shown, key=float)} to {max(shown, key=float)})"


def _print(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _curves(whole: Mapping[int, Any]) -> Any:
    """The mean over all domains that have arrived, by round."""
    drawing = page.new_figure()
    axes = drawing.subplots()
    for method in METHODS:
        means = [
            statistics.mean(
                statistics.mean(run[method][number][: number + 1]) for run in whole.values()
            )
            for number in range(3)
        ]  # fmt: skip
        axes.plot([1, 2, 3], [100 * mean for mean in means], marker="o", label=method)
    axes.set_xticks([1, 2, 3])
    axes.set_xlabel("round")
    axes.set_ylabel("points, mean of the domains so far")
    axes.legend()
    return page.figure(drawing)


if __name__ == "__main__":
    main()
