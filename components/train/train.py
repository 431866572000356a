"""Train: a candidate model from the samples of a manifest, as a bundle."""

from __future__ import annotations

import fcntl
import functools
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from components.core import plugins
from components.core.bundle import Bundle
from components.core.cache import cache_folder, own_folder
from components.core.errors import InputError, LostRaceError
from components.core.estimators.base import Epoch, Estimator, check_training, estimators
from components.core.job.job import Job
from components.core.manifest import Manifest
from components.core.parameters import parse_image_size, parse_labels
from components.core.release import MODEL
from components.core.reports import page as reports
from components.core.runtimes.letterbox import read_image
from components.core.stores.addresses import shown_model
from components.core.stores.open import fetch, open_store
from components.core.tasks.base import LocalSamples, Task, open_task
from components.train.checkpoint import Checkpoints

logger = logging.getLogger(__name__)

SHOWN_PREDICTIONS = 8


@dataclass(frozen=True)
class Trained:
    """A trained model.

    Attributes:
        bundle: what was written.
        history: figures of each epoch, with its ``epoch``.
        sections: curves and sample predictions for the report.
    """

    bundle: Bundle
    history: list[dict[str, float]]
    sections: list[reports.Section]


def train(
    manifest: Manifest,
    output: Path,
    *,
    job_root: str,
    estimator: str = "yolo",
    base_model: str = "yolo11n.yaml",
    initial_model: str = "yolo11n.yaml",
    epochs: int = 100,
    image_size: str = "640",
    batch: int = 16,
    patience: int = 50,
    device: str = "auto",
    workers: int = 2,
    seed: int = 0,
    estimator_options: Mapping[str, Any] | None = None,
    confidence_threshold: float = 0.25,
    nms_threshold: float = 0.7,
    experiment_labels: str = "",
    plugin_modules: str = "",
    round_number: int | None = None,
    about: Mapping[str, str] | None = None,
) -> Trained:
    """Train a model and write it as a bundle.

    After each epoch a checkpoint goes to the job's store; the same call after a kill goes on from there.

    Args:
        manifest: samples with splits; ``train`` is fitted to, ``val`` chooses the epoch.
        output: folder of the bundle; created.
        job_root: the job's store.
        estimator: registered name of the kind of model.
        base_model: what to start from: weights, a bundle folder, a model YAML, a URL ending in ``#sha256=...``, or
            the job's ``champion`` or last ``candidate``.
        initial_model: what to start from while the job has none.
        epochs: passes over the training samples; with 0 the base model's weights are the result.
        image_size: one number or ``height,width``, pixels.
        batch: images per step.
        patience: epochs without progress after which training stops; 0 for never.
        device: ``auto``, ``cpu``, ``mps`` or GPU numbers.
        workers: processes that load images.
        seed: of every random choice.
        estimator_options: further settings by the estimator's own names.
        confidence_threshold: score the model is to be deployed with.
        nms_threshold: overlap the model is to be deployed with.
        experiment_labels: ``name=value,...``, kept with the model.
        plugin_modules: modules to import first, for an estimator of the user's own.
        round_number: of the round that it is for, which removes its checkpoints when it ends; None outside of rounds.
        about: what else the model's description shall say of where it comes from, such as its task.

    Raises:
        InputError: no such estimator, base model or option, or nothing to train on.
    """
    plugins.load(plugin_modules)
    model = estimators.get(estimator)()
    settings = deciding_settings(
        job_root, estimator=estimator, base_model=base_model, initial_model=initial_model, epochs=epochs,
        image_size=image_size, batch=batch, patience=patience, seed=seed, estimator_options=estimator_options,
        about=about,
    )  # fmt: skip
    blobs = cache_folder(job_root) / "blobs"
    key = training_key(manifest, settings, round_number)
    checkpoints = Checkpoints(open_store(job_root), key)
    with _only_one(own_folder(job_root) / "training" / key) as folder:
        task = open_task(model.task)
        if epochs:
            samples = {split: _local(manifest, split, blobs, task) for split in ("train", "val")}
            if not task.has_truth(samples["train"].manifest):
                raise InputError(f"none of the {len(samples['train'].manifest)} training samples has any {task.labels}")
            history = _fit(model, samples, folder, checkpoints, settings, device, workers, job_root)
        else:
            check_training(estimator, _of_elsewhere(str(settings["base_model"])), estimator_options or {}, epochs)
            model.load(_local_base(str(settings["base_model"]), folder, job_root))
            shown = task.labelled(manifest.split("val").labelled())
            samples, history = ({"val": task.local(shown, blobs)} if len(shown) else {}), []
            logger.info("epochs=0: the base model is used unchanged")
        lineage = {
            **settings,
            "base_model": shown_model(str(settings["base_model"])),
            "manifest": digest_of(manifest),
            "samples": {split: len(found.manifest) for split, found in samples.items()} if epochs else {},
            "experiment_labels": dict(parse_labels(experiment_labels)),
        }
        bundle = _save(model, output, parse_image_size(image_size), confidence_threshold, nms_threshold, lineage)
        check_classes(bundle, manifest)
        model.load(output)  # what is shown is what was saved
        sections = report(history, bundle, model, samples.get("val"))
        if round_number is None:  # else a later step may fail, and the round, which removes them, is run again
            checkpoints.clear()
    return Trained(bundle, history, sections)


def train_along(manifest: Manifest, folder: Path, *, job_root: str, round_number: int | None, **training: Any) -> None:
    """Train one model together with the process that called :func:`train`, which alone keeps what comes of it.

    Args:
        manifest: as :func:`train` takes it, like all others.
        folder: empty, for the files of this process.
        job_root: the job's store.
        round_number: of the round; None outside of rounds.
        training: what else it takes.
    """
    plugins.load(training.get("plugin_modules", ""))
    settings = deciding_settings(job_root, **training)
    model = estimators.get(settings["estimator"])()
    task, blobs = open_task(model.task), cache_folder(job_root) / "blobs"
    samples = {split: _local(manifest, split, blobs, task) for split in ("train", "val")}
    checkpoints = Checkpoints(open_store(job_root), training_key(manifest, settings, round_number))
    checkpoint = checkpoints.restore(folder)
    if checkpoint and checkpoint.finished:
        return
    if not checkpoint:
        model.load(_local_base(settings["base_model"], folder, job_root))
    resume = checkpoint.last if checkpoint else None
    device, workers = training.get("device", "auto"), training.get("workers", 0)
    _run(model, samples, folder, settings, device, workers, lambda epoch: None, resume)


class Progress:
    """Follows a training: keeps its history, says where it is, and puts checkpoints in the store."""

    def __init__(
        self, task: Task[Any, Any], epochs: int, history: list[dict[str, float]], checkpoints: Checkpoints
    ) -> None:
        self._task = task
        self._epochs = epochs
        self._history = history
        self._checkpoints = checkpoints
        self._began = time.monotonic()
        self._done_before = len(history)
        self.best: Path | None = None

    def __call__(self, epoch: Epoch) -> None:
        """Take note of one epoch."""
        self._history.append({"epoch": float(epoch.number), **epoch.values})
        self._checkpoints.save(epoch, self._history)
        self.best = epoch.best
        shown = {name: value for name, value in epoch.values.items() if _is_loss(name) or _is_score(name, self._task)}
        figures = "  ".join(f"{_short(name)} {value:.3f}" for name, value in shown.items())
        each = (time.monotonic() - self._began) / (len(self._history) - self._done_before)
        left = 0 if epoch.finished else (self._epochs - epoch.number) * each
        logger.info("epoch %d/%d  %s  %.1f s/epoch, %d s left", epoch.number, self._epochs, figures, each, left)


def check_classes(bundle: Bundle, manifest: Manifest) -> None:
    """Check that a model and the samples that it will be evaluated on speak of the same classes, in whatever order.

    Raises:
        InputError: the samples have no labels of a class of the model.
    """
    advice = "rename the data's classes, as in classes=hat:helmet, or give another base_model"
    manifest.class_numbers(bundle.classes, "the base model", advice)
    unknown = [name for name in manifest.classes if name not in bundle.classes]
    if unknown:
        logger.warning("the model has no class %s: its labels in the test samples count as missed", ", ".join(unknown))


def training_key(manifest: Manifest, settings: Mapping[str, Any], round_number: int | None = None) -> str:
    """Its round, and a digest of all that decides what a training comes to; equal keys may share checkpoints."""
    base = str(settings.get("base_model", "")).rpartition("#sha256=")[2]  # wherever it lies: a signature may be another
    known = json.dumps({**settings, "base_model": base}, sort_keys=True)
    key = hashlib.sha256(f"{digest_of(manifest)} {known}".encode()).hexdigest()[:16]
    return key if round_number is None else f"r{round_number:04d}-{key}"


def digest_of(manifest: Manifest) -> str:
    """A digest of what a manifest says of its samples, wherever their images lie."""
    rows = json.dumps(
        [
            [
                *(r["id"], r["split"], r["annotations"]),
                *([PurePosixPath(r["mask"]).name] if r["mask"] else []),
                *([{"unlabelled_classes": r["unlabelled_classes"]}] if r["unlabelled_classes"] else []),
            ]
            for r in manifest.table.sort("id").iter_rows(named=True)
        ]
    )
    return hashlib.sha256(f"{list(manifest.classes)} {rows}".encode()).hexdigest()


def report(
    history: Sequence[Mapping[str, float]], bundle: Bundle, model: Estimator[Any], val: LocalSamples | None
) -> list[reports.Section]:
    """Curves of the training, and what the model sees on some images of the validation split, if there are any."""
    task = open_task(model.task)
    body = reports.facts(
        {
            "base model": str(bundle.lineage["base_model"]),
            "epochs trained": len(history),
            "image size": f"{bundle.image_size[0]} x {bundle.image_size[1]}",
            "training samples": bundle.lineage["samples"].get("train", 0),  # type: ignore[union-attr]
            **dict(bundle.lineage["experiment_labels"].items()),  # type: ignore[union-attr]
        }
    )
    if history:
        curves = _curves(history, task)
        body += reports.figure(curves, "Losses on the training split; metrics on the validation split.")
    else:
        body += reports.note("Nothing was trained: the base model is used unchanged (epochs=0).")
    if val is None:
        return [reports.Section("Training", body)]
    shown = val.manifest.table.sort("id").head(SHOWN_PREDICTIONS)["id"].to_list()
    paths = dict(zip(val.manifest.table["id"], val.paths, strict=True))
    images = [read_image(paths[identity]) for identity in shown]
    found = model.predict(images, confidence_threshold=bundle.confidence_threshold, nms_threshold=bundle.nms_threshold)
    drawn = [task.drawn(image, one, bundle.classes) for image, one in zip(images, found, strict=True)]
    return [
        reports.Section("Training", body),
        reports.Section("Predictions on validation images", task.legend(bundle.classes) + reports.images(drawn)),
    ]


def _local(manifest: Manifest, split: str, folder: Path, task: Task[Any, Any]) -> LocalSamples:
    """The samples of a split with labels for the task, on this machine."""
    labelled = manifest.split(split).labelled()
    if not len(labelled):
        raise InputError(f"the manifest has no labelled samples in split {split!r}: run prepare first")
    samples = task.labelled(labelled)
    if not len(samples):
        fitting = ", ".join(name for name, kind in estimators.items() if len(open_task(kind.task).labelled(labelled)))
        raise InputError(
            f"the labelled samples in split {split!r} have no {task.labels}, which {task.name} learns from: "
            f"label them, or choose an estimator that fits these labels: {fitting or 'none'}"
        )
    return task.local(samples, folder)


def _fit(
    model: Estimator[Any],
    samples: Mapping[str, LocalSamples],
    folder: Path,
    checkpoints: Checkpoints,
    settings: Mapping[str, Any],
    device: str,
    workers: int,
    job_root: str,
) -> list[dict[str, float]]:
    """Train, or go on with what an earlier run began; ``model`` then has the best weights.

    Returns:
        The figures of each epoch.
    """
    checkpoint = checkpoints.restore(folder)
    history = checkpoint.history if checkpoint else []
    progress = Progress(open_task(model.task), settings["epochs"], history, checkpoints)
    if checkpoint and checkpoint.finished:
        logger.info("an earlier run finished training after epoch %d: using its checkpoint", len(history))
        model.load(checkpoint.best)
        return history
    if checkpoint:
        logger.info("resuming after epoch %d of an earlier run", len(history))
    else:
        model.load(_local_base(settings["base_model"], folder, job_root))
    sizes = {split: len(found.manifest) for split, found in samples.items()}
    logger.info("training on %d samples, validating on %d", sizes["train"], sizes["val"])
    _run(model, samples, folder, settings, device, workers, progress, checkpoint.last if checkpoint else None)
    if progress.best is None:
        raise RuntimeError("training ended without a finished epoch")
    model.load(progress.best)
    return history


def _run(
    model: Estimator[Any],
    samples: Mapping[str, LocalSamples],
    folder: Path,
    settings: Mapping[str, Any],
    device: str,
    workers: int,
    on_epoch: Callable[[Epoch], None],
    resume: Path | None,
) -> None:
    model.train(
        samples["train"],
        samples["val"],
        folder=folder,
        epochs=settings["epochs"],
        image_size=parse_image_size(settings["image_size"]),
        batch=settings["batch"],
        patience=settings["patience"],
        device=device,
        workers=workers,
        seed=settings["seed"],
        options=settings["estimator_options"],
        on_epoch=on_epoch,
        resume=resume,
    )


CHAMPION, CANDIDATE = "champion", "candidate"
_DECIDING = ("estimator", "epochs", "image_size", "batch", "patience", "seed")


def deciding_settings(job_root: str, **training: Any) -> dict[str, Any]:
    """Those arguments of :func:`train` that decide what it comes to, the base model by its version."""
    base = _resolved(training["base_model"], training.get("initial_model", ""), job_root)
    return {
        **{name: training[name] for name in _DECIDING},
        "base_model": base,
        "estimator_options": dict(training.get("estimator_options") or {}),
        **(training.get("about") or {}),  # two tasks with the same samples are trained at the same time
    }


def _resolved(base_model: str, initial_model: str, job_root: str) -> str:
    """A base model of the job with its version for its name, so that another champion is another training."""
    if base_model not in (CHAMPION, CANDIDATE):
        return base_model
    state, _ = Job.open(job_root).read()
    version = state.candidate if base_model == CANDIDATE else state.champion
    if version and version not in state.vouched:
        raise InputError(
            f"base_model={base_model}: the job's state has no digest of {version}, so its weights are not "
            "loaded: give the weights as a path, or as a URL that ends in #sha256=<digest>"
        )
    return f"{base_model}:{version}" if version else initial_model


def _of_elsewhere(base_model: str) -> str:
    """A base model as it was given; empty for one of the job's own."""
    return "" if base_model.startswith((f"{CHAMPION}:", f"{CANDIDATE}:")) else base_model


def _local_base(base_model: str, folder: Path, job_root: str) -> str:
    """The base model as a local name; one from elsewhere is fetched and compared with its digest."""
    if not _of_elsewhere(base_model):
        version, _, member = base_model.partition(":")[2].partition(":")
        Job.open(job_root).fetch_bundle(version, folder / "base", member=member or MODEL)
        return str(folder / "base")
    url, _, digest = base_model.partition("#sha256=")
    if not digest:
        if "://" in base_model:  # the libraries would fetch it themselves, and unpickle whatever comes
            raise InputError(
                f"base_model={shown_model(base_model)}: a remote model needs a checksum: append #sha256=<64 hex digits>"
            )
        return base_model
    path = folder / f"base{Path(urlsplit(url).path).suffix}"
    fetch(url, path, sha256=digest)
    return str(path)


def _save(
    model: Estimator[Any],
    output: Path,
    image_size: tuple[int, int],
    confidence_threshold: float,
    nms_threshold: float,
    lineage: dict[str, Any],
) -> Bundle:
    """Write the bundle under another name first, so that half of one is never taken for a model."""
    partial = output.with_name(f"{output.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        bundle = model.save(
            partial,
            image_size=image_size,
            confidence_threshold=confidence_threshold,
            nms_threshold=nms_threshold,
            lineage=lineage,
        )
        partial.replace(output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return bundle


@contextmanager
def _only_one(folder: Path) -> Iterator[Path]:
    """A folder for one training, removed when it succeeded; two runs cannot train the same at the same time.

    What runs that were killed left beside it is removed: nobody needs it, since a training resumes from the store.

    Raises:
        LostRaceError: another run is at it.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(folder) as ours:
        if not ours:
            raise LostRaceError(
                f"another run is training the same model on the same samples, in {folder}: "
                "wait for it, or stop it and run this again"
            )
        for other in [path for path in folder.parent.iterdir() if path.is_dir() and path != folder]:
            with _locked(other) as abandoned:
                if abandoned:
                    _remove(other)
        folder.mkdir(exist_ok=True)
        yield folder
        _remove(folder)


@contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """The lock of a training's folder; False if another process has it."""
    path = _lock_of(folder)
    while True:
        with path.open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            if path.exists() and os.path.samestat(os.fstat(lock.fileno()), path.stat()):
                yield True
                return
            # Who had it before has removed it meanwhile: another process may lock a new one.


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    _lock_of(folder).unlink(missing_ok=True)


def _lock_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.lock")


def _curves(history: Sequence[Mapping[str, float]], task: Task[Any, Any]) -> Any:
    figure = reports.new_figure(8.4, 2.9)
    losses, scores = figure.subplots(1, 2)
    for axes, wanted in ((losses, _is_loss), (scores, functools.partial(_is_score, task=task))):
        for name in filter(wanted, history[0]):
            axes.plot([e["epoch"] for e in history], [e.get(name) for e in history], label=_short(name), marker=".")
        axes.set_xlabel("epoch")
        if axes.lines:
            axes.legend(frameon=False)
    scores.set_ylim(0, 1)
    return figure


def _is_loss(name: str) -> bool:
    return name.startswith("train/")


def _is_score(name: str, task: Task[Any, Any]) -> bool:
    """Whether an epoch's figure is one that models of this kind are compared by, such as ``metrics/mAP50(B)``."""
    return name.startswith("metrics/") and any(title in name for title in task.figures.overall.values())


def _short(name: str) -> str:
    return name.rsplit("/", 1)[-1].replace("(B)", "").replace("_loss", "")
