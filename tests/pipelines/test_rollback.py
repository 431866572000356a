import json
import os
import subprocess
import sys
from pathlib import Path

from components.core.job.job import Job
from tests.models import colour_model, write_bundle

REPOSITORY = Path(__file__).resolve().parents[2]


def rollback(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "pipelines", "rollback", *words],
        capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip


def test_an_earlier_model_becomes_the_champion_again(tmp_path):
    job = Job.open(str(tmp_path / "job"))
    for version in ("r0001-aaaaaaaa", "r0002-bbbbbbbb"):
        job.registry.publish(write_bundle(tmp_path / version, colour_model()), version)
        state, etag = job.read()
        job.commit(state.pointing_at(version, "promoted"), etag)
    done = rollback(str(tmp_path / "job"))
    assert done.returncode == 0, done.stderr
    assert "the champion is r0001-aaaaaaaa, before it was r0002-bbbbbbbb" in done.stdout
    assert json.loads((tmp_path / "job" / "champion.json").read_text())["version"] == "r0001-aaaaaaaa"
    wrong = rollback(str(tmp_path / "job"), "--to", "r0009-cccccccc")
    assert wrong.returncode == 1
    assert wrong.stderr.startswith("error: ") and wrong.stderr.count("\n") == 1
    assert "unknown model version 'r0009-cccccccc'" in wrong.stderr


def test_a_job_without_a_model_before_says_so(tmp_path):
    done = rollback(str(tmp_path / "job"))
    assert done.returncode == 1
    assert "there is no model before" in done.stderr
    assert "the job has no champion: check the address" in done.stderr
