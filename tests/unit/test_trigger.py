"""Should a round run: metrics of what is new, the condition, the window, and the three ways it can end."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from components.core.errors import InputError
from components.core.job.failures import Failures
from components.core.job.state import Change, State
from components.core.manifest import Manifest
from components.core.reports.page import read_sections, write_page
from components.trigger.report import sections
from components.trigger.trigger import NEVER, Outcome, clauses, compares_with_known, decide, drift, measure

NOW = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)  # a Wednesday
BOX = {"class_id": 0, "x1": 0.0, "y1": 0.0, "x2": 10.0, "y2": 10.0}


@dataclass
class Arrived:
    manifest: Manifest
    counts: dict[str, int] = field(default_factory=dict)


def sample(number, annotations=(BOX,), width=100, height=100, source=None):
    return {
        "id": f"{number:064x}", "uri": f"file:///x/{number}.jpg", "width": width, "height": height, "split": "",
        "group": "", "source": source or f"{number}.jpg", "round": 1,
        "annotations": None if annotations is None else list(annotations),
    }  # fmt: skip


def arrived(count, classes=("helmet", "head"), **counts):
    return Arrived(Manifest.of([sample(n) for n in range(count)], classes), counts)


def metrics_of(what, state=None, **options):
    return measure(state or State(), what, **{"known": None, "round_at": None, "now": NOW} | options)


# --- decisions ---


def test_fifty_new_samples_are_asked_for_unless_something_else_is():
    assert decide(State(), arrived(49), now=NOW).outcome == Outcome.WAIT
    assert decide(State(), arrived(50), now=NOW).outcome == Outcome.RUN
    assert decide(State(), arrived(50), now=NOW, conditions="", window="").outcome == Outcome.RUN


def test_a_round_that_failed_too_often_rests_with_an_error_and_is_tried_again_later():
    failures = Failures(round=1, count=3, step="judge", error="no such class", at=NOW)

    def known() -> Failures:
        return failures

    decision = decide(State(), arrived(50), now=NOW, failures=known)
    assert decision.outcome == Outcome.ERROR
    assert decision.reasons[0] == (
        f"round 1 has failed 3 times, the last time in judge at {NOW:%Y-%m-%d %H:%M} UTC: no such class; it is "
        f"retried from {NOW + timedelta(minutes=10):%Y-%m-%d %H:%M} UTC; force_train retries now"
    )
    assert decide(State(), arrived(49), now=NOW, failures=known).outcome == Outcome.WAIT, "no round is due"
    assert decide(State(), arrived(50), now=NOW, failures=known, force=True).outcome == Outcome.RUN
    assert decide(State(round=1), arrived(50), now=NOW, failures=known).outcome == Outcome.RUN, "it is another round"
    assert decide(State(), arrived(50), now=NOW + timedelta(minutes=10), failures=known).outcome == Outcome.RUN


def test_a_round_does_not_rest_once_its_parameters_are_mended():
    failures = Failures(round=1, count=3, parameters="before", step="train", error="out of memory", at=NOW)
    options = {"now": NOW, "failures": lambda: failures}
    assert decide(State(), arrived(50), parameters="before", **options).outcome == Outcome.ERROR
    assert decide(State(), arrived(50), parameters="mended", **options).outcome == Outcome.RUN


def test_not_yet_says_what_there_is_and_what_is_needed():
    decision = decide(State(), arrived(37), now=NOW, conditions=["num_of_samples > 50", "boxes[helmet] >= 10"])
    assert decision.outcome == Outcome.WAIT
    assert decision.reasons == (
        "num_of_samples > 50: have 37, need > 50",
        "boxes[helmet] >= 10: have 37, need >= 10",
    )
    assert clauses(decision) == [
        ("num_of_samples", "37", "> 50", "not yet"),
        ("boxes[helmet]", "37", ">= 10", "met"),
    ]


def test_error_is_neither_yes_nor_not_yet():
    decision = decide(State(), arrived(99), now=NOW, conditions="num_of_smaples > 50")
    assert decision.outcome == Outcome.ERROR
    assert "no metric 'num_of_smaples'" in decision.describe()
    assert "\n" not in decision.describe()
    with pytest.raises(InputError, match="conditions: '50' is not a condition"):
        decide(State(), arrived(99), now=NOW, conditions="50")


def test_a_class_that_the_job_has_not_is_an_error():
    assert decide(State(), arrived(99), now=NOW, conditions="boxes[hat] > 0").outcome == Outcome.ERROR


def test_a_closed_window_waits_and_says_when_it_opens():
    window = {"start": "22:00", "end": "06:00", "timezone": "Europe/Berlin"}
    decision = decide(State(), arrived(99), now=NOW, window=window)
    assert decision.outcome == Outcome.WAIT
    assert decision.opens == datetime(2026, 3, 4, 21, 0, tzinfo=UTC)
    assert decision.reasons[-1] == "the window 22:00-06:00 Europe/Berlin opens at 2026-03-04 22:00 CET"
    assert decide(State(), arrived(99), now=decision.opens, window=window).outcome == Outcome.RUN
    few = decide(State(), arrived(9), now=decision.opens, window=window)
    assert (few.outcome, few.opens) == (Outcome.WAIT, None)


@pytest.mark.parametrize("conditions", [None, "num_of_smaples > 50"])
def test_force_runs_in_any_case_and_still_tells(conditions):
    decision = decide(State(), arrived(0), now=NOW, conditions=conditions, window="22:00-23:00", force=True)
    assert decision.outcome == Outcome.RUN
    assert decision.reasons[0] == "forced"
    assert len(decision.reasons) == 3


# --- metrics ---


def test_metrics_of_what_is_new():
    rows = [
        sample(0, [BOX, BOX | {"class_id": 1}], source="a/hard-examples/2026/0.jpg"),
        sample(1, [BOX]),
        sample(2, []),
        sample(3, None, source="hard-examples.jpg"),
    ]
    what = Arrived(Manifest.of(rows, ("helmet", "head", "person")), {"found": 10, "quarantined": 4})
    metrics = metrics_of(what)
    assert metrics["num_of_samples"] == 3
    assert metrics["num_of_new_images"] == 4
    assert metrics["boxes"] == {"helmet": 2, "head": 1, "person": 0}
    assert metrics["class_coverage"] == pytest.approx(2 / 3)
    assert metrics["hard_example_rate"] == 0.25
    assert metrics["quarantined_rate"] == 0.4


def test_nothing_new_is_not_yet_whatever_is_asked():
    nothing = Arrived(Manifest.of([], ()), {"found": 0, "quarantined": 0})
    shares = ("class_coverage", "hard_example_rate", "quarantined_rate", "drift", "drift[area]")
    for condition in (f"{name} > 0" for name in (*shares, "num_of_samples", "num_of_new_images")):
        assert decide(State(), nothing, now=NOW, conditions=condition).outcome == Outcome.WAIT, condition


def test_ages():
    promoted = Change(version="1", before=None, at=NOW - timedelta(hours=30), why="promoted")
    state = State(champion="1", history=(promoted,))
    assert metrics_of(arrived(1), state)["model_age"] == 30
    assert metrics_of(arrived(1), state, round_at=NOW - timedelta(minutes=30))["hours_since_round"] == 0.5
    assert metrics_of(arrived(1), state, round_at=NOW + timedelta(days=1))["hours_since_round"] == 0, "a clock was off"
    first = metrics_of(arrived(1))
    assert first["model_age"] == first["hours_since_round"] == NEVER


def test_no_drift_between_alike_and_full_drift_between_unlike():
    known = Manifest.of([sample(n) for n in range(20)], ("helmet",))
    assert set(drift(known, known).values()) == {0.0}
    large = [sample(n, [BOX] * 3, width=1920, height=1080) for n in range(5)]
    assert drift(Manifest.of(large, ("helmet",)), known) == {"width": 1, "height": 1, "boxes": 1, "area": 1}


def test_masks_count_as_labels_and_have_no_part_in_the_drift_of_boxes():
    masked = [sample(n, None) | {"mask": "file:///x/1.png"} for n in range(5)]
    metrics = metrics_of(Arrived(Manifest.of([*masked, sample(9, None)], ("helmet",))))
    assert (metrics["num_of_samples"], metrics["num_of_new_images"]) == (5, 6)
    known = Manifest.of([sample(n) for n in range(20)], ("helmet",))
    mixed = Manifest.of([*masked, sample(9)], ("helmet",))
    assert drift(mixed, known) == {"width": 0, "height": 0, "boxes": 0, "area": 0}


def test_drift_is_the_largest_distance_of_the_shares():
    known = Manifest.of([sample(n, width=width) for n, width in enumerate([1, 2, 3, 4])], ())
    new = Manifest.of([sample(n, width=width) for n, width in enumerate([3, 4, 4, 5])], ())
    assert drift(new, known)["width"] == 0.5
    metrics = metrics_of(Arrived(new), known=known)
    assert metrics["drift"] == 0.5, "the largest of all statistics"
    assert metrics["drift[width]"] == 0.5
    assert decide(State(), Arrived(new), now=NOW, known=known, conditions="drift[width] > 0.4").outcome == Outcome.RUN


def test_drift_agrees_with_its_definition_on_random_values():
    rng = np.random.default_rng(0)
    for _ in range(20):
        these, those = (rng.integers(1, 30, rng.integers(1, 40)) for _ in range(2))
        tables = [Manifest.of([sample(n, None, width=int(w)) for n, w in enumerate(v)], ()) for v in (these, those)]
        expected = max(abs((these <= x).mean() - (those <= x).mean()) for x in range(31))
        assert drift(*tables)["width"] == pytest.approx(expected)


def test_drift_of_nothing_is_none():
    known = Manifest.of([sample(0)], ("helmet",))
    nothing = Manifest(known.table.filter(pl.lit(False)), known.classes)
    assert set(drift(nothing, known).values()) == set(drift(known, nothing).values()) == {0.0}
    assert metrics_of(Arrived(known), known=None)["drift"] == 0


def test_only_drift_needs_what_the_job_has():
    assert compares_with_known({"any": ["num_of_samples > 5", "drift[area] > 0.5"]})
    assert not compares_with_known(None)


# --- page ---


def test_the_page_tells_what_came_what_is_needed_and_what_was_decided(tmp_path):
    what = arrived(7, found=9, quarantined=2)
    decision = decide(State(), what, now=NOW, window="22:00-23:00")
    write_page(tmp_path / "page.html", "Trigger", sections(what, decision))
    titles = [section.title for section in read_sections(tmp_path / "page.html")]
    text = (tmp_path / "page.html").read_text()
    assert titles == ["New samples in the feed", "Decision"]
    for part in ("Waiting", "num_of_samples", ">7<", "&gt;= 50", "opens at 2026-03-04 22:00 UTC", "helmet, head"):
        assert part in text, part


def test_a_job_that_has_had_its_rounds_runs_no_more_unless_it_is_forced():
    decision = decide(State(round=3), arrived(50), now=NOW, max_rounds=3)
    assert decision.outcome == Outcome.WAIT
    assert decision.reasons[-1] == "the job has reached 3 of 3 rounds (max_rounds)"
    assert decide(State(round=2), arrived(50), now=NOW, max_rounds=3).outcome == Outcome.RUN
    assert decide(State(round=3), arrived(50), now=NOW, max_rounds=3, force=True).outcome == Outcome.RUN


def test_what_the_gate_will_lack_is_said_before_a_round():
    decision = decide(State(), arrived(60), now=NOW, lacks="test images: have 6, need >= 20")
    assert decision.outcome == Outcome.WAIT
    assert decision.reasons[-1] == "test images: have 6, need >= 20"
    assert decide(State(), arrived(60), now=NOW, lacks="test images", force=True).outcome == Outcome.RUN
