"""The figures of ianvs, by values computed by hand from its formulas."""

import pytest

from components.core.detections import Detections
from components.core.metrics.detection import evaluate_detections
from components.core.metrics.ianvs import f1_ianvs, samples_transfer_ratio

BOX = [10, 10, 29, 29]  # 20 x 20 with its last pixels


def found(*boxes, classes=None, scores=None):
    return Detections.of(boxes, classes or [0] * len(boxes), scores)


def test_missed_images_are_not_counted_by_ianvs_and_are_by_us():
    # Ten images with three objects each; the detector finds all of one image and nothing in the others.
    three = [[10, 10, 29, 29], [40, 10, 59, 29], [70, 10, 89, 29]]
    truths = [found(*three) for _ in range(10)]
    predictions = [found(*three), *[Detections.none()] * 9]
    assert f1_ianvs(truths, predictions, 1) == 1.0
    ours = evaluate_detections(truths, predictions, ["defect"], [(100, 100)] * 10, confidence_threshold=0.5)
    assert ours.recall_micro == pytest.approx(0.1)
    assert ours.precision_micro == 1.0
    assert ours.f1_micro == pytest.approx(2 / 11)


def test_macro_mean_of_the_classes():
    # Class 0: 2 found, 1 correct, 2 true: P = R = 1/2. Class 1: 1 found, 1 correct, 1 true: F1 = 1. Class 2: nothing.
    truths = [found(BOX, [60, 60, 79, 79], BOX, BOX, classes=[0, 0, 1, 2])]
    predictions = [found(BOX, [0, 60, 9, 69], BOX, classes=[0, 0, 1], scores=[0.9, 0.8, 0.7])]
    assert f1_ianvs(truths, predictions, 3) == 0.5  # (1/2 + 1 + 0) / 3


def test_a_second_box_on_an_object_is_wrong_and_low_scores_are_left_out():
    # P = 1/2, R = 1: F1 = 2/3; the third box scores no more than 0.5 and is not there.
    predictions = [found(BOX, [11, 10, 30, 29], [60, 60, 79, 79], scores=[0.9, 0.8, 0.5])]
    assert f1_ianvs([found(BOX)], predictions, 1) == 0.6667


@pytest.mark.parametrize(("right", "f1"), [(38, 1.0), (40, 0.0)])
def test_the_overlap_counts_the_last_pixel_and_must_be_above_three_tenths(right, f1):
    # The true box has columns 10..29, the other 19..38 or 21..40 (20 wide): shared 11 or 9 of 29 or 31 columns, which
    # is 0.379 and 0.290 with the last pixel.
    assert f1_ianvs([found(BOX)], [found([right - 19, 10, right, 29])], 1) == f1


def test_boxes_where_there_is_nothing_of_the_class():
    assert f1_ianvs([Detections.none()], [found(BOX)], 1) == 0.0
    assert f1_ianvs([], [], 0) == 0.0


def test_transfer_ratio_has_one_more_below():
    # Two rounds of 68 and 69 images and a test set of 60: 105 of 197 + 1.
    assert samples_transfer_ratio([40, 35, 30], [68, 69, 60]) == 0.5303
    assert samples_transfer_ratio([], []) == 0.0
