"""Rounds of lifelong learning: tasks by site, what is kept, what is new, and what is not known yet."""

import json
import shutil
import threading
from pathlib import Path

import pytest

from components.core.bundle import Bundle
from components.core.errors import InputError
from components.core.job.job import Job
from components.core.job.label_requests import read_lists
from components.core.lifelong.knowledge_base import KnowledgeBase
from components.core.lifelong.plug_points import PLUG_POINTS
from components.core.manifest import Manifest
from components.core.reports.page import read_sections
from components.deploy.pointer import publish_pointer
from components.lifelong.component import setup_lifelong
from components.serving.worker import Worker
from pipelines.lifelong_round import lifelong_round
from tests.edge import deploy, options, status
from tests.sites import SETTINGS, arrive, learn


def champion(folder):
    job = Job.open(str(folder / "job"))
    state, _ = job.read()
    release = job.registry.release(state.champion, state.vouched[state.champion])
    return state, release, KnowledgeBase.of(release, state.champion)


@pytest.fixture(scope="module")
def rounds(tmp_path_factory):
    """Three rounds: day and night; more of the night, and fog without labels; then fog with labels."""
    folder = tmp_path_factory.mktemp("lifelong")
    feed, told = folder / "feed", []
    arrive(feed, "day", 20, seed=1)
    arrive(feed, "night", 20, seed=2)
    told.append((learn(feed, folder, "run-1"), *champion(folder)))
    arrive(feed, "night", 12, seed=3)
    arrive(feed, "fog", 6, seed=4, labelled=False)
    arrive(feed, "day", 2, seed=5, labelled=False)
    told.append((learn(feed, folder, "run-2"), *champion(folder)))
    arrive(feed, "fog", 20, seed=6)
    told.append((learn(feed, folder, "run-3"), *champion(folder)))
    return folder, told


def test_the_first_round_makes_a_model_for_each_task_and_a_shared_one(rounds):
    folder, ((made, state, release, base), *_) = rounds
    assert made["names"] == ["shared", "day", "night"]
    assert state.round == 1
    assert base.tasks["night"].member == "night"
    assert set(release.members) == {"shared"} | {entry.member for entry in base.tasks.values()}
    about = {
        name: Bundle.read(folder / "job" / "bundles" / one.version).lineage for name, one in release.members.items()
    }
    assert (
        about["night"]["task"] == "night" and about["night"]["samples"]["train"] < about["shared"]["samples"]["train"]
    )
    # The shared model learned the mean of both and is blind by night; the model of the night is not.
    assert base.rounds[0].scores["night"] > 0.9


def test_a_task_without_anything_new_keeps_its_model_and_no_byte_of_it_changes(rounds):
    _, ((_, _, before, _), (made, state, release, base), _) = rounds
    assert made["names"] == ["night"]
    assert state.round == 2
    assert release.members["shared"] == before.members["shared"]
    assert (base.shared_round, KnowledgeBase.of(before, "the first").shared_round) == (1, 1)
    assert release.members["night"] == before.members["night"] or base.tasks["night"].why in ("updated", "new")
    day = base.tasks["day"].member
    assert day == "shared" or release.members[day] == before.members[day]


def test_unseen_images_are_named_and_asked_for_and_the_order_is_kept(rounds):
    folder, (_, (made, state, *_), _) = rounds
    lines = [json.loads(line) for line in Path(made["results"].path).read_text().splitlines()]
    arrived = Manifest.read(made["arrivals"].path)
    unlabelled = [row["id"] for row in arrived.rows() if row["annotations"] is None]
    assert [line["id"] for line in lines] == unlabelled
    fog = [line for line in lines if "fog/" in line["source"]]
    assert len(fog) == 6
    for line in fog:
        assert line["task"] is None and line["member"] == "shared" and "fog is not known" in line["unseen"]
    (wanted,) = (one for one in read_lists(Job.open(str(folder / "job")).store) if one.round == 2)
    assert {image.id for image in wanted.images} >= {line["id"] for line in fog}
    assert wanted.model == state.champion


def test_a_new_task_is_learned_and_nothing_is_forgotten(rounds):
    _, (_, _, (made, state, _, base)) = rounds
    assert state.round == 3
    assert set(made["names"]) == {"shared", "fog"}
    assert base.tasks["fog"].first_round == 3
    assert {1, 3} <= {row.round for row in base.rounds}
    assert base.rounds[-1].scores["night"] >= base.rounds[0].scores["night"] - 0.05
    assert base.shared_round == 3
    metrics = made["metrics"].metadata
    assert metrics["forgetting"] <= 0.05
    assert metrics["average_accuracy"] > 0.9
    assert {"backward_transfer", "forward_transfer", "retention", "unseen"} <= metrics.keys()
    titles = [section.title for section in read_sections(made["pages"]["page"].path)]
    assert "Knowledge base" in titles and "Every model on every task" in titles and "Tasks of the round" in titles


def test_an_edge_worker_runs_what_the_rounds_made(rounds, tmp_path):
    folder, (*_, (_, state, release, base)) = rounds
    shutil.copytree(folder / "job", tmp_path / "job")
    publish_pointer(Job.open(str(tmp_path / "job")))  # whose addresses are those of the copy
    for site in ("day", "fog", "night"):
        arrive(tmp_path / "frames", site, 3, seed=7, labelled=False)
    arrive(tmp_path / "frames", "harbour", 3, seed=8, labelled=False, brightness=1.0)
    written = tmp_path / "found.jsonl"
    worker = Worker(options(tmp_path, tmp_path / "frames", sinks=(f"jsonl:{written}",), miner="EdgeOnly"))
    assert worker.run(threading.Event())
    lines = [json.loads(line) for line in written.read_text().splitlines()]
    assert [line["frame"] for line in lines] == list(range(12))
    assert [line.get("unseen") for line in lines[6:9]] == ["task harbour is not known"] * 3
    for line, site in zip(lines, [site for site in ("day", "fog", "harbour", "night") for _ in range(3)], strict=True):
        if "unseen" not in line:
            assert line["task"] == site
            assert line["model"] == release.members[base.tasks[site].member].version
    assert sum("unseen" not in line for line in lines) >= 5
    told = status(Job.open(str(tmp_path / "job")))
    assert (told.version, told.state) == (state.champion, "loaded")
    assert worker.metrics.value("unseen") == sum("unseen" in line for line in lines)


def test_no_sample_is_lost_or_doubled(rounds):
    folder, (*_, (_, state, _, _)) = rounds
    manifest = Manifest.read(folder / "job" / state.manifest)
    assert len(manifest) == manifest.table["id"].n_unique() == 20 + 20 + 12 + 6 + 2 + 20


def test_a_round_that_was_killed_is_run_again_and_comes_to_the_same(tmp_path):
    feed = tmp_path / "feed"
    arrive(feed, "day", 16, seed=1)
    arrive(feed, "night", 16, seed=2)
    learn(feed, tmp_path, "run-1", until="evaluate")  # killed before the commit
    assert Job.open(str(tmp_path / "job")).read()[0].round == 0
    learn(feed, tmp_path, "run-1", until="deploy")
    state, release, base = champion(tmp_path)
    assert state.round == 1
    assert learn(feed, tmp_path, "run-1") == {}  # nothing is new
    other = tmp_path / "undisturbed"
    learn(feed, other, "run-1")
    undisturbed = champion(other)
    assert undisturbed[1].members.keys() == release.members.keys()
    assert undisturbed[2].tasks == base.tasks
    assert undisturbed[2].rounds == base.rounds


def test_what_a_run_that_was_killed_after_its_commit_did_not_ask_for_is_asked_for_by_the_next(tmp_path):
    feed = tmp_path / "feed"
    arrive(feed, "day", 16, seed=1)
    arrive(feed, "fog", 3, seed=2, labelled=False)
    learn(feed, tmp_path, "run-1", until="deploy")  # killed between the commit and the look at new images
    store = Job.open(str(tmp_path / "job")).store
    assert list(read_lists(store)) == []
    arrive(feed, "day", 8, seed=3)
    learn(feed, tmp_path, "run-2")
    (wanted,) = read_lists(store)
    assert len(wanted.images) == 3 and all("fog is not known" in image.reason for image in wanted.images)
    arrive(feed, "day", 8, seed=4)
    learn(feed, tmp_path, "run-3")
    assert [len(one.images) for one in read_lists(store)] == [3]  # nothing is asked for twice


def test_an_update_by_gain_merges_a_task_that_another_ones_model_is_good_at(tmp_path):
    feed = tmp_path / "feed"
    arrive(feed, "day", 16, seed=1)
    arrive(feed, "night", 16, seed=2)
    learn(feed, tmp_path, "run-1", until="deploy")
    arrive(feed, "day", 8, seed=3)
    arrive(feed, "fog", 16, seed=4, brightness=0.3)  # as dark as the night
    made = learn(feed, tmp_path, "run-2", until="deploy", task_update="gain", unseen_detection="TaskAttr")
    _, release, base = champion(tmp_path)
    assert made["names"] == ["shared"]
    assert base.tasks["fog"].member == "night" and "fog" not in release.members
    assert base.tasks["fog"].why.startswith("night answers: the model of night has ")
    assert base.rounds[1].scores["fog"] > 0.9


def test_a_rare_task_falls_back_to_the_shared_model_and_says_so(tmp_path):
    arrive(tmp_path / "feed", "day", 16, seed=1)
    arrive(tmp_path / "feed", "fog", 3, seed=2, brightness=1.0)
    made = learn(tmp_path / "feed", tmp_path, "run-1")
    _, release, base = champion(tmp_path)
    assert "fog" not in made["names"] and "fog" not in release.members
    assert base.tasks["fog"].member == "shared"
    assert "training samples, and a model of its own needs 4" in base.tasks["fog"].why


def test_a_users_file_can_have_a_plug_in_for_every_plug_point(tmp_path, capsys):
    feed, points = tmp_path / "feed", [point for point in PLUG_POINTS if point != "task_definition"]
    arrive(feed, "day", 16, seed=1)
    arrive(feed, "night", 16, seed=2)
    arrive(feed, "harbour", 2, seed=3, labelled=False, brightness=2.0)
    own = {
        "task_relation": {"of": "light"}, "task_update": {"why": "as we please"}, "task_allocation": {"dim": 0.3},
        "task_remodeling": {"also": "shared"}, "inference_integration": {"least": 0.1},
        "unseen_detection": {"scale": 3}, "unseen_allocation": {"to": "dark"}, "unseen_policy": {"most": 0},
        "re_recognition": {"factor": 0.4},
    }  # fmt: skip
    assert own.keys() == set(points)
    made = learn(
        feed, tmp_path, "run-1", plugins="tests.site_estimator,tests.own_rules", task_definition="own",
        task_parameters={"dark": "night"}, plug_in_parameters=own, keep_conditions=[], **dict.fromkeys(points, "own"),
    )  # fmt: skip
    _, release, base = champion(tmp_path)
    assert set(release.members) == {"shared", "dark", "light"}
    assert (base.allocation.name, base.remodeling.name, base.integration.name) == ("own", "own", "own")
    assert base.rounds[0].scores["dark"] > 0.9
    lines = [json.loads(line) for line in Path(made["results"].path).read_text().splitlines()]
    assert [bool(line["unseen"]) for line in lines] == [True, True]
    assert {line["member"] for line in lines} == {"dark"}
    assert "2 of 2 new images are unseen" in capsys.readouterr().out


def test_a_model_that_cannot_be_converted_does_not_answer(tmp_path):
    feed = tmp_path / "feed"
    arrive(feed, "day", 16, seed=1)
    arrive(feed, "night", 16, seed=2)
    learn(feed, tmp_path, "run-1", until="deploy", unconverted=["night"])
    _, release, base = champion(tmp_path)
    assert "night" not in release.members and base.tasks["night"].member == "shared"
    assert base.tasks["night"].why == "shared answers: its model could not be converted: rk3588 int8: mAP50 fell"
    other = tmp_path / "other"
    made = learn(feed, other, "run-1", until="deploy", unconverted=["shared"])
    state, _ = Job.open(str(other / "job")).read()
    assert (state.round, state.champion) == (1, None)
    assert "conversion: rk3588 int8: mAP50 fell" in Path(made["judgement"].path).read_text()


@pytest.mark.parametrize(("bound", "forgets"), [(1, True), (0.05, False)])
def test_a_shared_model_that_forgot_is_replaced_by_the_one_before(tmp_path, bound, forgets):
    """All tasks are left to the shared model, which goes blind by night once it has seen the day."""
    feed, given = tmp_path / "feed", {"keep_conditions": ["score > 2"], "replay_ratio": 0, "max_forgetting": bound}
    arrive(feed, "night", 20, seed=1)
    learn(feed, tmp_path, "run-1", until="deploy", **given)
    arrive(feed, "day", 20, seed=2)
    made = learn(feed, tmp_path, "run-2", until="deploy", **given)
    _, release, base = champion(tmp_path)
    assert set(release.members) == {"shared"}
    assert base.rounds[0].scores["night"] > 0.9
    assert (base.rounds[1].scores["night"] < 0.5) == forgets
    assert (made["metrics"].metadata["forgetting"] > 0.4) == forgets


def test_the_pipeline_trains_tasks_side_by_side():
    loops = [task for task in lifelong_round.pipeline_spec.root.dag.tasks.values() if task.WhichOneof("iterator")]
    assert len(loops) == 1
    assert len(lifelong_round.component_spec.inputs) <= 18


def test_of_two_rounds_at_once_one_is_committed_and_the_other_says_so(tmp_path, capsys):
    feed = tmp_path / "feed"
    arrive(feed, "day", 20, seed=1)
    with pytest.raises(SystemExit):
        learn(feed, tmp_path, "slow", meanwhile=lambda: learn(feed, tmp_path, "quick", until="deploy"))
    assert "another run committed round 1 first" in capsys.readouterr().out
    state, release, base = champion(tmp_path)
    assert (state.round, state.runs) == (1, ("quick",))
    # A member that was damaged in the store is noticed by the next round, and nothing is lost.
    onnx = tmp_path / "job" / "bundles" / release.members[base.tasks["day"].member].version / "model.onnx"
    onnx.write_bytes(b"damaged")
    shutil.rmtree(tmp_path / "job" / "cache")
    arrive(feed, "night", 20, seed=2)
    with pytest.raises(SystemExit):
        learn(feed, tmp_path, "third")
    assert "model.onnx" in capsys.readouterr().out
    assert champion(tmp_path)[0] == state


def test_a_few_empty_images_of_a_known_task_do_not_fail_the_round(tmp_path):
    feed = tmp_path / "feed"
    for number, site in enumerate(("day", "night"), start=1):
        arrive(feed, site, 20, seed=number)
    learn(feed, tmp_path, "run-1", until="deploy")
    arrive(feed, "day", 5, seed=3, empty=True)
    made = learn(feed, tmp_path, "run-2", until="deploy", replay_ratio=0)
    assert made["names"] == ["day"]
    assert champion(tmp_path)[0].round == 2
    trained = Bundle.read(tmp_path / "runs" / "run-2" / "trained-day").lineage["samples"]["train"]
    everything = Manifest.read(made["everything"].path).split("train").table
    assert trained == everything["source"].str.starts_with("day/").sum()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"task_definition": "ByWeather"}, "unknown task definition 'ByWeather': choose from"),
        ({"task_parameters": {"pattern": "day"}}, "exactly one group"),
        ({"task_parameters": {"attribute": "weather"}}, "its parameters are column, pattern"),
        ({"plug_in_parameters": {"unseen": {}}}, "no plug point 'unseen': choose from task_relation, task_update"),
        ({"plug_in_parameters": {"task_update": {"much": 1}}}, "task update 'finetune': much: Extra inputs are not"),
        ({"unseen_policy": "guess"}, "unknown unseen policy 'guess': choose from abstain, alarm, fallback"),
        ({"force_evaluate": True}, "each round evaluates all its models anyway"),
        ({"keep_conditions": ["gain => 0"]}, "keep_conditions"),
        ({"max_false_unseen": 1}, "max_false_unseen"),
        ({}, "is not a release of lifelong-learning"),
    ],
)
def test_setup_tells_what_is_wrong_before_any_work(tmp_path, capsys, given, message):
    arrive(tmp_path / "feed", "day", 1, seed=1)
    if not given:  # a job that releases one model
        deploy(Job.open(str(tmp_path / "job")), "r0001-00000000", tmp_path / "bundle")
    with pytest.raises((SystemExit, InputError)):
        setup_lifelong.python_func(
            feed_url=str(tmp_path / "feed"), job_root=str(tmp_path / "job"), node_selector={}, store_secret="s",
            tolerations=[], step_cpu="1", step_memory="1Gi", train_cpu="1", train_gpu_type="nvidia.com/gpu",
            train_gpus="0", train_memory="1Gi", settings=SETTINGS | given,
        )  # fmt: skip
    assert message in capsys.readouterr().out
