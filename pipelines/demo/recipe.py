"""What the demo draws and how it trains: small enough for two CPU cores, large enough to be right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipelines.demo.scenes import make_dataset

SCENES = 600

# A network that starts from nothing has few steps here. So each batch is a step of its own (nbs), and warm-up is
# short; mosaics and wild changes of scale, which help long trainings, would only make the scenes harder.
TRAINING: dict[str, Any] = {
    "base_model": "yolo11n.yaml",
    "epochs": 15,
    "image_size": "160",
    "batch": 16,
    "device": "cpu",
    "workers": 1,
    "estimator_options": {"mosaic": 0.0, "nbs": 16, "scale": 0.25, "warmup_epochs": 1.0, "warmup_bias_lr": 0.0},
}


def draw(folder: Path, seed: int) -> Path:
    """Draw the data set.

    Returns:
        A zip in Pascal VOC layout, with the classes ``helmet`` and ``head``.
    """
    path = folder / "scenes.zip"
    make_dataset(path, count=SCENES, seed=seed)
    return path


def arguments(data: Path, folder: Path, seed: int) -> dict[str, Any]:
    """The parameters of the demo's run of ``helmet-detection``."""
    return {
        "data_url": str(data),
        "job_root": str(folder / "job"),
        "classes": "helmet,head",
        "seed": seed,
        "train_ratio": 0.7,
        "val_ratio": 0.1,
        **TRAINING,
    }
