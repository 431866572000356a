import contextlib
import io

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from components.core.detections import Detections
from components.core.errors import InputError
from components.core.metrics.bootstrap import map50_interval
from components.core.metrics.detection import evaluate_detections, match

SIZE = (200, 150)
NAMES = [f"class{index}" for index in range(8)]


def random_boxes(rng, count):
    corner = rng.uniform(0, [150, 100], (count, 2))
    return np.concatenate([corner, corner + rng.uniform(4, 50, (count, 2))], axis=1).round(1)


def random_case(seed):
    """Images that are crowded, empty, missed and full of ties, by turns."""
    rng = np.random.default_rng(seed)
    classes = int(rng.integers(1, len(NAMES) + 1))
    truths, predictions = [], []
    for _ in range(int(rng.integers(1, 25))):
        boxes = random_boxes(rng, int(rng.integers(0, 12)))
        truth = Detections.of(boxes, rng.integers(0, classes, len(boxes)))
        copies = rng.integers(0, len(boxes), rng.integers(0, 30)) if len(boxes) else np.array([], int)
        moved = boxes[copies] + rng.normal(0, 3, (len(copies), 4)) * rng.integers(0, 2, (len(copies), 1))
        right = np.where(rng.random(len(copies)) < 0.8, truth.classes[copies], rng.integers(0, classes, len(copies)))
        noise = random_boxes(rng, int(rng.integers(0, 160 if seed % 5 == 0 else 10)))
        found = np.concatenate([moved.reshape(-1, 4), noise])
        found = np.clip(np.concatenate([found[:, :2], np.maximum(found[:, :2], found[:, 2:])], axis=1), 0, [*SIZE] * 2)
        labels = np.concatenate([right, rng.integers(0, classes, len(noise))])
        scores = rng.random(len(found))
        truths.append(truth)
        predictions.append(Detections.of(found, labels, scores.round(1) if seed % 3 == 0 else scores))
    if not any(map(len, truths)):
        truths[0] = Detections.of([[1, 1, 20, 20]], [0])
    return truths, predictions, NAMES[:classes]


def as_coco(images):
    return [
        {
            "image_id": number,
            "category_id": int(class_id),
            "bbox": [float(x1), float(y1), float(x2) - float(x1), float(y2) - float(y1)],
            "area": (float(x2) - float(x1)) * (float(y2) - float(y1)),
            "score": float(score),
            "iscrowd": 0,
        }
        for number, image in enumerate(images)
        for (x1, y1, x2, y2), class_id, score in zip(image.boxes, image.classes, image.scores, strict=True)
    ]


def pycocotools(truths, predictions, names, max_detections=100):
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "images": [{"id": image} for image in range(len(truths))],
            "categories": [{"id": index, "name": name} for index, name in enumerate(names)],
            "annotations": [{**row, "id": number} for number, row in enumerate(as_coco(truths), start=1)],
        }
        truth.createIndex()
        found = COCO()
        found.dataset = {
            **truth.dataset,
            "annotations": [{**row, "id": number} for number, row in enumerate(as_coco(predictions), start=1)],
        }
        found.createIndex()
        evaluation = COCOeval(truth, found, "bbox")
        evaluation.params.maxDets = [max_detections]
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


def brute_force_counts(truths, predictions, classes, confidence, threshold=0.5):
    """True positives, predictions and truths per class, by the definition and with loops only."""
    hits, found, wanted = np.zeros(classes, int), np.zeros(classes, int), np.zeros(classes, int)
    for truth, prediction in zip(truths, predictions, strict=True):
        for class_id in range(classes):
            free = [tuple(map(float, b)) for b, c in zip(truth.boxes, truth.classes, strict=True) if c == class_id]
            rows = [
                (float(s), tuple(map(float, b)))
                for b, s, c in zip(prediction.boxes, prediction.scores, prediction.classes, strict=True)
                if c == class_id and s >= np.float32(confidence)
            ]
            wanted[class_id] += len(free)
            found[class_id] += len(rows)
            for _, (x1, y1, x2, y2) in sorted(rows, key=lambda row: -row[0]):
                best, taken = threshold, None
                for t in free:
                    across = max(0.0, min(x2, t[2]) - max(x1, t[0])) * max(0.0, min(y2, t[3]) - max(y1, t[1]))
                    union = (x2 - x1) * (y2 - y1) + (t[2] - t[0]) * (t[3] - t[1]) - across
                    if union > 0 and across / union >= best:
                        best, taken = across / union, t
                if taken:
                    free.remove(taken)
                    hits[class_id] += 1
    return hits, found, wanted


@pytest.mark.parametrize("seed", range(40))
def test_equals_pycocotools(seed):
    truths, predictions, names = random_case(seed)
    max_detections = (10, 100)[seed % 2]
    metrics = evaluate_detections(
        truths,
        predictions,
        names,
        [SIZE] * len(truths),
        confidence_threshold=0.4,
        max_detections=max_detections,
    )
    reference = pycocotools(truths, predictions, names, max_detections)
    precision = reference.eval["precision"][:, :, :, 0, 0]
    assert metrics.map50 == pytest.approx(precision[0][precision[0] > -1].mean(), abs=1e-6)
    assert metrics.map50_95 == pytest.approx(precision[precision > -1].mean(), abs=1e-6)
    for index, one in enumerate(metrics.per_class):
        if one.truths == 0:
            assert one.ap50 is None
            assert (precision[:, :, index] == -1).all()
        else:
            assert one.ap50 == pytest.approx(precision[0, :, index].mean(), abs=1e-6)
            assert one.ap50_95 == pytest.approx(precision[:, :, index].mean(), abs=1e-6)
            np.testing.assert_allclose(metrics.curves[one.name], precision[0, :, index], atol=1e-9)


@pytest.mark.parametrize("seed", range(20))
def test_precision_and_recall_are_those_of_one_to_one_matching(seed):
    truths, predictions, names = random_case(seed)
    metrics = evaluate_detections(truths, predictions, names, [SIZE] * len(truths), confidence_threshold=0.3)
    hits, found, wanted = brute_force_counts(truths, predictions, len(names), 0.3)
    known = wanted > 0
    precision, recall = hits / np.maximum(found, 1), hits / np.maximum(wanted, 1)
    f1 = 2 * precision * recall / np.where(hits > 0, precision + recall, 1)
    for index, one in enumerate(metrics.per_class):
        assert (one.truths, one.predictions) == (wanted[index], found[index])
        assert one.false_positives == found[index] - hits[index]
        if known[index]:
            assert (one.precision, one.recall, one.f1) == pytest.approx((precision[index], recall[index], f1[index]))
    assert metrics.precision_macro == pytest.approx(precision[known].mean())
    assert metrics.recall_macro == pytest.approx(recall[known].mean())
    assert metrics.f1_macro == pytest.approx(f1[known].mean())
    assert metrics.precision_micro == pytest.approx(hits.sum() / max(found.sum(), 1))
    assert metrics.recall_micro == pytest.approx(hits.sum() / wanted.sum())
    assert metrics.f1_micro == pytest.approx(2 * hits.sum() / (found.sum() + wanted.sum()))
    assert metrics.false_positives_per_image == pytest.approx((found - hits).sum() / len(truths))


@pytest.mark.parametrize("seed", range(20))
def test_matches_are_those_of_pycocotools(seed):
    truths, predictions, names = random_case(seed)
    matches = match(truths, predictions, len(names))
    reference = pycocotools(truths, predictions, names, max_detections=1000)
    expected = np.zeros((len(truths), len(names)), int)
    for result in filter(None, reference.evalImgs):
        sure = np.array(result["dtScores"]) >= np.float32(0.3)
        expected[result["image_id"], result["category_id"]] = (result["dtMatches"][0][sure] > 0).sum()
    np.testing.assert_array_equal(matches.counts(0.3)[1], expected)


def ten_images():
    return [Detections.of([[10, 10, 30, 30]], [0]) for _ in range(10)]


def evaluate(truths, predictions, names=("helmet",), confidence_threshold=0.5):
    sizes = [SIZE] * len(truths)
    return evaluate_detections(truths, predictions, names, sizes, confidence_threshold=confidence_threshold)


def test_a_missed_image_costs_recall():
    found = [Detections.of([[10, 10, 30, 30]], [0], [0.9])] + [Detections.none()] * 9
    metrics = evaluate(ten_images(), found)
    assert metrics.recall_micro == metrics.recall_macro == metrics.per_class[0].recall == pytest.approx(0.1)
    assert metrics.precision_micro == 1.0
    assert metrics.map50 == pytest.approx(11 / 101)  # recalls 0.00 to 0.10


def test_a_model_that_finds_nothing_scores_zero():
    metrics = evaluate(ten_images(), [Detections.none()] * 10)
    flat = metrics.as_flat()
    assert (flat.pop("images"), flat.pop("truths"), flat.pop("truths[helmet]")) == (10, 10, 10)
    assert set(flat.values()) == {0.0}
    assert {"map50", "map50_95", "precision[helmet]", "precision_micro"} <= set(flat)


def test_a_perfect_model_scores_one():
    found = [Detections.of([[10, 10, 30, 30]], [0], [0.9])] * 10
    metrics = evaluate(ten_images(), found)
    flat = metrics.as_flat()
    ones = [value for name, value in flat.items() if name.startswith(("map", "ap", "precision", "recall", "f1"))]
    assert len(ones) == 13
    assert set(ones) == {1.0}
    assert metrics.false_positives_per_image == 0


def test_two_predictions_of_one_object_are_one_hit():
    found = [Detections.of([[10, 10, 30, 30], [11, 11, 30, 30]], [0, 0], [0.9, 0.8])] * 10
    metrics = evaluate(ten_images(), found)
    assert (metrics.recall_micro, metrics.precision_micro) == (1.0, 0.5)
    assert metrics.false_positives_per_image == 1.0


def test_of_equal_overlaps_the_last_is_taken_as_in_coco():
    truth = Detections.of([[0, 0, 10, 10], [4, 0, 14, 10]], [0, 0])
    between_both_then_on_the_first = Detections.of([[2, 0, 12, 10], [0, 0, 8, 10]], [0, 0], [0.9, 0.8])
    metrics = evaluate([truth], [between_both_then_on_the_first])
    assert metrics.recall_micro == metrics.precision_micro == metrics.map50 == 1.0


def test_large_boxes_count():
    truth = Detections.of([[0, 0, 3000, 2000]], [0])
    metrics = evaluate_detections([truth], [truth], ["helmet"], [(3000, 2000)], confidence_threshold=0.5)
    assert metrics.map50 == metrics.map50_95 == 1.0


def test_a_class_without_truth_leaves_the_means_alone_but_costs_false_positives():
    found = [Detections.of([[10, 10, 30, 30], [60, 60, 90, 90]], [0, 1], [0.9, 0.9])] * 10
    metrics = evaluate(ten_images(), found, names=("helmet", "head"))
    assert metrics.map50 == metrics.precision_macro == metrics.f1_macro == 1.0
    assert metrics.precision_micro == 0.5
    assert metrics.false_positives_per_image == 1.0
    head = metrics.per_class[1]
    assert (head.ap50, head.precision, head.recall, head.false_positives) == (None, None, None, 10)
    assert "ap50[head]" not in metrics.as_flat()
    assert metrics.as_flat()["false_positives[head]"] == 10.0


def test_crowded_images_are_cut_where_asked():
    boxes = [[x, y, x + 4, y + 4] for x in range(0, 195, 5) for y in range(0, 25, 5)]
    crowd = Detections.of(boxes, [0] * len(boxes))
    cut = evaluate([crowd], [crowd])
    whole = evaluate_detections([crowd], [crowd], ["helmet"], [SIZE], confidence_threshold=0.5, max_detections=300)
    assert len(boxes) > 150
    assert cut.map50 < 0.6
    assert cut.recall_micro == whole.recall_micro == whole.map50 == 1.0


@pytest.mark.parametrize(
    ("boxes", "classes", "scores", "complaint"),
    [
        ([[1, 1, 9, 9]], [0], [np.nan], "not a finite number"),
        ([[1, 1, np.inf, 9]], [0], [0.5], "not a finite number"),
        ([[1, 1, 9, 9]], [3], [0.5], "class 3 has no name"),
        ([[9, 1, 1, 9]], [0], [0.5], "has x2 < x1"),
        ([[1, 1, 640, 9]], [0], [0.5], "exceeds the image of 200x150 pixels"),
    ],
)
def test_what_cannot_be_measured_is_refused(boxes, classes, scores, complaint):
    bad = Detections.of(boxes, classes, scores)
    with pytest.raises(InputError, match=f"prediction of image 1: .*{complaint}"):
        evaluate(ten_images(), [Detections.none(), bad, *[Detections.none()] * 8])
    with pytest.raises(InputError, match=f"truth of image 1: .*{complaint}"):
        evaluate([*ten_images()[:1], bad], [Detections.none()] * 2)


def test_no_truth_is_refused():
    with pytest.raises(InputError, match="no labelled boxes in 2 images"):
        evaluate([Detections.none()] * 2, [Detections.none()] * 2)


def test_lengths_must_agree():
    with pytest.raises(InputError, match="10 truths, 3 predictions"):
        evaluate(ten_images(), [Detections.none()] * 3)


def test_interval_is_around_the_measured_value_and_repeatable():
    truths, predictions, names = random_case(7)
    measured = evaluate_detections(truths, predictions, names, [SIZE] * len(truths), confidence_threshold=0.5).map50
    matches = match(truths, predictions, len(names))
    low, high = map50_interval(matches)
    assert 0 <= low < measured < high <= 1
    assert map50_interval(matches) == (low, high)
    assert map50_interval(matches, seed=1) != (low, high)


def test_interval_draws_images_as_if_they_were_copied(monkeypatch):
    truths, predictions, names = random_case(11)
    draw = np.random.default_rng(0).multinomial(len(truths), np.full(len(truths), 1 / len(truths)), size=1)
    monkeypatch.setattr("components.core.metrics.bootstrap.LEAST_RESAMPLES", 1)
    monkeypatch.setattr("components.core.metrics.bootstrap.RESAMPLES", 1)
    low, high = map50_interval(match(truths, predictions, len(names)), seed=0)
    drawn = [index for index, times in enumerate(draw[0]) for _ in range(times)]
    copied = evaluate_detections(
        [truths[index] for index in drawn],
        [predictions[index] for index in drawn],
        names,
        [SIZE] * len(drawn),
        confidence_threshold=0.5,
    )
    assert low == high == pytest.approx(copied.map50, abs=1e-9)


def test_interval_of_a_perfect_and_of_a_silent_model():
    truths = ten_images()
    assert map50_interval(match(truths, truths, 1)) == (1.0, 1.0)
    assert map50_interval(match(truths, [Detections.none()] * 10, 1)) == (0.0, 0.0)
