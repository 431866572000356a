"""Labelled images on canvases, as tensors for a torch network that is trained on canvas pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader

from components.core.runtimes.letterbox import letterbox, read_image
from components.core.tasks.base import LocalSamples

# boxes (N, 4) in canvas pixels, labels (N,) counted from 1; unlabelled (U,) classes that were not labelled, likewise
Truth = dict[str, torch.Tensor]


class Canvases:
    """Samples in an order, each as a canvas (3, height, width) uint8 RGB and what is on it.

    Args:
        samples: where the images are.
        image_size: height and width of the canvas in pixels.
        order: index of each sample, and whether it is mirrored from left to right.
    """

    def __init__(self, samples: LocalSamples, image_size: tuple[int, int], order: Sequence[tuple[int, bool]]) -> None:
        self._paths = samples.paths
        self._truths = samples.manifest.truths()
        self._unlabelled = samples.manifest.unlabelled_classes()
        self._image_size = image_size
        self._order = order

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, place: int) -> tuple[torch.Tensor, Truth]:
        index, mirrored = self._order[place]
        canvas, placement = letterbox(read_image(self._paths[index]), self._image_size)
        truth = self._truths[index]
        scale = np.array(placement.scale * 2, dtype=np.float32)
        boxes = truth.boxes * scale + np.array([placement.left, placement.top] * 2, dtype=np.float32)
        if mirrored:
            canvas = canvas[:, ::-1]
            x1, y1, x2, y2 = boxes.T
            width = np.float32(canvas.shape[1])
            boxes = np.stack([width - x2, y1, width - x1, y2], axis=1)
        pixels = torch.from_numpy(np.ascontiguousarray(canvas.transpose(2, 0, 1)))
        labels = torch.from_numpy(truth.classes.astype(np.int64) + 1)
        unlabelled = torch.tensor(sorted(self._unlabelled[index]), dtype=torch.int64) + 1
        return pixels, {"boxes": torch.from_numpy(boxes), "labels": labels, "unlabelled": unlabelled}


def batches(canvases: Canvases, batch: int, workers: int) -> Any:
    """A loader of ``(B, 3, height, width)`` canvases and a list of ``B`` truths, in the order of the canvases."""
    return DataLoader(
        canvases,
        batch_size=batch,
        num_workers=workers,
        collate_fn=_stack,
        worker_init_fn=_one_thread,
    )


def _stack(items: Sequence[tuple[torch.Tensor, Truth]]) -> tuple[torch.Tensor, list[Truth]]:
    return torch.stack([pixels for pixels, _ in items]), [truth for _, truth in items]


def _one_thread(_: int) -> None:
    cv2.setNumThreads(0)  # each worker is a process: OpenCV's own threads would only be in each other's way
