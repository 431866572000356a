import hashlib
from dataclasses import replace

import cv2
import numpy as np
import pytest
from onnx import numpy_helper

from components.core.detections import Detections
from components.core.errors import InputError
from components.core.manifest import Manifest
from components.core.metrics.bootstrap import delta_interval, map50_interval
from components.core.metrics.detection import evaluate_detections, match
from components.core.rules.conditions import Condition, Outcome
from components.core.tasks.detection import IOU_THRESHOLDS
from components.evaluate.compare import compare
from components.evaluate.evaluate import evaluate
from components.evaluate.predictor import open_predictor
from tests.models import BUNDLE, colour_model, write_bundle

CLASSES = ("red", "blue")
COLOURS = {0: (250, 0, 0), 1: (0, 0, 250)}
SIZE = (100, 100)


def squint(**bias):
    """The model of the tests with other biases; a low one makes it miss that colour."""
    graph = colour_model()
    for constant in graph.graph.initializer:
        if constant.name == "bias":
            values = np.array([bias.get("red", -0.5), bias.get("blue", -0.5)], np.float32)
            constant.CopyFrom(numpy_helper.from_array(values, "bias"))
    return graph


def sample(folder, number, classes):
    """An image of 96x64 pixels with one square of a cell for each class."""
    image = np.zeros((64, 96, 3), np.uint8)
    places = [(2 * place + number % 2, 1 + number % 5) for place in range(len(classes))]
    for class_id, (x, y) in zip(classes, places, strict=True):
        image[8 * y : 8 * y + 8, 8 * x : 8 * x + 8] = COLOURS[class_id]
    image[-1, -1] = (number % 20, number // 20, 0)  # no two alike
    _, data = cv2.imencode(".png", image[:, :, ::-1])
    identity = hashlib.sha256(data.tobytes()).hexdigest()
    path = folder / f"{identity}.png"
    path.write_bytes(data.tobytes())
    boxes = [
        {"class_id": c, "x1": 8.0 * x, "y1": 8.0 * y, "x2": 8.0 * x + 8, "y2": 8.0 * y + 8}
        for c, (x, y) in zip(classes, places, strict=True)
    ]
    return {
        "id": identity, "uri": path.as_uri(), "width": 96, "height": 64, "split": "test", "group": identity,
        "source": f"{number}.png", "round": 1, "annotations": boxes,
    }  # fmt: skip


@pytest.fixture
def images(tmp_path):
    """Ten images: with red, with blue, or with both squares by turns."""
    folder = tmp_path / "blobs"
    folder.mkdir()
    return [sample(folder, number, [(0,), (1,), (0, 1)][number % 3]) for number in range(10)]


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setattr("components.core.metrics.bootstrap.RESAMPLES", 100)  # for speed

    def measure(candidate, champion, core, recent, classes=CLASSES, **options):
        folders = {"candidate": candidate, **({"champion": champion} if champion else {})}
        return compare(
            {name: open_predictor(folder, nms_threshold=0.7) for name, folder in folders.items()},
            {"core": Manifest.of(core, classes), "recent": Manifest.of(recent, classes)},
            confidence_threshold=0.5,
            cache_folder=tmp_path / "cache",
            **options,
        )

    return measure


@pytest.fixture
def models(tmp_path):
    return {
        "sees all": write_bundle(tmp_path / "all", colour_model()),
        "blind to blue": write_bundle(tmp_path / "blind", squint(blue=-5)),
        "blind to red": write_bundle(tmp_path / "blind_red", squint(red=-5)),
    }


def test_both_models_are_measured_on_the_same_samples_of_each_set(images, run, models):
    reds, blues = [p for n, p in enumerate(images) if n % 3 == 0], [p for n, p in enumerate(images) if n % 3 == 1]
    found = run(models["sees all"], models["blind to blue"], reds, [*blues, reds[0]])
    images = {name: scores["candidate"].measured.images for name, scores in found.scores.items()}
    assert images == {"core": 4, "recent": 4, "all": 7}
    assert found.images == 7
    assert found.metrics("champion")["core.map50"] == pytest.approx(1.0)
    assert found.metrics("champion")["recent.map50"] == pytest.approx(0.5)
    assert found.metrics("champion")["map50"] == pytest.approx(0.5)
    assert all(one["candidate"].measured.flat["map50"] == pytest.approx(1.0) for one in found.scores.values())
    assert found.delta("core", "map50").value == 0
    delta = found.delta("all", "map50")
    assert delta.value == pytest.approx(0.5)
    assert 0 <= delta.low < delta.value <= delta.high


def test_the_figures_are_those_of_an_evaluation_alone(images, run, models, tmp_path):
    found = run(models["blind to red"], models["sees all"], images[:6], images[4:])
    alone = evaluate(
        Manifest.of(images, CLASSES), open_predictor(models["blind to red"], nms_threshold=0.7),
        confidence_threshold=0.5, cache_folder=tmp_path / "cache",
    )  # fmt: skip
    assert {k: found.metrics("candidate")[k] for k in alone.metrics.as_flat()} == alone.metrics.as_flat()
    assert [section.title for section in found.sections] == [section.title for section in alone.sections]


def test_conditions_name_the_sets(images, run, models):
    found = run(models["sees all"], models["blind to blue"], images[:3], images[3:])
    metrics = found.metrics("candidate"), found.metrics("champion")
    for text, outcome in {
        "map50_delta > 0.4": Outcome.MET,
        "core.map50_delta > 0.4": Outcome.MET,
        "recent.map50 >= 1": Outcome.MET,
        "min(core.recall_delta) >= 0": Outcome.MET,
        "recent.recall_delta[red] > 0": Outcome.NOT_MET,
        "recent.map50_rel > 0.9": Outcome.MET,
        "elsewhere.map50 > 0": Outcome.ERROR,
    }.items():
        assert Condition.parse(text).evaluate(*metrics, classes=found.classes).outcome == outcome, text
    flat = found.as_flat()
    assert flat["core.map50_delta"] == pytest.approx(0.5)
    assert flat["map50_delta_low"] <= flat["map50_delta"] <= flat["map50_delta_high"]
    assert {"map50_95_delta", "recent.map50_95_delta_high", "core.precision[red]"} <= flat.keys()
    assert all(np.isfinite(value) for value in flat.values())


def test_a_first_candidate_has_nobody_to_be_compared_with(images, run, models):
    found = run(models["sees all"], None, images, images)
    assert found.metrics("champion") is None
    assert found.deltas["all"] == {}
    assert found.as_flat() == found.metrics("candidate")


def test_a_model_is_not_compared_with_itself(images, run, models, tmp_path):
    copy = write_bundle(tmp_path / "copy", colour_model(), replace(BUNDLE, confidence_threshold=0.9))
    with pytest.raises(InputError, match=r"copy\) and champion \(.*all\) are the same model: model\.onnx of both "):
        run(copy, models["sees all"], images, images)


def test_a_champion_that_lacks_a_class_has_0_there_and_order_does_not_matter(images, run, tmp_path):
    turned = squint(red=-0.5, blue=-0.5)
    weights = next(c for c in turned.graph.initializer if c.name == "weights")
    weights.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weights)[::-1].copy(), "weights"))
    candidate = write_bundle(tmp_path / "turned", turned, replace(BUNDLE, classes=("blue", "red")))
    champion = write_bundle(tmp_path / "poor", colour_model(), replace(BUNDLE, classes=("red", "green")))
    found = run(candidate, champion, images, images, classes=("red", "blue", "green"))
    assert found.metrics("candidate")["ap50[blue]"] == found.metrics("candidate")["ap50[red]"] == pytest.approx(1.0)
    assert found.metrics("champion")["ap50[blue]"] == 0
    assert found.metrics("champion")["ap50[red]"] == pytest.approx(1.0)


def test_a_set_in_which_nobody_has_drawn_a_box_is_left_out(images, run, models):
    empty = [{**row, "annotations": []} for row in images[:2]]
    found = run(models["sees all"], models["blind to red"], images[2:], empty)
    assert found.empty == ("recent",)
    assert set(found.scores) == {"core", "all"}
    assert found.images == 10
    assert run(models["sees all"], None, images, []).empty == ("recent",)
    with pytest.raises(InputError, match="no labelled boxes in 2 images"):
        run(models["sees all"], models["blind to red"], empty, empty)
    with pytest.raises(InputError, match="no labelled samples"):
        run(models["sees all"], models["blind to red"], [], [])


def test_sets_of_different_classes_are_refused(images, models, tmp_path):
    sets = {"core": Manifest.of(images, CLASSES), "recent": Manifest.of(images, CLASSES[::-1])}
    candidate = open_predictor(models["sees all"], nms_threshold=0.7)
    with pytest.raises(InputError, match="the core set has classes red, blue, the recent set blue, red"):
        compare({"candidate": candidate}, sets, confidence_threshold=0.5, cache_folder=tmp_path)


def crowd(rng, skill, images=30):
    """True boxes of two classes, and what a model finds of them: each with a chance, badly placed, and false alarms."""
    truths, found = [], []
    for _ in range(images):
        corners = rng.uniform(0, 60, (4, 2)).round()
        boxes = np.concatenate([corners, corners + 20], axis=1)
        truths.append(Detections.of(boxes, [0, 0, 1, 1]))
        found.append(see(rng, truths[-1], skill))
    return truths, found


def see(rng, truth, skill):
    kept = np.flatnonzero(rng.random(len(truth)) < skill)
    boxes = truth.boxes[kept] + rng.normal(0, 1.5, (len(kept), 1))
    alarm = np.array([[80, 80, 95, 95]], np.float32)
    classes = np.append(truth.classes[kept], rng.integers(0, 2))
    return Detections.of(np.concatenate([boxes, alarm]), classes, rng.random(len(kept) + 1))


def all_matches(truths, found):
    return [match(truths, found, 2, threshold) for threshold in IOU_THRESHOLDS]


def test_the_paired_interval_draws_images_as_if_they_were_copied(monkeypatch):
    rng = np.random.default_rng(4)
    truths, ours = crowd(rng, 0.8)
    theirs = [see(rng, truth, 0.6) for truth in truths]
    monkeypatch.setattr("components.core.metrics.bootstrap.LEAST_RESAMPLES", 1)
    monkeypatch.setattr("components.core.metrics.bootstrap.RESAMPLES", 1)
    low, high = delta_interval(all_matches(truths, ours), all_matches(truths, theirs), seed=7)
    draw = np.random.default_rng(7).multinomial(len(truths), np.full(len(truths), 1 / len(truths)), size=1)[0]
    drawn = np.repeat(np.arange(len(truths)), draw)
    new, old = (
        evaluate_detections(
            [truths[n] for n in drawn], [found[n] for n in drawn], CLASSES, [SIZE] * len(drawn),
            confidence_threshold=0.5,
        ).map50_95
        for found in (ours, theirs)
    )  # fmt: skip
    assert low == high == pytest.approx(new - old, abs=1e-9)


def test_the_interval_of_two_equal_models_contains_0_as_often_as_it_says(monkeypatch):
    monkeypatch.setattr("components.core.metrics.bootstrap.RESAMPLES", 200)
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(100):
        truths, ours = crowd(rng, 0.7)
        theirs = [see(rng, truth, 0.7) for truth in truths]
        low, high = delta_interval([match(truths, ours, 2)], [match(truths, theirs, 2)])
        assert low < high
        held += low <= 0 <= high
    assert 88 <= held <= 100  # 95 on average; 88 or fewer would happen once in 200 times


def test_the_interval_of_a_better_model_lies_above_0_and_the_pairing_narrows_it():
    rng = np.random.default_rng(1)
    truths, theirs = crowd(rng, 0.5, images=60)
    # The better model finds all that the other does, and half of what it misses: a strong pairing.
    ours = [
        Detections.of(
            np.concatenate([found.boxes, extra.boxes]),
            np.concatenate([found.classes, extra.classes]),
            np.concatenate([found.scores, extra.scores]),
        )
        for found, extra in (
            (found, truth[rng.random(len(truth)) < 0.3]) for found, truth in zip(theirs, truths, strict=True)
        )
    ]
    new, old = match(truths, ours, 2), match(truths, theirs, 2)
    low, high = delta_interval([new], [old])
    assert 0 < low < high
    assert delta_interval([new], [old]) == (low, high)
    assert delta_interval([old], [new]) == pytest.approx((-high, -low))
    widths = [end - begin for begin, end in (map50_interval(new), map50_interval(old))]
    assert high - low < np.hypot(*widths)  # that of two samples of their own
    assert delta_interval([new], [new]) == (0.0, 0.0)
