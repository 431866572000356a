"""Figures of a matrix of scores: rounds by tasks."""

import numpy as np
import pytest

from components.core.metrics.continual import continual_metrics


def test_total_forgetting_is_minus_the_whole_loss():
    """Each round the newest task scores 0.9 and all others 0.1; a formula over the first row would call it a gain."""
    scores = np.full((5, 5), 0.1) + 0.8 * np.eye(5)
    found = continual_metrics(scores, range(5))
    assert found["backward_transfer"] == pytest.approx(-0.8)
    assert found["forgetting"] == pytest.approx(0.8)
    assert found["retention"] == pytest.approx(0.1 / 0.9)
    assert found["average_accuracy"] == pytest.approx((0.9 + 4 * 0.1) / 5)
    assert found["forward_transfer"] == pytest.approx(0.1)


def test_perfect_retention_loses_nothing():
    scores = np.where(np.tri(4, dtype=bool), 0.9, 0.1)
    found = continual_metrics(scores, range(4))
    assert found["backward_transfer"] == found["forgetting"] == pytest.approx(0)
    assert found["retention"] == pytest.approx(1)


def test_tasks_may_arrive_in_any_round_and_scores_may_be_missing():
    nan = float("nan")
    scores = [[0.5, nan, nan], [0.6, 0.2, nan], [0.4, 0.8, nan]]
    found = continual_metrics(scores, [0, 2, 2])
    assert found["backward_transfer"] == pytest.approx(-0.1)
    assert found["forgetting"] == pytest.approx(0.2)
    assert found["forward_transfer"] == pytest.approx(0.2)
    assert found["average_accuracy"] == pytest.approx(0.6)


def test_one_round_has_nothing_to_forget():
    assert continual_metrics([[0.7, 0.5]], [0, 0]) == {"average_accuracy": pytest.approx(0.6)}


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="do not fit 3 tasks"):
        continual_metrics([[0.1, 0.2]], [0, 0, 0])
    with pytest.raises(ValueError, match="rounds from 0 to 0"):
        continual_metrics([[0.1]], [1])


def test_a_task_of_which_little_was_learned_at_first_does_not_rule_the_retention():
    scores = [[0.8, np.nan, np.nan], [0.6, 0.0001, np.nan], [0.6, 0.2, 0.5]]
    assert continual_metrics(scores, [0, 1, 2])["retention"] == pytest.approx((0.6 + 0.0001) / (0.8 + 0.0001))


def test_nothing_learned_has_no_retention():
    assert "retention" not in continual_metrics([[0.0, np.nan], [0.0, 0.5]], [0, 1])
