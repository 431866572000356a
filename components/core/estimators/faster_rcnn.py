"""The network of the ``fpn`` estimator: torchvision's Faster R-CNN on a feature pyramid, on canvases of one size.

Torchvision's model resizes images, suppresses overlapping boxes and drops low scores itself. Here it does not: it
looks at a canvas and gives every box, so that one letterbox and one decoder serve it and all other models alike.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.faster_rcnn import FasterRCNN, FastRCNNPredictor
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import fastrcnn_loss
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import clip_boxes_to_image

from components.core.estimators.onnx_export import export

RESNET18 = "fasterrcnn_resnet18_fpn"
ASPECT_RATIOS = (0.5, 1.0, 2.0)
COMPARED = 100  # boxes, when an export is checked


class FasterRcnn(torch.nn.Module):  # type: ignore[misc]  # torch is not type-checked here
    """Canvases in, losses or boxes out.

    Args:
        architecture: name of a Faster R-CNN of torchvision, or ``RESNET18``; its weights are drawn at random, never
            fetched.
        classes: number of classes.
        anchor_sizes: sides of the boxes that others are measured from, canvas pixels. A ResNet has one for each of its
            five scales, a MobileNet all of them on each of its three.
    """

    def __init__(self, architecture: str, classes: int, anchor_sizes: Sequence[float]) -> None:
        super().__init__()
        build = _resnet18 if architecture == RESNET18 else getattr(torchvision.models.detection, architecture)
        # No score is too low for the second stage: a model that knows little yet must give boxes too.
        self.parts = build(weights=None, weights_backbone=None, num_classes=classes + 1, rpn_score_thresh=0.0)
        scales = len(self.parts.rpn.anchor_generator.sizes)
        sizes = [tuple(anchor_sizes)] * scales if "mobilenet" in architecture else [(size,) for size in anchor_sizes]
        self.parts.rpn.anchor_generator = AnchorGenerator(tuple(sizes), (ASPECT_RATIOS,) * scales)
        self.parts.rpn.head = FullPrecisionRPNHead(self.parts.backbone.out_channels, len(sizes[0]) * len(ASPECT_RATIOS))
        self.register_buffer("_mean", torch.tensor(self.parts.transform.image_mean)[:, None, None], persistent=False)
        self.register_buffer("_spread", torch.tensor(self.parts.transform.image_std)[:, None, None], persistent=False)

    def forward(self, canvas: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Every box on one canvas.

        Args:
            canvas: (1, 3, height, width) float32 RGB in 0..1.

        Returns:
            Boxes (N, 4) in canvas pixels, scores (N,), and classes (N,) counted from 0: for each place that the first
            stage proposes, one box of every class.
        """
        size = (int(canvas.shape[-2]), int(canvas.shape[-1]))
        images, features = self._look(canvas, size)
        proposals, _ = self.parts.rpn(images, features)
        logits, shifts = self._second_stage(features, proposals, [size])
        boxes = clip_boxes_to_image(self.parts.roi_heads.box_coder.decode(shifts, proposals), size)[:, 1:]
        scores = torch.softmax(logits, -1)[:, 1:]
        labels = torch.arange(scores.shape[1], device=scores.device).expand_as(scores)
        return boxes.reshape(-1, 4), scores.reshape(-1), labels.reshape(-1)

    def losses(self, canvases: torch.Tensor, truths: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """What is to be made smaller, by name; the network is in training mode.

        Args:
            canvases: (B, 3, height, width) float32 RGB in 0..1.
            truths: for each, ``boxes`` (N, 4) in canvas pixels and ``labels`` (N,), counted from 1; N may be 0.
                ``unlabelled`` (U,), where it is given, are classes of which the canvas may show more objects.
        """
        size = (int(canvases.shape[-2]), int(canvases.shape[-1]))
        images, features = self._look(canvases, size)
        proposals, of_proposals = self.parts.rpn(images, features, truths)
        proposals, _, labels, shifts = self.parts.roi_heads.select_training_samples(proposals, truths)
        logits, found = self._second_stage(features, proposals, images.image_sizes)
        _, of_boxes = fastrcnn_loss(logits, found, labels, shifts)
        unlabelled = torch.zeros_like(logits, dtype=torch.bool)
        for rows, truth in zip(unlabelled.split([len(one) for one in labels]), truths, strict=True):
            rows[:, truth.get("unlabelled", [])] = True
        of_classes = classification_loss(logits, torch.cat(labels), unlabelled)
        return {**of_proposals, "loss_classifier": of_classes, "loss_box_reg": of_boxes}

    def freeze(self, layers: int) -> None:
        """Keep the first layers of the backbone as they are."""
        for layer in list(self.parts.backbone.body.children())[:layers]:
            layer.eval().requires_grad_(False)

    def learn_from(self, proposals: int) -> None:
        """Set how many proposals of each image the second stage learns from, a quarter of them with an object."""
        self.parts.roi_heads.fg_bg_sampler = BalancedPositiveNegativeSampler(proposals, 0.25)

    def replace_classes(self, places: Sequence[int | None]) -> None:
        """Give the network class outputs for other classes than it had.

        Args:
            places: of each new class, its number among the old ones, whose outputs it keeps; None for one that is new
                and untrained. Background stays.
        """
        old = self.parts.roi_heads.box_predictor
        new = FastRCNNPredictor(old.cls_score.in_features, len(places) + 1)
        kept = [(0, 0), *((now + 1, before + 1) for now, before in enumerate(places) if before is not None)]
        with torch.no_grad():
            for layer, size in (("cls_score", 1), ("bbox_pred", 4)):
                source, target = getattr(old, layer), getattr(new, layer)
                for now, before in kept:
                    here, there = slice(size * now, size * (now + 1)), slice(size * before, size * (before + 1))
                    target.weight[here], target.bias[here] = source.weight[there], source.bias[there]
        self.parts.roi_heads.box_predictor = new

    def _look(self, canvases: torch.Tensor, size: tuple[int, int]) -> tuple[ImageList, Any]:
        pixels = (canvases - self._mean) / self._spread
        return ImageList(pixels, [size] * len(canvases)), self.parts.backbone(pixels)

    def _second_stage(
        self, features: Any, proposals: list[torch.Tensor], sizes: list[tuple[int, int]]
    ) -> list[torch.Tensor]:
        """Logits (N, classes + 1) and shifts (N, 4 * (classes + 1)) of the proposals, float32."""
        heads = self.parts.roi_heads
        pooled = heads.box_roi_pool(features, proposals, sizes)
        return [output.float() for output in heads.box_predictor(heads.box_head(pooled))]


class FullPrecisionRPNHead(RPNHead):  # type: ignore[misc]  # torch is not type-checked here
    """Torchvision's, whose outputs are float32 in mixed precision, too: bfloat16 rounds a place to two pixels."""

    def forward(self, features: list[torch.Tensor]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """See torchvision."""
        objectness, shifts = super().forward(features)
        return [level.float() for level in objectness], [level.float() for level in shifts]


def _resnet18(*, weights: None, weights_backbone: None, num_classes: int, **settings: Any) -> FasterRCNN:
    """As ``fasterrcnn_resnet50_fpn``, on the smallest ResNet, for which torchvision has no function."""
    backbone = resnet_fpn_backbone(
        backbone_name="resnet18", weights=weights_backbone, norm_layer=torch.nn.BatchNorm2d, trainable_layers=5
    )
    return FasterRCNN(backbone, num_classes, **settings)


def classification_loss(logits: torch.Tensor, labels: torch.Tensor, unlabelled: torch.Tensor) -> torch.Tensor:
    """Cross-entropy in which background stands for the unlabelled classes, too.

    A proposal without a true box is background or an object of a class that was not labelled, and the loss is of the
    sum of their probabilities (Cermelli et al., 2022, Modeling Missing Annotations for Incremental Learning in Object
    Detection). The first stage, which knows no classes, takes such a place for background.

    Args:
        logits: (N, classes + 1), background first.
        labels: (N,), 0 for background.
        unlabelled: (N, classes + 1) bool, the classes that were not labelled in the image of a proposal.
    """
    either = unlabelled.clone()
    either[:, 0] = True
    background = logits.masked_fill(~either, -torch.inf).logsumexp(-1)
    chosen = logits.gather(1, labels[:, None]).squeeze(1)
    return (logits.logsumexp(-1) - torch.where(labels == 0, background, chosen)).mean()


def export_onnx(network: FasterRcnn, path: Path, image_size: tuple[int, int]) -> tuple[str, ...]:
    """Write a network in evaluation mode, on the processor, as ONNX, and check it.

    Returns:
        Names of the outputs: those of :meth:`FasterRcnn.forward`.

    Raises:
        RuntimeError: ONNX Runtime finds other boxes than the network.
    """
    outputs = ("boxes", "scores", "labels")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that sides are taken for constants, which on a canvas they are
        expected, found = export(network, path, image_size, outputs, any_length=True)
    share = _share_found(expected, found)
    if share < 0.9:  # the order of equal scores may decide over a few
        raise RuntimeError(f"the exported ONNX finds {share:.0%} of the boxes that the trained model finds")
    return outputs


def _share_found(expected: Sequence[Any], found: Sequence[Any]) -> float:
    """The share of the best expected boxes that are among those found."""
    best = np.argsort(-expected[1], kind="stable")[:COMPARED]
    same = [
        (
            (np.abs(found[0] - expected[0][one]).max(axis=1) < 1)
            & (np.abs(found[1] - expected[1][one]) < 0.01)
            & (found[2] == expected[2][one])
        ).any()
        for one in best
    ]
    return float(np.mean(same)) if same else float(len(found[1]) == 0)
