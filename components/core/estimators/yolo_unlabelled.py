"""Ultralytics' training of a detector, for samples in which some classes were not labelled.

A place where a class was not labelled may hold an object of it, so it says nothing of that class: it is left out of the
classification loss of the class, as in the federated loss for LVIS (Gupta et al., 2019; Zhou et al., 2021). A place
that an object of another class takes is a negative all the same. Validation counts no such prediction as wrong.

Ultralytics is imported by ``ultralytics_offline``; only then may this module be.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ultralytics.models.yolo.detect import DetectionTrainer, DetectionValidator
from ultralytics.utils.ops import xywh2xyxy
from ultralytics.utils.torch_utils import unwrap_model

from components.core.detections import Detections
from components.core.metrics.detection import judgeable

Unlabelled = Mapping[str, frozenset[int]]

# A region in which class k was not labelled goes through mosaic and the other augmentations as a box of class
# REGION + k over the whole image, and leaves the batch before the loss sees it.
REGION = 1_000_000


def partial_trainer(unlabelled: Unlabelled) -> Callable[..., Any]:
    """What ``YOLO.train`` takes as ``trainer``.

    Args:
        unlabelled: the classes that were not labelled in a sample, by its id, which is the name of its file.
    """
    return functools.partial(_Trainer, unlabelled)


class LabelledBce(torch.nn.Module):  # type: ignore[misc]  # torch is not type-checked here
    """Binary cross-entropy, in place of ultralytics' own, that leaves out what was not labelled.

    Attributes:
        unlabelled: (batch, anchors, classes) bool: where the absence of a class says nothing; None: nowhere.
    """

    def __init__(self) -> None:
        super().__init__()
        self.unlabelled: torch.Tensor | None = None

    def forward(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The loss of each anchor and class, (batch, anchors, classes)."""
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        if self.unlabelled is None:
            return loss
        background = targets.sum(-1, keepdim=True) == 0
        return loss.masked_fill(self.unlabelled & background, 0)


def regions(batch: Mapping[str, torch.Tensor], classes: int, strides: list[int]) -> torch.Tensor:
    """Where a class was not labelled, (batch, anchors, classes) bool, anchors in ultralytics' order.

    Args:
        batch: of ultralytics, with regions among its boxes: ``img`` (B, 3, H, W), ``cls`` (N, 1), ``batch_idx`` (N,),
            and ``bboxes`` (N, 4), centre and size as fractions of the image.
        classes: how many there are.
        strides: pixels from one anchor to the next, for each scale.
    """
    height, width = batch["img"].shape[2:]
    device = batch["img"].device
    scales = []
    for stride in strides:
        y = (torch.arange(height // stride, device=device) + 0.5) * stride / height
        x = (torch.arange(width // stride, device=device) + 0.5) * stride / width
        scales.append(torch.cartesian_prod(y, x).flip(1))
    centres = torch.cat(scales)[None]
    numbers = batch["cls"].view(-1).long()
    chosen = numbers >= REGION
    boxes = xywh2xyxy(batch["bboxes"][chosen])[:, None]
    inside = ((centres >= boxes[..., :2]) & (centres <= boxes[..., 2:])).all(-1).float()
    count = torch.zeros(len(batch["img"]), classes, centres.shape[1], device=device)
    count.index_put_((batch["batch_idx"][chosen].long(), numbers[chosen] - REGION), inside, accumulate=True)
    return count.permute(0, 2, 1) > 0


class _Trainer(DetectionTrainer):  # type: ignore[misc]  # ultralytics is not type-checked here
    def __init__(self, unlabelled: Unlabelled, *args: Any, **settings: Any) -> None:
        self._unlabelled = unlabelled
        self._bce = LabelledBce()
        super().__init__(*args, **settings)

    def build_dataset(self, img_path: str, mode: str = "train", batch: int | None = None) -> Any:
        dataset = super().build_dataset(img_path, mode, batch)
        for label in dataset.labels if mode == "train" else ():
            numbers = sorted(self._unlabelled.get(Path(label["im_file"]).stem, ()))
            whole = np.tile(np.array([0.5, 0.5, 1, 1], dtype=np.float32), (len(numbers), 1))
            marks = np.array(numbers, dtype=np.float32).reshape(-1, 1) + REGION
            label["cls"], label["bboxes"] = np.vstack([label["cls"], marks]), np.vstack([label["bboxes"], whole])
        return dataset

    def get_class_counts(self) -> Any:
        labels = [label["cls"].ravel() for label in self.train_loader.dataset.labels]
        numbers = np.concatenate(labels).astype(int)
        return np.bincount(numbers[numbers < REGION], minlength=self.data["nc"]).astype(np.float32)

    def preprocess_batch(self, batch: dict[str, Any]) -> dict[str, Any]:
        batch = super().preprocess_batch(batch)
        model = unwrap_model(self.model)
        if getattr(model, "criterion", None) is None:
            model.criterion = model.init_criterion()
            parts = (model.criterion, *(getattr(model.criterion, name, None) for name in ("one2many", "one2one")))
            for part in parts:
                if hasattr(part, "bce"):
                    part.bce = self._bce
        self._bce.unlabelled = regions(batch, self.data["nc"], [int(stride) for stride in model.stride])
        boxes = batch["cls"].view(-1) < REGION
        return {**batch, **{name: batch[name][boxes] for name in ("cls", "bboxes", "batch_idx")}}

    def get_validator(self) -> Any:
        return _Validator(
            self._unlabelled, self.test_loader, save_dir=self.save_dir, args=copy(self.args), _callbacks=self.callbacks
        )


class _Validator(DetectionValidator):  # type: ignore[misc]
    def __init__(self, unlabelled: Unlabelled, *args: Any, **settings: Any) -> None:
        self._unlabelled = unlabelled
        super().__init__(*args, **settings)

    def update_metrics(self, preds: list[dict[str, Any]], batch: dict[str, Any]) -> None:
        super().update_metrics([self._judgeable(one, index, batch) for index, one in enumerate(preds)], batch)

    def _judgeable(self, found: dict[str, Any], index: int, batch: dict[str, Any]) -> dict[str, Any]:
        unlabelled = self._unlabelled.get(Path(batch["im_file"][index]).stem, frozenset())
        if not unlabelled:
            return found
        labelled = self._prepare_batch(index, batch)
        truth = Detections.of(labelled["bboxes"].cpu(), labelled["cls"].cpu())
        boxes = Detections.of(found["bboxes"].float().cpu(), found["cls"].cpu())
        kept = torch.from_numpy(judgeable(boxes, truth, unlabelled)).to(found["cls"].device)
        return {name: tensor[kept] for name, tensor in found.items()}
