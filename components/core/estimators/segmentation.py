"""Semantic segmentation on ultralytics: YOLO26-sem and whatever else ends in its ``SemanticSegment`` head."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.core.errors import InputError
from components.core.estimators.base import estimators
from components.core.estimators.ultralytics_model import UltralyticsModel, export_onnx, lay_out_files, link
from components.core.heads import SemanticHead
from components.core.masks import ClassMap
from components.core.tasks.base import LocalSamples

STRIDE = 8  # of the logits, fixed in ultralytics' head
MASKS = "masks"


@estimators.register("segmentation")
class Segmentation(UltralyticsModel[ClassMap]):
    """A model that says of every pixel what it shows."""

    task = "segmentation"
    kind = "semantic"
    name = "segmentation"

    def predict(
        self, images: Sequence[NDArray[np.uint8]], *, confidence_threshold: float, nms_threshold: float
    ) -> list[ClassMap]:
        """Segment with torch; the thresholds are for boxes."""
        if not images:
            return []
        results = self._model.predict(
            [np.ascontiguousarray(image[:, :, ::-1]) for image in images],
            imgsz=self._image_size,
            rect=False,
            save=False,
            verbose=False,
        )
        return [np.asarray(result.semantic_mask.data.cpu(), dtype=np.uint8).squeeze() for result in results]

    def _refuse(self, head: Any) -> str:
        return "" if hasattr(head, "classifier") and hasattr(head, "aux_head") else "is not for semantic segmentation"

    def _lay_out(self, folder: Path, train: LocalSamples, val: LocalSamples) -> Path:
        classes = train.manifest.classes
        if len(classes) < 2:
            raise InputError(
                f"a segmentation model needs at least two classes, and the only one is {', '.join(classes)}: "
                "add a class for the background"
            )
        return lay_out_files(folder, train, val, MASKS, _link_masks, masks_dir=MASKS)

    def _export(self, network: Any, path: Path, image_size: tuple[int, int]) -> tuple[str, ...]:
        export_onnx(network, _logits, path, image_size, ["logits"])
        return ("logits",)

    def _head(self) -> SemanticHead:
        return SemanticHead(stride=STRIDE)


def _link_masks(samples: LocalSamples, folder: Path) -> None:
    for identity, mask in zip(samples.manifest.table["id"], samples.masks, strict=True):
        link(mask, folder / f"{identity}.png")


def _logits(head: Any, features: list[Any]) -> tuple[Any, ...]:
    """The class scores as they are: Rockchip's compiler aborts on the argmax that ultralytics' own export ends in."""
    return (head.classifier(features[0]),)
