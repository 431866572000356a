import hashlib
import logging
from dataclasses import replace

import cv2
import numpy as np
import polars as pl
import pytest

from components.core.detections import Detections
from components.core.errors import InputError
from components.core.manifest import Manifest
from components.core.reports.page import read_sections, write_page
from components.core.runtimes.base import runtimes
from components.evaluate.evaluate import evaluate
from components.evaluate.predictor import open_predictor
from tests.models import BUNDLE, colour_model, write_bundle

COLOURS = {"red": (250, 0, 0), "blue": (0, 0, 250), "dark": (60, 0, 0)}
CLASSES = ("blue", "red")  # not in the order of the model


def sample(folder, squares, split="test", labelled=True, name="image"):
    """One row: an image of 96x64 pixels with squares of one cell, each a column, row, colour and class name."""
    image = np.zeros((64, 96, 3), np.uint8)
    for column, row, colour, _ in squares:
        image[8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = COLOURS[colour]
    image[-1, -1] = np.random.default_rng(len(list(folder.iterdir()))).integers(0, 20, 3)  # no two alike
    _, data = cv2.imencode(".png", image[:, :, ::-1])
    identity = hashlib.sha256(data.tobytes()).hexdigest()
    path = folder / f"{identity}.png"
    path.write_bytes(data.tobytes())
    boxes = [
        {"class_id": CLASSES.index(name), "x1": 8.0 * c, "y1": 8.0 * r, "x2": 8.0 * c + 8, "y2": 8.0 * r + 8}
        for c, r, _, name in squares
        if name
    ]
    return {
        "id": identity, "uri": path.as_uri(), "width": 96, "height": 64, "split": split, "group": identity,
        "source": f"{name}.png", "round": 0, "annotations": boxes if labelled else None,
    }  # fmt: skip


@pytest.fixture
def blobs(tmp_path):
    folder = tmp_path / "blobs"
    folder.mkdir()
    return folder


@pytest.fixture
def model_folder(tmp_path):
    return write_bundle(tmp_path / "version", colour_model())


@pytest.fixture
def measure(tmp_path, model_folder):
    def run(rows, runtime="onnx", **options):
        predictor = open_predictor(model_folder, nms_threshold=0.7, runtime=runtime)
        settings = {"confidence_threshold": 0.5, "cache_folder": tmp_path / "cache", **options}
        return evaluate(Manifest.of(rows, CLASSES), predictor, **settings)

    return run


def good_rows(blobs, count=6):
    return [sample(blobs, [(n, 1, "red", "red"), (n, 4, "blue", "blue")], name=f"good{n}") for n in range(count)]


def test_a_model_that_is_right_scores_one(blobs, measure, caplog):
    caplog.set_level(logging.INFO)
    evaluation = measure(good_rows(blobs))
    flat = evaluation.as_flat()
    assert evaluation.interval == (1.0, 1.0)
    names = ("map50", "map50_95", "map50_low", "recall[red]", "precision[blue]", "f1_macro")
    assert [flat[name] for name in names] == [1.0] * 6
    assert len(evaluation.measured.results) == 6
    assert "evaluated 6 of 6 images" in caplog.text
    assert [section.title for section in evaluation.sections] == ["Evaluation", "Classes", "Images without mistakes"]


def test_mistakes_cost_what_they_should_and_are_shown_worst_first(blobs, measure, tmp_path):
    rows = [
        *good_rows(blobs, 2),
        sample(blobs, [(0, 0, "red", None)], name="alarm"),
        sample(blobs, [(1, 1, "dark", "red"), (5, 5, "dark", "red"), (9, 2, "blue", "red")], name="worst"),
        sample(blobs, [], name="empty"),
    ]
    evaluation = measure(rows)
    red, blue = evaluation.metrics.per_class[1], evaluation.metrics.per_class[0]
    assert (red.name, red.truths, red.predictions, red.false_positives) == ("red", 5, 3, 1)
    assert (red.precision, red.recall) == pytest.approx((2 / 3, 2 / 5))
    assert (blue.truths, blue.predictions, blue.false_positives) == (2, 3, 1)
    assert evaluation.metrics.false_positives_per_image == pytest.approx(2 / 5)
    low, high = evaluation.interval
    assert low < evaluation.metrics.map50 < high

    write_page(tmp_path / "page.html", "Evaluation", evaluation.sections)
    sections = {section.title: section.body for section in read_sections(tmp_path / "page.html")}
    worst = sections["Worst images"]
    assert worst.index("worst.png: 3 of 3 missed, 1 false positive<") < worst.index("alarm.png: 0 of 0 missed, 1 false")
    assert "good0.png" in sections["Images without mistakes"]
    assert "empty.png" not in worst + sections["Images without mistakes"]
    assert "<svg" in sections["Classes"]
    assert sections["Classes"].count("<tr>") == 3


def test_average_precision_sees_predictions_below_the_deployed_confidence(blobs, measure):
    rows = [sample(blobs, [(n, 1, "dark", "red")]) for n in range(4)]
    evaluation = measure(rows, confidence_threshold=0.5)
    assert evaluation.metrics.map50 == 1.0
    assert evaluation.metrics.recall_micro == 0.0
    assert "No detections at this confidence" in evaluation.sections[0].body
    assert "AP50" in evaluation.sections[1].body


def test_only_labelled_samples_of_the_split_are_measured(blobs, measure):
    rows = [
        *good_rows(blobs, 2),
        sample(blobs, [(3, 3, "red", "red")], labelled=False),
        sample(blobs, [(4, 4, "red", None)], split="train"),
    ]
    assert measure(rows).metrics.images == 2


def test_an_empty_split_says_what_there_is(blobs, measure):
    rows = [
        sample(blobs, [(3, 3, "red", "red")], split="train"),
        sample(blobs, [], split="train"),
        sample(blobs, [(3, 3, "red", "red")], labelled=False),
    ]
    with pytest.raises(InputError, match="'test' has no labelled samples .labelled samples: train 2, val 0, test 0"):
        measure(rows)


def test_a_split_without_boxes_cannot_be_measured(blobs, measure):
    with pytest.raises(InputError, match="no labelled boxes in 1 images"):
        measure([sample(blobs, [])])


def test_a_class_that_nobody_labels_is_refused(blobs, measure, model_folder):
    replace(BUNDLE, classes=("red", "green")).write(model_folder)
    with pytest.raises(InputError, match="predicts green, which has no labels .* classes are blue, red"):
        measure(good_rows(blobs))


def test_a_class_that_the_model_does_not_know_is_missed(blobs, tmp_path, measure, model_folder):
    rows = good_rows(blobs, 2)
    manifest = Manifest.of(rows, CLASSES)
    grown = Manifest(
        manifest.table.with_columns(
            pl.Series("annotations", [[{**row["annotations"][0], "class_id": 2}] for row in rows])
        ).cast(manifest.table.schema),
        (*CLASSES, "green"),
    )
    evaluation = evaluate(
        grown,
        open_predictor(model_folder, nms_threshold=0.7),
        confidence_threshold=0.5,
        cache_folder=tmp_path / "cache",
    )
    assert evaluation.metrics.as_flat()["recall[green]"] == 0.0


def test_a_image_of_another_size_than_the_manifest_says_is_refused(blobs, measure):
    row = {**sample(blobs, [(3, 3, "red", "red")], name="turned"), "width": 64, "height": 96}
    with pytest.raises(InputError, match=r"turned\.png: the image has 96x64 pixels, the manifest says 64x96"):
        measure([row])


def test_a_runtime_of_ones_own_can_be_used(blobs, measure, monkeypatch):
    class Blind:
        def __init__(self, folder, threads):
            self.bundle = BUNDLE

        def predict(self, images, *, confidence=None, nms=None):
            return [Detections.none() for _ in images]

    monkeypatch.setitem(runtimes._entries, "blind", Blind)
    evaluation = measure(good_rows(blobs, 2), runtime="blind")
    assert evaluation.metrics.map50 == evaluation.metrics.precision_micro == 0.0
    with pytest.raises(InputError, match="unknown runtime 'deaf': choose from blind, .*onnx"):
        measure(good_rows(blobs, 2), runtime="deaf")
