"""One case of a benchmark: an algorithm goes through the rounds of a stream, and is measured after each.

The first model learns the first round, which is labelled whole. Of each later round the algorithm chooses what is
labelled, trains a candidate on that and a replay of what it knows, and keeps it if it is better on the validation
samples of all rounds so far. An algorithm whose first model is the base model itself chooses from the first round on.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from components.benchmark.algorithms import Algorithm, Case
from components.benchmark.measure import Measured, measure, score_matrix
from components.benchmark.row import RoundRow, Row, origin, peak_memory_mb
from components.benchmark.stream import Round, Stream, digest_of
from components.core.bundle import Bundle
from components.core.cache import cache_folder, own_folder
from components.core.detections import Detections
from components.core.errors import LostRaceError
from components.core.manifest import Manifest
from components.core.metrics.continual import continual_metrics
from components.core.metrics.ianvs import samples_transfer_ratio
from components.core.miners.base import Miner, make_miner
from components.core.miners.chance import draw
from components.core.pseudo_labels import Filled, fill, lacking_samples
from components.core.runtimes.base import Detector, open_detector
from components.core.runtimes.letterbox import read_image
from components.core.stores.transfer import landing
from components.core.tasks.base import open_task
from components.core.version import VERSION

log = logging.getLogger(__name__)

_WAIT_SECONDS = 2.0


@dataclass(frozen=True)
class Steps:
    """What other phases do in a round; a component hands it in, since logic does not import other phases.

    Attributes:
        train: ``components.train.train.train``.
        replay: ``components.prepare.replay.draw``.
        candidate: ``components.mine.pool.Candidate``.
        score_pool: ``components.mine.score_pool.score_pool``.
        choose: the ids that ``components.mine.selection.choose`` picks: of what was seen, for a budget, with the bundle
            of the champion, the labelled boxes by class name, and the algorithm's shares and shortlist by name.
    """

    train: Callable[..., Any]
    replay: Callable[[Manifest, int, str], Manifest]
    candidate: Callable[..., Any]
    score_pool: Callable[..., Any]
    choose: Callable[..., Sequence[str]]


@dataclass
class _Model:
    """A model of a case.

    Attributes:
        folder: its bundle.
        detector: the same, ready to run.
        measured: on the test set.
    """

    folder: Path
    detector: Detector
    measured: Measured


@dataclass
class _Known:
    """What an algorithm has been given labels for.

    Attributes:
        train: samples to train on, of rounds before this one.
        val: validation samples of all rounds so far.
        images: how many images have labels.
        boxes: how many boxes are in them.
    """

    train: list[Manifest] = field(default_factory=list)
    val: list[Manifest] = field(default_factory=list)
    images: int = 0
    boxes: int = 0

    def count(self, samples: Manifest) -> None:
        """Take note of labels."""
        self.images += len(samples)
        self.boxes += samples.boxes().height


@contextmanager
def work_folder(job_root: str, case: Case) -> Iterator[Path]:
    """The folder of a case on this machine, for one process at a time; others wait.

    It is removed when the body ends well. What a killed or failed case left there, the same case finds.
    """
    folder = own_folder(job_root) / "benchmark" / "unfinished" / case.digest
    with _locked(folder.with_suffix(".lock")):
        yield folder
        shutil.rmtree(folder, ignore_errors=True)


def run_case(
    case: Case,
    stream: Stream,
    steps: Steps,
    *,
    folder: Path,
    job_root: str,
    device: str,
    workers: int,
    plugin_modules: str = "",
) -> Row:
    """Run one case to its end.

    Args:
        case: what to run.
        stream: the rounds and the test set, made with the seed of the case.
        steps: of other phases.
        folder: for the candidates of its rounds; those that an earlier run of this case left are not trained again.
        job_root: where the benchmark is kept; a training that is interrupted resumes from there.
        device: what trains, as in ``TrainSettings``.
        workers: processes that load images.
        plugin_modules: modules of plug-ins.

    Raises:
        InputError: something that was given cannot be used; a training may raise anything.
    """
    training = {"device": device, "workers": workers, "plugin_modules": plugin_modules}
    runner = _Runner(case, stream, steps, folder, job_root, training)
    rounds = runner.rounds()
    figures = runner.figures(rounds)
    seconds = sum(one.seconds for one in rounds)
    figures |= {"seconds": round(seconds, 1), "peak_memory_mb": round(peak_memory_mb(), 1)}
    return Row(
        case=case.digest,
        algorithm=case.algorithm.name,
        baseline=case.algorithm.baseline,
        seed=case.seed,
        settings=case.algorithm.settings(),
        content=case.content,
        figures=figures,
        rounds=rounds,
        **origin(),
    )


class _Runner:
    """Takes an algorithm through the rounds."""

    def __init__(
        self,
        case: Case,
        stream: Stream,
        steps: Steps,
        folder: Path,
        job_root: str,
        training: Mapping[str, Any],
    ) -> None:
        self._algorithm: Algorithm = case.algorithm
        self._seed = case.seed
        self._content = case.content
        self._stream = stream
        self._steps = steps
        self._folder = folder
        self._job_root = job_root
        self._blobs = cache_folder(job_root) / "blobs"
        self._training = training
        self._known = _Known()
        self._champion: _Model | None = None

    def rounds(self) -> list[RoundRow]:
        """Go through all rounds."""
        rows = []
        for number, one in enumerate(self._stream.rounds):
            began = time.monotonic()
            row = self._round(number, one)
            row.seconds = round(row.seconds + time.monotonic() - began, 1)
            rows.append(row)
            log.info(
                "%s, seed %d, %s: mAP50 %.3f, %d images labelled",
                self._algorithm.name, self._seed, one.name, row.metrics["map50"], row.labelled_images,
            )  # fmt: skip
        return rows

    def figures(self, rounds: Sequence[RoundRow]) -> dict[str, float]:
        """What the rounds came to, by name."""
        last, tasks = rounds[-1], self._stream.tasks
        hard, seen = self._judged_on_test()
        asked, shown = sum(row.transferred for row in rounds), sum(row.inferred for row in rounds)
        figures: dict[str, float] = {
            **last.metrics,
            **continual_metrics(score_matrix([row.tasks for row in rounds], tasks), [t.learned for t in tasks]),
            "samples_transfer_ratio": samples_transfer_ratio(
                [*(row.transferred for row in rounds), hard], [*(row.inferred for row in rounds), seen]
            ),
            "transfer_ratio": asked / shown if shown else 0.0,
            "labelled_images": last.labelled_images,
            "labelled_boxes": last.labelled_boxes,
            "sample_epochs": sum(row.sample_epochs for row in rounds),
            "accepted_rounds": sum(row.accepted for row in rounds),
        }
        if self._champion is not None:
            figures["model_mb"] = round((self._champion.folder / "model.onnx").stat().st_size / 1e6, 2)
        return {name: round(float(value), 6) for name, value in figures.items()}

    def _round(self, number: int, one: Round) -> RoundRow:
        row = RoundRow(name=one.name)
        if self._champion is None:
            self._begin(number, one, row)
        if not row.trained:
            self._learn(number, one, row)
        assert self._champion is not None
        row.labelled_images, row.labelled_boxes = self._known.images, self._known.boxes
        row.metrics, row.tasks = self._champion.measured.metrics, self._champion.measured.tasks
        return row

    def _begin(self, number: int, one: Round, row: RoundRow) -> None:
        """Make the first model: of the first round, or of the base model alone."""
        training = self._samples([one.train, one.val], number) if self._algorithm.initial_epochs else None
        began = time.monotonic()
        folder, took = self._first_model(training)
        row.seconds = took - (time.monotonic() - began)  # whoever trained it, it costs each algorithm the same
        if training is not None:
            row.trained, row.accepted = len(one.train), True
            row.sample_epochs = len(one.train) * self._algorithm.initial_epochs
            self._learned(one.train, one.val)
        detector = open_detector("onnx", folder)
        self._champion = _Model(folder, detector, self._measured(detector))

    def _learn(self, number: int, one: Round, row: RoundRow) -> None:
        """Label some of a round, train a candidate, and keep it if it is better."""
        algorithm = self._algorithm
        row.inferred = len(one.train)
        chosen = self._chosen(one.train)
        row.transferred = len(chosen)
        if not len(chosen):
            return
        full = algorithm.baseline == "full"
        if full:
            parts = [
                self._labelled_whole(part, number) for part in (*self._known.train, chosen, *self._known.val, one.val)
            ]
            row.replayed = sum(map(len, self._known.train))
        else:
            replayed = self._replayed(round(algorithm.replay_ratio * len(chosen)), number)
            row.replayed = sum(map(len, replayed))
            parts, row.filled = self._filled([chosen, *replayed, *self._known.val, one.val])
        training = self._samples(parts, number)
        row.lacking = lacking_samples(training)
        row.trained = len(training.split("train"))
        row.sample_epochs = row.trained * algorithm.epochs
        self._learned(chosen, one.val)
        if full:  # it has boxes of the classes of this round in the samples of earlier ones, too
            self._known.boxes = sum(part.boxes().height for part in parts)
        folder = self._folder / f"round-{number}"
        base = algorithm.base_model if full else str(self._model.folder)
        options = algorithm.estimator_options | ({} if full else algorithm.round_options)
        began = time.monotonic()
        took = self._trained(training, folder, base, algorithm.epochs, options)
        row.seconds = took - (time.monotonic() - began)  # it costs as much if an earlier run of this case trained it
        candidate = open_detector("onnx", folder)
        row.gain = self._gain(candidate)
        row.accepted = row.gain is None or row.gain >= algorithm.min_gain
        if row.accepted:
            self._champion = _Model(folder, candidate, self._measured(candidate))

    def _replayed(self, size: int, number: int) -> list[Manifest]:
        """A draw of what is known, in a list; nothing where nothing is."""
        if not self._known.train:
            return []
        known = Manifest(pl.concat([part.table for part in self._known.train]), self._known.train[0].classes)
        return [self._steps.replay(known, size, f"{self._seed}:{number}")]

    def _labelled_whole(self, part: Manifest, number: int) -> Manifest:
        """Samples with their boxes of all classes that are known by then."""
        classes = self._classes(number)
        whole = dict(self._stream.everything.table.select("id", "annotations").iter_rows())
        rows = [
            {
                **row,
                "annotations": [box for box in whole[row["id"]] if box["class_id"] in classes],
                "unlabelled_classes": None,
            }
            for row in part.rows()
        ]
        return Manifest.of(rows, part.classes)

    @property
    def _model(self) -> _Model:
        assert self._champion is not None
        return self._champion

    def _learned(self, train: Manifest, val: Manifest) -> None:
        self._known.train.append(train)
        self._known.val.append(val)
        self._known.count(train)
        self._known.count(val)

    def _chosen(self, pool: Manifest) -> Manifest:
        """What is labelled of a round."""
        algorithm = self._algorithm
        if algorithm.baseline == "frozen" or not len(pool):
            return pool.where(pl.lit(False))
        if algorithm.baseline == "full":
            return pool
        budget = algorithm.label_budget
        if algorithm.baseline == "random":
            order = sorted(pool.table["id"], key=lambda id_: draw(id_, f"random {self._seed}"))
            ids = order[: self._count_hard(pool)] if budget < 0 else _affordable(order, budget, self._costs(pool))
        elif budget < 0:
            ids = [one.candidate.id for one in self._seen(pool) if one.judgement.hard]
        else:
            ids = self._mined(pool)
        return pool.where(pl.col("id").is_in(ids))

    def _mined(self, pool: Manifest) -> list[str]:
        """The ids that the rule ranks highest, as many as the budget allows.

        Boxes are budgeted as the champion finds them and paid as they are drawn: what is left of them is spent too.
        """
        algorithm, costs = self._algorithm, self._costs(pool)
        rest, ids, left = list(self._seen(pool)), list[str](), algorithm.label_budget
        while left > 0 and rest:
            picks = self._steps.choose(
                rest,
                left,
                self._model.folder,
                self._boxes_by_class(),
                in_boxes=algorithm.label_budget_in == "boxes",
                random_fraction=algorithm.random_fraction,
                empty_fraction=algorithm.empty_fraction,
                shortlist=algorithm.shortlist,
            )
            new = _affordable(picks, left, costs)
            ids += new
            left -= sum(costs[id_] for id_ in new)
            if not new or algorithm.label_budget_in == "images":
                break
            rest = [one for one in rest if one.candidate.id not in new]
        return ids

    def _costs(self, pool: Manifest) -> dict[str, int]:
        """What each image takes of the label budget."""
        in_boxes = self._algorithm.label_budget_in == "boxes"
        pairs = zip(pool.table["id"], pool.truths(), strict=True)
        return {id_: max(1, len(boxes)) if in_boxes else 1 for id_, boxes in pairs}

    def _boxes_by_class(self) -> dict[str, int]:
        """How many boxes of each class the algorithm has been given."""
        counts: dict[str, int] = {}
        for part in (*self._known.train, *self._known.val):
            for number in part.boxes()["class_id"]:
                name = part.classes[number]
                counts[name] = counts.get(name, 0) + 1
        return counts

    def _count_hard(self, pool: Manifest) -> int:
        return sum(one.judgement.hard for one in self._seen(pool))

    def _seen(self, pool: Manifest) -> Sequence[Any]:
        """What the champion finds in each image, and what the miner says of it."""
        candidates = [
            self._steps.candidate(row["id"], row["uri"], row["source"], row["group"], "unlabelled")
            for row in pool.rows()
        ]
        seen: Sequence[Any] = self._steps.score_pool(
            candidates, self._model.detector, self._miner(), self._algorithm.min_score, self._blobs
        ).seen
        return seen

    def _miner(self) -> Miner:
        return make_miner(self._algorithm.miner, self._algorithm.miner_parameters)

    def _judged_on_test(self) -> tuple[int, int]:
        """Images of the test set that the miner calls hard, and how many it saw; ianvs counts them as well."""
        if self._algorithm.baseline in ("frozen", "full"):
            return 0, len(self._stream.test)
        return self._count_hard(self._stream.test), len(self._stream.test)

    def _filled(self, parts: Sequence[Manifest]) -> tuple[list[Manifest], dict[str, int]]:
        """The samples with the champion's confident boxes of classes that were not labelled in them."""
        mode = self._algorithm.fill_unlabelled
        if mode == "off":
            return list(parts), {}
        known = [self._stream.test.classes.index(name) for name in self._model.detector.bundle.classes]
        made: list[Filled] = [fill(part, known, self._predict, self._algorithm.fill_confidence) for part in parts]
        counts: dict[str, int] = {}
        for one in made:
            for name, boxes in one.boxes.items():
                counts[name] = counts.get(name, 0) + boxes
        return [one.manifest for one in made] if mode == "fill" else list(parts), counts

    def _predict(self, row: Mapping[str, Any]) -> Detections:
        """What the champion finds in the image of a row, in the classes of the stream."""
        sample = Manifest.of([dict(row)], self._stream.test.classes)
        (path,) = open_task("detection").local(sample, self._blobs).paths
        detector = self._model.detector
        table = sample.class_numbers(detector.bundle.classes, "the model", "all rounds must have its classes")
        found = detector.predict(
            [read_image(path)], confidence=self._algorithm.fill_confidence, nms=self._algorithm.nms_threshold
        )
        return found[0].renumbered(table)

    def _classes(self, number: int) -> frozenset[int]:
        """The classes that some round up to this one has labels of."""
        return frozenset().union(*(one.classes for one in self._stream.rounds[: number + 1]))

    def _samples(self, parts: Sequence[Manifest], number: int) -> Manifest:
        """Samples to train on, with the classes that are known by then, in the order in which they came."""
        order: list[int] = []
        for one in self._stream.rounds[: number + 1]:
            order += sorted(one.classes - set(order))
        place = {number_: index for index, number_ in enumerate(order)}
        names = self._stream.test.classes
        rows = [
            {
                **row,
                "annotations": [{**box, "class_id": place[box["class_id"]]} for box in row["annotations"]],
                "unlabelled_classes": [place[one] for one in row["unlabelled_classes"] or () if one in place],
            }
            for part in parts for row in part.rows()
        ]  # fmt: skip
        return Manifest.of(sorted(rows, key=lambda row: row["id"]), [names[index] for index in order])

    def _gain(self, candidate: Detector) -> float | None:
        """How much better a candidate is on the validation samples so far, as they are labelled."""
        algorithm = self._algorithm
        if algorithm.min_gain <= -1:
            return None
        val = Manifest(pl.concat([part.table for part in self._known.val]), self._known.val[0].classes)
        models = (candidate, self._model.detector)
        new, old = (self._measured(model, val).metrics[algorithm.gate_metric] for model in models)
        return new - old

    def _measured(self, detector: Detector, samples: Manifest | None = None) -> Measured:
        """What a model is worth on the test set, or on other samples."""
        return measure(
            self._stream.test if samples is None else samples,
            detector,
            confidence_threshold=self._algorithm.confidence_threshold,
            nms_threshold=self._algorithm.nms_threshold,
            folder=self._blobs,
            tasks=self._stream.tasks if samples is None else (),
        )

    def _first_model(self, training: Manifest | None) -> tuple[Path, float]:
        """The bundle of the first model, which all algorithms that begin alike share on this machine.

        Returns:
            Its folder, and how many seconds its training took.
        """
        content = {name: digest for name, digest in self._content.items() if name != "miner"}
        samples_digest = training and [digest_of(training), training.table["split"].to_list()]
        parts = [VERSION, self._algorithm.first_model() | content, self._seed, samples_digest]
        key = json.dumps(parts, sort_keys=True)
        folder = own_folder(self._job_root) / "benchmark" / hashlib.sha256(key.encode()).hexdigest()[:16]
        algorithm = self._algorithm
        samples = training if training is not None else self._samples([self._stream.rounds[0].val], 0)
        with _locked(folder.with_suffix(".lock")):
            took = self._trained(
                samples, folder, algorithm.base_model, algorithm.initial_epochs, algorithm.estimator_options
            )
        Bundle.read(folder)
        return folder, took

    def _trained(
        self, samples: Manifest, folder: Path, base_model: str, epochs: int, options: Mapping[str, Any]
    ) -> float:
        """Train into a folder, unless that was done before.

        Returns:
            How many seconds it took.
        """
        cost = folder.with_suffix(".seconds")
        if not (folder / "model.json").is_file() or not cost.is_file():
            began = time.monotonic()
            shutil.rmtree(folder, ignore_errors=True)
            folder.parent.mkdir(parents=True, exist_ok=True)
            self._train(samples, folder, base_model, epochs, options)
            with landing(cost) as file:
                file.write(str(time.monotonic() - began).encode())
        return float(cost.read_text(encoding="utf-8"))

    def _train(self, samples: Manifest, folder: Path, base_model: str, epochs: int, options: Mapping[str, Any]) -> None:
        algorithm = self._algorithm
        train = functools.partial(
            self._steps.train,
            samples,
            folder,
            job_root=self._job_root,
            estimator=algorithm.estimator,
            base_model=base_model,
            epochs=epochs,
            image_size=algorithm.image_size,
            batch=algorithm.batch,
            patience=0,
            seed=self._seed,
            estimator_options=options,
            confidence_threshold=algorithm.confidence_threshold,
            nms_threshold=algorithm.nms_threshold,
            **self._training,
        )
        while True:
            try:
                train()
            except LostRaceError:  # another case trains the very same
                time.sleep(_WAIT_SECONDS)
            else:
                return


def _affordable(order: Sequence[str], budget: int, costs: Mapping[str, int]) -> list[str]:
    """The first of some images, up to the one that reaches the budget."""
    taken: list[str] = []
    spent = 0
    for id_ in order:
        if spent >= budget:
            break
        taken.append(id_)
        spent += costs[id_]
    return taken


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Only one process of this machine at a time; others wait."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
