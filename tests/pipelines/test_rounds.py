"""Rounds of incremental learning that are killed anywhere, run at once, and fed one sample at a time."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from components.core.job.job import Job
from components.core.manifest import Manifest
from tests.images import jpeg, squares

REPOSITORY = Path(__file__).resolve().parents[2]
ROUNDS, PER_ROUND, KILLS_PER_ROUND = 3, 14, 20


def arrive(feed: Path, first: int, count: int) -> None:
    """Let labelled images arrive in a Sedna index."""
    (feed / "images").mkdir(parents=True, exist_ok=True)
    (feed / "classes.txt").write_text("red\nblue\n")
    for number in range(first, first + count):
        image, boxes = squares(np.random.default_rng(number))
        (feed / "images" / f"{number:04}.jpg").write_bytes(jpeg(image))
        line = " ".join(f"{b[0]},{b[1]},{b[2]},{b[3]},{c}" for c, b in boxes)
        with (feed / "train_data.txt").open("a") as index:
            index.write(f"images/{number:04}.jpg {line}\n")


def start(feed: Path, root: Path, run: str) -> subprocess.Popen:
    given = {"feed_url": str(feed / "train_data.txt"), "job_root": str(root / "job"), "run_id": run,
             "folder": str(root / "runs" / run)}  # fmt: skip
    return subprocess.Popen(
        [sys.executable, "-m", "tests.one_poll", json.dumps(given)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=REPOSITORY,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip


def finish(process: subprocess.Popen) -> str:
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    return output


def essence(root: Path) -> tuple:
    """All of a job that must not depend on how often it was killed."""
    job = Job.open(str(root / "job"))
    state, _ = job.read()
    manifest = Manifest.read(root / "job" / state.manifest)
    samples = manifest.table.select("id", "split", "round", "source").sort("id").rows()
    return state.round, state.champion, [change.version for change in state.history], samples


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> tuple:
    root = tmp_path_factory.mktemp("undisturbed")
    for number in range(ROUNDS):
        arrive(root / "feed", number * PER_ROUND, PER_ROUND)
        finish(start(root / "feed", root, f"run-{number}"))
    return essence(root)


def test_an_undisturbed_job_trains_each_sample_once(undisturbed):
    number, champion, versions, samples = undisturbed
    assert number == ROUNDS
    assert champion == versions[-1]
    assert len(set(versions)) == ROUNDS
    assert len(samples) == ROUNDS * PER_ROUND
    assert [sum(row[2] == r for row in samples) for r in (1, 2, 3)] == [PER_ROUND] * 3


# Seconds that a step takes here, about; a kill strikes within them.
LASTS = {"trigger": 0.3, "collect": 0.03, "plan": 0.05, "train": 0.6, "convert": 0.05, "judge": 0.15, "deploy": 0.03}


def kill_in(step: str, process: subprocess.Popen, rng: random.Random) -> bool:
    """Kill a poll at a random point of one step; False if it had ended before."""
    before = dict(zip(list(LASTS)[1:], LASTS, strict=False)).get(step)
    for line in process.stdout if before else ():
        if line.startswith(f"{before} | done"):
            break
    time.sleep(rng.uniform(0, LASTS[step]))
    struck = process.poll() is None
    if struck:
        os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    return struck


@pytest.mark.slow
def test_a_job_killed_fifty_times_ends_as_if_nothing_had_happened(undisturbed, tmp_path):
    rng = random.Random(7)
    kills = runs = 0
    for number in range(ROUNDS):
        arrive(tmp_path / "feed", number * PER_ROUND, PER_ROUND)
        # Those in `deploy` come last: one that strikes after the commit ends the round.
        steps = rng.choices(list(LASTS)[:-1], k=KILLS_PER_ROUND - 4) + ["deploy"] * 4
        while Job.open(str(tmp_path / "job")).read()[0].round <= number:
            process = start(tmp_path / "feed", tmp_path, f"run-{runs}")
            runs += 1
            assert process.stdout.readline() == "ready\n"
            if steps:
                kills += kill_in(steps.pop(0), process, rng)
            else:
                finish(process)
    assert kills >= 50
    finish(start(tmp_path / "feed", tmp_path, "last"))  # repairs what a kill after the last commit left undone
    assert essence(tmp_path) == undisturbed
    pointer = json.loads((tmp_path / "job" / "champion.json").read_text())
    assert pointer["version"] == undisturbed[1]
    left = {path.parent.name.partition("-")[0] for path in (tmp_path / "job" / "checkpoints").rglob("*.pt")}
    assert left <= {f"r{ROUNDS:04}"}  # of a kill after the last commit, which the next round removes


def test_of_two_polls_at_once_one_wins_and_the_other_says_so(undisturbed, tmp_path):
    arrive(tmp_path / "feed", 0, PER_ROUND)
    polls = [start(tmp_path / "feed", tmp_path, f"run-{number}") for number in range(2)]
    outputs = [process.communicate(timeout=120)[0] for process in polls]
    codes = sorted(process.returncode for process in polls)
    assert codes in ([0, 1], [0, 0]), outputs
    if codes == [0, 1]:
        loser = next(o for o, process in zip(outputs, polls, strict=True) if process.returncode)
        assert "another run" in loser
    state, _ = Job.open(str(tmp_path / "job")).read()
    assert state.round == 1
    assert state.champion == undisturbed[2][0]


def test_a_poll_with_nothing_to_do_changes_nothing(tmp_path):
    arrive(tmp_path / "feed", 0, PER_ROUND)
    finish(start(tmp_path / "feed", tmp_path, "one"))
    before = (tmp_path / "job" / "state.json").read_bytes()
    output = finish(start(tmp_path / "feed", tmp_path, "two"))
    assert "have 0, need >= 12" in output
    assert "collect |" not in output
    assert (tmp_path / "job" / "state.json").read_bytes() == before


def test_samples_that_arrive_one_a_poll_are_split_as_asked(tmp_path):
    for number in range(PER_ROUND):
        arrive(tmp_path / "feed", number, 1)
        finish(start(tmp_path / "feed", tmp_path, f"run-{number}"))
    table = Manifest.read(next((tmp_path / "job" / "manifests").glob("r0001-*.parquet"))).table
    at_once = tmp_path / "at-once"
    arrive(at_once / "feed", 0, 12)
    finish(start(at_once / "feed", at_once, "run"))
    other = Manifest.read(next((at_once / "job" / "manifests").glob("r0001-*.parquet"))).table
    columns = ["id", "split", "round"]
    assert table.select(columns).sort("id").equals(other.select(columns).sort("id"))
    assert set(table["split"]) == {"train", "val", "test"}


def test_a_champion_that_was_swapped_in_the_store_is_not_unpickled(tmp_path):
    arrive(tmp_path / "feed", 0, PER_ROUND)
    finish(start(tmp_path / "feed", tmp_path, "one"))
    job = Job.open(str(tmp_path / "job"))
    state, _ = job.read()
    folder = tmp_path / "job" / "bundles" / state.champion
    (folder / "model.pt").write_text('{"learned": "something else"}')
    described = json.loads((folder / "model.json").read_text())
    described["files"]["model.pt"] = hashlib.sha256((folder / "model.pt").read_bytes()).hexdigest()
    (folder / "model.json").write_text(json.dumps(described))  # the bundle is whole in itself
    arrive(tmp_path / "feed", PER_ROUND, PER_ROUND)
    process = start(tmp_path / "feed", tmp_path, "two")
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "was changed in the store" in output
    assert job.read()[0].round == 1
