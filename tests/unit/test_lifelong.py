"""The plug points of lifelong learning, the choice of models, and the routing of a knowledge base."""

import os

import numpy as np
import polars as pl
import pytest

from components.core import plugins
from components.core.bundle import Bundle
from components.core.detections import Detections
from components.core.errors import InputError
from components.core.job.job import Job
from components.core.lifelong.appearance import LOOKS, NUMBERS
from components.core.lifelong.knowledge_base import (
    Chosen,
    KnowledgeBase,
    RoundScores,
    Route,
    TaskEntry,
    ask,
    needed_rounds,
    score_matrix,
)
from components.core.lifelong.plug_points import (
    Decision,
    Situation,
    TaskRemodeling,
    check_plug_ins,
    inference_integrations,
    make,
    re_recognitions,
    task_allocations,
    task_definitions,
    task_relations,
    task_remodelings,
    task_updates,
    unseen_allocations,
    unseen_detections,
    unseen_policies,
)
from components.core.lifelong.samples import Projection, Samples, drawn, shrunk_covariance
from components.core.lifelong.task_definition import task_name
from components.core.lifelong.unseen_detection import samples_needed, threshold_for
from components.core.manifest import Manifest
from components.core.masks import read_mask
from components.core.metrics.continual import continual_metrics
from components.core.parameters import LifelongSettings
from components.core.release import Member, Release
from components.core.rules.conditions import Condition
from components.core.tasks.base import NONE, open_task
from components.lifelong.learn import held_out_scores, too_few_to_calibrate
from components.lifelong.lifelong_job import fetch_known
from components.lifelong.plan import Plan, Planned, base_of, checked, plan_models, samples_to_convert, samples_to_train
from components.lifelong.report import allocated, recognition
from components.lifelong.serve import (
    BEFORE,
    Matrix,
    Served,
    choose_models,
    forgotten,
    places_to_answer,
    unless_shared_is_better,
)
from tests.knowledge_base import release
from tests.tiny_segmenter import job_with_masks

BOX = {"class_id": 0, "x1": 0.0, "y1": 0.0, "x2": 8.0, "y2": 8.0}


def manifest(sources, **columns):
    return Manifest.of([{"id": f"{n:064x}", "source": source, "group": source, "split": "train", "annotations": [BOX],
                         "round": 1, **{name: values[n] for name, values in columns.items()}}
                        for n, source in enumerate(sources)], ["red"])  # fmt: skip


def samples(sources, features=None):
    features = np.zeros((len(sources), NUMBERS)) if features is None else np.asarray(features, dtype=float)
    return Samples({"source": sources, "group": sources}, features)


def blobs(*centres, count=20, seed=0, spread=0.01):
    """Features around some centres, the first ``count`` around the first."""
    rng = np.random.default_rng(seed)
    return np.concatenate(
        [np.full(NUMBERS, centre) + spread * rng.standard_normal((count, NUMBERS)) for centre in centres]
    )


def test_tasks_by_attribute_are_named_by_what_the_pattern_finds():
    by_folder = make(task_definitions, "TaskDefinitionByDataAttr", {})
    assert by_folder.assign(samples(["site-a/1.jpg", "site-b/x/2.jpg", "3.jpg"]), {}) == ["site-a", "site-b", None]
    by_light = make(task_definitions, "TaskDefinitionByDataAttr", {"pattern": "(day|night)"})
    assert by_light.assign(samples(["a/night/1.jpg", "a/dusk/1.jpg"]), {}) == ["night", None]


def test_named_groups_are_attributes_and_each_combination_of_values_is_a_task():
    pattern = r"^(?P<site>[^/]+)/(?:.*_)?(?P<light>day|night)"
    given = samples(["site-a/0_day.jpg", "site-a/night/1.jpg", "site-b/2_day.jpg", "site-b/fog.jpg", "2_day.jpg"])
    by_both = make(task_definitions, "TaskDefinitionByDataAttr", {"pattern": pattern})
    assert by_both.assign(given, {}) == ["site-a_day", "site-a_night", "site-b_day", None, None]
    by_light = make(task_definitions, "TaskDefinitionByDataAttr", {"pattern": pattern, "attribute": ["light"]})
    assert by_light.assign(given, {}) == ["day", "night", "day", None, None]
    with pytest.raises(InputError, match="attribute weather: no group of the pattern has this name; named .* site, li"):
        make(task_definitions, "TaskDefinitionByDataAttr", {"pattern": pattern, "attribute": ["weather"]})
    assert len({task_name("a_b", "c"), task_name("a", "b_c"), task_name("a", "b", "c")}) == 3


def test_different_values_never_become_one_task():
    by_folder = make(task_definitions, "TaskDefinitionByDataAttr", {})
    names = by_folder.assign(samples(["site a/1", "site-a/1", "site?a/1", "shared/1", "Büro/1"]), {})
    assert len(set(names)) == 5
    assert "shared" not in names  # which is the model of all
    Release(members={name: Member(version="r0001-00000000", sha256="0" * 64) for name in names})  # all are good names


def test_the_tutorials_definition_by_origin_is_ours_and_a_users_file():
    plugins.load("tests.origin_definition")
    given = samples(["leftImg8bit/berlin_000.png", "synthia/0001.png", "berlin/2.png"])
    for name in ("TaskDefinitionByOrigin", "tutorial-origin"):
        definition = make(task_definitions, name, {"attribute": "real, sim", "city": "berlin"})
        assert definition.assign(given, {}) == ["real", "sim", "real"]


def test_tasks_by_cluster_keep_their_names_and_strangers_become_a_new_one():
    definition = make(task_definitions, "TaskDefinitionByCluster", {"clusters": 2})
    first = samples([str(n) for n in range(40)], blobs(0.2, 0.8))
    state = definition.fit(first, {})
    tasks = definition.assign(first, state)
    assert len(set(tasks[:20])) == len(set(tasks[20:])) == 1 and tasks[0] != tasks[20]
    stranger = samples([str(n) for n in range(60)], np.concatenate([blobs(0.2, 0.8), blobs(0.5, seed=1)]))
    assert definition.assign(stranger, state)[40:] == [None] * 20
    later = definition.fit(stranger, state)
    assert definition.assign(stranger, later)[:40] == tasks
    assert definition.assign(stranger, later)[40:] == ["cluster-2"] * 20


def test_two_new_looks_at_once_become_two_tasks_and_odd_images_none():
    definition = make(task_definitions, "TaskDefinitionByCluster", {"clusters": 2})
    state = definition.fit(samples([str(n) for n in range(40)], blobs(0.2, 0.8)), {})
    looks = np.concatenate([blobs(0.2, 0.8), blobs(3.0, -3.0, seed=1)])
    grown = samples([str(n) for n in range(80)], looks)
    later = definition.fit(grown, state)
    found = definition.assign(grown, later)[40:]
    assert len(set(found[:20])) == len(set(found[20:])) == 1 and found[0] != found[20] and None not in found
    assert definition.fit(grown, later) == later  # a round that brings nothing new changes nothing
    odd = np.concatenate([looks, np.concatenate([blobs(5.0 * (n + 2), count=1, seed=n) for n in range(12)])])
    assert definition.fit(samples([str(n) for n in range(92)], odd), later) == later


def test_the_router_finds_the_task_whose_images_look_alike():
    router = make(task_allocations, "router", {})
    state = router.fit(samples([""] * 40, blobs(0.2, 0.8)), ["day"] * 20 + ["night"] * 20)
    new = samples([""] * 2, blobs(0.75, 0.25, count=1))
    assert router.allocate(new, [None, None], state) == ["night", "day"]
    assert make(task_allocations, "definition", {}).allocate(new, ["a", None], {}) == ["a", None]


def test_the_router_goes_by_what_tells_tasks_apart_however_much_the_rest_varies():
    rng = np.random.default_rng(0)
    features, tasks = rng.standard_normal((400, NUMBERS)), np.array(["a", "b", "c", "b"] * 100)
    features[:, 5] = 0.1 * features[:, 5] + 0.3 * (tasks == "b")  # nearly nothing of all that varies
    features[:, LOOKS:] = 8 + (tasks == "c")[:, None]  # images of c are twice as high and wide
    router = make(task_allocations, "router", {})
    state = router.fit(samples([""] * 300, features[:300]), list(tasks[:300]))
    assert router.names(state) == ["a", "b", "c"]
    found = np.array(router.allocate(samples([""] * 100, features[300:]), [None] * 100, state))
    assert (found == tasks[300:]).mean() >= 0.9
    assert (found[tasks[300:] == "c"] == "c").all()


def test_images_of_a_rare_task_are_not_compared_with_those_of_others_alone():
    rng = np.random.default_rng(0)
    tasks = ["day"] * 1000 + ["fog"] * 12 + ["day"] * 1000
    features = rng.normal(np.where(np.array(tasks) == "fog", 3, 0)[:, None], 0.1, (2012, 10))
    knn = make(unseen_detections, "knn", {"references": 100})
    state = knn.fit(features, tasks)
    day, fog, other = (knn.score(rng.normal(centre, 0.1, (20, 10)), state).mean() for centre in (0, 3, -3))
    assert day < fog < 2 * day < 10 * day < other


def test_samples_are_drawn_evenly_and_of_a_rare_task_more_often():
    assert drawn(["day", "fog", None], 3).tolist() == [0, 1, 2]
    assert drawn(["day"] * 101, 51).tolist() == list(range(0, 101, 2))
    tasks = np.array(["day"] * 500 + ["fog"] * 40 + ["dusk"] * 5 + ["day"] * 500)
    found = tasks[drawn(tasks.tolist(), 100)]
    counts = {name: int((found == name).sum()) for name in ("day", "fog", "dusk")}
    assert 90 <= counts["day"] <= 100 and 20 <= counts["fog"] <= 24 and counts["dusk"] == 5


def test_a_router_of_one_task_or_none_has_nothing_to_choose():
    router, given = make(task_allocations, "router", {}), samples([""] * 20, blobs(0.2))
    assert router.allocate(given, [None] * 20, router.fit(given, ["day"] * 20)) == ["day"] * 20
    assert router.allocate(given, [None] * 20, router.fit(given, [None] * 20)) == [None] * 20


def test_without_tasks_the_nearest_of_none_is_the_shared_model():
    nearest, features = make(unseen_allocations, "nearest", {}), np.zeros((2, 3))
    assert nearest.allocate(features, nearest.fit(features, [None] * 2)) == [None] * 2


def test_the_covariance_of_few_samples_is_shrunk_and_that_of_many_is_not():
    rng = np.random.default_rng(0)
    true = np.array([[2.0, 0.5], [0.5, 1.0]])
    many = rng.multivariate_normal([0, 0], true, 20000)
    assert shrunk_covariance(many) == pytest.approx(true, abs=0.05)
    assert shrunk_covariance(np.array([[1.0, 1.0], [-1.0, -1.0]])) == pytest.approx(
        np.array([[1, 1], [1, 1.0]]), abs=1e-3
    )
    few = rng.standard_normal((5, 40))
    assert np.linalg.eigvalsh(shrunk_covariance(few)).min() > 0.5  # the plain one is singular
    assert np.linalg.eigvalsh(shrunk_covariance(np.zeros((3, 2)))).min() > 0


def test_the_size_of_an_image_makes_it_unseen_only_where_that_is_asked_for():
    known = blobs(0.2, count=50, spread=0.1)
    known[:, LOOKS:] = 9
    larger = known + np.repeat([0, 1], [LOOKS, NUMBERS - LOOKS])
    looks = Projection.fit(known)
    assert np.allclose(looks.apply(larger), looks.apply(known))
    detection, sizes = make(unseen_detections, "knn", {}), Projection.fit(known, sizes=True)
    state = detection.fit(sizes.apply(known), [None] * 50)
    highest = detection.score(sizes.apply(known), state).max()
    assert detection.score(sizes.apply(larger), state).min() > 2 * highest


@pytest.mark.parametrize("name", ["knn", "mahalanobis", "energy"])
def test_unseen_images_score_higher_than_nearly_all_seen_ones(name):
    detection = make(unseen_detections, name, {})
    known, held_out, strange = (blobs(0.2, 0.8, seed=seed, count=50) for seed in (0, 1, 2))
    strange = strange + np.linspace(-0.2, 0.2, NUMBERS)
    projection = Projection.fit(np.concatenate([known, strange[:1]]))
    state = detection.fit(projection.apply(known), [None] * len(known))
    threshold = threshold_for(detection.score(projection.apply(held_out), state), 0.05)
    assert (detection.score(projection.apply(strange), state) > threshold).all()
    fresh = detection.score(projection.apply(blobs(0.2, 0.8, seed=3, count=50)), state)
    assert (fresh > threshold).mean() <= 0.15


def test_the_energy_is_low_near_any_task_and_never_below_zero():
    detection = make(unseen_detections, "energy", {})
    features = np.concatenate([np.eye(2)[[0] * 20], np.eye(2)[[1] * 20]]) * 4 + np.tile([[0.1], [-0.1]], (20, 1))
    state = detection.fit(features, ["a"] * 20 + ["b"] * 20)
    near_a, near_b, between = detection.score(np.array([[4.0, 0], [0, 4.0], [2.0, 2.0]]), state)
    assert near_a == pytest.approx(near_b) == pytest.approx(np.log(2), abs=1e-3)  # one of two tasks is certain
    assert between > 100 * near_a


def test_a_score_of_the_unseen_is_learned_without_the_sample_itself():
    detection = make(unseen_detections, "knn", {"neighbours": 1})
    features = np.arange(40.0)[:, None]
    apart = held_out_scores(detection, features, [None] * 40, [str(n) for n in range(40)])
    assert apart.min() >= 1  # the nearest other one, and never itself
    pairs = held_out_scores(detection, features, [None] * 40, [str(n // 2) for n in range(40)])
    assert (pairs[:-1:2] >= 1).all() and pairs.mean() > apart.mean()  # nor one of its own group
    assert (held_out_scores(detection, features, [None] * 40, ["all"] * 40) == 0).all()


@pytest.mark.parametrize(("bound", "needed"), [(0.05, 19), (0.01, 99), (0.2, 4), (0.5, 1), (0.3, 3)])
def test_a_bound_of_false_unseen_takes_so_many_samples(bound, needed):
    assert samples_needed(bound) == needed
    names = [f"{n}.jpg" for n in range(needed + 2)]
    whole = manifest(names, split=["train"] * (needed - 1) + ["val", "test", "train"])
    tasks = dict(zip(whole.table["id"], ["day"] * (needed + 1) + [None], strict=True))
    chosen = LifelongSettings(max_false_unseen=bound)
    assert too_few_to_calibrate(plan(tasks=tasks), whole, chosen) == ""
    fewer = whole.where(pl.col("split") != "val")
    said = too_few_to_calibrate(plan(tasks=tasks), fewer, chosen)
    assert said.startswith(f"{needed - 1} training and validation samples") and f"needs {needed}: " in said
    assert said.endswith(f"up to {1 / needed:.2g} of the images like them may be called unseen")
    of_task = LifelongSettings(max_false_unseen=bound, unseen_detection="TaskAttr")
    assert too_few_to_calibrate(plan(tasks=tasks), fewer, of_task) == ""


def test_a_threshold_is_the_rank_that_the_fraction_asks_for():
    assert threshold_for(np.arange(1.0, 100.0), 0.05) == 95
    assert threshold_for(np.array([1.0, 2.0]), 0.05) == 2


@pytest.mark.parametrize(
    ("registry", "name", "parameters", "words"),
    [
        (task_definitions, "ByWeather", {}, "unknown task definition 'ByWeather': choose from TaskDefinitionByCluster"),
        (task_definitions, "TaskDefinitionByDataAttr", {"attribute": "x"}, "its parameters are column, pattern"),
        (task_definitions, "TaskDefinitionByDataAttr", {"pattern": "day|night"}, "exactly one group"),
        (task_definitions, "TaskDefinitionByDataAttr", {"pattern": "(day|night"}, "not a regular expression"),
        (task_definitions, "TaskDefinitionByDataAttr", {"column": "weather"}, "'source' or 'group'"),
        (task_updates, "always", {}, "unknown task update 'always': choose from finetune, gain, "),
        (task_relations, "transfer", {"min_gain": 2}, "its parameters are min_gain"),
        (unseen_policies, "abstain", {"loudly": True}, "its parameters are none"),
        (re_recognitions, "half", {}, "unknown re-recognition 'half': choose from none, "),
        (unseen_detections, "entropy", {}, "unknown unseen detection 'entropy'"),
    ],
)
def test_what_is_wrong_with_a_plug_point_is_one_line(registry, name, parameters, words):
    with pytest.raises(InputError, match=".*") as raised:
        make(registry, name, parameters)
    assert words in str(raised.value) and "\n" not in str(raised.value)


# The plan of a round


def planned(tasks, new, known=None, members=(), **given):
    return {one.name: one for one in plan_models(
        manifest(tasks), {f"{n:064x}": task for n, task in enumerate(tasks)},
        [f"{n:064x}" for n in new], round_number=2, known=known, members=members, **given,
    )}  # fmt: skip


def test_a_plan_trains_what_has_new_samples_and_keeps_the_rest():
    tasks = ["day"] * 12 + ["night"] * 12 + ["fog"] * 3 + [None]
    found = planned(tasks, [0, 24], members=("shared", "day", "night"))
    assert {name: one.action for name, one in found.items()} == {
        "shared": "finetune", "day": "finetune", "fog": "fall back", "night": "keep"
    }  # fmt: skip
    assert planned(tasks, [0], update=make(task_updates, "retrain", {}), members=("shared",))["day"].action == "new"
    assert found["fog"].why == "3 training samples, and a model of its own needs 10"


@pytest.mark.parametrize("update", ["finetune", "retrain", "gain"])
@pytest.mark.parametrize(
    ("new", "tasks", "max_missed", "trains"),
    [
        (range(2), ["day"] * 12 + ["night"] * 12, 0.2, False),  # whose tasks have models of their own
        (range(2), ["day"] * 12 + ["night"] * 12, 0.05, True),  # it has missed too much
        (range(2), ["day"] * 12 + ["night"] * 12, 0, True),
        (range(5), ["day"] * 12 + ["night"] * 12, 0.2, True),
        ([22], ["day"] * 20 + ["night"] * 2 + ["fog"] * 2, 0.2, True),  # of which there is no other model
        ([22], ["day"] * 20 + ["night"] * 2 + [None] * 2, 0.2, True),
    ],
)
def test_the_shared_model_is_trained_when_it_is_needed(update, new, tasks, max_missed, trains):
    known = base(day=entry("day"), night=entry("night")).model_copy(update={"shared_round": 1})
    plug_in = make(task_updates, update, {"max_missed": max_missed})
    found = planned(tasks, new, known=known, members=("shared", "day", "night"), update=plug_in)["shared"]
    assert found.trains == trains
    if not trains:
        assert found.why == "it has missed 2 of 24 training samples, all of tasks with a model of their own"


def test_the_shared_model_learns_what_it_has_missed_once_it_is_trained():
    everything = manifest(["day"] * 3, round=[1, 2, 3])
    chosen = plan(one("shared", "finetune")).model_copy(update={"shared_round": 1})
    of_round = everything.with_ids([f"{2:064x}"])
    learned = samples_to_train(everything, of_round, chosen, "shared").table
    assert sorted(learned["round"]) == [2, 3]
    missed = base(day=entry("day")).model_copy(update={"shared_round": 0})
    assert planned(["day"] * 12, [0], known=missed, members=("shared", "day"))["shared"].action == "finetune"


GAIN = make(task_updates, "gain", {})


def situation(name, has_model=True, scores=None, before=None):
    return Situation(name, name == "shared", has_model, 5, scores or {}, before or {})


@pytest.mark.parametrize(
    ("task", "action"),
    [
        (situation("day", scores={"day": 0.79}, before={"day": 0.8}), "keep"),
        (situation("day", scores={"day": 0.6}, before={"day": 0.8}), "finetune"),
        (situation("day", scores={"day": 0.2}, before={"day": 0.8}), "retrain"),
        (situation("day", scores={}, before={"day": 0.8}), "finetune"),
        (situation("shared", scores={"day": 0.8}, before={"day": 0.8}), "finetune"),
        (situation("dusk", False, {"day": 0.8, "fog": 0.7}, {"day": 0.8, "fog": 0.5}), "merge"),
        (situation("dusk", False, {"day": 0.3}, {"day": 0.8}), "new"),
    ],
)
def test_an_update_by_gain_does_as_little_as_the_figures_ask_for(task, action):
    decision = GAIN.decide(task)
    assert decision.action == action
    assert decision.into == ("fog" if action == "merge" else "")  # which is better there than at home


def test_a_merged_task_is_answered_and_learned_by_the_model_that_it_is_merged_into():
    tasks = ["day"] * 12 + ["dusk"] * 12
    known = base(day=entry("day")).model_copy(update={"rounds": (RoundScores(round=1, scores={"day": 0.8}),)})
    given = {"known": known, "members": ("shared", "day"), "update": GAIN, "score": lambda ids: {"day": 0.85}}
    found = planned(tasks, range(10, 24), **given)
    assert (found["dusk"].action, found["dusk"].into) == ("merge", "day")
    assert found["day"].action == "keep"
    scores = {"shared": {"dusk": 0.9}, BEFORE + "shared": {}, BEFORE + "day": {"day": 0.8, "dusk": 0.85}}
    merged = found["dusk"]
    served = choose(scores, one("shared"), one("day", "keep"), merged)
    assert served["dusk"].member == "day" and "day answers: the model of day has 0.850" in served["dusk"].why
    everything = manifest(tasks)
    of_both = plan(one("day", "finetune"), merged, tasks=dict(zip(everything.table["id"], tasks, strict=True)))
    assert len(samples_to_train(everything, everything, of_both, "day")) == 24


def test_an_update_that_cannot_be_is_one_line():
    with pytest.raises(InputError, match="merge into 'fog' for the task day, which has no model: possible are new"):
        checked(Decision("merge", "", "fog"), situation("day", False), ["shared"])
    with pytest.raises(InputError, match="retrain for the task day, which has no model"):
        checked(Decision("retrain", ""), situation("day", False), ["shared"])
    with pytest.raises(InputError, match="new for the task day, which has a model: possible are keep"):
        checked(Decision("new", ""), situation("day"), ["shared", "day"])


def test_a_plan_without_any_task_says_what_to_change():
    with pytest.raises(InputError, match="change task_definition or its parameters in task_parameters"):
        planned([None, None], [0])


def plan(*models, tasks=None):
    return Plan(round=2, champion="r0001-00000000", models=models, tasks=tasks or {}, definition={})


def one(name, action="new"):
    return Planned(name=name, action=action, why="", samples=12, first_round=1)


def test_each_task_is_trained_on_its_own_samples_from_a_fresh_model():
    names = ["day", "day", "night", "night"]
    everything = manifest(names, split=["train", "val", "train", "val"])
    tasks = dict(zip(everything.table["id"], names, strict=True))
    chosen = plan(one("shared", "finetune"), one("day"), one("night", "finetune"), tasks=tasks)
    trained = samples_to_train(everything, everything, chosen, "day")
    assert trained.table["source"].to_list() == ["day", "day"]
    assert len(samples_to_train(everything, everything, chosen, "shared")) == 4
    assert base_of(chosen, "day", "champion", "small.yaml") == "small.yaml"
    assert base_of(chosen, "night", "champion", "small.yaml") == "champion:r0001-00000000:night"
    assert base_of(chosen, "night", "mine.pt", "small.yaml") == "mine.pt"


def test_a_task_of_empty_images_has_no_model_and_keeps_no_other_from_being_trained():
    tasks = ["day"] * 12 + ["night"] * 12
    everything = manifest(tasks, annotations=[[BOX]] * 12 + [[]] * 12)
    of_task = dict(zip(everything.table["id"], tasks, strict=True))
    models = plan_models(everything, of_task, list(of_task), round_number=1, known=None, members=())
    assert {model.name: model.action for model in models} == {"shared": "new", "day": "new", "night": "fall back"}
    assert models[-1].why == "its 12 training samples show nothing to learn"


@pytest.mark.parametrize("name", ["shared", "day"])
def test_a_few_new_images_that_are_empty_are_learned_together_with_all_that_there_are(name):
    everything = manifest(["day"] * 4, split=["train", "val", "train", "train"], annotations=[[BOX], [BOX], [], []])
    tasks = dict.fromkeys(everything.table["id"], "day")
    chosen = plan(one("shared", "finetune"), one("day", "finetune"), tasks=tasks)
    chosen = chosen.model_copy(update={"shared_round": 1})
    of_round = everything.with_ids(everything.table["id"][1:])
    assert set(samples_to_train(everything, of_round, chosen, name).table["id"]) == set(tasks)
    with_box = everything.with_ids(everything.table["id"][:3])
    assert set(samples_to_train(everything, with_box, chosen, name).table["id"]) == set(with_box.table["id"])


def test_the_epoch_is_not_chosen_by_images_that_are_all_empty():
    names = ["day", "day", "night", "night"]
    everything = manifest(names, split=["train", "val", "train", "val"], annotations=[[BOX], [], [BOX], [BOX]])
    chosen = plan(one("day"), tasks=dict(zip(everything.table["id"], names, strict=True)))
    assert samples_to_train(everything, everything, chosen, "day").table["source"].to_list() == ["day", "day", "night"]


def test_a_model_is_converted_with_the_samples_of_its_task_where_it_has_enough():
    names = ["day"] * 60 + ["night"] * 30
    splits = (["train"] * 25 + ["val"] * 5 + ["test"] * 30) + ["train"] * 25 + ["test"] * 5
    everything = manifest(names, split=splits)
    chosen = plan(one("shared"), one("day"), one("night"), tasks=dict(zip(everything.table["id"], names, strict=True)))

    def counts(name):
        found = samples_to_convert(everything, chosen, name)
        return {split: found.split(split).table["source"].to_list() for split in ("train", "test")}

    assert counts("shared") == {"train": ["day"] * 25 + ["night"] * 25, "test": ["day"] * 30 + ["night"] * 5}
    assert counts("day") == {"train": ["day"] * 25, "test": ["day"] * 30}
    assert counts("night") == {"train": ["night"] * 25, "test": ["day"] * 30 + ["night"] * 5}


# Which model answers


def choose(scores, *models, keep="gain >= 0", **given):
    matrix = Matrix(dict.fromkeys(scores), {}, scores)
    return choose_models(plan(*models), matrix, keep=Condition.parse(keep), **{"max_forgetting": 0.05, **given})


def test_a_task_keeps_its_own_model_only_where_it_is_better():
    scores = {"shared": {"shared": 0.6, "day": 0.6, "night": 0.7}, "day": {"day": 0.8}, "night": {"night": 0.5}}
    served = choose(scores, one("shared"), one("day"), one("night"), one("fog", "fall back"))
    assert {name: found.member for name, found in served.items()} == {
        "shared": "shared", "day": "day", "night": "shared", "fog": "shared"
    }  # fmt: skip
    assert "have -0.2, need >= 0" in served["night"].why


def test_with_transfer_the_best_model_of_all_answers():
    scores = {"shared": {"night": 0.3}, "day": {"day": 0.8, "night": 0.9}, "night": {"night": 0.5}}
    served = choose(scores, one("shared"), one("day"), one("night"), relation=make(task_relations, "transfer", {}))
    assert served["night"].member == "day"


def test_a_parent_by_transfer_must_be_better_by_what_is_asked():
    scores = {"shared": {"night": 0.8}, "day": {"day": 0.8, "night": 0.9}, "night": {"night": 0.5}}
    by_far = make(task_relations, "transfer", {"min_gain": 0.2})
    assert choose(scores, one("shared"), one("day"), one("night"), relation=by_far)["night"].member == "shared"


def test_a_new_model_that_forgot_is_replaced_by_the_one_before():
    scores = {"shared": {"day": 0.2}, "day": {"day": 0.6}, BEFORE + "day": {"day": 0.9}}
    served = choose(scores, one("shared"), one("day", "finetune"))
    assert served["day"].label == BEFORE + "day"
    assert served["day"].why == "the one before answers: the new one lost 0.300"
    assert choose(scores, one("shared"), one("day"), max_forgetting=0.5)["day"].label == "day"


def test_what_cannot_be_measured_is_left_to_the_shared_model():
    served = choose({"shared": {}, "day": {}}, one("shared"), one("day"))
    assert served["day"].member == "shared" and "none of its test samples" in served["day"].why


def test_models_of_a_segmentation_answer_as_one(tmp_path):
    masked, task = job_with_masks(tmp_path / "job", {"test": 4}), open_task("segmentation")
    local = task.local(masked, tmp_path / "cache")
    truths = [read_mask(path) for path in local.masks]
    found = {"shared": [np.zeros_like(truth) for truth in truths], "day": truths}
    measured = {name: task.measure(masked, [task.result(local, n, one) for n, one in enumerate(maps)], 0.25)
                for name, maps in found.items()}  # fmt: skip
    matrix = Matrix.of(measured, {"day": [0, 1], "night": [2, 3], "fog": []})
    assert matrix.scores["day"] == {"day": 1.0, "night": 1.0}
    assert matrix.scores["shared"]["night"] < 0.5
    assert matrix.joined(["day"] * 4).flat["miou"] == 1
    assert matrix.scores["shared"]["day"] < matrix.joined(["day", "day", "shared", "shared"]).flat["miou"] < 1


def half_right_and_right_by_day(folder, count, half, day):
    """Two models on some masks: one has every other column right, one all of the first two masks and no others."""
    masked, task = job_with_masks(folder / "job", {"test": count}), open_task("segmentation")
    local = task.local(masked, folder / "cache")
    truths = [read_mask(path) for path in local.masks]
    maps_of = {
        half: [np.where(np.arange(truth.shape[1]) % 2, truth, 0) for truth in truths],
        day: [*truths[:2], *(np.zeros_like(truth) for truth in truths[2:])],
    }
    return {name: task.measure(masked, [task.result(local, n, one) for n, one in enumerate(maps)], 0.25)
            for name, maps in maps_of.items()}  # fmt: skip


def test_the_model_of_a_task_is_chosen_by_the_images_that_the_router_gives_it(tmp_path):
    measured = half_right_and_right_by_day(tmp_path, 5, "shared", "day")
    places = {"shared": [0, 1, 2, 3, 4], "day": [0, 1], "night": [2, 3, 4]}
    matrix, models = Matrix.of(measured, places), (one("shared"), one("day"))

    def answers(*members):
        routes = [Route(member if member != "shared" else None, member, 0.0) for member in members]
        given = matrix.at(places_to_answer(routes, places))
        return choose_models(plan(*models), given, keep=Condition.parse("gain >= 0"), max_forgetting=1.0)["day"].member

    assert answers("day", "day", "night", "night", "shared") == "day"
    assert answers("day", "day", "day", "day", "day") == "shared"  # which is better on the mix
    assert answers("night", "night", "night", "night", "night") == "day"  # it gets no image: its own ones count


def test_the_shared_model_answers_for_all_tasks_where_it_is_better_than_all_models_together(tmp_path):
    measured = half_right_and_right_by_day(tmp_path, 4, "before:shared", "day")
    matrix = Matrix.of(measured, {"shared": [0, 1, 2, 3], "day": [0, 1], "night": [2, 3], "fog": []})
    served = {"shared": Served("shared", "before:shared", "kept as it was"), "day": Served("day", "day", "new"),
              "night": Served("shared", "before:shared", "too few samples")}  # fmt: skip
    right = matrix.joined(["day", "day", "before:shared", "before:shared"])
    assert unless_shared_is_better(served, matrix, right) is served
    confused = matrix.joined(["before:shared", "before:shared", "day", "day"])
    instead = unless_shared_is_better(served, matrix, confused)
    assert {one.label for one in instead.values()} == {"before:shared"}
    assert instead["shared"] == served["shared"]
    assert instead["day"].why.startswith("shared answers for all tasks: 0.")
    alone = matrix.joined(["before:shared"] * 4)
    assert unless_shared_is_better(served, matrix, alone) is served  # as good


def test_forgetting_is_told_of_tasks_that_were_known():
    row = RoundScores(round=2, scores={"day": 0.5, "fog": 0.1}, before={"day": 0.8, "fog": 0.4})
    assert forgotten(row, ["day"], 0.05) == ["day lost 0.300"]
    assert forgotten(row, ["day"], 0.5) == []


# The knowledge base


def entry(member, first=1):
    return TaskEntry(member=member, why="new", first_round=first, samples=12)


def base(**tasks):
    known = blobs(0.2, count=20)
    projection = Projection.fit(known)
    detection = make(unseen_detections, "knn", {})
    return KnowledgeBase(
        definition=Chosen(name="TaskDefinitionByDataAttr"), allocation=Chosen(name="definition"),
        unseen=Chosen(name="knn", state=detection.fit(projection.apply(known), [None] * len(known))),
        projection=projection, threshold=20, policy="fallback", tasks=tasks,
    )  # fmt: skip


def test_a_sample_goes_to_the_model_of_its_task_and_never_to_another_one():
    given = samples(["day/1", "night/1", "2.jpg", "day/3"], np.concatenate([blobs(0.2, count=3), blobs(0.9, count=1)]))
    found = base(day=entry("day")).routes(given)
    assert [route.task for route in found] == ["day", None, None, None]
    assert [route.member for route in found] == ["day", "shared", "shared", "shared"]
    assert [route.unseen.split(" ")[0] for route in found] == ["", "task", "it", "score"]


def test_an_unseen_sample_goes_to_the_model_that_the_allocation_names():
    known = base(day=entry("day"), dark=entry("night"))
    points = known.projection.apply(np.concatenate([blobs(0.2), blobs(0.9, seed=1)]))
    nearest = make(unseen_allocations, "nearest", {}).fit(points, ["day"] * 20 + ["dark"] * 20)
    known = known.model_copy(update={"unseen_allocation": Chosen(name="nearest", state=nearest)})
    given = samples(["fog/1", "fog/2", "day/3"], np.concatenate([blobs(0.2, count=1), blobs(0.9, count=2)]))
    found = known.routes(given)
    assert [(route.task, route.member) for route in found] == [(None, "day"), (None, "night"), (None, "night")]
    lost = known.model_copy(update={"tasks": {"day": entry("day")}})
    assert [route.member for route in lost.routes(given)] == ["day", "shared", "shared"]


def test_what_becomes_of_the_unseen_is_a_matter_of_policy():
    policies = {name: make(unseen_policies, name, {}) for name in ("fallback", "abstain", "alarm")}
    assert {name: one.answers for name, one in policies.items()} == {"fallback": True, "abstain": False, "alarm": True}
    assert {name for name, one in policies.items() if one.warns(1, 10)} == {"alarm"}
    assert not policies["alarm"].warns(0, 10)
    many = make(unseen_policies, "alarm", {"min_fraction": 0.5})
    assert many.warns(5, 10) and not many.warns(4, 10)
    assert base(day=entry("day")).handling() == policies["fallback"]


def test_what_is_well_below_the_threshold_is_known_again():
    scores = np.array([0.5, 0.95, 1.2])
    assert make(re_recognitions, "score", {}).known(scores, 1.0) == [True, False, False]
    assert make(re_recognitions, "score", {"margin": 0}).known(scores, 1.0) == [True, True, False]
    assert make(re_recognitions, "none", {}).known(scores, 1.0) == [False] * 3


def test_recognition_compares_the_tests_of_new_tasks_with_those_of_known_ones():
    routes = [Route(None, "shared", score) for score in (0.1, 0.2, 0.9, 0.15)]
    places = {"day": [0, 1], "fog": [2, 3], "shared": [0, 1, 2, 3]}
    assert recognition(base(day=entry("day")), routes, places) == {"recognition_auroc": 0.75}
    assert recognition(None, [], places) == {}
    assert recognition(base(day=entry("day"), fog=entry("fog")), routes, places) == {}


def test_the_report_counts_where_the_test_images_of_each_task_go():
    routes = [Route(task, task or "shared", 0.0) for task in ("day", "day", "fog", None, "fog", "day")]
    table = str(allocated(routes, {"shared": list(range(6)), "day": [0, 1, 2, 3], "fog": [4, 5], "rain": []}))
    cells = [row.split("</td>") for row in table.split("<tr>")[2:]]
    plain = [[cell.rsplit(">", 1)[-1] for cell in row[:-1]] for row in cells]
    assert plain == [["day", "2", "1", "0", "1", "50.0%"], ["fog", "1", "1", "0", "0", "50.0%"],
                     ["rain", "0", "0", "0", "0", NONE]]  # fmt: skip


def test_a_router_that_knows_a_task_that_was_lost_calls_its_samples_unseen():
    router = make(task_allocations, "router", {}).fit(samples([""] * 40, blobs(0.2, 0.8)), ["a"] * 20 + ["b"] * 20)
    known = base(a=entry("a")).model_copy(update={"allocation": Chosen(name="router", state=router)})
    (lost,) = known.routes(samples([""], blobs(0.8, count=1)))
    assert (lost.task, lost.member, lost.unseen) == (None, "shared", "task b is not known")


@pytest.mark.parametrize(
    ("part", "state"),
    [("unseen", {}), ("unseen", {"references": [[1.0, 2.0]]}), ("allocation", {"centres": {"day": [0.0] * 10}})],
)
def test_routing_data_that_are_damaged_are_one_line(part, state):
    name = {"unseen": "knn", "allocation": "router"}[part]
    known = base(day=entry("day")).model_copy(update={part: Chosen(name=name, state=state)})
    with pytest.raises(InputError, match="routing data of the knowledge base are damaged") as raised:
        known.routes(samples(["day/1"], blobs(0.2, count=1)))
    assert "\n" not in str(raised.value) and name in str(raised.value)


def test_a_task_whose_samples_are_gone_keeps_its_model_or_falls_back():
    known = base(day=entry("day"), fog=entry("shared"))
    found = planned(["night"] * 12, range(12), known=known, members=("shared", "day"))
    assert {name: one.action for name, one in found.items()} == {
        "shared": "finetune", "day": "keep", "fog": "fall back", "night": "new"
    }  # fmt: skip
    assert found["fog"].why == "0 training samples, and a model of its own needs 10"


def test_a_release_is_refused_that_is_no_knowledge_base_or_lacks_a_member():
    member = Member(version="r0001-00000000", sha256="0" * 64)
    with pytest.raises(InputError, match="is not a release of lifelong-learning"):
        KnowledgeBase.of(Release(members={"model": member}), "r0001-00000000")
    routing = base(day=entry("day")).model_dump(mode="json")
    with pytest.raises(InputError, match="has no member day, which its tasks name: roll back"):
        KnowledgeBase.of(Release(members={"shared": member}, routing=routing), "r0001-00000000")
    whole = Release(members={"shared": member, "day": member}, routing=routing)
    assert KnowledgeBase.of(Release.parse(whole.describe(), "release.json"), "r0001-00000000") == base(day=entry("day"))


def test_answers_come_in_the_order_of_the_samples_and_each_model_is_asked_once():
    asked = []

    def answers(member, places):
        asked.append(member)
        return [f"{member}{place}" for place in places]

    several = [("b",), ("a", "b"), ("b", "a"), ("a",)]
    assert ask(several, answers) == [["b0"], ["a1", "b1"], ["b2", "a2"], ["a3"]]
    assert asked == ["a", "b"]


def test_models_that_look_at_a_sample_are_those_that_remodeling_names():
    members = {"day": "day", "dusk": "day", "night": "shared"}
    for name, expected in {"task": [("day",), ("shared",)], "with-shared": [("day", "shared"), ("shared",)]}.items():
        of_both = base(**{task: entry(member) for task, member in members.items()}).model_copy(
            update={"remodeling": Chosen(name=name)}
        )
        assert [
            route.models for route in of_both.routes(samples(["dusk/1", "night/1"], blobs(0.2, count=2)))
        ] == expected


@task_remodelings.register("test-broken")
class Broken(TaskRemodeling):
    gives: tuple[tuple[str, ...], ...] = ()

    def models(self, members, shared):
        return list(self.gives)


@pytest.mark.parametrize(
    ("gives", "says"),
    [
        ([("day",)], "is shorter"),
        ([("day",), ("fog",)], "names the model fog, which is not there"),
        ([("day",), ()], "names no model for a sample"),
    ],
)
def test_a_remodeling_that_does_not_fit_the_samples_is_one_line(gives, says):
    broken = base(day=entry("day")).model_copy(
        update={"remodeling": Chosen(name="test-broken", parameters={"gives": gives})}
    )
    with pytest.raises(InputError, match=f"(test-broken).*{says}"):
        broken.routes(samples(["day/1", "day/2"]))


def test_boxes_of_several_models_are_merged_and_those_of_an_object_count_once():
    own = Detections.of([[0, 0, 10, 10], [50, 50, 60, 60]], [0, 0], [0.6, 0.9])
    other = Detections.of([[1, 0, 11, 10], [0, 0, 10, 10]], [0, 1], [0.8, 0.7])
    merged = make(inference_integrations, "merge", {}).integrate([own, other])
    assert merged.classes.tolist() == [0, 0, 1]
    assert merged.scores.tolist() == pytest.approx([0.9, 0.8, 0.7])
    assert len(make(inference_integrations, "merge", {"overlap": 0.9}).integrate([own, other])) == 4
    assert make(inference_integrations, "first", {}).integrate([own, other]) is own


def test_an_integration_of_boxes_is_refused_for_masks():
    chosen = LifelongSettings(task_remodeling="with-shared", inference_integration="merge")
    check_plug_ins(chosen, "detection")
    with pytest.raises(InputError, match="inference_integration=merge is for detection, but the estimator is for seg"):
        check_plug_ins(chosen, "segmentation")


def test_the_matrix_of_rounds_has_what_a_task_scored_before_it_was_known():
    rounds = [
        RoundScores(round=1, scores={"day": 0.9}),
        RoundScores(round=3, scores={"day": 0.8, "fog": 0.7}, before={"day": 0.9, "fog": 0.2}),
    ]
    table, learned = score_matrix(rounds, {"day": entry("day"), "fog": entry("fog", 3), "dusk": entry("shared", 3)})
    assert table.tolist() == [[0.9, 0.2], [0.8, 0.7]]
    assert learned == [0, 1]


def test_figures_over_all_rounds_need_few_of_them():
    rng = np.random.default_rng(0)
    tasks = {f"site-{n}": entry(f"site-{n}", first) for n, first in enumerate([1, 1, 2, 5, 9])}
    every, kept = [], ()
    for number in range(1, 31):
        there = [name for name, one in tasks.items() if one.first_round <= number and rng.random() > 0.2]
        scores = {name: round(float(rng.random()), 3) for name in there}
        before = {name: round(float(rng.random()), 3) for name in there} if every else {}
        row = RoundScores(round=number, scores=scores, before=before)
        every, kept = [*every, row], (*needed_rounds(kept, tasks), row)
        of_all, of_kept = (continual_metrics(*score_matrix(rounds, tasks)) for rounds in (every, kept))
        assert of_kept == pytest.approx(of_all, abs=1e-12)
    assert sum(len(one.scores) + len(one.before) for one in needed_rounds(kept, tasks)) <= 4 * len(tasks)


def test_models_of_earlier_releases_do_not_stay_on_the_machine(tmp_path):
    job, folder = Job.open(str(tmp_path / "job")), tmp_path / "members"
    folder.mkdir(parents=True)
    (folder / "gone").symlink_to(tmp_path / "gone")  # as one that another run is removing
    for number in (1, 2, 3):
        release(job, tmp_path, f"r{number}", {"shared": "s1", "a": f"a{number}"})
        state, _ = job.read()
        known, folders = fetch_known(job, state, state.champion, folder)
        assert set(known.tasks) == {"a"}
        assert all(Bundle.read(one) for one in folders.values())
        if number == 1:
            os.utime(folder / "a1", (0, 0))  # long ago
    assert {path.name for path in folder.iterdir()} == {"s1", "a2", "a3", "gone"}, (
        "another run may be using a2 just now"
    )
