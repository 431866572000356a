"""The contract every model keeps: train, evaluate, predict, load, save.

The five methods are those of a Sedna or ianvs estimator, with types. A new model is one class of this kind, registered
under a name::

    @estimators.register("my-detector")
    class MyDetector(Estimator): ...
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from components.core.bundle import Bundle
from components.core.errors import InputError
from components.core.kubernetes_objects import in_cluster
from components.core.parameters import TrainerSettings
from components.core.plugins import Registry
from components.core.runtimes.letterbox import read_image
from components.core.runtimes.rockchip import parse_targets
from components.core.tasks.base import LocalSamples, Metrics, open_task

Found = TypeVar("Found")  # what a model says of one image: `Detections`, or a `ClassMap`


@dataclass(frozen=True)
class Epoch:
    """What one epoch of training came to.

    Attributes:
        number: counted from 1.
        values: the trainer's own figures, such as ``train/box_loss`` and ``metrics/mAP50(B)``.
        last: the trainer's checkpoint, from which it can go on.
        best: the best weights so far by the validation split.
        finished: nothing is left to train.
    """

    number: int
    values: Mapping[str, float]
    last: Path
    best: Path
    finished: bool


class Estimator(ABC, Generic[Found]):
    """A model that can be trained.

    Attributes:
        task: what it does; a detector unless it says otherwise.
        distributed: whether several processes can train one model together, see
            :mod:`components.core.estimators.peers`. Each calls ``train`` with the same arguments; the first one alone
            calls ``on_epoch``.
        conversion_problem: why its models cannot be converted for Rockchip's chips, where that is known.
    """

    task: ClassVar[str] = "detection"
    distributed: ClassVar[bool] = False
    conversion_problem: ClassVar[str] = ""

    def check(self, base_model: str, options: Mapping[str, Any]) -> list[str]:
        """What can be known to be wrong before any work starts, one line each; quick, and nothing is loaded.

        Args:
            base_model: what ``load`` would be given; empty where that is not known yet.
            options: what ``train`` would be given.
        """
        return []

    @abstractmethod
    def load(self, model: Path | str) -> None:
        """Take over the weights of a file or bundle, or an untrained architecture.

        Raises:
            InputError: no such model, or one of another kind.
        """

    @abstractmethod
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
        """Train what was loaded.

        A class in ``unlabelled_classes`` of a sample was not labelled there: where it has no box, nothing is known.

        Args:
            train: what the weights are fitted to.
            val: what the best epoch is chosen by.
            folder: where all files of the training go; nothing is written elsewhere.
            epochs: passes over ``train``.
            image_size: height and width in pixels.
            batch: images per step.
            patience: epochs without progress on ``val`` after which training stops; 0 for never.
            device: ``auto``, ``cpu``, ``mps`` or GPU numbers.
            workers: processes that load images.
            seed: of every random choice.
            options: further settings, by the estimator's own names.
            on_epoch: called after each epoch, when the checkpoint has been written.
            resume: a checkpoint of the same training, from which it goes on; the best weights so far lie beside it, as
                ``best.pt``. Both may have come from another machine, without the folder's other files.

        Raises:
            InputError: an option does not exist, or the base model's weights did not reach the trained model.
        """

    @abstractmethod
    def predict(
        self, images: Sequence[NDArray[np.uint8]], *, confidence_threshold: float, nms_threshold: float
    ) -> list[Found]:
        """Find objects, or say of each pixel what it shows.

        Args:
            images: images, each (height, width, 3) RGB.
            confidence_threshold: boxes with a lower score are left out.
            nms_threshold: of two boxes of one class with a higher intersection over union, the better one stays.

        Returns:
            The boxes of each image, in its own pixels; or of each its class map.
        """

    @abstractmethod
    def save(
        self,
        folder: Path,
        *,
        image_size: tuple[int, int],
        confidence_threshold: float,
        nms_threshold: float,
        lineage: dict[str, Any],
    ) -> Bundle:
        """Write the model as a bundle.

        Args:
            folder: created.
            image_size: height and width in pixels that the model is to be used at.
            confidence_threshold: score from which a box counts where the model is deployed.
            nms_threshold: overlap above which the worse of two boxes of a class is dropped there.
            lineage: what the model was made from.
        """

    def evaluate(self, samples: LocalSamples, *, confidence_threshold: float, nms_threshold: float) -> Metrics:
        """Measure the model on labelled samples, with the evaluator that all model formats share."""
        task = open_task(self.task)
        results = []
        for index, path in enumerate(samples.paths):
            (found,) = self.predict([read_image(path)], confidence_threshold=0.001, nms_threshold=nms_threshold)
            results.append(task.result(samples, index, found))
        return task.metrics(samples.manifest, results, confidence_threshold)


estimators: Registry[type[Estimator[Any]]] = Registry(
    "estimator",
    built_in=[f"components.core.estimators.{name}" for name in ("yolo", "fpn", "segmentation")],
)


def check_training(estimator: str, base_model: str, options: Mapping[str, Any], epochs: int) -> None:
    """Check what a training would be given, before any work starts.

    Args:
        estimator: registered name of the kind of model.
        base_model: what to start from; empty for a model of the job's own.
        options: further settings, by the estimator's own names.
        epochs: passes over the training samples; with 0 the base model itself is the result.

    Raises:
        InputError: lists every problem.
    """
    found = estimators.get(estimator)().check(base_model, options)
    if not epochs and not has_weights(base_model):
        what = (
            f"{base_model} has no trained weights"
            if base_model
            else "a model of the job is already its candidate or champion"
        )
        found.append(
            f"epochs=0 uses base_model unchanged, but {what}: give .pt weights or a bundle as base_model, "
            "or set epochs >= 1"
        )
    if found:
        raise InputError("; ".join(found))


def check_conversion(estimator: str, targets: str) -> None:
    """Check that what an estimator trains can be converted.

    Args:
        estimator: registered name of the kind of model.
        targets: chips; empty for none.

    Raises:
        InputError: it cannot, whatever it is trained on.
    """
    problem = estimators.get(estimator).conversion_problem
    if problem and parse_targets(targets):
        raise InputError(f"targets={targets}, estimator={estimator}: {problem}")


def check_place(estimator: str, place: TrainerSettings) -> None:
    """Check that an estimator can train where it is to be trained.

    Args:
        estimator: registered name of the kind of model.
        place: where.

    Raises:
        InputError: a TrainJob outside of a cluster; several nodes, and the estimator trains on one, or a step's pod is
            to be the place.
    """
    if place.trainer == "trainjob" and not in_cluster():
        raise InputError("trainer=trainjob needs a cluster with Kubeflow Trainer: use trainer=step here")
    if place.train_nodes == 1:
        return
    if place.trainer == "step":
        raise InputError(f"train_nodes={place.train_nodes} needs trainer=trainjob: a step is one pod")
    if not estimators.get(estimator).distributed:
        able = ", ".join(name for name, kind in estimators.items() if kind.distributed)
        raise InputError(
            f"train_nodes={place.train_nodes}: the estimator {estimator} trains on one node: choose one that trains "
            f"distributed ({able}), or set train_nodes=1"
        )


def has_weights(base_model: str) -> bool:
    """Whether a base model from outside the job is trained weights, and not the name or file of an architecture."""
    if "://" in base_model:
        return True
    path = Path(base_model)
    return bool(base_model) and path.suffix not in (".yaml", ".yml") and path.exists()
