"""The benchmark from its parameter file to the leaderboard, and what a second run does again."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests import sites

REPOSITORY = Path(__file__).resolve().parents[2]
ALGORITHM = {
    "estimator": "brightness", "base_model": "nothing", "initial_epochs": 1, "epochs": 1, "image_size": 96,
    "miner": "IBT", "label_budget": 4, "min_gain": -1,
}  # fmt: skip


def run(tmp_path, **changes):
    given = {
        "data_url": str(tmp_path / "data"), "job_root": str(tmp_path / "job"), "plugins": "tests.site_estimator",
        "classes": "red,blue", "stream": "pattern", "stream_pattern": "(day|night)", "train_ratio": 0.6,
        "val_ratio": 0.2, "seeds": 0, "baselines": "frozen", "workers": 0, "algorithms": [ALGORITHM], **changes,
    }  # fmt: skip
    (tmp_path / "benchmark.yaml").write_text(yaml.safe_dump(given))
    command = [sys.executable, "-m", "pipelines", "run", "benchmark", "--params", str(tmp_path / "benchmark.yaml")]
    return subprocess.run(command, check=False, cwd=REPOSITORY, capture_output=True, text=True, timeout=600)


@pytest.mark.slow
def test_a_benchmark_makes_a_leaderboard_and_resumes(tmp_path):
    sites.arrive(tmp_path / "data", "day", 20, seed=1)
    sites.arrive(tmp_path / "data", "night", 20, seed=2)
    sites.arrive(tmp_path / "data", "fog", 3, seed=3)
    failing = {**ALGORITHM, "name": "failing", "base_model": "nowhere.pt"}
    done = run(tmp_path, algorithms=[ALGORITHM, failing])
    assert done.returncode == 0, done.stderr[-2000:]
    assert "3 of 43 samples are in no round" in done.stdout
    job = tmp_path / "job"
    with (job / "benchmark" / "leaderboard.csv").open() as file:
        rows = {row["algorithm"]: row for row in csv.DictReader(file)}
    assert rows["failing"]["failed"] == "1" and rows["failing"]["rank"] == ""
    assert {name for name, row in rows.items() if row["rank"]} == {"brightness IBT", "frozen of brightness IBT"}
    for name in ("data", "code", "hardware", "stream"):
        assert rows["brightness IBT"][name]
    with (job / "benchmark" / "cases.csv").open() as file:
        errors = {row["algorithm"]: row["error"] for row in csv.DictReader(file)}
    assert "nowhere.pt" in errors["failing"] and errors["brightness IBT"] == ""
    (page,) = (job / "reports").glob("*.html")
    assert "Failed cases" in page.read_text() and "nowhere.pt" in page.read_text()

    kept = {path: path.read_text() for path in (job / "benchmark" / "cases").glob("*.json")}
    assert {json.loads(text)["algorithm"] for text in kept.values()} == {"brightness IBT", "frozen of brightness IBT"}
    again = run(tmp_path)
    assert again.returncode == 0, again.stderr[-2000:]
    assert again.stdout.count("finished by an earlier run") == 2
    assert {path: path.read_text() for path in kept} == kept

    more = run(tmp_path, seeds="0,1", baselines="frozen,random")
    assert more.returncode == 0, more.stderr[-2000:]
    assert more.stdout.count("finished by an earlier run") == 2
    assert len(list((job / "benchmark" / "cases").glob("*.json"))) == 6
    assert {path: path.read_text() for path in kept} == kept
    with (job / "benchmark" / "leaderboard.csv").open() as file:
        assert {row["algorithm"]: row["seeds"] for row in csv.DictReader(file)} == {
            "brightness IBT": "0 1", "frozen brightness": "0 1", "random brightness": "0 1",
        }  # fmt: skip


@pytest.mark.slow
def test_a_wrong_file_is_refused_before_anything_runs(tmp_path):
    sites.arrive(tmp_path / "data", "day", 4, seed=1)
    done = run(tmp_path, strem="order")
    assert done.returncode == 1 and "strem is not a parameter of this pipeline: did you mean stream?" in done.stderr
    assert not (tmp_path / "job" / "benchmark").exists()
