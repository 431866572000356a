"""A canary, and a champion that the workers cannot run."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from components.core.job.fleet import POINTER, Pointer, WorkerStatus, status_key
from components.core.job.job import Job
from components.deploy import deploy as deploy_module
from components.deploy.canary import CanaryPlan, settle_canary
from components.deploy.deploy import Deployed
from components.deploy.garbage import collect_garbage
from components.deploy.workers import GONE_AFTER, read_reports, roll_back_failed
from tests.unit.test_deploy import end_round, name, root

__all__ = ["end_round", "root"]  # fixtures

NODES = ("a", "b", "c", "d")
PLAN = CanaryPlan(fraction=0.5, frames=10, hours=1)


def say(job: Job, node: str, version: str, state: str = "loaded", frames: int = 0, error: str = "") -> None:
    status = WorkerStatus(
        node=node, version=version, state=state, error=error, frames=frames, time=datetime(2020, 1, 1, tzinfo=UTC)
    )
    job.store.write(status_key(node), status.model_dump_json().encode())


def pointer(job: Job) -> Pointer:
    return Pointer.model_validate_json(job.store.read(POINTER))


@pytest.fixture
def job(root, end_round) -> Job:
    """A job whose first model runs everywhere, and whose second is a canary on half of the workers."""
    end_round(root, 1)
    opened = Job.open(root)
    for node in NODES:
        say(opened, node, name(1), frames=1000)
    assert end_round(root, 2, canary=PLAN) == Deployed(
        "canary", name(2), name(1), canary="0 of 2 workers have processed 10 images with it"
    )
    return opened


def judged(job: Job) -> str:
    """Why the job's second model is where it is."""
    return job.read()[0].judged[name(2)]


def now() -> datetime:
    return datetime.now(UTC)


def test_only_the_chosen_workers_are_told_to_run_a_candidate_on_trial(job):
    told = pointer(job)
    tried = [node for node in NODES if told.for_node(node).version == name(2)]
    assert len(tried) == 2
    assert tuple(tried) == job.read()[0].canary.nodes
    assert {told.for_node(node).version for node in NODES if node not in tried} == {name(1)}
    assert told.for_node("a new one").version == name(1)
    assert told.for_node(tried[0]).uri == job.store.uri_of(f"bundles/{name(2)}")


def test_it_is_promoted_once_each_of_them_has_looked_at_enough_images(job):
    first, second = job.read()[0].canary.nodes
    move = pointer(job).generation
    say(job, first, name(2), frames=10)
    say(job, second, name(2), frames=9)
    assert settle_canary(job, now()).outcome == "canary"
    assert job.read()[0].champion == name(1)
    say(job, second, name(2), frames=11)
    assert settle_canary(job, now()).outcome == "promoted"
    state, _ = job.read()
    assert (state.champion, state.canary) == (name(2), None)
    assert "2 of 2 workers have processed 10 images" in state.history[-1].why
    assert {pointer(job).for_node(node).version for node in NODES} == {name(2)}
    assert pointer(job).generation == move + 1
    assert settle_canary(job, now()) is None


def test_one_failure_withdraws_it(job):
    first, second = job.read()[0].canary.nodes
    move = pointer(job).generation
    say(job, first, name(2), frames=500)
    say(job, second, name(2), state="failed", error="its output is not finite")
    end = settle_canary(job, now())
    assert end.outcome == "withdrawn"
    assert f"{second}: its output is not finite" in end.reason
    state, _ = job.read()
    assert (state.champion, state.canary, len(state.history)) == (name(1), None, 1)
    assert judged(job) == f"withdrawn: {end.reason}"
    assert {pointer(job).for_node(node).version for node in NODES} == {name(1)}
    assert pointer(job).generation == move + 1


def test_workers_that_never_report_end_the_trial_when_its_time_is_over(job):
    assert settle_canary(job, now() + timedelta(minutes=59)).outcome == "canary"
    assert settle_canary(job, now() + timedelta(minutes=61)).outcome == "withdrawn"
    assert job.read()[0].champion == name(1)


def test_the_deploy_step_waits_for_a_trial_as_long_as_it_may(root, end_round, tmp_path):
    end_round(root, 1)
    job = Job.open(root)
    for node in NODES:
        say(job, node, name(2), frames=10)  # said before it is there, so that the step finds it at its first look
    ended = end_round(root, 2, canary=CanaryPlan(fraction=1, frames=10, hours=1), rollout_timeout=5.0)
    assert (ended.outcome, ended.champion) == ("deployed", name(2))
    assert ended.workers.outcome == "confirmed"
    assert "4 of 4 workers" in ended.canary


def test_the_deploy_step_tells_a_trial_that_a_poll_has_ended_meanwhile(root, end_round, monkeypatch):
    end_round(root, 1)
    job = Job.open(root)
    for node in NODES:
        say(job, node, name(2), "failed", error="no memory")

    def polled(job, **_):
        settle_canary(job, now())
        return settle_canary(job, now())

    monkeypatch.setattr(deploy_module, "await_canary", polled)
    ended = end_round(root, 2, canary=CanaryPlan(fraction=1, frames=10, hours=1), rollout_timeout=60.0)
    assert (ended.outcome, ended.champion, ended.workers) == ("withdrawn", name(1), None)
    assert "no memory" in ended.canary


def test_without_workers_or_without_a_champion_there_is_no_trial(root, end_round):
    assert end_round(root, 1, canary=PLAN).outcome == "deployed"
    assert end_round(root, 2, canary=PLAN).outcome == "deployed"
    assert Job.open(root).read()[0].champion == name(2)


def test_a_newer_candidate_takes_the_place_of_one_on_trial_and_a_rejected_one_does_not(job, root, end_round):
    end_round(root, 3, outcome="rejected")
    assert job.read()[0].canary.version == name(2)
    assert collect_garbage(job, 0) == [name(3)]
    assert judged(job).startswith("promoted: ")
    end_round(root, 4)
    assert judged(job) == f"replaced by {name(4)} before it was deployed"
    state, _ = job.read()
    assert (state.champion, state.canary) == (name(4), None)
    assert [change.version for change in state.history] == [name(1), name(4)]


def test_rolling_back_ends_a_trial(job, root, end_round):
    job.roll_back(name(1))
    assert job.read()[0].canary is None
    assert judged(job) == f"withdrawn: rolled back to {name(1)}"


def test_the_same_run_again_goes_on_with_its_trial(job, root, end_round):
    for node in job.read()[0].canary.nodes:
        say(job, node, name(2), frames=10)
    assert end_round(root, 2, canary=PLAN, champion=name(1)).outcome == "deployed"
    assert job.read()[0].champion == name(2)


@pytest.fixture
def fleet(root, end_round) -> Job:
    """A job with two models, whose workers have all run the first."""
    end_round(root, 1)
    job = Job.open(root)
    for node in NODES:
        say(job, node, name(1))
    end_round(root, 2)
    return job


def test_a_champion_that_too_many_workers_cannot_run_is_taken_back(fleet):
    say(fleet, "a", name(2), state="failed", error="crashed")
    assert roll_back_failed(fleet, 0.75) is None  # three of four can still do it
    say(fleet, "b", name(2), state="failed", error="crashed")
    assert roll_back_failed(fleet, 0.75) == name(1)
    state, _ = fleet.read()
    assert state.champion == name(1)
    assert state.history[-1].why.startswith(f"rolled back: {name(2)} failed: 0 of 4 workers run it, 2 failed")
    assert pointer(fleet).version == name(1)


def test_it_does_not_go_back_and_forth(fleet):
    for node in NODES:
        say(fleet, node, name(2), state="failed")
    assert roll_back_failed(fleet, 1.0) == name(1)
    for node in NODES:
        say(fleet, node, name(1), state="failed")
    assert roll_back_failed(fleet, 1.0) is None
    assert fleet.read()[0].champion == name(1)


def test_silent_workers_do_not_take_a_champion_back(fleet):
    assert roll_back_failed(fleet, 1.0) is None


def test_the_first_model_of_a_job_stays(root, end_round):
    end_round(root, 1)
    job = Job.open(root)
    say(job, "a", name(1), state="failed")
    assert roll_back_failed(job, 1.0) is None
    assert job.read()[0].champion == name(1)


def test_the_deploy_step_takes_a_failing_champion_back(root, end_round):
    end_round(root, 1)
    job = Job.open(root)
    for node in NODES:
        say(job, node, name(2), state="failed", error="crashed")
    ended = end_round(root, 2, rollout_timeout=5.0)
    assert (ended.outcome, ended.version, ended.champion) == ("rolled back", name(2), name(1))


def test_workers_that_have_not_reported_for_a_day_do_not_count(tmp_path):
    job = Job.open(str(tmp_path / "job"))
    for node in NODES:
        say(job, node, name(1))
    path = Path(tmp_path / "job" / status_key("a"))
    long_ago = (datetime.now(UTC) - GONE_AFTER - timedelta(hours=1)).timestamp()
    os.utime(path, (long_ago, long_ago))
    assert sorted(read_reports(job)) == ["b", "c", "d"]
