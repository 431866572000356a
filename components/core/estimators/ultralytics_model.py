"""What all models on ultralytics share: options, loading, training that can be taken up again, export and saving.

The library is imported by ``ultralytics_offline``, which keeps it from contacting anybody.
"""

from __future__ import annotations

import copy
import difflib
import logging
import math
import os
import re
import shutil
import types
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import yaml

from components.core.bundle import Bundle
from components.core.errors import InputError
from components.core.estimators.base import Epoch, Estimator
from components.core.estimators.device import checked_device
from components.core.estimators.onnx_export import export
from components.core.estimators.ultralytics_offline import ultralytics_offline
from components.core.heads import SemanticHead, SplitHead
from components.core.progress import Progress
from components.core.tasks.base import LocalSamples

logger = logging.getLogger(__name__)

PROGRESS_SECONDS = 20.0  # how often a long epoch says where it is
ONNX_TOLERANCE = 1e-3

Found = TypeVar("Found")

# Settings that are parameters of the pipeline, or whose change would break a promise made here.
_OWNED = {
    "model": "base_model",
    "data": "data_url",
    "epochs": "epochs",
    "imgsz": "image_size",
    "batch": "batch",
    "patience": "patience",
    "device": "device",
    "workers": "workers",
    "seed": "seed",
    "single_cls": "classes, as in classes=hat:object,person:object",  # which it would call "item"
    **dict.fromkeys(("project", "name", "save_dir", "exist_ok", "resume", "save", "val", "plots", "mode", "task"), ""),
    "cfg": "",  # a file of settings, of which no check and no checkpoint would know
}


class UltralyticsModel(Estimator[Found]):
    """A model of one of ultralytics' tasks.

    Attributes:
        kind: ultralytics' name of the task.
        name: as it is registered here.
    """

    kind: ClassVar[str]
    name: ClassVar[str]

    def __init__(self) -> None:
        self._model: Any = None
        self._base: Base | None = None
        self._image_size = (640, 640)

    @abstractmethod
    def _refuse(self, head: Any) -> str:
        """Why a network that ends in this head is none for this estimator; empty if it is."""

    @abstractmethod
    def _lay_out(self, folder: Path, train: LocalSamples, val: LocalSamples) -> Path:
        """Lay samples out as ultralytics wants them, and return the path of ``data.yaml``."""

    @abstractmethod
    def _export(self, network: Any, path: Path, image_size: tuple[int, int]) -> tuple[str, ...]:
        """Write a network, which may be changed, as ONNX, and return the names of its outputs."""

    @abstractmethod
    def _head(self) -> SplitHead | SemanticHead:
        """What the outputs mean."""

    def _trainer(self, train: LocalSamples, val: LocalSamples) -> Any:
        """What trains; None for ultralytics' own trainer of the task."""
        return None

    def check(self, base_model: str, options: Mapping[str, Any]) -> list[str]:
        """Check the options, and that the base model is there and of a kind that can be loaded."""
        found = []
        try:
            check_options(options)
        except InputError as error:
            found.append(str(error))
        try:
            if base_model:
                _check_base(base_model, Path(base_model))
        except InputError as error:
            found.append(str(error))
        return found

    def load(self, model: Path | str) -> None:
        """Load ``.pt`` weights, a bundle, or a model YAML, which stands for an untrained model.

        A YAML may be a file or the name of an architecture that ultralytics brings along, such as ``yolo11n.yaml``.
        """
        path = Path(model)
        if path.is_dir():
            bundle = Bundle.read(path)
            self._image_size = bundle.image_size
            path /= "model.pt"
        self._model = self._open(str(model), path)
        untrained = path.suffix in (".yaml", ".yml")
        self._base = None if untrained else Base(_state(self._model.model), _class_names(self._model.names))

    def train(
        self,
        train: LocalSamples,
        val: LocalSamples,
        *,
        folder: Path,
        epochs: int,
        image_size: tuple[int, int],
        batch: int,
        patience: int,
        device: str,
        workers: int,
        seed: int,
        options: Mapping[str, Any],
        on_epoch: Callable[[Epoch], None],
        resume: Path | None = None,
    ) -> None:
        """Train with ultralytics; see the contract. Images are trained square, with the longer side."""
        check_options(options)
        gpu = None if device == "auto" else _one_device(device)
        self._image_size = image_size
        data = self._lay_out(folder, train, val)
        if resume:
            self._model = self._open(str(resume), resume)
            _bring_best(resume.with_name("best.pt"), folder / "run" / "weights" / "best.pt")
        follower = _Follower(epochs, on_epoch, None if resume else self._base)
        for event in ("on_train_start", "on_train_epoch_start", "on_train_batch_end", "on_model_save"):
            self._model.add_callback(event, getattr(follower, event))
        settings = {
            "data": str(data),
            "epochs": epochs,
            "imgsz": max(image_size),
            "batch": batch,
            "patience": patience,
            "device": gpu,
            "workers": workers,
            "seed": seed,
            "project": str(folder),
            "name": "run",
            "exist_ok": True,
            "plots": False,
            "verbose": False,
            **options,
        }
        trainer = self._trainer(train, val)
        self._model.train(
            trainer=trainer, **settings, **({"resume": True, "save_dir": str(folder / "run")} if resume else {})
        )

    def save(
        self,
        folder: Path,
        *,
        image_size: tuple[int, int],
        confidence_threshold: float,
        nms_threshold: float,
        lineage: dict[str, Any],
    ) -> Bundle:
        """Write ``model.pt``, ``model.onnx`` and ``model.json``; see the contract."""
        folder.mkdir(parents=True, exist_ok=True)
        trained_at = self._model.overrides.get("imgsz", max(image_size))
        if trained_at != max(image_size):
            logger.warning("the model was trained at %s pixels and is exported at %s", trained_at, max(image_size))
        self._image_size = image_size
        network = copy.deepcopy(self._model.model).float().cpu().eval()
        outputs = self._export(network, folder / "model.onnx", image_size)
        if self._model.ckpt:  # that of an epoch has the optimiser's state, which is larger than the weights
            self._model.ckpt["optimizer"] = None
        self._model.save(str(folder / "model.pt"))
        return Bundle(
            classes=tuple(_class_names(self._model.names)),
            image_size=image_size,
            estimator=self.name,
            task=self.task,
            head=self._head(),
            outputs=outputs,
            confidence_threshold=confidence_threshold,
            nms_threshold=nms_threshold,
            lineage={
                **lineage,
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
                "libraries": {name: version(name) for name in ("ultralytics", "torch", "onnx")},
            },
        ).write(folder)

    def _open(self, given: str, path: Path) -> Any:
        _check_base(given, path)
        try:
            model = ultralytics_offline().YOLO(str(path), task=self.kind)
        except Exception as error:
            raise InputError(f"base_model={given}: ultralytics cannot read this model ({error})") from error
        model.model = _student(model.model)
        wrong = self._refuse(model.model.model[-1])
        if wrong:
            raise InputError(f"base_model={given}: a {model.task} model {wrong}")
        return model


def check_options(options: Mapping[str, Any]) -> None:
    """Check that every option is a training setting of ultralytics that is ours to pass on, and of a value it takes.

    Raises:
        InputError: lists every wrong one.
    """
    known = ultralytics_offline().cfg.DEFAULT_CFG_DICT
    wrong = []
    for name in options:
        if name in _OWNED:
            wrong.append(f"{name} is set by {_OWNED[name] or 'the pipeline'}")
        elif name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            wrong.append(f"{name} is not a training setting of ultralytics" + (f", {close[0]} is" if close else ""))
        else:
            try:
                ultralytics_offline().cfg.check_cfg({name: options[name]})
            except (TypeError, ValueError) as error:
                wrong.append(" ".join(str(error).split()))
    if "lr0" in options and str(options.get("optimizer", "auto")).lower() == "auto":
        wrong.append("lr0 has no effect while ultralytics chooses the optimizer: give one, too, such as AdamW or SGD")
    if wrong:
        raise InputError(f"estimator_options: {'; '.join(wrong)}")


def lay_out_files(
    folder: Path,
    train: LocalSamples,
    val: LocalSamples,
    labels: str,
    label: Callable[[LocalSamples, Path], None],
    **settings: str,
) -> Path:
    """Lay samples out as ultralytics wants them: ``images/<split>``, ``<labels>/<split>``, ``data.yaml``.

    Images are hard links to the cache (symbolic links where the file system has no others), never copies.
    Ultralytics replaces a JPEG with trailing bytes by a repaired one, but by renaming, so the blob stays as it is.

    Args:
        folder: gets them; what an earlier run left there is removed.
        train: to fit to.
        val: to choose the epoch by.
        labels: name of the folder beside ``images``.
        label: puts the labels of samples into a folder, named as their images, by id.
        settings: more lines of ``data.yaml``.

    Returns:
        Path of ``data.yaml``.
    """
    for split, samples in (("train", train), ("val", val)):
        images, labelled = folder / "images" / split, folder / labels / split
        for old in (images, labelled, *(parent.with_suffix(".cache") for parent in (images, labelled))):
            shutil.rmtree(old) if old.is_dir() else old.unlink(missing_ok=True)
        images.mkdir(parents=True)
        labelled.mkdir(parents=True)
        for identity, path in zip(samples.manifest.table["id"], samples.paths, strict=True):
            link(path, images / f"{identity}{path.suffix}")
        label(samples, labelled)
    data = folder / "data.yaml"
    names = dict(enumerate(train.manifest.classes))
    places = {"path": str(folder.resolve()), "train": "images/train", "val": "images/val"}
    data.write_text(yaml.safe_dump({**places, **settings, "names": names}))
    return data


def link(source: Path, target: Path) -> None:
    """Make a second name for a file: a hard link, or a symbolic one across file systems."""
    try:
        os.link(source, target)
    except OSError:
        target.symlink_to(source.resolve())


def export_onnx(
    network: Any, forward: Callable[..., Any], path: Path, image_size: tuple[int, int], outputs: Sequence[str]
) -> None:
    """Export a network that ends in other outputs than its own, and hold the file against it.

    Args:
        network: ultralytics' model in eval mode; it is changed.
        forward: takes the place of its last layer's own.
        path: the ONNX file; input ``images`` (1, 3, height, width) float32 RGB 0..1.
        image_size: height and width in pixels.
        outputs: names of what ``forward`` gives.
    """
    network.fuse(verbose=False)
    head = network.model[-1]
    head.forward = types.MethodType(forward, head)
    expected, found = export(network, path, image_size, outputs)
    error = max(float(np.abs(one - other).max()) for one, other in zip(found, expected, strict=True))
    if not error <= ONNX_TOLERANCE:  # NaN too
        raise RuntimeError(
            f"the exported ONNX differs from the trained model by {error:g} (tolerance {ONNX_TOLERANCE:g})"
        )


def _one_device(name: str) -> str:
    """A device to train on, as :func:`components.core.estimators.device.checked_device` gives it.

    Raises:
        InputError: several GPUs, or one that is not here.
    """
    if "," in name:
        raise InputError(
            f"device={name}: on several GPUs ultralytics trains in processes of its own, from which no checkpoint "
            "comes back: give one of them"
        )
    return checked_device(name)


def _bring_best(best: Path, target: Path) -> None:
    """Put the best weights so far where ultralytics has them; it writes them again only when an epoch is better."""
    if best.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(best, target)


class _Follower:
    """Listens to an ultralytics trainer: checks that the base was loaded, tells progress, hands epochs on."""

    def __init__(self, epochs: int, on_epoch: Callable[[Epoch], None], base: Base | None) -> None:
        self._epochs = epochs
        self._on_epoch = on_epoch
        self._base = base
        self._progress: Progress | None = None

    def on_train_start(self, trainer: Any) -> None:
        if self._base is not None:
            network = _student(ultralytics_offline().utils.torch_utils.unwrap_model(trainer.model))  # of a compiled one
            check_base_loaded(self._base, Base(_state(network), _class_names(trainer.data["names"])))
            self._base = None

    def on_train_epoch_start(self, trainer: Any) -> None:
        text = f"epoch {trainer.epoch + 1}/{self._epochs}: {{done}} of {{total}} batches"
        self._progress = Progress(logger, text, len(trainer.train_loader), seconds=PROGRESS_SECONDS)

    def on_train_batch_end(self, _: Any) -> None:
        if self._progress is not None:
            self._progress.advance()

    def on_model_save(self, trainer: Any) -> None:
        values = {**trainer.label_loss_items(trainer.tloss), **trainer.metrics}
        self._on_epoch(
            Epoch(
                number=trainer.epoch + 1,
                values={name: float(value) for name, value in values.items() if math.isfinite(float(value))},
                last=Path(trainer.last),
                best=Path(trainer.best),
                finished=bool(trainer.stop),
            )
        )


@dataclass(frozen=True)
class Base:
    """The weights of a model and what its classes are called.

    Attributes:
        weights: tensors by name.
        names: of its classes, in the order of its outputs.
    """

    weights: Mapping[str, Any]
    names: Sequence[str]


def check_base_loaded(base: Base, trained: Base) -> None:
    """Check that a model about to be trained carries the weights of its base.

    Every tensor that has the same name and shape in both must be equal, and these must make up at least half of the
    model. Outputs by class may have moved: where the classes are in another order, or more, or others, ultralytics
    brings the output of each class to its new place by name, and the outputs of new classes are new.

    Raises:
        InputError: the base model was not really loaded.
    """
    import torch

    moved = _moved(base.names, trained.names)
    expected = equal = 0
    for name in trained.weights.keys() & base.weights.keys():
        before, after = base.weights[name], trained.weights[name]
        by_class = after.ndim > 0 and (len(before), len(after)) == (len(base.names), len(trained.names))
        if before.shape != after.shape and not (moved and by_class and before.shape[1:] == after.shape[1:]):
            continue
        if moved and by_class and not torch.equal(before, after):
            before, after = before[[old for old, _ in moved]], after[[new for _, new in moved]]
        expected += after.numel()
        equal += after.numel() if torch.equal(before, after) else 0
    total = sum(tensor.numel() for tensor in trained.weights.values())
    if equal < expected or equal < total / 2:
        raise InputError(
            f"the base model was not loaded: {equal / total:.0%} of the weights to be trained are the base's; "
            "give a base_model of the same architecture"
        )


def _moved(before: Sequence[str], after: Sequence[str]) -> list[tuple[int, int]]:
    """Old and new place of each class that both models have; none where they have the same classes or no one alike."""
    places = {name.strip().lower(): place for place, name in enumerate(before)}  # as ultralytics compares names
    new = [name.strip().lower() for name in after]
    return [] if list(places) == new else [(places[name], place) for place, name in enumerate(new) if name in places]


def _student(network: Any) -> Any:
    """The network that learns, where it learns from another one (``distill_model``) and is wrapped together with it."""
    return getattr(network, "student_model", network)


def _class_names(names: Mapping[int, str]) -> list[str]:
    return [str(names[index]) for index in range(len(names))]


def _state(network: Any) -> dict[str, Any]:
    """A copy of the weights, float32 on the CPU, without counters that change by themselves."""
    return {
        name: tensor.detach().float().cpu().clone()
        for name, tensor in network.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }


def _check_base(given: str, path: Path) -> None:
    if "://" in given or path.is_dir():
        return  # fetched, or a bundle with a check of its own
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file() and not _is_shipped_architecture(path.name):
            raise InputError(f"base_model={given}: neither a file nor an architecture known to ultralytics")
    elif path.suffix != ".pt":
        raise InputError(f"base_model={given}: expected .pt weights, a bundle folder or a model .yaml")
    elif not path.is_file():
        raise InputError(
            f"base_model={given}: no such file, and models are not downloaded by name: give a path, a URL that ends in "
            "#sha256=<digest>, or a model YAML such as yolo11n.yaml, which trains from scratch"
        )


def _is_shipped_architecture(name: str) -> bool:
    from ultralytics.utils.checks import check_yaml

    try:
        return bool(check_yaml(name, hard=False)) or bool(_unscaled(name) and check_yaml(_unscaled(name), hard=False))
    except Exception:
        return False


def _unscaled(name: str) -> str:
    """``yolo11n.yaml`` is the file ``yolo11.yaml`` at scale n, ``yolo26n-sem.yaml`` is ``yolo26-sem.yaml``."""
    return re.sub(r"(\d)[nslmx](-\w+)?(\.ya?ml)$", r"\1\2\3", name)
