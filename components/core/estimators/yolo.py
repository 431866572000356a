"""YOLO detectors on ultralytics: YOLOv8, YOLO11, YOLO26 and whatever else ends in its ``Detect`` head."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.core.detections import Detections
from components.core.estimators.base import estimators
from components.core.estimators.ultralytics_model import UltralyticsModel, export_onnx, lay_out_files
from components.core.heads import SplitHead
from components.core.tasks.base import LocalSamples

_MORE_THAN_BOXES = ("nm", "kpt_shape", "ne")  # what the heads have that give masks, key points and angles as well


@estimators.register("yolo")
class Yolo(UltralyticsModel[Detections]):
    """A YOLO detector."""

    kind = "detect"
    name = "yolo"

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

    def _refuse(self, head: Any) -> str:
        if not hasattr(head, "reg_max"):
            return "has no detection head: give a detector"
        if any(hasattr(head, name) for name in _MORE_THAN_BOXES):
            return f"has a head for masks, key points or turned boxes ({type(head).__name__}): give a plain detector"
        return ""

    def _lay_out(self, folder: Path, train: LocalSamples, val: LocalSamples) -> Path:
        return lay_out(folder, train, val)

    def _trainer(self, train: LocalSamples, val: LocalSamples) -> Any:
        unlabelled = {
            id_: classes
            for samples in (train.manifest, val.manifest)
            for id_, classes in zip(samples.table["id"], samples.unlabelled_classes(), strict=True)
            if classes
        }
        if not unlabelled:
            return None
        from components.core.estimators.yolo_unlabelled import partial_trainer

        return partial_trainer(unlabelled)

    def _export(self, network: Any, path: Path, image_size: tuple[int, int]) -> tuple[str, ...]:
        # Boxes and scores in one tensor share one scale when they are quantised, which kills the scores: so for each
        # scale, finest first, the box distances (1, 4 * reg_max, h, w) and the scores (1, classes, h, w), apart.
        names = tuple(f"{kind}{scale}" for scale in range(network.model[-1].nl) for kind in ("box", "cls"))
        export_onnx(network, _split_forward, path, image_size, names)
        return names

    def _head(self) -> SplitHead:
        head = self._model.model.model[-1]
        return SplitHead(
            strides=tuple(int(stride) for stride in head.stride),
            reg_max=int(head.reg_max),
            end_to_end=bool(head.end2end),
        )


def lay_out(folder: Path, train: LocalSamples, val: LocalSamples) -> Path:
    """Lay samples out as ultralytics wants them to find objects; see ``lay_out_files``."""
    return lay_out_files(folder, train, val, "labels", _write_labels)


def _write_labels(samples: LocalSamples, folder: Path) -> None:
    for row, truth in zip(samples.manifest.rows(), samples.manifest.truths(), strict=True):
        (folder / f"{row['id']}.txt").write_text(_label_lines(truth, row["width"], row["height"]))


def _split_forward(head: Any, features: list[Any]) -> tuple[Any, ...]:
    branch = head.one2one if head.end2end else head.one2many
    return tuple(
        output
        for scale, feature in enumerate(features)
        for output in (branch["box_head"][scale](feature), branch["cls_head"][scale](feature).sigmoid())
    )


def _label_lines(truth: Detections, width: int, height: int) -> str:
    """Boxes as ultralytics reads them: class, centre and size as fractions of the image."""
    x1, y1, x2, y2 = truth.boxes.T / np.array([[width], [height], [width], [height]], dtype=np.float32)
    rows = zip(truth.classes, (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1, strict=True)
    return "".join(f"{c} {x:.6f} {y:.6f} {w:.6f} {h:.6f}\n" for c, x, y, w, h in rows)
