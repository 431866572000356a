"""What the suite has to know of a kind of task, such as detection, and the registry of kinds.

Every step works with any kind: it reads the kind from the bundle (``task`` in ``model.json``) or from the estimator,
and leaves to the object of this class what depends on it. A new kind is one module: a :class:`Task`, the head that its
networks end in (:mod:`components.core.heads`), and an estimator::

    @tasks.register("classification")
    class Classification(Task[NDArray[np.float32], bool]): ...

Two types of data depend on the kind. ``Found`` is what a model says of one image, such as boxes or a class map.
``Result`` is what is kept of it for measuring: the boxes again, or the counts of an image's pixels, because the class
maps of all images would not fit into memory.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, Protocol, TypeVar

import numpy as np
import polars as pl
from markupsafe import Markup

from components.core.cache import fetch_blobs
from components.core.errors import NothingToMeasureError
from components.core.manifest import Manifest
from components.core.metrics.confusion import Confusion, CurvePoint
from components.core.metrics.resampling import draws, interval
from components.core.plugins import Registry
from components.core.reports import page as reports
from components.core.reports.page import Section
from components.core.runtimes.letterbox import ImageArray
from components.core.tasks.arrays import ArrayFile

Found = TypeVar("Found")
Result = TypeVar("Result")

NONE = "–"  # noqa: RUF001 - where there is no figure
MIN_SCORE = 0.001  # measuring looks at every prediction down to here, as average precision has to
RESAMPLES = 200  # each measures all images once more


@dataclass(frozen=True)
class LocalSamples:
    """Samples whose images are on this machine.

    Attributes:
        manifest: the samples.
        paths: where each one's image lies, in table order. The files belong to the store: never write to them.
        masks: where each one's mask lies; empty where the samples are not labelled with masks.
    """

    manifest: Manifest
    paths: Sequence[Path]
    masks: Sequence[Path] = ()


class Metrics(Protocol):
    """What was measured, whatever the kind."""

    def as_flat(self) -> dict[str, float]:
        """Every figure under one name; each is finite.

        ``images`` is the number of images. Figures of a class are named ``figure[class]``; those that cannot be
        computed are left out. ``truths[class]`` is the number of labelled things of a class, and is always there.
        """
        ...


@dataclass(frozen=True)
class Figures:
    """The figures by which two models of a kind are compared, by their names in ``Metrics.as_flat``.

    Attributes:
        overall: titles of figures over all classes; the first is the one that the gate goes by.
        of_class: titles of figures of each class; the first is the one that no class may lose much of.
        truths: what ``truths`` of a class counts.
        converted: the figure of a class that a conversion must keep, and its title.
        converted_overall: titles of further figures over all classes that a report of a conversion shows.
        predictions: what ``predictions`` of a class counts, where a report shall show it; empty where not.
        further: names of other figures of the whole that a run is told by, the most important first.
    """

    overall: Mapping[str, str]
    of_class: Mapping[str, str]
    truths: str
    converted: tuple[str, str]
    converted_overall: Mapping[str, str] = field(default_factory=dict)
    predictions: str = ""
    further: tuple[str, ...] = ()

    @property
    def main(self) -> str:
        """The name of the figure that the gate goes by."""
        return next(iter(self.overall))

    @property
    def main_title(self) -> str:
        """Its title."""
        return self.overall[self.main]


@dataclass(frozen=True)
class Measurement(Generic[Result]):
    """How good a model is on some samples.

    Attributes:
        task: the kind of task.
        samples: what it was measured on.
        results: what is kept of each sample, in table order.
        confidence: score, 0..1, from which a prediction counts in figures such as precision and recall.
        metrics: the figures.
    """

    task: Task[Any, Result]
    samples: Manifest
    results: Sequence[Result]
    confidence: float
    metrics: Metrics

    @cached_property
    def flat(self) -> dict[str, float]:
        """Every figure by name."""
        return self.metrics.as_flat()

    @property
    def images(self) -> int:
        """How many images were measured."""
        return int(self.flat["images"])

    def of_class(self, figure: str, name: str) -> float | None:
        """A figure of one class; None where it cannot be computed."""
        return self.flat.get(f"{figure}[{name}]")


class Task(ABC, Generic[Found, Result]):
    """One kind of task.

    Attributes:
        name: what it is registered as, and what ``task`` is in ``model.json``.
        label_column: column of the manifest that holds its labels; null where a sample is not labelled for it.
        labels: what these labels are called.
        figures: what models are compared by.
        gives_boxes: whether results are boxes, by which miners rank images.
    """

    name: ClassVar[str]
    label_column: ClassVar[Literal["annotations", "mask"]] = "annotations"
    labels: ClassVar[str] = "boxes"
    figures: ClassVar[Figures]
    gives_boxes: ClassVar[bool] = False

    # Samples

    def labelled(self, samples: Manifest) -> Manifest:
        """The samples that are labelled for this kind; those in which there is nothing to label are among them."""
        return samples.where(pl.col(self.label_column).is_not_null())

    def local(self, samples: Manifest, folder: Path) -> LocalSamples:
        """Bring samples, with all that training and measuring need, onto this machine.

        Args:
            samples: labelled for this kind.
            folder: where blobs are kept.

        Raises:
            InputError: a blob is out of reach or damaged.
        """
        return LocalSamples(samples, fetch_blobs(samples, folder))

    def has_truth(self, samples: Manifest) -> bool:
        """Whether there is anything in the labels to learn from or to measure by."""
        return len(samples) > 0

    # Measuring

    @abstractmethod
    def renumbered(self, found: Found, table: Sequence[int]) -> Found:
        """What was found, with other class numbers: ``table[k]`` in place of ``k``."""

    @abstractmethod
    def result(self, samples: LocalSamples, index: int, found: Found) -> Result:
        """What is to be kept of one image.

        Args:
            samples: with their labels.
            index: of the sample in table order.
            found: what a model says of it, in the class numbers of the manifest.

        Raises:
            InputError: label and prediction do not fit together.
        """

    @abstractmethod
    def metrics(self, samples: Manifest, results: Sequence[Result], confidence: float) -> Metrics:
        """The figures over some samples; arguments as the attributes of :class:`Measurement`.

        Raises:
            NothingToMeasureError: there is nothing in the labels.
        """

    def measure(self, samples: Manifest, results: Sequence[Result], confidence: float) -> Measurement[Result]:
        """How good a model is on some samples; see ``metrics``."""
        return Measurement(self, samples, results, confidence, self.metrics(samples, results, confidence))

    def interval(self, measured: Measurement[Result]) -> tuple[float, float]:
        """The 95 % interval of the main figure under drawing the images again, with replacement (the bootstrap)."""
        main = self.figures.main
        return interval(np.array([flat[main] for flat in self._resampled(measured)]))

    def delta_interval(
        self, figure: str, ours: Measurement[Result], theirs: Measurement[Result]
    ) -> tuple[float, float]:
        """The 95 % interval of the difference in a figure, ours - theirs, both on the same drawn images.

        Args:
            figure: one of ``figures.overall``.
            ours: of one model.
            theirs: of another on the same samples.
        """
        pairs = zip(self._resampled(ours), self._resampled(theirs), strict=True)
        return interval(np.array([mine[figure] - other[figure] for mine, other in pairs]))

    def _resampled(self, measured: Measurement[Result]) -> Iterable[dict[str, float]]:
        """The figures of each resample; NaN where it has nothing to measure by."""
        for counts in draws(len(measured.results), RESAMPLES):
            drawn = np.repeat(np.arange(len(counts)), counts).tolist()
            samples = Manifest(measured.samples.table[drawn], measured.samples.classes)
            results = [measured.results[index] for index in drawn]
            try:
                yield self.metrics(samples, results, measured.confidence).as_flat()
            except NothingToMeasureError:
                yield dict.fromkeys(self.figures.overall, math.nan)

    def confusion(self, measured: Measurement[Result]) -> Confusion | None:
        """What each class is taken for; None where results cannot tell."""
        return None

    def confidence_curve(self, measured: Measurement[Result]) -> Sequence[CurvePoint]:
        """What counts at each confidence; empty where results have none."""
        return ()

    # Reports

    def settings(self, nms_threshold: float) -> Mapping[str, object]:
        """Which settings of a model a report of its evaluation shows, by title."""
        return {}

    @abstractmethod
    def drawn(self, image: ImageArray, found: Found, classes: Sequence[str]) -> tuple[ImageArray, str]:
        """An image with what was found drawn into it, (H, W, 3) RGB, and a caption."""

    def legend(self, classes: Sequence[str]) -> Markup:
        """What the colours of drawn images mean, where they need one."""
        return Markup()

    def counted(self, found: Found, classes: Sequence[str]) -> Mapping[str, int]:
        """How much of each class was found in an image: how many boxes, or pixels; of other kinds 1 for the image."""
        return {classes[index]: 1 for index in sorted(self.shown_classes(found, 0.0))}

    def described(self, counts: Mapping[str, int]) -> str:
        """What ``counted`` came to over some images, in a few words."""
        return listed(counts) or "nothing"

    def sections(
        self,
        measured: Measurement[Result],
        samples: LocalSamples,
        interval: tuple[float, float],
        facts: Mapping[str, object],
        again: Callable[[int], Found],
    ) -> list[Section]:
        """The report of a measurement.

        Args:
            measured: what was measured.
            samples: the same samples, on this machine.
            interval: of the main figure.
            facts: under which circumstances it was measured, by title.
            again: what the model says of one sample, by its index.
        """
        figures = self.figures
        shown: dict[str, object] = {title: measured.flat[name] for name, title in figures.overall.items()}
        shown[f"{figures.main_title}, 95 % interval"] = "{:.3f} to {:.3f}".format(*interval)
        shown["images"] = measured.images
        names = {"truths": figures.truths, **figures.of_class}
        rows = [
            [one, *(NONE if (value := measured.of_class(name, one)) is None else value for name in names)]
            for one in measured.samples.classes
        ]
        return [
            Section("Evaluation", reports.facts(shown) + reports.facts(facts)),
            Section("Classes", reports.table(("class", *names.values()), rows)),
        ]

    # Conversions

    def allowed_drop(self, name: str, reference: Measurement[Result], max_drop: float) -> float | None:
        """How far a class may fall in ``figures.converted`` when a model is converted.

        Args:
            name: of the class.
            reference: the model that was converted.
            max_drop: what the user allows, 0..1.

        Returns:
            The drop; more than the user allows where a few samples could make it, and None where they are too few to
            tell anything.
        """
        return max_drop

    def highest_score(self, results: Sequence[Result]) -> float | None:
        """The highest score in any result, 0..1; None where results have no scores."""
        return None

    def shown_classes(self, found: Found, confidence: float) -> frozenset[int]:
        """The classes that a model finds in an image at a confidence."""
        return frozenset()

    def write(self, path: Path, found: Iterable[Found]) -> None:
        """Write what a model says of many images into a file."""
        ArrayFile.write(path, (np.asarray(one) for one in found))

    def read(self, path: Path) -> Sequence[Found]:
        """Read what ``write`` wrote."""
        return ArrayFile(path)  # type: ignore[return-value]


def listed(counts: Mapping[str, int]) -> str:
    """Names with their counts, the highest first."""
    return ", ".join(f"{name} {count:,}" for name, count in Counter(counts).most_common())


tasks: Registry[type[Task[Any, Any]]] = Registry(
    "task", [f"components.core.tasks.{name}" for name in ("detection", "segmentation")]
)


def open_task(name: str) -> Task[Any, Any]:
    """The kind of task of a name, as ``model.json`` and estimators give it.

    Raises:
        InputError: no such kind.
    """
    return tasks.get(name)()
