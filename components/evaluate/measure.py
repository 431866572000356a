"""Measure a model with what fits its task."""

from __future__ import annotations

from pathlib import Path

from components.core.bundle import Bundle
from components.core.manifest import Manifest
from components.evaluate.evaluate import Evaluation, evaluate
from components.evaluate.segmentation import SegmentationEvaluation, evaluate_masks


def measure(
    manifest: Manifest,
    model_folder: Path,
    *,
    split: str = "test",
    confidence_threshold: float,
    nms_threshold: float,
    cache_folder: Path,
    runtime: str = "onnx",
) -> Evaluation | SegmentationEvaluation:
    """Measure a detector by boxes, or a segmentation by masks; see ``evaluate`` and ``evaluate_masks``."""
    if Bundle.read(model_folder).task == "segmentation":
        return evaluate_masks(manifest, model_folder, split=split, cache_folder=cache_folder, runtime=runtime)
    return evaluate(
        manifest,
        model_folder,
        split=split,
        confidence_threshold=confidence_threshold,
        nms_threshold=nms_threshold,
        cache_folder=cache_folder,
        runtime=runtime,
    )
