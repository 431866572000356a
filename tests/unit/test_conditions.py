import itertools
import json
import math
import random
import re

import numpy as np
import pytest
import yaml

from components.core.errors import InputError
from components.core.rules.conditions import Clause, Condition, Outcome, no_regression

MET, NOT_MET, ERROR = Outcome.MET, Outcome.NOT_MET, Outcome.ERROR
CLASSES = ("helmet", "head", "hard hat")
SCORES = {
    "num_of_samples": 37,
    "map50": 0.71,
    "precision": {"helmet": 0.9, "head": 0.8, "hard hat": 0.6},
    "recall": [0.5, 0.6, 0.7],
    "truths": 60,
    "truths[helmet]": 30,
    "truths[head]": 20,
    "truths[hard hat]": 10,
    "broken": math.nan,
    "endless": {"helmet": math.inf, "head": 1},
    "word": "many",
    "flag": True,
    "nothing": None,
    "huge": 10**400,
    "empty": [],
}
CHAMPION = {
    "map50": 0.5,
    "precision": {"helmet": 0.8, "head": 0.9, "hard hat": 0.6},
    "recall": [0.5, 0.5, 0.8],
    "truths": 60,
    "truths[helmet]": 30,
    "truths[head]": 20,
    "truths[hard hat]": 10,
    "huge": 1.0,
    "num_of_samples": 0,
}


def judge(value, metrics=SCORES, champion=CHAMPION, classes=CLASSES):
    return Condition.parse(value).evaluate(metrics, champion, classes)


def single(value, **given):
    (clause,) = judge(value, **given).clauses
    return clause


def refusal(value, name="condition"):
    with pytest.raises(InputError) as raised:
        Condition.parse(value, name)
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize(
    ("spellings", "outcomes"),
    [
        # have 49, 50 - 2e-6, 50 - 5e-7, 50, 50 + 5e-7, 50 + 2e-6, 51; the three in the middle equal 50
        ("> gt", "0000011"),
        (">= ge", "0011111"),
        ("== = eq", "0011100"),
        ("!= ne", "1100011"),
        ("<= le", "1111100"),
        ("< lt", "1100000"),
    ],
)
def test_every_spelling_of_the_operators(spellings, outcomes):
    values = [49, 50 - 2e-6, 50 - 5e-7, 50, 50 + 5e-7, 50 + 2e-6, 51]
    for operator in spellings.split():
        for condition in (f"samples {operator} 50", {"metric": "samples", "operator": operator, "threshold": 50}):
            verdicts = [judge(condition, {"samples": value}).outcome for value in values]
            assert verdicts == [MET if digit == "1" else NOT_MET for digit in outcomes]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("num_of_samples > 50", "num_of_samples > 50"),
        ("  num_of_samples>50 ", "num_of_samples > 50"),
        ("map50 ge .5", "map50 >= 0.5"),
        ("map50_delta>-0.01", "map50_delta > -0.01"),
        ("hard-example/rate<=1e-3", "hard-example/rate <= 0.001"),
        ("precision[helmet] == 1", "precision[helmet] == 1"),
        ("precision [ hard hat ] = 1", "precision[hard hat] == 1"),
        ("precision[car[small]] = 1", "precision[car[small]] == 1"),
        ("precision[a > b] > 3", "precision[a > b] > 3"),
        ("min( recall_delta ) >= 0", "min(recall_delta) >= 0"),
        ({"metric": "a", "operator": "gt", "threshold": "5"}, "a > 5"),
        ({"metric": "a", "operator": "=", "threshold": -0.0}, "a == 0"),
        (["a > 1"], "a > 1"),
        (["a > 1", "b > 2"], "a > 1 and b > 2"),
        ({"any": ["a > 1", {"all": ["b > 2", "c > 3"]}]}, "a > 1 or (b > 2 and c > 3)"),
        ({"all": ["a > 1", {"any": ["b > 2", ["c > 3"]]}]}, "a > 1 and (b > 2 or c > 3)"),
        (["a > 1", {"not": {"any": ["b > 2", "c > 3"]}}], "a > 1 and not (b > 2 or c > 3)"),
        ({"not": {"not": "a > 1"}}, "not (not (a > 1))"),
        (("a > 1", "b > 2"), "a > 1 and b > 2"),
    ],
)
def test_forms_and_their_text(value, text):
    condition = Condition.parse(value)
    assert condition.describe() == text
    again = Condition.parse(json.loads(json.dumps(condition.to_dict())))
    assert again == condition
    assert again.describe() == text


def test_a_number_keeps_its_digits():
    for number in (0.1 + 0.2, 1 / 3, 1e300, -5e-324, 123456789012345678.0, 0.05):
        condition = Condition.parse({"metric": "a", "operator": ">", "threshold": number})
        assert Condition.parse(condition.describe()) == condition
        assert condition.to_dict()["threshold"] == number


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([], ["condition: [] is not a list of at least one condition"]),
        ({"any": []}, ["condition.any: [] is not a list"]),
        ({"all": "a > 1"}, ["condition.all: 'a > 1' is not a list"]),
        ({"all": {"metric": "a"}}, ["condition.all", "is not a list"]),
        ({"not": ["a > 1"]}, ["condition.not: a list is ambiguous"]),
        ({"not": None}, ["condition.not: None is not a condition"]),
        ({"all": ["a > 1"], "any": ["b > 1"]}, ["condition: 'all' cannot be combined with any"]),
        ({"not": "a > 1", "metric": "b"}, ["'not' cannot be combined with metric"]),
        ({}, ["metric is missing", "operator is missing", "threshold is missing"]),
        ({"metric": "a", "operator": ">"}, ["condition: threshold is missing"]),
        (
            {"metric": "a", "operator": ">", "treshold": 1},
            ["'treshold': did you mean threshold?", "threshold is missing"],
        ),
        ({"al": ["a > 1"]}, ["unknown key 'al': did you mean all?"]),
        (
            {"metric": "a", "operator": ">", "threshold": 1, 5: 6},
            ["unknown key 5: choose from metric, operator, threshold"],
        ),
        ({"metric": "a", "operator": ">", "threshold": math.nan}, ["threshold nan is not a finite number"]),
        ({"metric": "a", "operator": ">", "threshold": math.inf}, ["threshold inf is not a finite number"]),
        ({"metric": "a", "operator": ">", "threshold": 10**400}, ["is not a finite number"]),
        ({"metric": "a", "operator": ">", "threshold": True}, ["threshold True is not a finite number"]),
        ({"metric": "a", "operator": ">", "threshold": None}, ["threshold None is not a finite number"]),
        ({"metric": "a", "operator": ">", "threshold": "50%"}, ["threshold '50%' is not a finite number"]),
        ({"metric": "a", "operator": "=>", "threshold": 1}, ["unknown operator '=>': choose from > >= == != <= <"]),
        ({"metric": "a", "operator": None, "threshold": 1}, ["unknown operator None"]),
        ({"metric": "a", "operator": "GT", "threshold": 1}, ["unknown operator 'GT'"]),
        ({"metric": 5, "operator": ">", "threshold": 1}, ["5 is not a metric"]),
        ({"metric": "", "operator": ">", "threshold": 1}, ["'' is not a metric"]),
        ({"metric": "a b", "operator": ">", "threshold": 1}, ["'a b' is not a metric"]),
        ({"metric": "a[", "operator": ">", "threshold": 1}, ["'a[' is not a metric"]),
        ({"metric": "a[]", "operator": ">", "threshold": 1}, ["'a[]' is not a metric"]),
        ({"metric": "a[ ]", "operator": ">", "threshold": 1}, ["'a[ ]' is not a metric"]),
        ({"metric": "a[b]_delta", "operator": ">", "threshold": 1}, ["'a[b]_delta' is not a metric"]),
        ({"metric": "a[b\nc]", "operator": ">", "threshold": 1}, ["is not a metric"]),
        ("min(a[b]) > 1", ["'min(a[b])' is not a metric"]),
        ("median(a) > 1", ["unknown reducer 'median' in 'median(a)': choose from min, max, mean"]),
        ("a > nan", ["threshold 'nan' is not a finite number"]),
        ("a > 1 and b > 2", ["threshold '1 and b > 2' is not a finite number"]),
        ("a[x] > 1 and a[y] > 2", ["threshold '1 and a[y] > 2' is not a finite number"]),
        ("a => 2", ["unknown operator '=>'"]),
        ("a above 2", ["unknown operator 'above'"]),
        ("map50", ["'map50' is not a condition", "such as 'num_of_samples > 50'"]),
        ("map50 >", ["is not a condition"]),
        ("5 < map50", ["is not a condition"]),
        ("agt50", ["is not a condition"]),
        ("", ["'' is not a condition"]),
        (None, ["None is not a condition"]),
        (5, ["5 is not a condition"]),
        (True, ["True is not a condition"]),
    ],
)
def test_what_is_wrong_is_told(value, words):
    message = refusal(value)
    assert [word for word in words if word not in message] == []


def test_every_mistake_is_told_at_once_with_its_place():
    message = refusal(
        [
            {"metric": "a", "operator": "~", "threshold": math.nan, "extra": 1},
            {"any": ["b > 1", "c", {"not": {"metric": "d", "operator": ">"}}]},
            {"all": []},
            "e ?? 5",
        ],
        "promote_when",
    )
    for words in (
        "promote_when[0]: unknown key 'extra'",
        "promote_when[0]: unknown operator '~'",
        "promote_when[0]: threshold nan",
        "promote_when[1].any[1]: 'c' is not a condition",
        "promote_when[1].any[2].not: threshold is missing",
        "promote_when[2].all: []",
        "promote_when[3]: 'e ?? 5' is not a condition",
    ):
        assert words in message


@pytest.mark.parametrize("text", ["&a [*a]", "&a [*a, *a]", "&a {not: *a}", "[" * 40 + "x > 1" + "]" * 40])
def test_endless_nesting_is_refused(text):
    assert "nested more than 32 deep" in refusal(yaml.safe_load(text))


@pytest.mark.parametrize(
    ("metric", "value"),
    [
        ("num_of_samples", 37),
        ("map50", 0.71),
        ("precision[helmet]", 0.9),
        ("precision[hard hat]", 0.6),
        ("precision[1]", 0.8),
        ("recall[head]", 0.6),
        ("recall[2]", 0.7),
        ("truths", 60),
        ("truths[head]", 20),
        ("truths[0]", 30),
        ("min(precision)", 0.6),
        ("max(precision)", 0.9),
        ("mean(precision)", 2.3 / 3),
        ("min(recall)", 0.5),
        ("mean(truths)", 20),
        ("map50_delta", 0.21),
        ("map50_rel", 0.42),
        ("precision_delta[head]", -0.1),
        ("precision_delta[0]", 0.1),
        ("precision_rel[helmet]", 0.125),
        ("recall_delta[2]", -0.1),
        ("min(recall_delta)", -0.1),
        ("max(recall_delta)", 0.1),
        ("min(precision_rel)", -1 / 9),
        ("truths_delta", 0),
        ("max(truths_delta)", 0),
        ("endless[head]", 1),  # another class' value does not matter
    ],
)
def test_a_metric_has_its_value(metric, value):
    clause = single(f"{metric} >= {value}", champion={**CHAMPION, "endless": 1})
    assert clause.outcome == MET
    assert clause.have == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        ("num_of_sample", "no metric 'num_of_sample': choose from broken, empty,"),
        ("nope_delta", "no metric 'nope': choose from"),
        ("nope[helmet]", "no metric 'nope': choose from"),
        ("min(nope)", "no metric 'nope': choose from"),
        ("precision[vest]", "precision has no class 'vest': choose from helmet, head, hard hat"),
        ("precision[3]", "precision has no class '3': choose from helmet, head, hard hat"),
        ("precision[-1]", "precision has no class '-1'"),
        ("recall[vest]", "recall has no class 'vest': choose from helmet, head, hard hat"),
        ("recall[99999999999999999999]", "recall has no class '99999999999999999999'"),
        ("truths[vest]", "truths has no class 'vest': choose from helmet, head, hard hat"),
        ("precision", "has a value for each class: name one of helmet, head, hard hat, as in precision[helmet], or "),
        ("precision", "or write one of min(precision), max(precision), mean(precision)"),
        ("recall_delta", "as in recall_delta[helmet], or write one of min(recall_delta),"),
        ("map50[helmet]", "map50 is a single number, not one per class: write map50"),
        ("min(map50_delta)", "map50 is a single number, not one per class: write map50_delta"),
        ("broken", "broken is nan, not a finite number"),
        ("broken_delta", "broken is nan, not a finite number"),
        ("endless[helmet]", "endless[helmet] is inf, not a finite number"),
        ("min(endless)", "endless[helmet] is inf, not a finite number"),
        ("word", "word is 'many', not a finite number"),
        ("flag", "flag is True, not a finite number"),
        ("nothing", "nothing is None, not a finite number"),
        ("huge", "not a finite number"),
        ("empty", "empty has 0 values for 3 classes"),
        ("num_of_samples_rel", "the champion's num_of_samples is 0, and a relative change needs a number above 0"),
    ],
)
def test_a_metric_without_value_is_an_error_that_says_why(metric, words):
    clause = single(f"{metric} >= 0")
    assert clause.outcome == ERROR
    assert clause.have is None
    assert words in clause.reason
    assert judge(f"{metric} >= 0").outcome == ERROR
    assert judge({"not": f"{metric} >= 0"}).outcome == ERROR


@pytest.mark.parametrize(
    ("metric", "champion", "words"),
    [
        ("map50_delta", {}, "champion: no metric 'map50': choose from none"),
        ("map50_rel", {"map50": math.nan}, "champion: map50 is nan"),
        ("map50_rel", {"map50": -0.5}, "the champion's map50 is -0.5, and a relative change needs a number above 0"),
        ("map50_rel", {"map50": 1e-320}, "map50_rel is too large"),
        ("map50_delta", {"map50": {"helmet": 1}}, "champion: map50 has a value for each class"),
        (
            "precision_delta[head]",
            {"precision": {"helmet": 1}},
            "champion: precision has no class 'head': choose from helmet",
        ),
        ("precision_delta[head]", {"precision": 1}, "champion: precision is a single number"),
        ("recall_delta[head]", {"recall": [1.0, 1.0]}, "champion: recall has 2 values for 3 classes"),
        ("min(precision_delta)", {"precision": {"helmet": 1, "head": 1}}, "precision is of precision[helmet],"),
    ],
)
def test_a_champion_without_the_value_is_an_error_that_says_so(metric, champion, words):
    clause = single(f"{metric} >= 0", champion=champion)
    assert clause.outcome == ERROR
    assert words in clause.reason


def test_a_class_named_by_a_number_goes_before_its_place():
    digits = ("2", "1", "0")
    scores = {"precision": {"2": 0.2, "1": 0.1, "0": 0.0}, "recall": [0.2, 0.1, 0.0], "f1": {"0": 0.5}}
    for metric in ("precision", "recall"):
        assert single(f"{metric}[2] == 0.2", metrics=scores, classes=digits).outcome == MET
    # "2" is known as a class, so that it never falls back to the class at place 2
    assert single("f1[2] >= 0", metrics=scores, classes=digits).outcome == ERROR


def test_without_class_names_lists_have_places_alone():
    assert single("recall[1] == 0.6", classes=()).outcome == MET
    assert "choose from 0, 1, 2" in single("recall[helmet] > 0", classes=()).reason
    assert "an index needs class names" in single("precision[1] > 0", classes=()).reason
    assert single("empty > 0", classes=()).outcome == ERROR
    assert "has no value for any class" in single("min(empty) > 0", classes=()).reason


def test_the_reason_tells_have_and_need():
    clause = single("num_of_samples > 50")
    assert clause == Clause("num_of_samples > 50", 37.0, "> 50", NOT_MET, "have 37, need > 50")
    assert judge("num_of_samples > 50").describe() == "not_met: num_of_samples > 50 (have 37, need > 50)"
    assert single("precision_delta[head] >= -0.05").reason == "have -0.1, need >= -0.05"


def test_a_verdict_tells_every_clause():
    verdict = judge({"any": ["num_of_samples gt 30", "nope > 1", {"not": "map50 < 0.5"}]})
    assert verdict.describe() == (
        "error: num_of_samples > 30 or nope > 1 or not (map50 < 0.5) (num_of_samples > 30 met: have 37, need > 30; "
        "nope > 1 error: no metric 'nope': choose from broken, empty, endless, flag, huge, map50, nothing, "
        "num_of_samples, precision, recall, truths, word; map50 < 0.5 not_met: have 0.71, need < 0.5)"
    )


def test_numbers_of_numpy_are_numbers():
    scores = {"map50": np.float32(0.5), "images": np.int64(7), "f1": {"helmet": np.float64(0.25)}}
    verdict = judge(["map50 == 0.5", "images == 7", "f1[helmet] == 0.25"], metrics=scores)
    assert verdict.outcome == MET
    assert [type(clause.have) for clause in verdict.clauses] == [float, float, float]


def test_rounding_does_not_fail_a_limit():
    assert 0.58 - 0.60 < -0.02  # what the computer thinks
    assert single("map50_delta >= -0.02", metrics={"map50": 0.58}, champion={"map50": 0.60}).outcome == MET


@pytest.mark.parametrize(
    "condition",
    [
        {"any": ["map50 > 0.5", "nope > 1"]},
        {"any": ["nope > 1", "map50 > 0.5"]},
        {"all": ["map50 > 0.9", "nope > 1"]},
        {"all": ["nope > 1", "map50 > 0.9"]},
        {"not": {"all": ["map50 > 0.9", "nope > 1"]}},
        {"any": ["map50 > 0.5", {"not": {"any": ["map50 > 0.5", "broken > 1"]}}]},
    ],
)
def test_an_error_anywhere_is_an_error_even_where_the_rest_would_decide(condition):
    assert judge(condition).outcome == ERROR


@pytest.mark.parametrize(
    "condition", ["map50_delta > 0", "map50_rel >= 5", "min(recall_delta) > 1", "recall_delta[1] > 9"]
)
def test_without_champion_a_comparison_is_met(condition):
    verdict = judge(condition, champion=None)
    assert verdict.outcome == MET
    assert (verdict.clauses[0].have, verdict.clauses[0].reason) == (None, "no champion yet")


def test_without_champion_a_comparison_does_not_stand_in_the_way_under_not():
    assert judge({"not": "map50_delta < 0"}, champion=None).outcome == MET
    assert judge({"not": {"not": "map50_delta > 0"}}, champion=None).outcome == MET
    assert judge({"not": {"any": ["map50_delta < 0", "map50 < 0.5"]}}, champion=None).outcome == MET


def test_without_champion_the_other_clauses_still_count():
    assert judge(["map50_delta > 0", "map50 > 0.9"], champion=None).outcome == NOT_MET
    assert judge("nope_delta > 0", champion=None).outcome == ERROR
    assert judge("recall_delta > 0", champion=None).outcome == ERROR
    assert judge("precision_delta[vest] > 0", champion=None).outcome == ERROR


def test_a_verdict_is_no_bool():
    with pytest.raises(TypeError, match=re.escape("verdict.outcome")):
        bool(judge("map50 > 0.5"))


def test_no_regression_holds_every_class():
    condition = no_regression("precision", CLASSES, 0.05)
    assert condition.describe() == (
        "precision_delta[helmet] >= -0.05 and precision_delta[head] >= -0.05 and precision_delta[hard hat] >= -0.05"
    )
    verdict = condition.evaluate(SCORES, CHAMPION, CLASSES)
    assert verdict.outcome == NOT_MET
    assert [clause.outcome for clause in verdict.clauses] == [MET, NOT_MET, MET]
    assert no_regression("precision", CLASSES, 0.1).evaluate(SCORES, CHAMPION, CLASSES).outcome == MET
    assert condition.evaluate(SCORES, None, CLASSES).outcome == MET
    assert condition.evaluate(CHAMPION, CHAMPION, CLASSES).outcome == MET
    assert Condition.parse(condition.to_dict()) == condition


def test_no_regression_without_tolerance_writes_a_plain_zero():
    condition = no_regression("f1", ["a"], 0.0)
    assert condition.describe() == "f1_delta[a] >= 0"
    assert "-0.0" not in json.dumps(condition.to_dict())


@pytest.mark.parametrize(
    ("metric", "classes", "tolerance"),
    [
        ("f1", [], 0),
        ("f1", ["a"], -0.1),
        ("f1", ["a"], math.nan),
        ("f1", ["a"], math.inf),
        ("f1[a]", ["b"], 0),
        ("", ["a"], 0),
    ],
)
def test_no_regression_refuses_what_makes_no_sense(metric, classes, tolerance):
    with pytest.raises(InputError, match="no_regression"):
        no_regression(metric, classes, tolerance)


def test_the_same_is_judged_the_same():
    condition = Condition.parse([{"any": ["map50_delta > 0", "min(recall) < 1"]}, "truths[1] > 5"])
    verdicts = {condition.evaluate(SCORES, CHAMPION, CLASSES).describe() for _ in range(5)}
    assert len(verdicts) == 1


# Random trees against an evaluator that knows nothing of ours.

VALUES = {"a": 1.0, "b": 2.0, "c": 3.0, "bad": math.nan}
OLD = {"a": 2.0, "b": 2.0, "c": 1.0, "bad": 1.0}


def random_tree(chance, depth):
    kind = chance.choice(["all", "any", "not", "list", "leaf", "leaf"]) if depth else "leaf"
    if kind == "leaf":
        metric = chance.choice(["a", "b", "c", "a_delta", "b_delta", "c_delta"])
        metric = "bad" if chance.random() < 0.03 else metric
        operator = chance.choice([">", ">=", "==", "!=", "<=", "<"])
        threshold = chance.randint(-2, 4)
        if chance.random() < 0.5:
            return f"{metric} {operator} {threshold}"
        return {"metric": metric, "operator": operator, "threshold": threshold}
    if kind == "not":
        part = random_tree(chance, depth - 1)
        return {"not": {"all": part} if isinstance(part, list) else part}
    parts = [random_tree(chance, depth - 1) for _ in range(chance.randint(1, 3))]
    return parts if kind == "list" else {kind: parts}


def leaves(tree):
    if isinstance(tree, str):
        return [tree.split()]
    if isinstance(tree, list):
        return [leaf for part in tree for leaf in leaves(part)]
    if "metric" in tree:
        return [[tree["metric"], tree["operator"], str(tree["threshold"])]]
    return leaves(next(iter(tree.values())))


def truth(tree, answers):
    """The value of a tree, its leaves' values taken from an iterator in the order in which they are written."""
    if isinstance(tree, str) or "metric" in tree:
        return next(answers)
    if isinstance(tree, list):
        return min([truth(part, answers) for part in tree])
    ((how, inner),) = tree.items()
    if how == "not":
        return not truth(inner, answers)
    values = [truth(part, answers) for part in inner]
    return min(values) if how == "all" else max(values)


def expected(tree, has_champion):
    choices = []
    for metric, operator, threshold in leaves(tree):
        name = metric.removesuffix("_delta")
        if math.isnan(VALUES[name]):
            return ERROR
        if name == metric or has_champion:
            value = VALUES[name] - (OLD[name] if name != metric else 0)
            choices.append([eval(f"{value} {operator} {threshold}")])  # whole numbers: exact
        else:
            choices.append([True, False])  # never in the way: whichever lets the tree hold
    return MET if any(truth(tree, iter(answers)) for answers in itertools.product(*choices)) else NOT_MET


@pytest.mark.parametrize("has_champion", [True, False])
def test_random_trees_against_brute_force(has_champion):
    chance = random.Random(3)
    seen = dict.fromkeys(Outcome, 0)
    for _ in range(1500):
        tree = random_tree(chance, 3)
        if len(leaves(tree)) > 12:
            continue
        condition = Condition.parse(tree)
        verdict = condition.evaluate(VALUES, OLD if has_champion else None)
        assert verdict.outcome == expected(tree, has_champion), condition.describe()
        assert len(verdict.clauses) == len(leaves(tree))
        assert Condition.parse(condition.to_dict()) == condition
        seen[verdict.outcome] += 1
    assert min(seen.values()) > 50
