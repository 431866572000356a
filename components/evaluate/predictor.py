"""What can be measured: one model, or several that work together as one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.core.runtimes.base import open_model
from components.core.runtimes.letterbox import ImageArray
from components.core.runtimes.onnx import FILE as ONNX_FILE
from components.core.tasks.base import MIN_SCORE, Task, open_task


@dataclass(frozen=True)
class Predictor:
    """Something that says what an image shows.

    Attributes:
        name: what messages call it, such as ``model /models/a``.
        task: its kind of task.
        classes: its class names, in the order of the numbers that it gives.
        predict: what it says of one image, (H, W, 3) uint8 RGB, down to the lowest score that measuring needs.
        facts: what a report says of it, by title.
        digest: SHA-256 of its network; two with the same are the same model. Empty where it is not known.
    """

    name: str
    task: Task[Any, Any]
    classes: tuple[str, ...]
    predict: Callable[[ImageArray], Any]
    facts: Mapping[str, object] = field(default_factory=dict)
    digest: str = ""


def open_predictor(folder: Path, *, nms_threshold: float, runtime: str = "onnx") -> Predictor:
    """Load a bundle to measure it.

    Args:
        folder: the bundle.
        nms_threshold: overlap (IoU) above which the lower of two boxes of a class is dropped.
        runtime: plug-in that runs the model.

    Raises:
        InputError: the bundle is damaged or cannot run.
    """
    model = open_model(runtime, folder)
    bundle = model.bundle

    def predict(image: ImageArray) -> Any:
        return model.predict([image], confidence=MIN_SCORE, nms=nms_threshold)[0]

    task = open_task(bundle.task)
    return Predictor(
        name=f"model {folder}",
        task=task,
        classes=bundle.classes,
        predict=predict,
        facts={
            "estimator": bundle.estimator,
            "image size": "{}x{}".format(*reversed(bundle.image_size)),
            "runtime": runtime,
            **task.settings(nms_threshold),
        },
        digest=bundle.files.get(ONNX_FILE, ""),
    )


def together(predictors: Sequence[Predictor], combine: Callable[[Sequence[Any]], Any]) -> Predictor:
    """Several models as one.

    Args:
        predictors: all of the same kind of task.
        combine: makes one answer of theirs, which are in their order and in the same class numbers.
    """
    classes = tuple(dict.fromkeys(name for one in predictors for name in one.classes))
    tables = [[classes.index(name) for name in one.classes] for one in predictors]
    task = predictors[0].task

    def predict(image: ImageArray) -> Any:
        found = zip(predictors, tables, strict=True)
        return combine([task.renumbered(one.predict(image), table) for one, table in found])

    name = " and ".join(one.name for one in predictors)
    return Predictor(name=name, task=task, classes=classes, predict=predict, facts=predictors[0].facts)
