"""Faster R-CNN on a feature pyramid (FPN), from torchvision: two stages, slower than a YOLO.

It takes the place of ianvs' BasicIL-FPN. Nothing is fetched: a model starts from random weights or from a file of this
estimator, which holds tensors and plain values only and is read as such.
"""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked_dataclass

from components.core.bundle import Bundle
from components.core.detections import Detections
from components.core.errors import InputError
from components.core.estimators import peers
from components.core.estimators.base import Epoch, Estimator, estimators
from components.core.estimators.device import torch_device
from components.core.heads import BoxesHead
from components.core.manifest import Manifest
from components.core.progress import Progress
from components.core.runtimes.decode import decode
from components.core.runtimes.detector import on_image
from components.core.runtimes.letterbox import letterbox
from components.core.stores.transfer import landing
from components.core.tasks.base import LocalSamples

if TYPE_CHECKING:  # torch takes seconds to import, and most steps that know this estimator do not train
    from components.core.estimators.faster_rcnn import FasterRcnn

logger = logging.getLogger(__name__)

NAME = "fpn"
ARCHITECTURES = (
    "fasterrcnn_mobilenet_v3_large_320_fpn",  # the lightest; the one for a processor
    "fasterrcnn_mobilenet_v3_large_fpn",
    "fasterrcnn_resnet18_fpn",  # the lightest that finds small objects
    "fasterrcnn_resnet50_fpn",
)
RESNET_SCALES = 5
ANCHOR_SIZES = 32, 64, 128, 256, 512  # torchvision's, for images whose shorter side is 800 pixels
ANCHORS_FOR = 800
FINEST_SCALE = {"mobilenet": 32, "resnet": 4}  # canvas pixels from one cell to the next
LEAST_SIDE = 64  # a smaller canvas leaves one cell of the coarsest scale, and nothing to normalise a batch by
HEAD = BoxesHead()
LAST, BEST = "last-epoch.pt", "best-epoch.pt"
PROGRESS_SECONDS = 20.0  # how often a long epoch says where it is
VALIDATION_CONFIDENCE = 0.25  # the figures of an epoch do not depend on it
VALIDATION_NMS = 0.7
MOST_GRADIENT = 10.0  # norm; one odd batch must not throw the weights away


@checked_dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Options:
    """What ``estimator_options`` may say.

    Attributes:
        lr: rate of learning at its highest, after the warm-up; it falls to a hundredth along a cosine.
        momentum: of stochastic gradient descent.
        weight_decay: of the same.
        warmup_epochs: in which the rate rises from nothing.
        freeze: layers of the backbone, from the first, that stay as they are; for training on from a good model.
        flip: how often an image is mirrored from left to right.
        anchor_sizes: sides in canvas pixels of the boxes that others are measured from; a ResNet takes five. By default
            those of torchvision, as much smaller as the canvas is.
        samples_per_image: proposals of the first stage that the second learns from, in each image; most of the time
            goes there.
        amp: train in mixed precision, bfloat16 and float32; about twice as fast on a processor with AMX or a GPU with
            bfloat16, slower on others.
    """

    lr: Annotated[float, Field(gt=0)] = 0.01
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    warmup_epochs: Annotated[float, Field(ge=0)] = 1.0
    freeze: Annotated[int, Field(ge=0)] = 0
    flip: Annotated[float, Field(ge=0, le=1)] = 0.5
    anchor_sizes: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)] | None = None
    samples_per_image: Annotated[int, Field(ge=1)] = 128
    amp: bool = False


@dataclass(frozen=True)
class Description:
    """What a model is, besides its weights.

    Attributes:
        architecture: one of ``ARCHITECTURES``.
        classes: class names.
        image_size: height and width in pixels that it was trained at.
        anchor_sizes: sides of its anchors, canvas pixels.
    """

    architecture: str
    classes: tuple[str, ...]
    image_size: tuple[int, int]
    anchor_sizes: tuple[float, ...]


@dataclass(frozen=True)
class State:
    """Where a training is, after an epoch; with the weights, last and best, it is all that a resumed one needs.

    Every random choice of an epoch follows from the seed and the epoch's number, so that no generator need be kept.

    Attributes:
        epoch: the last one that is complete.
        score: mAP50-95 of the best epoch.
        best: number of the best epoch.
        optimizer: the optimiser's state.
    """

    epoch: int = 0
    score: float = -1.0
    best: int = 0
    optimizer: dict[str, Any] | None = None

    def after(self, epoch: int, score: float, optimizer: dict[str, Any]) -> State:
        """The state one epoch later."""
        if score > self.score:
            return State(epoch, score, epoch, optimizer)
        return State(epoch, self.score, self.best, optimizer)


@estimators.register(NAME)
class Fpn(Estimator[Detections]):
    """A Faster R-CNN detector on a feature pyramid."""

    distributed = True
    conversion_problem = HEAD.conversion_problem

    def __init__(self) -> None:
        self._architecture = ""
        self._description: Description | None = None
        self._network: FasterRcnn | None = None

    def check(self, base_model: str, options: Mapping[str, Any]) -> list[str]:
        """Check the options, and that the base model is there and of a kind that can be loaded."""
        found = []
        checks: list[Callable[[], object]] = [lambda: read_options(options, base_model)]
        if base_model:
            checks.append(lambda: _check_base(base_model))
        for check in checks:
            try:
                check()
            except InputError as error:
                found.append(str(error))
        return found

    def load(self, model: Path | str) -> None:
        """Load a file or bundle of this estimator, or take the name of an architecture, which stands for no weights."""
        _check_base(str(model))
        self._description = self._network = None
        self._architecture = str(model)
        if str(model) not in ARCHITECTURES:
            path = Path(model)
            if path.is_dir():
                path = Bundle.read(path).file(path, "model.pt")
            self._take(read_model(path), str(model))

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
        """Train with stochastic gradient descent; see the contract."""
        import torch

        chosen = read_options(options, self._architecture)
        _check_training(val, image_size)
        target = peers.own_device(torch_device(device))
        if resume:
            content = read_model(resume)
            self._take(content, str(resume))
            state = State(**content["training"])
            shutil.copyfile(resume.with_name("best.pt"), folder / BEST)
        else:
            state = State()
            self._begin(train.manifest.classes, image_size, chosen.anchor_sizes, seed)
        self._warn_of_small_objects(train.manifest, image_size)
        network = self._ready().to(target)
        network.freeze(chosen.freeze)
        network.learn_from(chosen.samples_per_image)
        if chosen.amp:
            network.to(memory_format=torch.channels_last)  # the layout that convolutions in bfloat16 are fast in
        optimizer = torch.optim.SGD(
            [weight for weight in network.parameters() if weight.requires_grad],
            lr=chosen.lr, momentum=chosen.momentum, weight_decay=chosen.weight_decay,
        )  # fmt: skip
        if state.optimizer:
            optimizer.load_state_dict(state.optimizer)
        with peers.joined(target):
            peers.same_weights(network)
            for number in range(state.epoch + 1, epochs + 1):
                losses = self._fit(train, optimizer, chosen, number, epochs, batch, workers, seed)
                finished = number == epochs
                if peers.rank() == 0:
                    with _mixed_precision(target, chosen.amp):
                        metrics = self._measured(val)
                    state = state.after(number, metrics["map50_95"], optimizer.state_dict())
                    finished = finished or 0 < patience <= number - state.best
                    last, best = self._write_checkpoints(folder, state)
                    scores = {"metrics/mAP50(B)": metrics["map50"], "metrics/mAP50-95(B)": metrics["map50_95"]}
                    on_epoch(Epoch(number, {**losses, **scores}, last, best, finished))
                if peers.told_by_first(finished):
                    break

    def predict(
        self, images: Sequence[NDArray[np.uint8]], *, confidence_threshold: float, nms_threshold: float
    ) -> list[Detections]:
        """Predict with torch; see the contract."""
        import torch

        network = self._ready().eval()
        weight = next(network.parameters())
        found = []
        for image in images:
            canvas, placement = letterbox(image, self._described().image_size)
            pixels = torch.from_numpy(np.ascontiguousarray(canvas.transpose(2, 0, 1))[None])
            with torch.no_grad():
                outputs = [output.cpu().numpy() for output in network(pixels.to(weight) / 255)]
            boxes = decode(outputs, HEAD, confidence=confidence_threshold, nms=nms_threshold)
            found.append(on_image(boxes, placement))
        return found

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
        from components.core.estimators.faster_rcnn import export_onnx

        folder.mkdir(parents=True, exist_ok=True)
        self._description = replace(self._described(), image_size=image_size)
        self._network = self._ready().cpu().eval()
        outputs = export_onnx(self._network, folder / "model.onnx", image_size)
        self._write(folder / "model.pt")
        return Bundle(
            classes=self._description.classes,
            image_size=image_size,
            estimator=NAME,
            head=HEAD,
            outputs=outputs,
            confidence_threshold=confidence_threshold,
            nms_threshold=nms_threshold,
            lineage={
                **lineage,
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
                "libraries": {name: version(name) for name in ("torchvision", "torch", "onnx")},
            },
        ).write(folder)

    def _measured(self, val: LocalSamples) -> dict[str, float]:
        measured = self.evaluate(val, confidence_threshold=VALIDATION_CONFIDENCE, nms_threshold=VALIDATION_NMS)
        return measured.as_flat()

    def _begin(
        self, classes: tuple[str, ...], image_size: tuple[int, int], anchor_sizes: tuple[float, ...] | None, seed: int
    ) -> None:
        """Make what was loaded ready for training on these classes."""
        import torch

        from components.core.estimators.faster_rcnn import FasterRcnn

        torch.manual_seed(seed)
        if self._description is None or self._network is None:
            sizes = anchor_sizes or default_anchor_sizes(image_size)
            self._description = Description(self._architecture, classes, image_size, sizes)
            self._network = FasterRcnn(self._architecture, len(classes), sizes)
            return
        if anchor_sizes and anchor_sizes != self._description.anchor_sizes:
            raise InputError(
                f"estimator_options: anchor_sizes={list(anchor_sizes)}, but the base model has "
                f"{list(self._description.anchor_sizes)}, which its weights require: leave the option out"
            )
        before = self._description.classes
        if classes != before:
            new = [name for name in classes if name not in before]
            logger.info("the base model has the classes %s; untrained: %s", ", ".join(before), ", ".join(new) or "none")
            self._network.replace_classes([before.index(name) if name in before else None for name in classes])
        self._description = replace(self._description, classes=classes, image_size=image_size)

    def _warn_of_small_objects(self, train: Manifest, image_size: tuple[int, int]) -> None:
        """Say when most objects are smaller than what the network tells apart, of which it then learns nothing."""
        architecture = self._described().architecture
        finest = next(cell for kind, cell in FINEST_SCALE.items() if kind in architecture)
        boxes = train.boxes()
        height, width = image_size
        scale = np.minimum(height / boxes["height"].to_numpy(), width / boxes["width"].to_numpy())
        area = (boxes["x2"] - boxes["x1"]).to_numpy() * (boxes["y2"] - boxes["y1"]).to_numpy()
        small = np.sqrt(area) * scale < finest
        if small.any() and small.mean() > 0.5:
            logger.warning(
                "%.0f %% of the boxes are smaller than %d pixels at image_size=%d,%d, the finest scale of %s: choose a "
                "larger image_size%s",
                100 * small.mean(), finest, height, width, architecture,
                "" if "resnet" in architecture else " or base_model=fasterrcnn_resnet18_fpn",
            )  # fmt: skip

    def _fit(
        self,
        train: LocalSamples,
        optimizer: Any,
        chosen: Options,
        number: int,
        epochs: int,
        batch: int,
        workers: int,
        seed: int,
    ) -> dict[str, float]:
        """One pass over the training samples.

        Returns:
            The mean of each loss, as ``train/<name>``.
        """
        import torch

        from components.core.estimators.canvases import Canvases, batches

        rng = np.random.default_rng([seed, number])
        torch.manual_seed(int(rng.integers(2**31)))
        order = [(int(index), bool(rng.random() < chosen.flip)) for index in rng.permutation(len(train.paths))]
        mine = Canvases(train, self._described().image_size, peers.share(order))
        loader = batches(mine, max(1, batch // peers.count()), workers)
        network = self._ready().train()
        network.freeze(chosen.freeze)
        totals: dict[str, float] = {}
        progress = Progress(
            logger, f"epoch {number}/{epochs}: {{done}} of {{total}} batches", len(loader), seconds=PROGRESS_SECONDS
        )
        for index, (canvases, truths) in enumerate(loader):
            rate = learning_rate((number - 1) + (index + 1) / len(loader), epochs, chosen.warmup_epochs)
            for group in optimizer.param_groups:
                group["lr"] = chosen.lr * rate
            for name, value in take_step(network, optimizer, canvases, truths, chosen.amp).items():
                totals[name] = totals.get(name, 0.0) + value / len(loader)
            if not math.isfinite(sum(totals.values())):
                raise InputError(
                    f"the loss became NaN or infinite in epoch {number}: set a smaller lr than {chosen.lr:g} "
                    "in estimator_options"
                )
            progress.advance()
        return {f"train/{name}": value for name, value in totals.items()}

    def _write_checkpoints(self, folder: Path, state: State) -> tuple[Path, Path]:
        self._write(folder / LAST, training=vars(state))
        if state.best == state.epoch:
            self._write(folder / BEST)
        return folder / LAST, folder / BEST

    def _write(self, path: Path, **content: Any) -> None:
        """Write the model, and what is given beside it."""
        import torch

        weights = {name: tensor.cpu() for name, tensor in self._ready().state_dict().items()}
        with landing(path) as file:
            torch.save({"estimator": NAME, **asdict(self._described()), "weights": weights, **content}, file)

    def _take(self, content: Mapping[str, Any], given: str) -> None:
        """Become the model that a file holds."""
        from components.core.estimators.faster_rcnn import FasterRcnn

        try:
            described = Description(**{name: content[name] for name in Description.__dataclass_fields__})
            network = FasterRcnn(described.architecture, len(described.classes), described.anchor_sizes)
            network.load_state_dict(content["weights"])
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise InputError(f"base_model={given}: damaged, or written by another version of this estimator") from error
        self._architecture, self._description, self._network = described.architecture, described, network

    def _ready(self) -> FasterRcnn:
        if self._network is None:
            raise InputError(f"{self._architecture or 'nothing'} has no weights yet: train it, or load a model")
        return self._network

    def _described(self) -> Description:
        self._ready()
        assert self._description is not None
        return self._description


def read_options(options: Mapping[str, Any], base_model: str) -> Options:
    """Check the options and fill in the others.

    Raises:
        InputError: lists every problem.
    """
    known = list(Options.__dataclass_fields__)
    wrong = [
        f"{name} is not an option of {NAME}: choose from {', '.join(known)}" for name in options if name not in known
    ]
    chosen = Options()
    try:
        chosen = TypeAdapter(Options).validate_python({name: options[name] for name in options if name in known})
    except ValidationError as error:
        wrong += [
            f"{detail['loc'][0]}={options[str(detail['loc'][0])]!r}: {detail['msg']}" for detail in error.errors()
        ]
    sizes = chosen.anchor_sizes
    if base_model in ARCHITECTURES and "resnet" in base_model and sizes and len(sizes) != RESNET_SCALES:
        wrong.append(f"anchor_sizes={list(sizes)}: a ResNet has {RESNET_SCALES} scales: give one size for each")
    if wrong:
        raise InputError(f"estimator_options: {'; '.join(wrong)}")
    return chosen


def default_anchor_sizes(image_size: tuple[int, int]) -> tuple[float, ...]:
    """Sides of the anchors for a canvas of this height and width, pixels."""
    return tuple(size * min(image_size) / ANCHORS_FOR for size in ANCHOR_SIZES)


def read_model(path: Path) -> dict[str, Any]:
    """Read what ``save`` or a training wrote; nothing in it is executed.

    Raises:
        InputError: not such a file.
    """
    import torch

    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        if content["estimator"] == NAME:
            return dict(content)
    except Exception as error:  # zipfile's, pickle's, torch's: a file may be anything
        raise InputError(
            f"base_model={path}: not a model of the estimator {NAME}: give one that {NAME} saved"
        ) from error
    raise InputError(f"base_model={path}: a model of the estimator {content['estimator']}, not {NAME}")


def learning_rate(epoch: float, epochs: int, warmup: float) -> float:
    """The share of the highest rate at a time, counted in epochs: a rise from 0 to 1, then a cosine down to 0.01."""
    if epoch < warmup:
        return epoch / warmup
    done = (epoch - warmup) / max(epochs - warmup, 1e-9)
    return 0.01 + 0.99 * (1 + math.cos(math.pi * min(done, 1.0))) / 2


def take_step(
    network: FasterRcnn, optimizer: Any, canvases: Any, truths: Iterable[Mapping[str, Any]], amp: bool
) -> dict[str, float]:
    """Make the losses of one batch smaller.

    Args:
        network: in training mode.
        optimizer: of its weights.
        canvases: (B, 3, height, width) RGB in 0..255.
        truths: as :meth:`FasterRcnn.losses` takes them.
        amp: in mixed precision.

    Returns:
        What each loss was, by name.
    """
    import torch

    weight = next(network.parameters())
    here = [{name: tensor.to(weight.device) for name, tensor in truth.items()} for truth in truths]
    with _mixed_precision(weight.device, amp):
        losses = network.losses(canvases.to(weight) / 255, here)
    optimizer.zero_grad()
    torch.stack(list(losses.values())).sum().backward()
    peers.average_gradients(network)
    torch.nn.utils.clip_grad_norm_(network.parameters(), MOST_GRADIENT)
    optimizer.step()
    return {name.removeprefix("loss_"): float(value.detach()) for name, value in losses.items()}


def _mixed_precision(device: Any, amp: bool) -> Any:
    """A context in which convolutions and linear layers take bfloat16; its range is float32's, so no loss is scaled."""
    import torch

    return torch.autocast(torch.device(device).type, dtype=torch.bfloat16, enabled=amp)


def _check_base(base_model: str) -> None:
    path = Path(base_model)
    if base_model in ARCHITECTURES or "://" in base_model or path.is_dir():
        return  # the last two are checked when they are opened
    if path.suffix != ".pt" or not path.is_file():
        raise InputError(
            f"base_model={base_model}: neither a .pt file or bundle of the estimator {NAME} nor an architecture; "
            f"to train from scratch, choose from {', '.join(ARCHITECTURES)}"
        )


def _check_training(val: LocalSamples, image_size: tuple[int, int]) -> None:
    if min(image_size) < LEAST_SIDE:
        raise InputError(f"image_size={image_size[0]},{image_size[1]}: {NAME} needs sides of {LEAST_SIDE} or more")
    if not any(map(len, val.manifest.truths())):
        raise InputError(f"none of the {len(val.manifest)} validation samples has a box: label some of them")
