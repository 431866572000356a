"""The demo: a detector that goes on learning while the world around its camera changes.

1. A first model is trained from nothing on scenes by day.
2. Night falls. An edge worker looks at a camera there and sends what it finds hard; the mining step ranks it, a
   stand-in labels it, and a round makes a better model, which the worker takes over while its video plays.
3. Somebody is in a hurry and trains a candidate from nothing for a moment. The gate rejects it.
4. The camera moves to other sites in haze, and the loop turns once more.
5. The edge gets a smaller copy of the model, which asks the model itself, in the cloud, about hard frames.

After each round every model is measured on held-out scenes of all three.
"""

from __future__ import annotations

import fcntl
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.core.colours import PALETTE
from components.core.errors import InputError
from components.core.job.hard_examples import image_key, read_sidecars
from components.core.job.job import Job
from components.core.reports import page as reports
from components.core.runtimes.letterbox import read_image
from pipelines import local
from pipelines.arguments import face_of
from pipelines.demo.held_out import HeldOut
from pipelines.demo.pair import play_pair, refused, section
from pipelines.demo.stage import Camera, Feed, Scenery, Worker, edge_worker, label
from pipelines.hard_example_mining import hard_example_mining
from pipelines.incremental_learning import incremental_learning

DAY = Scenery("day, two sites", ("scaffold", "roadworks"), ("day",))
NIGHT = Scenery("night falls", ("scaffold", "roadworks"), ("night",))
HAZE = Scenery("two other sites, in haze", ("hall", "warehouse"), ("haze",))
SCENERIES = (DAY, NIGHT, HAZE)

NODE = "gate-camera"
MARK = ".demo"  # lies in a folder that a demo may throw away


@dataclass(frozen=True)
class Size:
    """How large the demo is; as it stands, small enough for two processor cores and large enough to be right.

    Attributes:
        scenes: that the first model is trained and tested on.
        tests: held-out scenes of each scenery.
        frames: of each video.
        examples: hard ones to wait for.
        budget: how many of them are labelled.
        least: new samples that a round waits for.
        first_epochs: of the training from nothing.
        epochs: of a round.
        hasty_epochs: of the candidate in a hurry.
        image_size: pixels.
        min_map50: of the first model, which has to find something.
        pair_scenes: that joint inference is calibrated and tested on.
        pair_image_size: pixels of its little model.
        pair_confidence: of what its calibration promises.
    """

    scenes: int = 480
    tests: int = 60
    frames: int = 150
    examples: int = 80
    budget: int = 70
    least: int = 40
    first_epochs: int = 18
    epochs: int = 10
    hasty_epochs: int = 2
    image_size: int = 160
    min_map50: float = 0.05
    pair_scenes: int = 120
    pair_image_size: int = 96
    pair_confidence: float = 0.95


# A network that starts from nothing has few steps here. So each batch is a step of its own (nbs), and warm-up is
# short; mosaics and wild changes of scale, which help long trainings, would only make the scenes harder.
OPTIONS: dict[str, Any] = {"mosaic": 0.0, "nbs": 16, "scale": 0.25, "warmup_epochs": 1.0, "warmup_bias_lr": 0.0}
SETTINGS: dict[str, Any] = {
    "classes": "helmet,head", "batch": 16, "device": "cpu", "workers": 1, "patience": 0,
    "train_ratio": 0.7, "val_ratio": 0.1, "replay_ratio": 3.0, "recent_rounds": 1, "max_class_drop": -1.0,
    "gate_conditions": ["recent.map50_delta > 0", "core.map50_delta >= -0.05"],
    "label_budget": 0, "rollout_timeout": 60.0,
}  # fmt: skip


@dataclass
class Round:
    """What one turn of the loop came to.

    Attributes:
        title: what happened.
        version: the candidate.
        promoted: whether it became the champion.
        labels: how many images were labelled for it.
        scores: mAP50 by scenery.
        seconds: how long the round took.
    """

    title: str
    version: str
    promoted: bool
    labels: int
    scores: dict[str, float]
    seconds: float


@dataclass
class Watch:
    """What the worker found hard, before and after it took over a new model.

    Attributes:
        scenery: what it looked at.
        shares: share of hard images by model version.
        frames: images looked at by model version.
        failed: images that no model could look at.
    """

    scenery: str
    shares: dict[str, float] = field(default_factory=dict)
    frames: dict[str, int] = field(default_factory=dict)
    failed: int = 0


def play(folder: Path, seed: int, size: Size | None = None) -> Path:
    """Play the whole story.

    Args:
        folder: new, or of an earlier demo, which is thrown away.
        seed: of everything.
        size: how large it is.

    Returns:
        The report.

    Raises:
        InputError: there is something else in the folder.
    """
    with cleared(folder):
        story = _Story(folder, seed, size or Size())
        _say("1. First model, trained from scratch on daytime scenes")
        story.begin(DAY)
        _say("2. Night falls: the edge worker uploads hard examples")
        story.learn_from(NIGHT)
        _say("3. A poorly trained candidate")
        story.hurry()
        _say("4. The camera moves to other sites in haze")
        story.learn_from(HAZE)
        _say("5. A smaller model at the edge asks the big one in the cloud")
        story.ask_the_cloud()
        return story.report()


class _Story:
    def __init__(self, folder: Path, seed: int, size: Size) -> None:
        self._folder, self._seed, self._size = folder, seed, size
        self._root = folder / "job"
        self._job = Job.open(str(self._root))
        self._feed = Feed(folder / "feed")
        self._tests = HeldOut(folder / "tests", {scenery.name: scenery for scenery in SCENERIES}, size.tests, seed)
        self._rounds: list[Round] = []
        self._watches: list[Watch] = []
        self._cameras: list[Camera] = []
        self._joint: list[reports.Section] = []

    def begin(self, scenery: Scenery) -> None:
        """Let labelled scenes arrive, and train the first model on them."""
        self._feed.add_scenes(scenery, self._size.scenes, self._seed)
        self._turn("first model, by day", self._size.scenes, epochs=self._size.first_epochs)

    def hurry(self) -> None:
        """Train a candidate that cannot be good."""
        settings = {"base_model": "yolo11n.yaml", "epochs": self._size.hasty_epochs, "force_train": True}
        self._turn("a candidate in a hurry", 0, **settings)

    def learn_from(self, scenery: Scenery) -> None:
        """Watch a scenery through the edge worker, label what is asked for, and learn from it."""
        number = len(self._rounds)
        camera = Camera(self._folder / f"camera-{number}.avi", scenery, self._size.frames, self._seed + 100 + number)
        self._cameras.append(camera)
        watch = Watch(scenery.name)
        self._watches.append(watch)
        with edge_worker(NODE, self._root, camera, self._folder / "edge") as worker:
            with self._watching(worker, watch):
                worker.await_model(self._champion())
                worker.await_examples(self._size.examples)
            self._run(hard_example_mining, label_budget=self._size.budget)
            labels = label(self._root, self._cameras, self._feed)
            print(f"labelled {labels} of the requested images", flush=True)
            self._turn(scenery.name, labels, epochs=self._size.epochs)
            worker.await_model(self._champion())
            with self._watching(worker, watch):
                worker.await_frames(self._size.frames)
            watch.failed = int(worker.counts().get("failed_frames", 0))

    def ask_the_cloud(self) -> None:
        """Release the model in two sizes as a pair, and let both work on the last video."""
        folder, size = self._folder / "pair", self._size
        scenes, sizes = Feed(folder / "feed"), (size.pair_image_size, size.image_size)
        each = -(-size.pair_scenes // len(SCENERIES))
        for number, scenery in enumerate(SCENERIES):
            scenes.add_scenes(scenery, each, self._seed + 2000 + number, prefix=f"{number}-")
        bundle = self._root / "bundles" / self._champion()
        try:
            joint = play_pair(folder, bundle, scenes, self._cameras[-1], sizes=sizes, confidence=size.pair_confidence)
        except local.RunError as error:
            self._joint.append(refused(error))
            print(f"the pair is not released: {error}", flush=True)
            return
        self._joint.append(section(joint, sizes))
        tested, counted = joint.tested, joint.counted
        print(
            f"mAP50: edge only {tested['edge.map50']:.3f}, joint {tested['map50']:.3f} with "
            f"{tested['fraction']:.0%} of the scenes sent, cloud only {tested['cloud.map50']:.3f}; "
            f"the cloud answered {counted['joint_answered']:.0f} of {counted['joint_frames']:.0f} frames of the video",
            flush=True,
        )

    def _turn(self, title: str, labels: int, **settings: Any) -> None:
        """Poll the feed, which runs a round, and measure what it made."""
        began, before = time.monotonic(), self._job.read()[0]
        settings |= {"feed_url": str(self._feed.index), "seed": self._seed, "image_size": str(self._size.image_size)}
        settings["trigger_conditions"] = [f"num_of_samples >= {self._size.least}"]
        settings["min_map50"] = self._size.min_map50
        self._run(incremental_learning, **SETTINGS | settings)
        state, _ = self._job.read()
        if state.round == before.round or state.candidate is None:
            raise InputError(f"no round ran for {title!r}: see the trigger's log lines above")
        promoted = state.champion != before.champion
        figures = self._tests.map50(self._root / "bundles" / state.candidate)
        made = Round(title, state.candidate, promoted, labels, figures, time.monotonic() - began)
        self._rounds.append(made)
        told = ", ".join(f"{name} {score:.3f}" for name, score in figures.items())
        print(f"{made.version} {'is the champion' if promoted else 'is rejected'}; mAP50: {told}", flush=True)

    def report(self) -> Path:
        """Write the page about it all."""
        path = self._folder / "demo.html"
        sections = [
            self._curve(), self._table(), self._edge(), self._examples(), *self._joint,
            reports.Section("Reports of the rounds", self._links()),
        ]  # fmt: skip
        reports.write_page(path, "A detector that keeps learning", sections)
        return path

    @contextmanager
    def _watching(self, worker: Worker, watch: Watch) -> Iterator[None]:
        """Take note of what the worker counts meanwhile."""
        before = worker.counts()
        yield
        after, version = worker.counts(), worker.model()
        frames, hard = (after.get(name, 0) - before.get(name, 0) for name in ("frames", "hard"))
        watch.frames[version] = int(frames)
        watch.shares[version] = hard / frames if frames else 0.0

    def _run(self, pipeline: Any, **arguments: Any) -> None:
        taken = face_of(pipeline).names
        given = {name: value for name, value in arguments.items() if name in taken}
        local.run(pipeline, given | {"job_root": str(self._root)}, local.folder_of_runs(str(self._root)))

    def _champion(self) -> str:
        champion = self._job.read()[0].champion
        assert champion is not None
        return champion

    def _curve(self) -> reports.Section:
        figure = reports.new_figure(9.2, 3.8)
        axes = figure.subplots()
        numbers = range(1, len(self._rounds) + 1)
        for scenery, colour in zip(SCENERIES, PALETTE, strict=False):
            scores = [made.scores[scenery.name] for made in self._rounds]
            deployed = [
                (n, score) for n, score, made in zip(numbers, scores, self._rounds, strict=True) if made.promoted
            ]
            axes.plot(*zip(*deployed, strict=True), color=colour, marker="o", label=scenery.name)
            rejected = [(n, s) for n, s, made in zip(numbers, scores, self._rounds, strict=True) if not made.promoted]
            if rejected:
                axes.scatter(*zip(*rejected, strict=True), facecolors="none", edgecolors=colour, marker="o")
        axes.set_xticks(list(numbers), [f"{n}\n{made.title}" for n, made in zip(numbers, self._rounds, strict=True)])
        axes.set_ylim(0, 1)
        axes.set_ylabel("mAP50 on held-out scenes")
        axes.legend(frameon=False, loc="lower right")
        caption = "Lines connect deployed models; hollow circles are candidates that the gate rejected."
        return reports.Section("mAP50 per round", reports.figure(figure, caption))

    def _table(self) -> reports.Section:
        rows = [
            [number, made.title, made.version, "promoted" if made.promoted else "rejected", made.labels,
             *(f"{score:.3f}" for score in made.scores.values()), f"{made.seconds:.0f} s"]
            for number, made in enumerate(self._rounds, 1)
        ]  # fmt: skip
        headers = ["round", "what happened", "model", "outcome", "labels", *(s.name for s in SCENERIES), "took"]
        return reports.Section("Rounds", reports.table(headers, rows))

    def _edge(self) -> reports.Section:
        rows = [
            [watch.scenery, version, watch.frames[version], f"{share:.0%}"]
            for watch in self._watches
            for version, share in watch.shares.items()
        ]
        body = reports.table(["the camera shows", "model", "frames processed", "hard"], rows)
        failed = sum(watch.failed for watch in self._watches)
        told = f"The worker switched models between frames without stopping the video; {failed} frames failed."
        return reports.Section("The edge worker", body + reports.note(told, "warn" if failed else "info"))

    def _examples(self) -> reports.Section:
        store = self._job.store
        shown = []
        for sidecar in list(read_sidecars(store))[:: max(1, self._size.examples // 4)][:12]:
            path = store.local_path(image_key(sidecar))
            assert path is not None
            drawn = reports.draw(read_image(path), sidecar.detections(), sidecar.classes)
            shown.append((drawn, f"{sidecar.model}: {sidecar.reason}"))
        told = reports.note("Images that the worker uploaded, with the predictions of the model it was running.")
        return reports.Section("Hard examples", told + reports.images(shown))

    def _links(self) -> Any:
        links = sorted((self._root / "reports").glob("*round-*.html"))
        return reports.table(["report"], [[str(path.relative_to(self._folder))] for path in links])


@contextmanager
def cleared(folder: Path) -> Iterator[None]:
    """Make a folder, or throw away what an earlier demo left there; while the body runs, no other demo does.

    Raises:
        InputError: there is something else in it, or a demo that still runs.
    """
    if folder.is_dir() and any(folder.iterdir()):
        if not (folder / MARK).exists():
            raise InputError(
                f"{folder} contains files that are not from an earlier demo: choose another folder with --folder"
            )
        with _held(folder):
            shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with _held(folder):
        yield


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Keep the folder of a demo from other demos."""
    with (folder / MARK).open("a", encoding="utf-8") as mark:
        try:
            fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"{folder}: a demo is running there: choose another folder with --folder") from None
        yield


def _say(text: str) -> None:
    print(f"\n{text}\n", flush=True)
