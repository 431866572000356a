"""Intersection over union, by hand and against scikit-style counting."""

import numpy as np
import pytest

from components.core.errors import NothingToMeasureError
from components.core.masks import VOID
from components.core.metrics.segmentation import (
    confusion,
    evaluate_segmentation,
    miou_delta_interval,
    miou_interval,
)

NAMES = ("ground", "helmet", "head")


def test_figures_of_a_case_that_can_be_counted_by_hand():
    truth = np.array([[0, 0, 1, 1], [0, 0, 1, VOID]], np.uint8)
    found = np.array([[0, 1, 1, 1], [0, 0, 0, 2]], np.uint8)
    metrics = evaluate_segmentation([confusion(truth, found, 3)], NAMES)
    ground, helmet, head = metrics.per_class
    assert (ground.iou, ground.precision, ground.recall) == (3 / 5, 3 / 4, 3 / 4)
    assert (helmet.iou, helmet.truths, helmet.predictions) == (2 / 4, 3, 3)
    assert (head.iou, head.precision, head.recall, head.predictions) == (None, None, None, 0)  # it is on void alone
    assert metrics.miou == pytest.approx((3 / 5 + 2 / 4) / 2)
    assert metrics.pixel_accuracy == 5 / 7
    assert metrics.mean_recall == pytest.approx((3 / 4 + 2 / 3) / 2)
    assert metrics.fwiou == pytest.approx((4 * 3 / 5 + 3 * 2 / 4) / 7)
    assert (metrics.images, metrics.pixels) == (1, 7)
    flat = metrics.as_flat()
    assert flat["iou[helmet]"] == 0.5
    assert "iou[head]" not in flat
    assert np.isfinite(list(flat.values())).all()


def test_a_class_that_is_only_imagined_counts_as_nothing_right():
    truth = np.zeros((4, 4), np.uint8)
    found = truth.copy()
    found[0, 0] = 2
    metrics = evaluate_segmentation([confusion(truth, found, 3)], NAMES)
    assert metrics.per_class[2].iou == 0
    assert metrics.miou == pytest.approx((15 / 16 + 0) / 2)


def test_images_count_by_their_pixels_not_one_by_one():
    rng = np.random.default_rng(0)
    maps = [(rng.integers(0, 3, (n, 7)).astype(np.uint8), rng.integers(0, 3, (n, 7)).astype(np.uint8)) for n in (2, 30)]
    apart = evaluate_segmentation([confusion(truth, found, 3) for truth, found in maps], NAMES)
    whole = confusion(*(np.concatenate(one) for one in zip(*maps, strict=True)), 3)
    assert apart.miou == evaluate_segmentation([whole], NAMES).miou
    for k in range(3):  # the definition, pixel by pixel
        is_k, called_k = (np.concatenate([pair[side] for pair in maps]) == k for side in (0, 1))
        assert apart.per_class[k].iou == pytest.approx((is_k & called_k).sum() / (is_k | called_k).sum())


def test_maps_that_do_not_fit_are_refused():
    zeros = np.zeros((2, 2), np.uint8)
    with pytest.raises(ValueError, match="pixels"):
        confusion(zeros, np.zeros((2, 3), np.uint8), 3)
    for truth, found in ((zeros + 3, zeros), (zeros, zeros + 3), (zeros, zeros + 255)):
        with pytest.raises(ValueError, match="outside the 3 classes"):
            confusion(truth, found, 3)
    with pytest.raises(NothingToMeasureError, match="no pixel of 1 masks is labelled"):
        evaluate_segmentation([confusion(zeros + VOID, zeros, 3)], NAMES)


def test_an_interval_holds_the_figure_and_pairing_narrows_the_difference():
    rng = np.random.default_rng(1)
    ours, theirs = [], []
    for _ in range(60):
        truth = rng.integers(0, 3, (20, 20)).astype(np.uint8)
        wrong = rng.random((20, 20)) < rng.random()  # some images are hard, for both
        found = np.where(wrong, (truth + 1) % 3, truth).astype(np.uint8)
        worse = np.where(rng.random((20, 20)) < 0.05, (truth + 1) % 3, found).astype(np.uint8)
        ours.append(confusion(truth, found, 3))
        theirs.append(confusion(truth, worse, 3))
    miou = evaluate_segmentation(ours, NAMES).miou
    low, high = miou_interval(ours)
    assert low < miou < high
    gain = miou - evaluate_segmentation(theirs, NAMES).miou
    delta_low, delta_high = miou_delta_interval(ours, theirs)
    assert 0 < delta_low < gain < delta_high
    assert delta_high - delta_low < (high - low) / 3
    assert miou_delta_interval(ours, ours) == (0, 0)
