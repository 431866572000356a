"""A third kind of task, as a user would add it in one module: the class of a whole image.

The label of an image is a box around all of it, which every data format can hold.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass as plain_dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from pydantic.dataclasses import dataclass

from components.core.bundle import Bundle
from components.core.errors import InputError, NothingToMeasureError
from components.core.estimators.base import Epoch, Estimator, estimators
from components.core.heads import STRICT, Head, heads
from components.core.runtimes.base import Decoder, Network, decoders
from components.core.runtimes.letterbox import letterbox, read_image
from components.core.tasks.base import Figures, Task, tasks

Scores = NDArray[np.float32]  # (classes,) of one image, in 0..1, that sum to 1


@heads.register("scores")
@dataclass(frozen=True, config=STRICT)
class ScoresHead(Head):
    """One output: the score of each class, (1, classes)."""

    task: ClassVar[str] = "classification"
    export_advice: ClassVar[str] = "and the scores of the classes as its one output"

    kind: Literal["scores"] = "scores"

    def problem(self, image_size, outputs):
        return "" if len(outputs) == 1 else f"{len(outputs)} outputs: one is needed (class scores)"

    def ports(self, outputs, image_size, classes):
        return {outputs[0]: (1, classes)}


class Classifier(Network[Scores]):
    """A model that gives scores for a whole image."""

    def predict(self, images, *, confidence=None, nms=None):
        canvases = [letterbox(image, self.bundle.image_size, self.bundle.pad)[0] for image in images]
        return [self.infer(canvas[None])[0][0] for canvas in canvases]


@decoders.register("scores")
class ScoresDecoder(Decoder):
    """Of models that give scores."""

    def network(self, bundle, infer):
        return Classifier(bundle, infer)


@plain_dataclass(frozen=True)
class Accuracy:
    """The figures of a classification; counts (classes, classes) of true by found class."""

    classes: Sequence[str]
    counts: NDArray[np.int64]

    def as_flat(self):
        right, truths, found = np.diagonal(self.counts), self.counts.sum(1), self.counts.sum(0)
        flat = {"accuracy": right.sum() / self.counts.sum(), "images": self.counts.sum()}
        for index, name in enumerate(self.classes):
            flat[f"truths[{name}]"] = truths[index]
            if truths[index]:
                flat[f"recall[{name}]"] = right[index] / truths[index]
                flat[f"precision[{name}]"] = right[index] / max(found[index], 1)
        flat["mean_recall"] = np.mean([flat[f"recall[{c}]"] for c in self.classes if f"recall[{c}]" in flat])
        return {name: float(value) for name, value in flat.items()}


@tasks.register("classification")
class Classification(Task[Scores, Scores]):
    """Models that say what an image shows as a whole."""

    name = "classification"
    labels = "class labels"
    figures = Figures(
        overall={"accuracy": "accuracy", "mean_recall": "mean recall"},
        of_class={"recall": "recall", "precision": "precision"},
        truths="images",
        converted=("recall", "recall"),
    )

    def renumbered(self, found, table):
        numbers = np.zeros(max([*table, len(found) - 1]) + 1, np.float32)
        numbers[list(table)] = found
        return numbers

    def result(self, samples, index, found):
        return found

    def metrics(self, samples, results, confidence):
        counts = np.zeros((len(samples.classes),) * 2, np.int64)
        for boxes, scores in zip(samples.table["annotations"], results, strict=True):
            if len(boxes):
                counts[boxes[0]["class_id"], int(np.argmax(scores))] += 1
        if not counts.sum():
            raise NothingToMeasureError(f"no class label in {len(samples)} images: label some of them")
        return Accuracy(samples.classes, counts)

    def drawn(self, image, found, classes):
        best = int(np.argmax(found))
        return image, f"{classes[best]} {found[best]:.2f}"

    def shown_classes(self, found, confidence):
        return frozenset({int(np.argmax(found))})


@estimators.register("mean-colour")
class MeanColour(Estimator[Scores]):
    """Takes an image for the class whose training images have the most similar mean colour."""

    task = "classification"

    def load(self, model: Path | str) -> None:
        if str(model) == "nothing":
            self._classes, self._means = (), np.zeros((0, 3))
            return
        path = Path(model) / "model.pt" if Path(model).is_dir() else Path(model)
        try:
            learned = json.loads(path.read_text())
            self._classes, self._means = tuple(learned["classes"]), np.array(learned["means"])
            self._image_size = tuple(learned["image_size"])
        except (OSError, ValueError, KeyError) as error:
            raise InputError(f"base_model={model}: not a model of this kind") from error

    def check(self, base_model: str, options: Mapping[str, Any]) -> list[str]:
        return [f"estimator_options: mean-colour has no option {name}" for name in options]

    def train(self, train, val, *, folder, epochs, on_epoch, image_size, resume=None, **_: Any) -> None:
        labels = [boxes[0]["class_id"] if len(boxes) else -1 for boxes in train.manifest.table["annotations"]]
        colours = np.array([_mean(path, image_size) for path in train.paths])
        found = [np.array(labels) == k for k in range(len(train.manifest.classes))]
        self._classes = train.manifest.classes
        self._means = np.array([colours[mine].mean(0) if mine.any() else [9.0] * 3 for mine in found])
        self._image_size = image_size
        done = json.loads(Path(resume).read_text())["epoch"] if resume else 0
        for number in range(done + 1, epochs + 1):
            for name in ("last.pt", "best.pt"):
                self._write(folder / name, number)
            on_epoch(Epoch(number, {"train/loss": 0.0}, folder / "last.pt", folder / "best.pt", number == epochs))

    def predict(self, images, *, confidence_threshold, nms_threshold):
        return [self._scores(_mean(image, self._image_size)) for image in images]

    def save(self, folder, *, image_size, confidence_threshold, nms_threshold, lineage: dict[str, Any]) -> Bundle:
        folder.mkdir(parents=True)
        self._image_size = image_size
        self._write(folder / "model.pt")
        onnx.save(self._graph(*image_size), folder / "model.onnx")
        return Bundle(
            classes=self._classes,
            image_size=image_size,
            estimator="mean-colour",
            task=self.task,
            head=ScoresHead(),
            confidence_threshold=confidence_threshold,
            nms_threshold=nms_threshold,
            outputs=("scores",),
            lineage=lineage,
        ).write(folder)

    def _write(self, path: Path, epoch: int = 0) -> None:
        learned = {"classes": self._classes, "means": self._means.tolist(), "image_size": self._image_size}
        path.write_text(json.dumps({**learned, "epoch": epoch}))

    def _scores(self, colour) -> Scores:
        logits = -SHARPNESS * ((self._means - colour) ** 2).sum(1)
        steps = np.exp(logits - logits.max())
        return (steps / steps.sum()).astype(np.float32)

    def _graph(self, height: int, width: int) -> onnx.ModelProto:
        """The same in ONNX: the squared distance to a mean is linear in a colour, but for a part all have alike."""
        weights = {
            "directions": (2 * SHARPNESS * self._means.T).astype(np.float32),
            "bias": (-SHARPNESS * (self._means**2).sum(1)).astype(np.float32),
        }
        nodes = [
            helper.make_node("GlobalAveragePool", ["images"], ["pooled"]),
            helper.make_node("Flatten", ["pooled"], ["colour"]),
            helper.make_node("Gemm", ["colour", "directions", "bias"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["scores"], axis=1),
        ]
        graph = helper.make_graph(
            nodes,
            "mean-colour",
            [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, height, width])],
            [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, len(self._classes)])],
            [numpy_helper.from_array(value, name) for name, value in weights.items()],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


SHARPNESS = 50.0


def _mean(image, size: tuple[int, int]) -> NDArray[np.float64]:
    """The mean colour of a canvas, (3,) in 0..1."""
    pixels = read_image(image) if isinstance(image, Path) else image
    return letterbox(pixels, size)[0].reshape(-1, 3).mean(0) / 255
