"""YOLO detectors on ultralytics: YOLOv8, YOLO11, YOLO26 and whatever else ends in its ``Detect`` head.

The library is imported by ``ultralytics_offline``, which keeps it from contacting anybody.
"""

from __future__ import annotations

import copy
import difflib
import logging
import math
import os
import shutil
import time
import types
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from components.core.bundle import Bundle, Head
from components.core.detections import Detections
from components.core.errors import InputError
from components.core.estimators.base import Epoch, Estimator, LocalSamples, estimators
from components.core.estimators.device import checked_device
from components.core.estimators.ultralytics_offline import ultralytics_offline

logger = logging.getLogger(__name__)

ONNX_OPSET = 19  # the newest that rknn-toolkit2 2.5.0 reads
PROGRESS_SECONDS = 20.0  # how often a long epoch says where it is
ONNX_TOLERANCE = 1e-3

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
    **dict.fromkeys(("project", "name", "save_dir", "exist_ok", "resume", "save", "val", "plots", "mode", "task"), ""),
}


@estimators.register("yolo")
class Yolo(Estimator):
    """A YOLO detector."""

    def __init__(self) -> None:
        self._model: Any = None
        self._base_digest: dict[str, Any] | None = None
        self._image_size = (640, 640)

    def check(self, base_model: str, options: Mapping[str, Any]) -> list[str]:
        """Check the names of the options, and that the base model is there and of a kind that can be loaded."""
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
        self._model = _open_model(str(model), path)
        self._base_digest = None if path.suffix in (".yaml", ".yml") else _state(self._model.model)

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
        """Train with ultralytics; see the contract. Pictures are trained square, with the longer side."""
        check_options(options)
        self._image_size = image_size
        data = lay_out(folder, train, val)
        if resume:
            self._model = _open_model(str(resume), resume)
            _bring_best(resume.with_name("best.pt"), folder / "run" / "weights" / "best.pt")
        follower = _Follower(epochs, on_epoch, None if resume else self._base_digest)
        for event in ("on_train_start", "on_train_epoch_start", "on_train_batch_end", "on_model_save"):
            self._model.add_callback(event, getattr(follower, event))
        settings = {
            "data": str(data),
            "epochs": epochs,
            "imgsz": max(image_size),
            "batch": batch,
            "patience": patience,
            "device": None if device == "auto" else checked_device(device),
            "workers": workers,
            "seed": seed,
            "project": str(folder),
            "name": "run",
            "exist_ok": True,
            "plots": False,
            "verbose": False,
            **options,
        }
        self._model.train(**settings, **({"resume": True, "save_dir": str(folder / "run")} if resume else {}))

    def predict(
        self, images: Sequence[NDArray[np.uint8]], *, confidence_threshold: float, nms_threshold: float
    ) -> list[Detections]:
        """Predict with torch; see the contract."""
        if not images:
            return []
        results = self._model.predict(
            [np.ascontiguousarray(image[:, :, ::-1]) for image in images],
            imgsz=self._image_size,
            conf=confidence_threshold,
            iou=nms_threshold,
            rect=False,
            save=False,
            verbose=False,
        )
        return [
            Detections.of(result.boxes.xyxy.cpu(), result.boxes.cls.cpu(), result.boxes.conf.cpu())
            for result in results
        ]

    def save(
        self,
        folder: Path,
        *,
        image_size: tuple[int, int],
        confidence_threshold: float,
        nms_threshold: float,
        lineage: dict[str, Any],
    ) -> Bundle:
        """Write ``model.pt``, ``model.onnx`` with split outputs, and ``model.json``; see the contract."""
        folder.mkdir(parents=True, exist_ok=True)
        self._image_size = image_size
        network = copy.deepcopy(self._model.model).float().cpu().eval()
        outputs = export_split_onnx(network, folder / "model.onnx", image_size)
        self._model.save(str(folder / "model.pt"))
        head = self._model.model.model[-1]
        return Bundle(
            classes=tuple(self._model.names[index] for index in range(len(self._model.names))),
            image_size=image_size,
            estimator="yolo",
            head=Head(
                strides=tuple(int(stride) for stride in head.stride),
                reg_max=int(head.reg_max),
                end_to_end=bool(head.end2end),
            ),
            outputs=outputs,
            confidence_threshold=confidence_threshold,
            nms_threshold=nms_threshold,
            lineage={
                **lineage,
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
                "libraries": {name: version(name) for name in ("ultralytics", "torch", "onnx")},
            },
        ).write(folder)


def check_options(options: Mapping[str, Any]) -> None:
    """Check that every option is a training setting of ultralytics that is ours to pass on.

    Raises:
        InputError: tells every wrong one.
    """
    known = ultralytics_offline().cfg.DEFAULT_CFG_DICT
    wrong = []
    for name in options:
        if name in _OWNED:
            wrong.append(f"{name} is set by {_OWNED[name] or 'the step itself'}")
        elif name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            wrong.append(f"{name} is no training setting of ultralytics" + (f", {close[0]} is" if close else ""))
    if wrong:
        raise InputError(f"estimator_options: {'; '.join(wrong)}")


def lay_out(folder: Path, train: LocalSamples, val: LocalSamples) -> Path:
    """Lay samples out as ultralytics wants them: ``images/<split>``, ``labels/<split>``, ``data.yaml``.

    Pictures are hard links to the cache (symbolic links where the file system has no others), never copies.
    Ultralytics replaces a JPEG with trailing bytes by a repaired one, but by renaming, so the blob stays as it is.

    Returns:
        Path of ``data.yaml``.
    """
    for split, samples in (("train", train), ("val", val)):
        images, labels = folder / "images" / split, folder / "labels" / split
        for old in (images, labels, labels.with_suffix(".cache")):
            shutil.rmtree(old) if old.is_dir() else old.unlink(missing_ok=True)
        images.mkdir(parents=True)
        labels.mkdir(parents=True)
        for row, truth, path in zip(samples.manifest.rows(), samples.manifest.truths(), samples.paths, strict=True):
            link(path, images / f"{row['id']}{path.suffix}")
            (labels / f"{row['id']}.txt").write_text(_label_lines(truth, row["width"], row["height"]))
    data = folder / "data.yaml"
    names = dict(enumerate(train.manifest.classes))
    data.write_text(
        yaml.safe_dump({"path": str(folder.resolve()), "train": "images/train", "val": "images/val", "names": names})
    )
    return data


def link(source: Path, target: Path) -> None:
    """Make a second name for a file: a hard link, or a symbolic one across file systems."""
    try:
        os.link(source, target)
    except OSError:
        target.symlink_to(source.resolve())


def export_split_onnx(network: Any, path: Path, image_size: tuple[int, int]) -> tuple[str, ...]:
    """Export a detection network with one box and one class output per scale.

    Split outputs are what int8 quantisation needs: boxes and scores in one tensor share one scale, which kills the
    scores. ``network`` is changed; pass a copy.

    Args:
        network: ultralytics ``DetectionModel`` in eval mode.
        path: the ONNX file; input ``images`` (1, 3, height, width) float32 RGB 0..1, outputs ``box0``, ``cls0``, ...
            finest scale first: ``box`` (1, 4 * reg_max, h, w) raw, ``cls`` (1, classes, h, w) after the sigmoid.
        image_size: height and width in pixels.

    Returns:
        Names of the outputs.
    """
    import onnxruntime
    import torch

    network.fuse(verbose=False)
    head = network.model[-1]
    head.forward = types.MethodType(_split_forward, head)
    sample = torch.rand(1, 3, *image_size, generator=torch.Generator().manual_seed(0))
    names = [f"{kind}{scale}" for scale in range(head.nl) for kind in ("box", "cls")]
    with torch.no_grad():
        expected = network(sample)
        torch.onnx.export(
            network,
            (sample,),
            str(path),
            opset_version=ONNX_OPSET,
            dynamo=False,
            input_names=["images"],
            output_names=names,
        )
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    actual = session.run(None, {"images": sample.numpy()})
    error = max(float(np.abs(a - e.numpy()).max()) for a, e in zip(actual, expected, strict=True))
    if not error <= ONNX_TOLERANCE:  # NaN too
        raise RuntimeError(
            f"the exported ONNX differs from the trained model by {error:g}, allowed is {ONNX_TOLERANCE:g}"
        )
    return tuple(names)


def _split_forward(head: Any, features: list[Any]) -> tuple[Any, ...]:
    branch = head.one2one if head.end2end else head.one2many
    return tuple(
        output
        for scale, feature in enumerate(features)
        for output in (branch["box_head"][scale](feature), branch["cls_head"][scale](feature).sigmoid())
    )


def _bring_best(best: Path, target: Path) -> None:
    """Put the best weights so far where ultralytics has them; it writes them again only when an epoch is better."""
    if best.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(best, target)


class _Follower:
    """Listens to an ultralytics trainer: checks that the base was loaded, tells progress, hands epochs on."""

    def __init__(self, epochs: int, on_epoch: Callable[[Epoch], None], base: dict[str, Any] | None) -> None:
        self._epochs = epochs
        self._on_epoch = on_epoch
        self._base = base
        self._spoke = time.monotonic()
        self._batch = 0

    def on_train_start(self, trainer: Any) -> None:
        if self._base is not None:
            check_base_loaded(self._base, _state(trainer.model))
            self._base = None

    def on_train_epoch_start(self, trainer: Any) -> None:
        self._batch = 0

    def on_train_batch_end(self, trainer: Any) -> None:
        self._batch += 1
        if time.monotonic() - self._spoke > PROGRESS_SECONDS:
            self._spoke = time.monotonic()
            logger.info(
                "epoch %d/%d: batch %d of %d", trainer.epoch + 1, self._epochs, self._batch, len(trainer.train_loader)
            )

    def on_model_save(self, trainer: Any) -> None:
        self._spoke = time.monotonic()
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


def check_base_loaded(base: Mapping[str, Any], trained: Mapping[str, Any]) -> None:
    """Check that a model about to be trained carries the weights of its base.

    Every tensor that has the same name and shape in both must be equal, and these must make up at least half of the
    model; only the class outputs may differ, when the classes do.

    Raises:
        InputError: the base model was not really loaded.
    """
    import torch

    shared = [name for name, tensor in trained.items() if name in base and base[name].shape == tensor.shape]
    equal = sum(trained[name].numel() for name in shared if torch.equal(base[name], trained[name]))
    total = sum(tensor.numel() for tensor in trained.values())
    if equal < sum(trained[name].numel() for name in shared) or equal < total / 2:
        raise InputError(
            f"the base model was not loaded: {equal / total:.0%} of the weights to be trained are the base's; "
            "give a base_model of the same architecture"
        )


def _state(network: Any) -> dict[str, Any]:
    """A copy of the weights, float32 on the CPU, without counters that change by themselves."""
    return {
        name: tensor.detach().float().cpu().clone()
        for name, tensor in network.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }


def _open_model(given: str, path: Path) -> Any:
    _check_base(given, path)
    try:
        model = ultralytics_offline().YOLO(str(path), task="detect")
    except Exception as error:
        raise InputError(f"base_model={given}: not a model that ultralytics can read ({error})") from error
    if not hasattr(model.model.model[-1], "reg_max"):
        raise InputError(f"base_model={given}: a {model.task} model without a detection head; give a detector")
    return model


def _check_base(given: str, path: Path) -> None:
    if "://" in given or path.is_dir():
        return  # fetched, or a bundle with a check of its own
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file() and not _is_shipped_architecture(path.name):
            raise InputError(f"base_model={given}: neither a file nor an architecture that ultralytics knows")
    elif path.suffix != ".pt":
        raise InputError(f"base_model={given}: expected .pt weights, a bundle folder or a model .yaml")
    elif not path.is_file():
        raise InputError(
            f"base_model={given}: no such file; nothing is downloaded by name: give a path, a URL that ends in "
            "#sha256=<digest>, or a model YAML such as yolo11n.yaml, which trains from nothing"
        )


def _is_shipped_architecture(name: str) -> bool:
    from ultralytics.utils.checks import check_yaml

    try:
        return bool(check_yaml(name, hard=False)) or bool(_unscaled(name) and check_yaml(_unscaled(name), hard=False))
    except Exception:
        return False


def _unscaled(name: str) -> str:
    """``yolo11n.yaml`` is the file ``yolo11.yaml`` at scale n."""
    import re

    return re.sub(r"(\d)[nslmx](\.ya?ml)$", r"\1\2", name)


def _label_lines(truth: Detections, width: int, height: int) -> str:
    """Boxes as ultralytics reads them: class, centre and size as fractions of the picture."""
    x1, y1, x2, y2 = truth.boxes.T / np.array([[width], [height], [width], [height]], dtype=np.float32)
    rows = zip(truth.classes, (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1, strict=True)
    return "".join(f"{c} {x:.6f} {y:.6f} {w:.6f} {h:.6f}\n" for c, x, y, w, h in rows)
