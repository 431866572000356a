"""What every kind of task has in common, and comparisons of more than two models."""

import numpy as np
import polars as pl
import pytest

from components.core.cache import fetch_blobs
from components.core.detections import Detections, iou
from components.core.errors import InputError, NothingToMeasureError
from components.core.heads import heads
from components.core.manifest import Manifest
from components.core.runtimes.letterbox import read_image
from components.core.tasks.base import open_task, tasks
from components.evaluate.compare import compare
from components.evaluate.predictor import Predictor
from tests.classification import Classification
from tests.images import job_with_images

CLASSES = ("red", "blue")


def labelled(*classes):
    """Samples of one image each, whose class is that of a box around all of it."""
    box = {"x1": 0, "y1": 0, "x2": 8, "y2": 8}
    rows = [
        {
            "id": f"{index:064x}", "uri": "file:///x.png", "width": 8, "height": 8, "split": "test", "group": "g",
            "source": "s", "round": 0, "annotations": [{"class_id": class_id, **box}],
        }
        for index, class_id in enumerate(classes)
    ]  # fmt: skip
    return Manifest.of(rows, CLASSES)


def certain(*classes):
    return [np.eye(2, dtype=np.float32)[class_id] for class_id in classes]


def test_boxes_are_renumbered_and_those_of_no_class_go():
    found = Detections.of([[0, 0, 1, 1], [2, 2, 3, 3], [4, 4, 5, 5]], [0, 1, 2], [0.9, 0.8, 0.7])
    renamed = found.renumbered([5, -1, 0])
    assert renamed.classes.tolist() == [5, 0]
    assert renamed.scores.tolist() == pytest.approx([0.9, 0.7])
    assert renamed.boxes.tolist() == [[0, 0, 1, 1], [4, 4, 5, 5]]
    assert len(Detections.none().renumbered([3])) == 0


def test_overlaps_are_those_of_each_box_with_each():
    first = np.array([[0, 0, 2, 2], [5, 5, 5, 5]], np.float32)
    second = np.array([[0, 0, 2, 2], [1, 0, 3, 2], [9, 9, 10, 10]], np.float32)
    assert iou(first, second).tolist() == [[1, pytest.approx(1 / 3), 0], [0, 0, 0]]
    assert iou(first, second[:0]).shape == (2, 0)


def test_an_unknown_kind_is_reported_with_the_known_ones():
    with pytest.raises(InputError, match="unknown task 'counting'.*detection, segmentation"):
        open_task("counting")
    assert {"detection", "segmentation"} <= set(tasks.names())
    assert tasks.group == "edge_learning.tasks"
    assert heads.group == "edge_learning.heads"


def test_a_kind_without_intervals_of_its_own_gets_them_by_drawing_images_again():
    task, samples = Classification(), labelled(*[0, 1] * 20)
    right = task.measure(samples, certain(*[0, 1] * 20), 0.5)
    half = task.measure(samples, certain(*[0] * 40), 0.5)
    assert (right.flat["accuracy"], half.flat["accuracy"]) == (1.0, 0.5)
    assert task.interval(right) == (1.0, 1.0)
    low, high = task.interval(half)
    assert 0.25 < low < 0.5 < high < 0.75
    assert task.delta_interval("accuracy", right, right) == (0.0, 0.0)
    # Drawn together, the two differ exactly where the second one is wrong.
    assert task.delta_interval("accuracy", right, half) == pytest.approx((1 - high, 1 - low))
    assert task.interval(half) == (low, high)
    with pytest.raises(NothingToMeasureError):
        task.measure(labelled(), [], 0.5)


@pytest.mark.parametrize(
    ("name", "found", "described"),
    [
        ("detection", Detections.of(np.zeros((3, 4)), [0, 0, 1], [0.9, 0.8, 0.7]), "3 boxes: red 2, blue 1"),
        ("detection", Detections.none(), "0 boxes"),
        ("segmentation", np.array([[0, 0, 0, 1, 255]], np.uint8), "pixels: red 75.0%, blue 25.0%"),
        ("classification", np.array([0.2, 0.8], np.float32), "blue 1"),
    ],
)
def test_what_is_found_is_counted_in_the_units_of_its_kind(name, found, described):
    task = open_task(name)
    assert task.described(task.counted(found, CLASSES)) == described


def one_that_misses(fraction, name, truths):
    """Finds the true boxes, but none in a part of the images, which their first pixel decides."""

    def predict(image):
        return Detections.none() if (image[0, 0, 0] % 10) / 10 < fraction else truths[image.tobytes()]

    return Predictor(name=name, task=open_task("detection"), classes=CLASSES, predict=predict)


def test_one_model_is_compared_with_several_on_several_sets(tmp_path):
    manifest = job_with_images(tmp_path / "job", {"test": 24})
    shown = [read_image(path) for path in fetch_blobs(manifest, tmp_path / "cache")]
    truths = dict(zip((image.tobytes() for image in shown), manifest.truths(), strict=True))
    names = {"joint": 0.2, "edge": 0.7, "cloud": 0.4, "oracle": 0.0}
    sets = {
        name: Manifest(part, CLASSES) for name, part in (("day", manifest.table[:16]), ("night", manifest.table[8:]))
    }
    found = compare(
        {name: one_that_misses(fraction, name, truths) for name, fraction in names.items()},
        sets,
        confidence_threshold=0.5,
        cache_folder=tmp_path / "cache",
    )
    assert list(found.scores) == ["day", "night", "all"]
    assert list(found.scores["day"]) == list(names)
    assert {name: one["edge"].measured.images for name, one in found.scores.items()} == {
        "day": 16,
        "night": 16,
        "all": 24,
    }
    assert found.metrics("oracle")["night.map50"] == pytest.approx(1.0)
    assert found.metrics("another") is None
    recalls = {name: found.scores["all"][name].measured.flat["recall_micro"] for name in names}
    assert recalls["oracle"] > recalls["joint"] > recalls["cloud"] > recalls["edge"]
    better, worse = found.delta("all", "map50", "edge"), found.delta("all", "map50", "oracle")
    assert 0 < better.low <= better.value <= better.high
    assert worse.low <= worse.value <= worse.high <= 0
    assert found.delta("all", "map50") is None  # there is no champion among them


def test_an_interval_passes_over_draws_with_nothing_to_measure_by():
    task, samples = Classification(), labelled(*[0] * 10)
    table = samples.table.with_columns(
        annotations=pl.when(pl.int_range(pl.len()) < 2).then("annotations").otherwise(pl.lit([]))
    )  # eight images are labelled with nothing, so that one draw in ten has no class label
    right, wrong = (task.measure(Manifest(table, CLASSES), certain(*found), 0.5) for found in ([0] * 10, [1] * 10))
    assert task.interval(right) == (1, 1)
    assert task.delta_interval("accuracy", right, wrong) == (1, 1)
