import itertools
import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from components.core.errors import InputError
from components.core.manifest import Manifest
from components.core.metrics.detection import ClassMetrics, DetectionMetrics
from components.core.parameters import GateSettings, read
from components.core.reports.page import read_sections, write_page
from components.core.rules.conditions import Condition
from components.core.rules.window import Window
from components.core.tasks.base import Measurement, open_task
from components.evaluate.compare import Comparison, Delta, Scores
from components.evaluate.gate import judge
from components.evaluate.gate_report import sections

NIGHT = Window.parse("22:00-06:00 Europe/Berlin")
NOON = datetime(2025, 3, 4, 12, 0, tzinfo=UTC)
MIDNIGHT = datetime(2025, 3, 4, 23, 0, tzinfo=UTC)
CLASSES = ("helmet", "head")


def metrics(helmet: float, head: float | None, images: int = 40) -> DetectionMetrics:
    """Figures with these AP50; a class with None has no true box."""
    aps = dict(zip(CLASSES, (helmet, head), strict=True))
    known = [ap for ap in aps.values() if ap is not None]
    mean = sum(known) / len(known)
    per_class = tuple(
        ClassMetrics(name, ap, ap and ap / 2, ap, ap, ap, 0 if ap is None else 50, 60, 3) for name, ap in aps.items()
    )
    return DetectionMetrics(mean, mean / 2, *[mean] * 6, 0.1, images, 100, per_class, {})


def compared(new, old, low=None, high=None, images=40, empty=()) -> Comparison:
    """A comparison with the same figures on every set."""
    task, samples = open_task("detection"), Manifest.of([], CLASSES)
    both = {"candidate": metrics(*new, images), **({"champion": metrics(*old, images)} if old else {})}
    deltas = {}
    if old:
        value = both["candidate"].map50 - both["champion"].map50
        delta = Delta(value, value - 0.02 if low is None else low, value + 0.02 if high is None else high)
        deltas = {"champion": {"map50": delta, "map50_95": delta}}
    scores = {name: Scores(Measurement(task, samples, (), 0.5, one)) for name, one in both.items()}
    sets = [name for name in ("core", "recent", "all") if name not in empty]
    return Comparison(CLASSES, task, dict.fromkeys(sets, scores), dict.fromkeys(sets, deltas), empty)


BETTER = compared((0.9, 0.8), (0.8, 0.7))
WORSE = compared((0.6, 0.5), (0.8, 0.7))
MIXED = compared((0.99, 0.6), (0.8, 0.7))
FIRST = compared((0.6, 0.5), None)
GAIN = Condition.parse("map50_delta >= 0")


def test_a_better_candidate_is_promoted_and_every_reason_told():
    judgement = judge(
        BETTER, now=NOON, conditions=GAIN, no_regression=0.02, min_samples=30, require_significant=True
    )  # fmt: skip
    assert judgement.outcome == "promoted"
    assert not judgement.forced
    assert [check.question for check in judgement.checks] == [
        "test images", "conditions", "no class regresses", "beyond chance",
    ]  # fmt: skip
    assert judgement.reasons[0] == "test images: have 40, need >= 30"
    assert judgement.reasons[1] == "conditions: map50_delta >= 0 (have 0.1, need >= 0)"
    assert judgement.reasons[3] == (
        "beyond chance: the gain in mAP50 is +0.100 with a 95 % lower bound of +0.080, need > 0"
    )


def test_a_candidate_that_fails_a_question_is_rejected_for_it_alone():
    cases = {
        "conditions": (WORSE, {"conditions": GAIN}),
        "no class regresses": (MIXED, {"conditions": GAIN, "no_regression": 0.05}),
        "test images": (BETTER, {"conditions": GAIN, "min_samples": 41}),
        "beyond chance": (compared((0.9, 0.8), (0.8, 0.7), low=-0.01), {"require_significant": True}),
    }
    for question, (comparison, options) in cases.items():
        judgement = judge(comparison, now=NOON, **options)
        assert judgement.outcome == "rejected", question
        assert [reason.partition(":")[0] for reason in judgement.reasons] == [question]


def test_a_lost_class_is_named_and_the_tolerance_is_inclusive():
    judgement = judge(MIXED, now=NOON, no_regression=0.0999)
    assert "ap50_delta[head] >= -0.0999 not_met: have -0.1" in judgement.reasons[0]
    assert judge(MIXED, now=NOON, no_regression=0.1).outcome == "promoted"
    assert judge(MIXED, now=NOON).outcome == "promoted"
    with pytest.raises(InputError, match="tolerance=-1"):
        judge(MIXED, now=NOON, no_regression=-1)


def test_a_class_without_true_boxes_cannot_regress():
    assert judge(compared((0.9, None), (0.8, None)), now=NOON, no_regression=0).outcome == "promoted"


def test_the_interval_is_held_against_0_or_against_the_loss_that_is_allowed():
    wide = compared((0.8, 0.8), (0.78, 0.8), low=-0.03, high=0.05)
    for options, outcome in [
        ({}, "promoted"),
        ({"max_map50_drop": 0.05}, "promoted"),
        ({"max_map50_drop": 0.03}, "rejected"),
        ({"max_map50_drop": 0.0}, "rejected"),
        ({"require_significant": True}, "rejected"),
        ({"require_significant": True, "max_map50_drop": 0.05}, "rejected"),
    ]:
        assert judge(wide, now=NOON, **options).outcome == outcome, options
    tie = compared((0.8, 0.8), (0.8, 0.8), low=0.0, high=0.0)
    assert judge(tie, now=NOON, require_significant=True).outcome == "rejected"
    with pytest.raises(InputError, match="max_map50_drop=nan must be a number >= 0"):
        judge(wide, now=NOON, max_map50_drop=float("nan"))


def test_a_first_model_is_asked_absolute_questions_only():
    strict = {"no_regression": 0.0, "require_significant": True, "max_map50_drop": 0.0}
    assert judge(FIRST, now=NOON, conditions=GAIN, **strict).outcome == "promoted"
    poor = judge(FIRST, now=NOON, conditions=Condition.parse(["map50_delta >= 0", "map50 >= 0.7"]), **strict)
    assert poor.outcome == "rejected"
    assert "map50 >= 0.7 not_met: have 0.55" in poor.reasons[0]
    assert judge(FIRST, now=NOON, min_samples=100).outcome == "rejected"
    assert judge(FIRST, now=NOON, window=NIGHT).outcome == "pending"


def test_a_first_model_that_finds_nothing_is_rejected_and_told_what_to_do():
    nothing = judge(compared((0.0, 0.0), None), now=NOON, conditions=GAIN, min_map50=0.05)
    assert nothing.outcome == "rejected"
    assert nothing.reasons == (
        "good enough for a first champion: mAP50 is 0.000, need >= 0.05 (min_map50): "
        "train for more epochs, or start from a pretrained base_model",
    )
    assert judge(compared((0.05, 0.05), None), now=NOON, min_map50=0.05).outcome == "promoted"
    assert judge(compared((0.0, 0.0), None), now=NOON, min_map50=0).outcome == "promoted"


def test_the_floor_is_for_the_first_champion_alone():
    assert judge(compared((0.02, 0.02), (0.01, 0.01)), now=NOON, min_map50=0.05).outcome == "promoted"


def test_a_closed_window_keeps_a_good_candidate_waiting_and_nobody_else():
    waits = judge(BETTER, now=NOON, conditions=GAIN, window=NIGHT)
    assert waits.outcome == "pending"
    assert waits.reasons == (
        "window open: 22:00-06:00 Europe/Berlin opens next at 2025-03-04T22:00+01:00",
    )  # fmt: skip
    assert judge(BETTER, now=MIDNIGHT, conditions=GAIN, window=NIGHT).outcome == "promoted"
    assert judge(WORSE, now=NOON, conditions=GAIN, window=NIGHT).outcome == "rejected"


def test_a_question_without_an_answer_is_an_error_and_rejects_nobody():
    for text in ("no_such_metric > 0", "precision > 0.5 ", "recall_delta[nobody] > 0"):
        judgement = judge(WORSE, now=NOON, conditions=Condition.parse({"any": [text, "map50_delta > 0"]}))
        if text.startswith("precision"):
            assert judgement.outcome == "error"
            assert "min(precision)" in judgement.reasons[0]
        assert judgement.outcome == "error"
        assert not any("test images" in reason for reason in judgement.reasons)
    without = compared((0.9, 0.8), (0.8, 0.7), empty=("recent",))
    judgement = judge(without, now=NOON, conditions=Condition.parse("recent.map50_delta > 0"))
    assert judgement.outcome == "error"
    assert judgement.reasons[0].endswith("the recent set has no labels")
    assert judge(without, now=NOON, conditions=Condition.parse("core.map50_delta > 0")).outcome == "promoted"


def test_force_promotes_whatever_the_answers_and_says_what_they_were():
    judgement = judge(WORSE, now=NOON, conditions=GAIN, min_samples=99, window=NIGHT, force=True)
    assert judgement.outcome == "promoted"
    assert judgement.forced
    assert judgement.reasons == (
        "forced",
        "despite test images: have 40, need >= 99",
        "despite conditions: map50_delta >= 0 (have -0.2, need >= 0)",
        "despite window open: 22:00-06:00 Europe/Berlin opens next at 2025-03-04T22:00+01:00",
    )
    assert judge(BETTER, now=NOON, force=True).reasons == ("forced",)
    assert judge(BETTER, now=NOON, conditions=Condition.parse("nothing > 0"), force=True).outcome == "error"


@pytest.mark.parametrize(
    ("condition", "enough", "open_", "force"),
    list(itertools.product(["met", "not_met", "error"], [True, False], [True, False], [True, False])),
)
def test_truth_table(condition, enough, open_, force):
    text = {"met": "map50 > 0", "not_met": "map50 > 1", "error": "other > 0"}[condition]
    judgement = judge(
        BETTER, now=MIDNIGHT if open_ else NOON, conditions=Condition.parse(text),
        min_samples=1 if enough else 99, window=NIGHT, force=force,
    )  # fmt: skip
    if condition == "error":
        wanted = "error"
    elif force:
        wanted = "promoted"
    elif condition == "not_met" or not enough:
        wanted = "rejected"
    else:
        wanted = "promoted" if open_ else "pending"
    assert judgement.outcome == wanted
    assert judgement.reasons
    assert judgement.forced == (force and condition != "error")


def test_a_judgement_is_json():
    judgement = judge(MIXED, now=NOON, conditions=GAIN, no_regression=0.01, window=NIGHT)
    stored = json.loads(json.dumps(judgement.to_dict()))
    assert stored["outcome"] == "rejected"
    assert stored["reasons"] == list(judgement.reasons)
    assert stored["forced"] is False
    assert stored["checks"][0] == {
        "question": "test images", "outcome": "met", "reason": "have 40, need >= 20",
    }  # fmt: skip


def test_the_report_shows_the_verdict_the_sets_and_the_classes(tmp_path):
    judgement = judge(MIXED, now=NOON, conditions=GAIN, no_regression=0.01)
    write_page(tmp_path / "page.html", "Gate", sections(MIXED, judgement))
    body = {section.title: section.body for section in read_sections(tmp_path / "page.html")}
    assert "rejected" in body["Verdict"]
    assert "ap50_delta[head] &gt;= -0.01 not_met: have -0.1" in body["Verdict"]
    assert body["Verdict"].count("<tr>") == 4
    both = body["Candidate and champion"]
    assert both.count("<tr>") == 7
    assert "+0.025 to +0.065" in both
    assert "<svg" in both
    assert "core: frozen test samples of the first rounds. recent: test samples of the last rounds. all: every" in both
    assert "0.600 (-0.100)" in body["Per-class results"]


def test_the_report_of_a_first_model():
    first = replace(FIRST, scores={"all": FIRST.scores["all"]}, empty=("recent",))
    both = sections(first, judge(first, now=NOON))[1].body
    assert "<svg" not in both
    assert "The recent test set has no labels" in both
    assert "core:" not in both and "all: every test sample that was evaluated." in both


@pytest.mark.parametrize("name", ["max_class_drop", "max_map50_drop"])
def test_a_drop_below_0_is_refused_since_it_would_disable_its_check(name):
    for value in (-1, 0, 0.02, 1):
        assert getattr(read(GateSettings, {name: value}), name) == value
    with pytest.raises(InputError, match=rf"{name}=-0\.02: must be 0 to 1, or -1 to disable"):
        read(GateSettings, {name: -0.02})
