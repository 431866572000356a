"""A job at a glance, and the choice of a version to go back to."""

import hashlib
import json
import os
from datetime import UTC, datetime, timedelta

import pytest
from typer.testing import CliRunner

from components.core.errors import InputError, NotFoundError, OutOfReachError
from components.core.job.failures import note_failure
from components.core.job.fleet import POINTER, WorkerStatus, status_key
from components.core.job.job import Job
from components.core.job.label_requests import LabelRequests, write_list
from components.core.manifest import Manifest
from components.core.stores.files import FileStore
from components.deploy.candidate import Candidate
from components.deploy.deploy import deploy
from components.deploy.garbage import collect_garbage
from components.report.report import keep
from pipelines import __main__ as command_line
from pipelines import local
from pipelines.__main__ import app
from pipelines.jobs import Overview, _figures
from tests.unit.test_deploy import bundle

NOW = datetime.now(UTC)


def name(number: int) -> str:
    return f"r{number:04d}-{hashlib.sha256(f'model {number}'.encode()).hexdigest()[:8]}"


@pytest.fixture
def job(tmp_path) -> Job:
    """Four rounds: promoted, rejected, promoted, rejected."""
    job = Job.open(str(tmp_path / "job"))
    page = tmp_path / "page.html"
    page.write_text("a report")
    for number, outcome in enumerate(["promoted", "rejected", "promoted", "rejected"], start=1):
        path = tmp_path / f"manifest-{number}"
        Manifest.of([], ["helmet"]).write(path)
        deploy(
            job.store.uri, Candidate.of_one(bundle(tmp_path, f"model {number}")), path, outcome=outcome, why="better",
            round_number=number, run_id=f"run-{number}", cursor="", champion=job.read()[0].champion,
        )  # fmt: skip
        keep(str(page), job.store.uri, f"Round {number}", {"map50": number / 10, "core.map50": 0.2, "note": "text"})
    return job


def test_what_is_known_of_a_job_is_read_from_its_root(job):
    status = WorkerStatus(node="gate", version=name(3), state="failed", error="no memory", frames=7, time=NOW)
    job.store.write(status_key("gate"), status.model_dump_json().encode())
    job.store.write(status_key("yard"), b"{")
    write_list(job.store, LabelRequests(round=4, model=name(3), miner="entropy", classes=("helmet",), images=()))
    job.store.write("hard-examples/2026/11/20/13/aa.json", b"{}")
    job.store.write("hard-examples/2026/11/20/13/aa.jpg", b"image")
    for _ in range(3):
        note_failure(job.store.uri, 5, "train", "out of memory")
    now = datetime.now(UTC)
    found = Overview.read(job.store.uri, now)
    assert (found.round, found.champion, found.generation) == (4, name(3), 2)
    assert [(one.version, one.round, one.outcome, one.figures["map50"]) for one in found.versions] == [
        (name(1), 1, "deployed before", 0.1), (name(2), 2, "not deployed", 0.2), (name(3), 3, "champion", 0.3),
        (name(4), 4, "not deployed", 0.4),
    ]  # fmt: skip
    assert [one.why for one in found.versions] == [
        "promoted: better", "rejected: better", "promoted: better", "rejected: better",
    ]  # fmt: skip
    assert [(worker.node, worker.status and worker.status.error) for worker in found.workers] == [
        ("gate", "no memory"), ("yard", None),
    ]  # fmt: skip
    assert (found.label_requests, found.hard_examples) == (0, 1)
    assert found.failure.description.startswith("round 5 has failed 3 times, the last time in train")
    assert found.failure.rests_until > now
    assert Overview.read(job.store.uri, now + timedelta(hours=1)).failure.rests_until is None


def test_a_job_is_shown_in_lines_and_as_json(job):
    collect_garbage(job, keep=1)
    shown = CliRunner().invoke(app, ["jobs", job.store.uri])
    assert shown.exit_code == 0, shown.output
    lines = shown.stdout.splitlines()
    assert lines[0] == f"{job.store.uri}: 4 rounds, the champion is {name(3)}"
    assert any(line.split()[:3] == [name(3), "champion", "0.300"] for line in lines)
    assert any(line.split()[:3] == [name(2), "not", "deployed,"] and "removed" in line for line in lines)
    assert [line.rpartition("  ")[2] for line in lines if line.split()[:1] == [name(4)]] == ["rejected: better"]
    assert lines[-1] == "0 images to label (to-label/), 0 hard examples from workers"
    data = json.loads(CliRunner().invoke(app, ["jobs", job.store.uri, "--json"]).stdout)
    assert data["champion"] == name(3)
    assert [one["stored"] for one in data["versions"]] == [True, False, True, True]


def test_an_address_without_a_job_is_refused_by_name(tmp_path):
    shown = CliRunner().invoke(app, ["jobs", str(tmp_path / "nosuch")])
    assert shown.exit_code == 1
    assert "nosuch: no job found (neither rounds nor hard examples)" in shown.output
    assert not (tmp_path / "nosuch").exists()


def test_a_damaged_report_costs_its_figures_alone(job):
    for info in list(job.store.list("reports/")):
        if info.key.endswith("round-3.json"):
            job.store.write(info.key, b'{"map50": "x"}')
    assert [bool(one.figures) for one in Overview.read(job.store.uri, NOW).versions] == [True, True, False, True]


class Unordered(FileStore):
    """Lists the latest first: S3 promises an order, and not every store keeps it."""

    def list(self, prefix="", *, start_after=""):
        return iter([*super().list(prefix, start_after=start_after)][::-1])


def test_of_two_reports_of_a_round_the_later_one_counts_in_whatever_order_they_are_listed(job, tmp_path):
    (tmp_path / "page.html").write_text("the round once more")
    keep(str(tmp_path / "page.html"), job.store.uri, "Round 3", {"map50": 0.7})
    assert _figures(Unordered(tmp_path / "job"), job.read()[0])[3] == {"map50": 0.7}


def test_the_figures_of_a_single_run_are_those_of_the_round_that_it_committed(job, tmp_path):
    for title, run in (("Helmet detection", "run-2"), ("Images to label", "run-3"), ("Another", "run-9")):
        keep(str(tmp_path / "page.html"), job.store.uri, title, {"map50": 0.9}, run)
    found = Overview.read(job.store.uri, NOW)
    assert [one.figures["map50"] for one in found.versions] == [0.1, 0.9, 0.3, 0.4]


def test_a_rollback_in_a_job_of_one_version_names_no_others(tmp_path):
    job = Job.open(str(tmp_path / "job"))
    Manifest.of([], ["helmet"]).write(tmp_path / "manifest")
    deploy(
        job.store.uri, Candidate.of_one(bundle(tmp_path, "model 1")), tmp_path / "manifest", outcome="promoted",
        why="the first", round_number=1, run_id="run-1", cursor="", champion=None,
    )  # fmt: skip
    done = CliRunner().invoke(app, ["rollback", job.store.uri, "--to", "r0001"])
    assert (done.exit_code, done.output.count("\n")) == (0, 1)


def test_a_version_may_be_given_by_the_beginning_of_its_name(job):
    shown = CliRunner().invoke(app, ["rollback", job.store.uri, "--to", "r0001"])
    assert shown.exit_code == 0, shown.output
    assert f"the champion is {name(1)}, before it was {name(3)}" in shown.stdout
    assert f"give --to with one of {name(2)}, {name(3)}, {name(4)}" in shown.stdout
    assert json.loads(job.store.read(POINTER))["version"] == name(1)


def test_a_beginning_that_is_no_versions_or_several_ones_is_refused_with_those_there_are(job):
    with pytest.raises(InputError, match=f"'r000' is ambiguous: {name(1)}, {name(2)}, .* start with it"):
        job.roll_back("r000")
    with pytest.raises(NotFoundError, match=f"unknown model version 'r0009'; choose from {name(1)}, {name(2)}"):
        job.roll_back("r0009")


def test_a_bundle_that_lies_there_and_was_made_by_no_round_cannot_become_the_champion(job, tmp_path):
    job.registry.publish(bundle(tmp_path, "foreign"), "r0009-ffffffff")
    with pytest.raises(NotFoundError, match="unknown model version 'r0009-ffffffff'"):
        job.roll_back("r0009-ffffffff")


def test_a_version_that_is_the_champion_already_is_no_change_to_undo(job):
    for _ in range(2):
        rolled_back = CliRunner().invoke(app, ["rollback", job.store.uri, "--to", "r0001"])
        assert rolled_back.exit_code == 0, rolled_back.output
    assert [change.version for change in job.read()[0].history] == [name(1), name(3), name(1)]
    assert job.roll_back().champion == name(3)


def test_workers_that_could_not_be_told_of_a_rollback_are_told_by_the_command_that_the_error_names(job):
    path = job.store.local_path(POINTER)
    path.unlink()
    path.mkdir()  # nothing can be written under this name
    failed = CliRunner().invoke(app, ["rollback", job.store.uri])
    assert failed.exit_code == 1
    assert f"error: the champion is {name(1)}, but the workers do not know it yet" in failed.output
    assert f"give --to {name(1)} to try again" in failed.output
    path.rmdir()
    assert CliRunner().invoke(app, ["rollback", job.store.uri, "--to", name(1)]).exit_code == 0
    assert json.loads(job.store.read(POINTER))["version"] == job.read()[0].champion == name(1)


def test_a_damaged_version_is_not_gone_back_to(job):
    job.store.delete(f"bundles/{name(1)}/model.onnx")
    with pytest.raises(InputError, match=rf"{name(1)}/model\.onnx is gone"):
        job.roll_back()
    assert job.read()[0].champion == name(3)


@pytest.mark.parametrize("words", [["-p", "job_root={}/nosuch"], []])
def test_mining_needs_a_job_that_is_there_and_makes_none(tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    ran = CliRunner().invoke(app, ["run", "hard-example-mining", *(word.format(tmp_path) for word in words)])
    assert ran.exit_code == 1
    assert ("nosuch: no job found" if words else "job_root") in ran.output
    assert list(tmp_path.iterdir()) == []


def test_the_log_of_earlier_polls_stays_and_does_not_grow_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(local, "LOG_BYTES", 20)
    path = tmp_path / "run.log"
    for text in ("the first poll\n", "the second poll\n", "the third poll\n"):
        with local._appended(path) as file:
            file.write(text)
    assert path.read_text() == "the third poll\n"
    assert (tmp_path / "run.log.1").read_text() == "the first poll\nthe second poll\n"


def test_a_store_that_is_out_of_reach_ends_no_repeated_run_that_has_begun(monkeypatch, capsys):
    comes = [None, OutOfReachError("s3://jobs/a: no answer"), local.RunError("step train failed"), KeyboardInterrupt()]

    def run(*_):
        if error := comes.pop(0):
            raise error

    monkeypatch.setattr(command_line, "_run", run)
    monkeypatch.setattr(command_line.time, "sleep", lambda _: None)
    with pytest.raises(KeyboardInterrupt):
        command_line._again_and_again("incremental-learning", {}, local.Runner.SUBPROCESS, 60)
    assert capsys.readouterr().err == "error: s3://jobs/a: no answer\nerror: step train failed\n"
    comes += [InputError("no such folder")]
    with pytest.raises(InputError, match="no such folder"):
        command_line._again_and_again("incremental-learning", {}, local.Runner.SUBPROCESS, 60)


def test_of_the_polls_the_latest_ones_stay_and_of_other_runs_all(tmp_path):
    for number in range(local.KEPT_POLLS + 5):
        for pipeline in ("incremental-learning", "lifelong-learning", "helmet-detection"):
            folder = tmp_path / f"{pipeline}-{number:03d}"
            folder.mkdir()
            os.utime(folder, (number, number))
    local._remove_old_polls(tmp_path)
    for pipeline in ("incremental-learning", "lifelong-learning"):
        left = sorted(path.name for path in tmp_path.glob(f"{pipeline}-*"))
        assert (len(left), left[0]) == (local.KEPT_POLLS, f"{pipeline}-005")
    assert len(list(tmp_path.glob("helmet-detection-*"))) == local.KEPT_POLLS + 5


def test_old_polls_stay_while_another_run_works_in_the_folder(tmp_path):
    """The round of an old poll may train for hours, and those of another job in a bucket lie beside it."""
    for number in range(local.KEPT_POLLS + 5):
        (tmp_path / f"incremental-learning-{number:03d}").mkdir()
    with local._claimed(tmp_path):
        pass
    assert len(list(tmp_path.glob("incremental-learning-*"))) == local.KEPT_POLLS
    with local._claimed(tmp_path):
        for number in range(5):
            (tmp_path / f"incremental-learning-{number:03d}").mkdir(exist_ok=True)
        before = set(tmp_path.iterdir())
        with local._claimed(tmp_path), local._claimed(tmp_path):
            assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize("every", ["0s", "5", "1.5h", "367d", "99999999999999d", "9" * 5000 + "s"])
def test_an_interval_that_cannot_be_waited_for_is_refused(every):
    with pytest.raises(InputError, match="write a number with its unit"):
        command_line._seconds(every)
