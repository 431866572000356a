"""A small network for semantic segmentation, which trains in seconds on a processor; a plug-in estimator.

Give ``plugins=pipelines.demo.small_segmenter estimator=small-segmenter initial_model=untrained``. It is for trying the
pipelines and for comparing ways to learn; for real work take ``segmentation``.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from components.core.bundle import Bundle
from components.core.errors import InputError
from components.core.estimators.base import Epoch, Estimator, estimators
from components.core.estimators.device import torch_device
from components.core.estimators.onnx_export import export
from components.core.heads import SemanticHead
from components.core.masks import VOID, ClassMap, read_mask
from components.core.runtimes.letterbox import letterbox, read_image
from components.core.runtimes.segmenter import classes_of, on_image
from components.core.stores.transfer import landing
from components.core.tasks.base import LocalSamples

NAME = "small-segmenter"
UNTRAINED = "untrained"
STRIDE, WIDTH = 4, 32
LAST, BEST = "last-epoch.pt", "best-epoch.pt"


@estimators.register(NAME)
class SmallSegmenter(Estimator[ClassMap]):
    """Five convolutions to a quarter of the size, the later ones ever wider apart, and the class of each cell."""

    task = "segmentation"

    def __init__(self) -> None:
        self._network: Any = None
        self._classes: tuple[str, ...] = ()
        self._image_size = (0, 0)

    def check(self, base_model: str, options: Mapping[str, Any]) -> list[str]:
        """Check the one option, and that the base model is there."""
        found = [f"estimator_options: {NAME} has lr, and not {name}" for name in options if name != "lr"]
        rate = options.get("lr", 1.0)
        if not isinstance(rate, int | float) or isinstance(rate, bool) or not 0 < rate < float("inf"):
            found.append(f"estimator_options: lr={rate!r} must be a number above 0")
        if base_model not in ("", UNTRAINED) and "://" not in base_model and not Path(base_model).exists():
            found.append(
                f"base_model={base_model}: no such file; {NAME} starts from {UNTRAINED}, or a model of its own"
            )
        return found

    def load(self, model: Path | str) -> None:
        """Load a file or bundle of this estimator; ``untrained`` stands for no weights."""
        self._network, self._classes = None, ()
        if str(model) != UNTRAINED:
            self._take(_read(model), ())

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
        """Train with AdamW; see the contract."""
        import torch

        if problems := self.check("", options):
            raise InputError("; ".join(problems))
        torch.manual_seed(seed)
        kept = _read(resume) if resume else None
        if kept:
            shutil.copyfile(Path(str(resume)).with_name("best.pt"), folder / BEST)
        self._begin(train.manifest.classes, image_size, kept)
        target = torch_device(device)
        network = self._network.to(target)
        optimizer = torch.optim.AdamW(network.parameters(), lr=options.get("lr", 0.01))
        done, best, best_score = 0, 0, -1.0
        if kept:
            optimizer.load_state_dict(kept["optimizer"])
            done, best, best_score = kept["epoch"], kept["best"], kept["score"]
        images, masks = _canvases(train, image_size)
        for number in range(done + 1, epochs + 1):
            rng = np.random.default_rng([seed, number])
            fall = 0.01 + 0.99 * (1 + math.cos(math.pi * (number - 1) / epochs)) / 2
            for group in optimizer.param_groups:
                group["lr"] = options.get("lr", 0.01) * fall
            network.train()
            losses = []
            for chosen in np.array_split(rng.permutation(len(images)), max(round(len(images) / batch), 1)):
                turned = rng.random() < 0.5
                pixels, truths = (part[chosen][..., ::-1] if turned else part[chosen] for part in (images, masks))
                logits = network(torch.from_numpy(pixels.astype(np.float32) / 255).to(target))
                logits = torch.nn.functional.interpolate(logits, size=image_size, mode="bilinear")
                truth = torch.from_numpy(truths.astype(np.int64)).to(target)
                loss = torch.nn.functional.cross_entropy(logits, truth, ignore_index=VOID, reduction="sum")
                loss = loss / max(int((truth != VOID).sum()), 1)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(float(loss.detach()))
            measured = self.evaluate(val, confidence_threshold=0.25, nms_threshold=0.7)
            score = float(measured.as_flat()["miou"])
            if score > best_score:
                best, best_score = number, score
                self._write(folder / BEST)
            progress = {"epoch": number, "best": best, "score": best_score, "optimizer": optimizer.state_dict()}
            self._write(folder / LAST, **progress)
            finished = number == epochs or 0 < patience <= number - best
            values = {"train/loss": float(np.mean(losses)), "metrics/mIoU": score}
            on_epoch(Epoch(number, values, folder / LAST, folder / BEST, finished))
            if finished:
                return

    def predict(
        self, images: Sequence[NDArray[np.uint8]], *, confidence_threshold: float, nms_threshold: float
    ) -> list[ClassMap]:
        """Segment with torch; the thresholds are for boxes."""
        import torch

        network = self._ready().eval()
        weight = next(network.parameters())
        found = []
        for image in images:
            canvas, placement = letterbox(image, self._image_size)
            pixels = torch.from_numpy(np.ascontiguousarray(canvas.transpose(2, 0, 1))[None])
            with torch.no_grad():
                logits = network(pixels.to(weight) / 255).cpu().numpy()
            found.append(on_image(classes_of(logits, self._image_size), placement))
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
        folder.mkdir(parents=True, exist_ok=True)
        self._image_size = image_size
        network = self._ready().cpu().eval()
        export(network, folder / "model.onnx", image_size, ["logits"])
        self._write(folder / "model.pt")
        return Bundle(
            classes=self._classes,
            image_size=image_size,
            estimator=NAME,
            task=self.task,
            head=SemanticHead(stride=STRIDE),
            confidence_threshold=confidence_threshold,
            nms_threshold=nms_threshold,
            outputs=("logits",),
            lineage=lineage,
        ).write(folder)

    def _begin(self, classes: tuple[str, ...], image_size: tuple[int, int], kept: Mapping[str, Any] | None) -> None:
        """Make what was loaded ready for training on these classes; what it knows of a class stays with its name."""
        if kept:
            self._take(kept, ())
        elif self._network is None:
            self._network = _network(len(classes))
        else:
            self._take({"weights": self._network.state_dict(), **self._described()}, classes)
        self._classes, self._image_size = classes, image_size

    def _take(self, content: Mapping[str, Any], classes: tuple[str, ...]) -> None:
        """Become a model that was read, or that model with other classes."""
        known, weights = tuple(content["classes"]), dict(content["weights"])
        network = _network(len(classes or known))
        last = [name for name in weights if name.startswith(f"{len(network) - 1}.")]
        for name in last if classes and classes != known else ():
            fresh = network.state_dict()[name].clone()
            for place, one in enumerate(classes):
                if one in known:
                    fresh[place] = weights[name][known.index(one)]
            weights[name] = fresh
        try:
            network.load_state_dict(weights)
        except RuntimeError as error:
            raise InputError(f"base_model: damaged, or written by another version of {NAME}") from error
        self._network, self._classes, self._image_size = network, classes or known, tuple(content["image_size"])

    def _described(self) -> dict[str, Any]:
        return {"estimator": NAME, "classes": list(self._classes), "image_size": list(self._image_size)}

    def _write(self, path: Path, **content: Any) -> None:
        import torch

        weights = {name: tensor.cpu() for name, tensor in self._ready().state_dict().items()}
        with landing(path) as file:
            torch.save({**self._described(), "weights": weights, **content}, file)

    def _ready(self) -> Any:
        if self._network is None:
            raise InputError(f"{UNTRAINED} has no weights yet: train it, or load a model")
        return self._network


def _network(classes: int) -> Any:
    """From (N, 3, H, W) in 0..1 to logits (N, classes, H/4, W/4)."""
    from torch import nn

    layers: list[nn.Module] = []
    for before, after, stride, apart in (
        (3, 16, 2, 1),
        (16, WIDTH, 2, 1),
        *((WIDTH, WIDTH, 1, apart) for apart in (1, 2, 4)),
    ):
        layers += [nn.Conv2d(before, after, 3, stride, apart, apart, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(WIDTH, classes, 1))


def _canvases(samples: LocalSamples, image_size: tuple[int, int]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Images (N, 3, H, W) and masks (N, H, W) as the network sees them; what is around an image is void."""
    images, masks = [], []
    for path, mask_path in zip(samples.paths, samples.masks, strict=True):
        canvas, placement = letterbox(read_image(path), image_size)
        mask = read_mask(mask_path)
        size = tuple(max(round(side * scale), 1) for side, scale in zip(mask.shape[::-1], placement.scale, strict=True))
        small = cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST)
        truth = np.full(image_size, VOID, np.uint8)
        truth[placement.top : placement.top + size[1], placement.left : placement.left + size[0]] = small
        images.append(canvas.transpose(2, 0, 1))
        masks.append(truth)
    return np.stack(images), np.stack(masks)


def _read(model: Path | str) -> dict[str, Any]:
    """Read what ``save`` or a training wrote; nothing in it is executed.

    Raises:
        InputError: not such a file.
    """
    import torch

    path = Path(model)
    if path.is_dir():
        path = Bundle.read(path).file(path, "model.pt")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        if content["estimator"] == NAME:
            return dict(content)
    except Exception as error:  # zipfile's, pickle's, torch's: a file may be anything
        raise InputError(f"base_model={model}: not a model of the estimator {NAME}") from error
    raise InputError(f"base_model={model}: a model of the estimator {content['estimator']}, not {NAME}")
