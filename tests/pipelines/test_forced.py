"""Rounds that somebody asks for: training, evaluation or deployment without waiting for the trigger."""

import json
from pathlib import Path

import pytest

from components.core.errors import InputError
from components.core.job.job import Job
from components.core.job.state import State
from components.core.manifest import Manifest
from tests.one_poll import poll
from tests.pipelines.test_rounds import PER_ROUND, arrive

NEVER, ALWAYS = "map50 > 2", "map50 >= 0"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs a poll with the options that a test is about, and gives the job's state after it."""
    monkeypatch.setenv("EDGE_CACHE_DIR", str(tmp_path / "cache"))
    arrive(tmp_path / "feed", 0, PER_ROUND)
    numbers = iter(range(100))

    def once(**options: str) -> State:
        run = f"run-{next(numbers)}"
        poll(str(tmp_path / "feed" / "train_data.txt"), root(tmp_path), str(tmp_path / "runs" / run), run, **options)
        return Job.open(root(tmp_path)).read()[0]

    return once


def root(tmp_path: Path) -> str:
    return str(tmp_path / "job")


def samples(tmp_path: Path, state: State) -> Manifest:
    return Manifest.read(tmp_path / "job" / state.manifest)


def test_a_rejected_candidate_is_judged_again_without_training_and_promoted_under_its_name(run, tmp_path):
    first = run()
    arrive(tmp_path / "feed", PER_ROUND, PER_ROUND)
    second = run(gate=NEVER)
    assert second.candidate != second.champion == first.champion
    arrive(tmp_path / "feed", 2 * PER_ROUND, 3)
    third = run(force="evaluate", gate=ALWAYS)
    assert (third.round, third.candidate, third.champion) == (3, second.candidate, second.candidate)
    assert third.history[-1].why.startswith("promoted")
    assert samples(tmp_path, third).table.equals(samples(tmp_path, second).table)
    assert third.cursor == second.cursor  # what is new is left for the next round
    fourth = run(force="train")
    assert len(samples(tmp_path, fourth)) == 2 * PER_ROUND + 3


def test_without_a_candidate_there_is_nothing_to_judge_again(run):
    with pytest.raises(SystemExit):
        run(force="evaluate")


def test_a_candidate_that_is_the_champion_is_not_judged_again(run, capsys):
    run()
    with pytest.raises(SystemExit):
        run(force="evaluate")
    assert "is already the champion" in capsys.readouterr().out


def test_a_forced_training_with_nothing_new_replays_what_is_known(run, tmp_path, capsys):
    first = run()
    second = run(force="train")
    assert second.round == 2
    assert second.champion != first.champion
    assert samples(tmp_path, second).table.equals(samples(tmp_path, first).table)
    lineage = json.loads((tmp_path / "job" / "bundles" / second.champion / "model.json").read_text())["lineage"]
    assert lineage["base_model"] == f"champion:{first.champion}"
    assert lineage["samples"]["train"] == len(samples(tmp_path, first).split("train"))


def test_a_candidate_that_was_changed_in_the_store_is_not_judged_again(run, tmp_path, capsys):
    run()
    arrive(tmp_path / "feed", PER_ROUND, PER_ROUND)
    state = run(gate=NEVER)
    path = tmp_path / "job" / "bundles" / state.candidate / "model.json"
    described = json.loads(path.read_text())
    described["confidence_threshold"] = 0.9
    path.write_text(json.dumps(described))
    with pytest.raises(SystemExit):
        run(force="evaluate")
    assert "was changed in the store" in capsys.readouterr().out
    assert Job.open(root(tmp_path)).read()[0] == state


def test_both_at_once_are_refused():
    from components.core.parameters import RoundSettings, check

    with pytest.raises(InputError, match="force_train and force_evaluate are both given"):
        check({"force_train": True, "force_evaluate": True}, [RoundSettings])
