"""What becomes of the model of a single run, and of its samples in the job."""

from datetime import UTC, datetime

import polars as pl
import pytest

from components.core.bundle import ONNX, Bundle
from components.core.errors import LostRaceError
from components.core.job.job import Job
from components.core.job.state import Canary
from components.core.manifest import Manifest
from components.core.parameters import GateSettings, PromoteSettings, read
from components.deploy.promote import Verdict, already, commit_run, first, not_asked, same_as
from components.prepare.prepare import prepare
from components.prepare.replay import round_manifest, with_run
from components.report.report import run_section
from pipelines.summary import Outcome, figures, models, places
from tests.images import CLASSES, job_with_images
from tests.models import colour_model, write_bundle

CHOSEN, GATE = read(PromoteSettings, {}), read(GateSettings, {})
FINE = {"outcome": "skipped", "reasons": ["no targets are given"]}


@pytest.fixture
def job(tmp_path):
    return Job.open(str(tmp_path / "job"))


@pytest.fixture
def samples(tmp_path):
    return job_with_images(tmp_path / "job", {"train": 6, "val": 2, "test": 2})


def committed(job, tmp_path, samples, verdict, run="run-1"):
    folder = write_bundle(tmp_path / "model", colour_model())
    state, _ = job.read()
    everything = tmp_path / "everything.parquet"
    with_run(job.manifest(state, tmp_path), samples, verdict.round_number or state.round + 1).write(everything)
    return commit_run(job, state, folder, everything, verdict, run, CHOSEN)


def test_the_first_model_becomes_the_champion_and_its_samples_are_known(job, tmp_path, samples):
    deployed = committed(job, tmp_path, samples, first("mAP50", 0.5, GATE))
    state, _ = job.read()
    assert (deployed.outcome, state.champion, state.round, state.cursor) == ("deployed", deployed.version, 1, "")
    assert state.history[0].why == "promoted: the first model of the job"
    known = job.manifest(state, tmp_path)
    assert dict(known.table.select("id", "split").iter_rows()) == dict(samples.table.select("id", "split").iter_rows())
    assert known.table["round"].unique().to_list() == [1]


def test_a_round_goes_on_from_a_single_run(job, tmp_path, samples):
    committed(job, tmp_path, samples, first("mAP50", 0.5, GATE))
    state, _ = job.read()
    arrived = job_with_images(tmp_path / "job", {"": 20}, seed=5)
    data = round_manifest(job.manifest(state, tmp_path), arrived, round_number=2, min_test_samples=1)
    assert set(samples.split("test").table["id"]) <= set(data.core.table["id"])
    assert not set(samples.split("test").table["id"]) & set(data.training.table["id"])


def test_a_run_that_is_tried_again_changes_nothing(job, tmp_path, samples):
    committed(job, tmp_path, samples, first("mAP50", 0.5, GATE))
    before = job.read()[0]
    verdict = already(before, "run-1")
    assert (verdict.outcome, verdict.round_number) == ("promoted", 1)
    assert committed(job, tmp_path, samples, verdict).champion == before.champion
    assert job.read()[0] == before
    assert already(before, "run-2") is None


@pytest.mark.parametrize(("waits", "outcome"), [("pending", "pending"), ("canary", "promoted"), ("", "rejected")])
def test_a_run_that_is_tried_again_says_of_a_model_that_waits_that_it_does(job, tmp_path, samples, waits, outcome):
    committed(job, tmp_path, samples, first("mAP50", 0.5, GATE))
    state = job.read()[0].model_copy(update={"champion": "r0000-00000000"})
    canary = Canary(version=state.candidate, nodes=("n",), frames=1, until=datetime.now(UTC), why="better")
    values = {"pending": state.candidate, "canary": canary}
    assert already(state.model_copy(update={waits: values[waits]} if waits else {}), "run-1").outcome == outcome


def test_who_loses_the_race_is_told(job, tmp_path, samples):
    state, _ = job.read()
    committed(job, tmp_path, samples, first("mAP50", 0.5, GATE))
    with pytest.raises(LostRaceError):
        commit_run(
            job, state, tmp_path / "model", tmp_path / "everything.parquet", first("mAP50", 1, GATE), "run-2", CHOSEN
        )


def test_what_is_not_wanted_or_cannot_be_converted_is_not_deployed():
    assert not_asked(True, FINE) is None
    assert not_asked(False, FINE).describe() == "not deployed: deploy=false"
    failed = not_asked(True, {"outcome": "failed", "reasons": ["rk3588 int8: mAP50"]})
    assert failed.describe() == "not deployed: the model could not be converted: rk3588 int8: mAP50"


def test_a_first_model_that_finds_nothing_is_not_deployed_unless_forced():
    low = first("mAP50", 0.0, GATE)
    assert low.outcome is None
    assert low.why.startswith("mAP50 is 0.000, a first champion needs 0.05 (min_map50): train for more epochs")
    forced = first("mAP50", 0.0, read(GateSettings, {"force_deploy": True}))
    assert (forced.outcome, forced.why.split(":")[0]) == ("promoted", "forced")
    assert first("mAP50", 0.0, read(GateSettings, {"min_map50": 0})).outcome == "promoted"


def test_a_gate_that_cannot_decide_deploys_nothing():
    assert Verdict.of_gate("error", ["no such metric"]) == Verdict(None, "no such metric")
    assert Verdict.of_gate("rejected", ["a", "b"]) == Verdict("rejected", "a; b")


def test_the_champion_does_not_replace_itself(tmp_path):
    bundle = Bundle.read(write_bundle(tmp_path / "model", colour_model()))
    assert ONNX in bundle.files
    assert same_as("r0001-aaaaaaaa", bundle, bundle).why == "the model is the same as the champion r0001-aaaaaaaa"
    other = Bundle.read(write_bundle(tmp_path / "other", colour_model(128, 96)))
    assert same_as("r0001-aaaaaaaa", bundle, other) is None


def test_known_samples_keep_their_split(samples):
    unsplit = Manifest(samples.table.with_columns(split=pl.lit("")), CLASSES)
    turned = Manifest(
        samples.table.with_columns(split=pl.when(pl.col("split") == "train").then(pl.lit("test")).otherwise("split")),
        CLASSES,
    )
    split = prepare(unsplit, known=turned).manifest
    assert dict(split.table.select("id", "split").iter_rows()) == dict(turned.table.select("id", "split").iter_rows())


def test_the_report_tells_one_run_from_another():
    section = run_section(
        "file:///data/my%20job/bundles/r0001-aaaaaaaa", "https://user:secret@example.com/VOC.zip", "s3://bucket/job",
        "run-17", {"train": {"epochs": 3, "batch": 16, "base_model": "https://b.example.com/m.pt?sig=secret#sha256=0"}},
        datetime(2026, 3, 4, 5, 6, tzinfo=UTC),
    )  # fmt: skip
    for words in ("/data/my job/bundles/r0001-aaaaaaaa", "s3://bucket/job", "run-17", "2026-03-04 05:06:00", "epochs",
                  "https://b.example.com/m.pt?..."):  # fmt: skip
        assert words in section.body
    assert "secret" not in section.body
    assert "batch" not in section.body  # it has its default


def test_few_figures_and_a_table_are_printed_and_the_sets_are_left_to_the_report():
    values = {"map50": 0.81234, "core.map50": 0.9, "ap50[red]": 0.7, "ap50[blue]": 0.9, "core.ap50[red]": 0.6,
              "truths[red]": 5.0}  # fmt: skip
    assert list(figures(values)) == [
        "  map50  0.8123", "", "  class  ap50  truths", "    red   0.7       5", "   blue   0.9       -",
    ]  # fmt: skip


def test_the_end_says_where_everything_is_and_why(job, tmp_path, samples):
    before = job.read()[0]
    committed(job, tmp_path, samples, first("mAP50", 0.5, GATE))
    report = (tmp_path / "my job" / "reports" / "a.html").as_uri()
    model, page, champion = places(job, before, (), [report])
    version = job.read()[0].champion
    assert model == f"model: {tmp_path / 'job' / 'bundles' / version}"
    assert page == f"report: {tmp_path / 'my job' / 'reports' / 'a.html'}"
    assert champion == f"champion: {version}, before: none"


@pytest.mark.parametrize("step", ["promote", "judge", "calibrate", "evaluate_tasks"])
def test_the_outcome_is_what_the_step_that_decides_has_said(step):
    outcome = Outcome()
    for words in ("mAP50 0.5", "promoted: the first model of the job", "done in 0.3 s"):
        outcome.hear(step, words)
    outcome.hear("report", "rejected: no")
    assert outcome.line == "promoted: the first model of the job"


def test_a_model_that_is_not_kept_lies_with_the_run(job, tmp_path):
    folder = tmp_path / "runs" / "helmet-detection-1" / "convert" / "converted"
    folder.mkdir(parents=True)
    assert models(tmp_path / "runs") == {folder}
    assert next(places(job, job.read()[0], {folder}, ["file:///x.html"])) == f"model: {folder}"
