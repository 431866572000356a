import json
import logging
import math
import multiprocessing
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from components.core.errors import InputError, NoRuntimeError
from components.core.job.hard_examples import Sidecar, image_key, read_sidecars
from components.core.job.job import Job
from components.core.processes import ending_signals
from components.core.stores.open import open_store
from components.serving import edge_worker, health, mining
from components.serving import loop as loop_module
from components.serving import metrics as metrics_module
from components.serving import status as status_module
from components.serving import worker as worker_module
from components.serving.active_model import ActiveModel
from components.serving.clock import dated
from components.serving.job_folder import JOB, job_folder, models_folder, take_over_models
from components.serving.loop import FRAMES_AT_ONCE, EdgeLoop
from components.serving.metrics import COUNTERS, Metrics
from components.serving.uploader import Uploader
from components.serving.worker import Worker
from tests.edge import (
    ask,
    deploy,
    folder_of_images,
    images,
    options,
    own_folder,
    running,
    shelf,
    status,
    uploaded,
    video,
)
from tests.models import BUNDLE, colour_model, write_bundle
from tests.rtsp import Camera

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def job(tmp_path):
    job = Job.open(str(tmp_path / "job"))
    deploy(job, "v1", tmp_path / "bundles" / "v1")
    return job


def work(chosen):
    """Run a worker until its source ends; what it counted."""
    worker = Worker(chosen)
    assert worker.run(threading.Event())
    names = ("frames", "failed_frames", "unmined", "hard", "audit", "duplicates", "kept", "known", "uploaded")
    return {name: int(worker.metrics.value(name)) for name in names}


def until(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def test_every_image_is_looked_at_and_the_hard_ones_arrive_with_their_own_bytes(job, tmp_path):
    folder = folder_of_images(tmp_path / "images", 12)
    counts = work(options(tmp_path, folder))
    assert (counts["frames"], counts["hard"], counts["kept"], counts["uploaded"]) == (12, 12, 12, 12)
    sidecars = {sidecar.frame: sidecar for sidecar in read_sidecars(job.store)}
    assert sorted(sidecars) == list(range(12))
    one = sidecars[3]
    assert job.store.read(image_key(one)) == (folder / "0003.jpg").read_bytes()
    assert (one.node, one.model, one.miner, one.kind, one.classes) == (
        "edge-1",
        "v1",
        "CloudOnly",
        "hard",
        ("red", "blue"),
    )
    assert (one.width, one.height, one.source) == (96, 96, str(folder))
    assert sum(len(sidecar.boxes) for sidecar in sidecars.values()) > 0


def test_a_job_in_a_bucket(s3, tmp_path):
    job = Job.open(s3)
    deploy(job, "v1", tmp_path / "bundles" / "v1")
    counts = work(options(tmp_path, folder_of_images(tmp_path / "images", 5), job_root=s3))
    assert (counts["frames"], counts["uploaded"]) == (5, 5)
    assert set(uploaded(job).values()) == {1}
    assert (status(job).version, status(job).state, status(job).frames) == ("v1", "loaded", 5)


def test_without_network_it_looks_on_and_brings_everything_later(s3, tmp_path, monkeypatch, caplog):
    deploy(Job.open(s3), "v1", tmp_path / "bundles" / "v1")
    work(options(tmp_path, folder_of_images(tmp_path / "first", 1), job_root=s3))
    chosen = options(tmp_path, folder_of_images(tmp_path / "images", 9, seed=1), job_root=s3)
    monkeypatch.setenv("EDGE_STORE_PATIENCE", "0.1")
    monkeypatch.setattr("components.serving.worker.STUCK_UPLOAD_SECONDS", 1.5)
    with monkeypatch.context() as cut:
        cut.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
        counts = work(chosen)
    assert (counts["frames"], counts["kept"], counts["uploaded"]) == (9, 9, 0)
    assert "9 hard examples could not be sent" in caplog.text
    assert work(chosen)["uploaded"] == 9
    assert len(uploaded(Job.open(s3))) == 10


def test_frames_of_a_video_are_kept_as_good_jpegs_with_nothing_drawn(job, tmp_path):
    path = video(tmp_path / "v.avi", 4)
    work(options(tmp_path, path))
    found = {sidecar.frame: sidecar for sidecar in read_sidecars(job.store)}
    capture = cv2.VideoCapture(str(path))
    for number in range(4):
        frame = capture.read()[1].astype(int)
        kept = cv2.imdecode(np.frombuffer(job.store.read(image_key(found[number])), np.uint8), cv2.IMREAD_COLOR)
        assert np.abs(kept - frame).mean() < 4


def test_what_was_looked_at_is_not_looked_at_again_and_that_is_said(job, tmp_path, caplog):
    caplog.set_level("INFO")
    path = video(tmp_path / "v.avi", 10)
    assert work(options(tmp_path, path))["frames"] == 10
    assert "continuing" not in caplog.text
    assert work(options(tmp_path, path))["frames"] == 0
    assert f"source {path}: continuing after 9, which an earlier run in this folder has processed" in caplog.text
    assert work(options(tmp_path, video(tmp_path / "w.avi", 6, seed=1)))["frames"] == 6
    assert sum(uploaded(job).values()) == 16


def test_each_nth_image(job, tmp_path):
    assert work(options(tmp_path, video(tmp_path / "v.avi", 20), every=3))["frames"] == 7
    assert sorted(sidecar.frame for sidecar in read_sidecars(job.store)) == [0, 3, 6, 9, 12, 15, 18]


def test_near_duplicates_are_left_out(job, tmp_path):
    folder = folder_of_images(tmp_path / "images", 3)
    image = cv2.imread(str(folder / "0001.jpg"))
    for number in range(3, 8):
        cv2.imwrite(str(folder / f"{number:04}.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, 90 + number])
    counts = work(options(tmp_path, folder, duplicate_bits=4))
    assert (counts["hard"], counts["duplicates"], counts["kept"]) == (8, 5, 3)


def test_a_share_of_the_easy_images_is_kept_for_auditing(job, tmp_path):
    path = video(tmp_path / "v.avi", 200)
    counts = work(options(tmp_path, path, miner="EdgeOnly", audit_ratio=0.2))
    assert counts["hard"] == 0
    assert 20 < counts["audit"] < 60
    first = set(uploaded(job))
    assert {sidecar.kind for sidecar in read_sidecars(job.store)} == {"audit"}
    again = replace(options(tmp_path, path, miner="EdgeOnly", audit_ratio=0.2), folder=tmp_path / "other")
    assert work(again)["audit"] == counts["audit"]
    assert set(uploaded(job)) == first, "the same images are picked again"


@pytest.mark.parametrize("miner", ["CloudOnly", "EdgeOnly", "broken"])
def test_what_is_counted_adds_up(job, tmp_path, miner):
    folder = folder_of_images(tmp_path / "images", 30)
    for number, path in enumerate(sorted(folder.iterdir())[:10]):
        (folder / f"again{number}.jpg").write_bytes(path.read_bytes())
    worker = Worker(
        options(tmp_path, folder, miner=miner, plugins="tests.broken_miner", audit_ratio=0.5, duplicate_bits=4)
    )
    worker.run(threading.Event())
    count = {name: worker.metrics.value(name) for name in COUNTERS}
    assert count["frames"] == 40
    assert count["frames"] == sum(count[name] for name in ("easy", "hard", "audit", "unmined"))
    ends = ("duplicates", "kept", "known", "full", "unkept")
    assert count["hard"] + count["audit"] == sum(count[name] for name in ends)
    assert count["kept"] == count["uploaded"]


def test_a_loop_begins_again_and_brings_nothing_twice(job, tmp_path):
    folder = folder_of_images(tmp_path / "images", 5)
    with running(options(tmp_path, folder, loop=True)) as worker:
        until(lambda: worker.metrics.value("frames") >= 23 and worker.metrics.value("uploaded") == 5)
        assert worker.metrics.value("known") >= 10
    assert set(uploaded(job).values()) == {1}


def test_a_loop_over_a_folder_that_was_emptied_ends_with_the_reason(job, tmp_path):
    folder = folder_of_images(tmp_path / "images", 3)
    worker = Worker(options(tmp_path, folder, loop=True))
    count = worker.metrics.count

    def emptied(name, amount=1):
        count(name, amount)
        if name == "frames" and worker.metrics.value("frames") == 3:
            shutil.rmtree(folder)
            folder.mkdir()

    worker.metrics.count = emptied
    with pytest.raises(InputError, match="no image in it"):
        worker.run(threading.Event())


def test_what_a_killed_life_left_half_written_is_cleared_away(job, tmp_path):
    chosen = options(tmp_path, folder_of_images(tmp_path / "images", 2))
    (own_folder(chosen) / "models" / ".edge-1").mkdir(parents=True)
    (own_folder(chosen) / "models" / ".edge-1" / "model.onnx").write_bytes(b"half")
    (own_folder(chosen) / ".edge-2").write_bytes(b"half")
    work(chosen)
    assert not list(chosen.folder.rglob(".edge-*"))


def test_a_board_that_is_moved_to_another_job_mixes_nothing_of_the_two(job, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(worker_module, "STUCK_UPLOAD_SECONDS", 0.3)
    monkeypatch.setattr(Uploader, "_put", lambda *_: (_ for _ in ()).throw(InputError("store: away")))
    first = options(tmp_path, folder_of_images(tmp_path / "p1", 4, seed=1))
    assert work(first)["kept"] == 4
    monkeypatch.undo()
    other = Job.open(str(tmp_path / "forklifts"))
    deploy(other, "w1", tmp_path / "bundles" / "w1", bundle=replace(BUNDLE, classes=("forklift", "pallet")))
    images = folder_of_images(tmp_path / "p2", 3, seed=2)
    assert work(options(tmp_path, images, job_root=str(tmp_path / "forklifts")))["uploaded"] == 3
    assert {sidecar.model for sidecar in read_sidecars(other.store)} == {"w1"}
    assert f"4 hard examples of the job {job.store.uri} wait in" in caplog.text
    assert work(first)["uploaded"] == 4  # back again, it sends what waited
    assert {sidecar.model for sidecar in read_sidecars(job.store)} == {"v1"}


def test_a_job_whose_new_address_is_out_of_reach_goes_on_with_its_model(job, tmp_path, monkeypatch, caplog):
    assert work(options(tmp_path, folder_of_images(tmp_path / "p1", 12)))["uploaded"] == 12
    monkeypatch.setattr(worker_module, "STUCK_UPLOAD_SECONDS", 0.3)
    monkeypatch.setenv("EDGE_STORE_PATIENCE", "0.1")
    for name, value in {"ENDPOINT_URL": "http://127.0.0.1:1", "ACCESS_KEY_ID": "a", "SECRET_ACCESS_KEY": "b"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    moved = options(tmp_path, folder_of_images(tmp_path / "p2", 3, seed=1), job_root="s3://away/job")
    worker = Worker(moved)
    worker.run(threading.Event())
    assert worker.metrics.value("kept") == 3
    assert f"starting with the model of {job.store.uri}" in caplog.text


@pytest.mark.parametrize("name", ["job-at-night", "job"])
def test_a_job_out_of_reach_takes_over_the_model_of_a_job_of_its_name_alone(tmp_path, name, monkeypatch):
    store = open_store(str(tmp_path / "new" / "job"))
    models = models_folder(job_folder(tmp_path, store.uri))
    there = models_folder(job_folder(tmp_path, str(tmp_path / "old" / name)))
    there.mkdir()
    (there / "shelf.json").write_text("{}")
    monkeypatch.setattr(type(store), "stat", lambda *_: (_ for _ in ()).throw(InputError("away")))
    take_over_models(tmp_path, models, store)
    assert models.exists() == (name == "job")


def test_models_that_cannot_be_copied_whole_are_not_taken_over(tmp_path, monkeypatch, caplog):
    store = open_store(str(tmp_path / "new" / "job"))
    models = models_folder(job_folder(tmp_path, store.uri))
    there = models_folder(job_folder(tmp_path, str(tmp_path / "old" / "job")))
    (there / "v1").mkdir(parents=True)
    (there / "v1" / "model.onnx").symlink_to(tmp_path / "gone")
    monkeypatch.setattr(type(store), "stat", lambda *_: (_ for _ in ()).throw(InputError("away")))
    take_over_models(tmp_path, models, store)
    assert [path.name for path in models.parent.iterdir()] == [JOB]
    assert "cannot be copied" in caplog.text


def test_a_mistyped_job_root_is_told(tmp_path, caplog):
    with running(options(tmp_path, video(tmp_path / "v.avi", 6), job_root=str(tmp_path / "jbo"))) as worker:
        until(lambda: "no job at" in caplog.text)
        deploy(Job.open(str(tmp_path / "jbo")), "v1", tmp_path / "bundle")  # it was not mistyped after all
        until(lambda: worker.metrics.value("frames") == 6)
    assert caplog.text.count("no job at") == 1


def test_two_workers_of_one_name_are_reported(job, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(status_module, "SOON_SECONDS", 0.5)
    monkeypatch.setattr(status_module, "BEAT_SECONDS", 0.5)
    chosen = [
        options(
            tmp_path, folder_of_images(tmp_path / name, 3), folder=tmp_path / f"worker-{name}", loop=True, max_fps=20
        )
        for name in ("a", "b")
    ]
    with running(chosen[0]) as one, running(chosen[1]) as two:
        until(lambda: one.metrics.value("node_conflicts") and two.metrics.value("node_conflicts"))
    assert "also reports as node edge-1: give each worker its own name (--node)" in caplog.text


def test_a_worker_that_starts_again_is_no_other_worker(job, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(status_module, "SOON_SECONDS", 0.1)
    for seed in (0, 1):
        chosen = options(tmp_path, folder_of_images(tmp_path / f"p{seed}", 8, seed), max_fps=10)
        assert work(chosen)["frames"] == 8
    assert "also reports as node" not in caplog.text
    assert status(job).latency_p95_ms >= status(job).latency_p50_ms > 0


@pytest.mark.parametrize("year", [1970, 2099])
def test_images_of_a_clock_that_is_wrong_are_dated_when_they_are_uploaded(job, tmp_path, monkeypatch, year):
    wrong = datetime(year, 3, 4, 5, tzinfo=UTC)
    monkeypatch.setattr(mining, "datetime", type("Clock", (), {"now": staticmethod(lambda _: wrong)}))
    assert work(options(tmp_path, folder_of_images(tmp_path / "images", 3)))["uploaded"] == 3
    for sidecar in read_sidecars(job.store):
        assert abs(datetime.now(UTC) - sidecar.captured) < timedelta(minutes=10)
        assert sidecar.clock == "upload"
        assert job.store.stat(image_key(sidecar))


def test_dates_that_can_be_right_stay_and_others_are_reckoned_from_the_upload():
    now, since = datetime(2026, 11, 20, 12, tzinfo=UTC), time.monotonic() - 3600
    sidecar = Sidecar(
        image="0" * 64, width=1, height=1, captured=datetime(2026, 11, 20, 8, tzinfo=UTC), node="n", source="s",
        frame=0, kind="hard", miner="IBT", score=1, reason="r", model="m", classes=(),
    )  # fmt: skip
    assert dated(sidecar, since, now) == sidecar
    assert dated(sidecar, since, datetime(1970, 1, 1, tzinfo=UTC)) == sidecar  # the clock knows nothing better
    for year in (1970, 2099):
        found = dated(sidecar.model_copy(update={"captured": datetime(year, 1, 1, tzinfo=UTC)}), since, now)
        assert abs(found.captured - datetime(2026, 11, 20, 11, tzinfo=UTC)) < timedelta(seconds=5)
        assert found.clock == "upload"


def test_at_the_end_of_a_video_it_can_stay_and_follow_the_champion(job, tmp_path):
    with running(options(tmp_path, video(tmp_path / "v.avi", 12), idle_at_end=True, port=free_port())) as worker:
        until(lambda: worker.metrics.value("uploaded") == 12)
        deploy(job, "v2", tmp_path / "bundles" / "v2", padding=1)
        until(lambda: status(job).version == "v2" and status(job).state == "loaded")
        assert ask(worker._options.port, "/healthz")[0] == ask(worker._options.port, "/readyz")[0] == 200
        assert worker.metrics.value("frames") == 12


def test_the_help_can_be_read_on_a_terminal_of_80_columns():
    result = CliRunner().invoke(edge_worker.app, ["--help"], terminal_width=80, env={"COLUMNS": "80"})
    assert result.exit_code == 0
    assert all(len(line) <= 80 for line in result.output.splitlines())
    assert "EDGE_DUPLICATE_BITS" in result.output  # whole, not cut off
    text = [line[len(line) - len(line.lstrip()) :] for line in result.output.splitlines() if line.startswith("     ")]
    assert sum(map(len, text)) / len(text) > 30  # columns of text are wide


def test_a_bundle_can_be_run_without_a_job_and_is_followed_when_it_changes(tmp_path):
    bundle = write_bundle(tmp_path / "model", colour_model())
    images = folder_of_images(tmp_path / "images", 5)
    chosen = options(tmp_path, images, bundle=str(bundle), loop=True, max_fps=50)
    with running(chosen) as worker:
        until(lambda: worker.metrics.value("frames") > 5)
        first = worker.slot.current.version
        write_bundle(bundle, colour_model(), replace(BUNDLE, confidence_threshold=0.6))
        until(lambda: worker.slot.current.version != first)
    assert not (tmp_path / "job" / "state.json").exists()


def test_another_bundle_is_run_from_the_first_image_on_whatever_its_classes(tmp_path):
    written, seen = tmp_path / "found.jsonl", {}
    for number, classes in enumerate((BUNDLE.classes, ("forklift", "pallet"), BUNDLE.classes)):
        bundle = write_bundle(tmp_path / str(number), colour_model(), replace(BUNDLE, classes=classes))
        images = folder_of_images(tmp_path / f"images-{number}", 12, seed=number)
        work(options(tmp_path, images, bundle=str(bundle), sinks=(f"jsonl:{written}",)))
        lines = [json.loads(line) for line in written.read_text().splitlines()]
        seen[number] = {line["model"] for line in lines[12 * number :]}
        assert len(lines) == 12 * (number + 1)
    assert seen[0] == seen[2] != seen[1]
    assert all(len(models) == 1 for models in seen.values())


def waits_for(chosen, caplog, text: str) -> list[str]:
    """What a worker has said that it waits for when it says this text."""
    caplog.clear()
    caplog.set_level("INFO")
    with running(chosen):
        until(lambda: any(re.search(f"^{text}$", line) for line in caplog.messages))
    return [line for line in caplog.messages if line.startswith("no model yet")]


def test_a_worker_without_a_model_says_what_it_waits_for(tmp_path, caplog):
    images = folder_of_images(tmp_path / "images", 3)
    waits_for(options(tmp_path, images), caplog, "no model yet: the job has no champion yet; waiting for its first")
    pointer = tmp_path / "model_config.json"
    chosen = options(tmp_path, images, model_config=str(pointer))
    waits_for(chosen, caplog, f"no model yet: {pointer} does not exist yet; waiting for it")


def test_a_worker_with_a_bundle_says_that_it_is_tested_and_that_it_cannot_be_used(tmp_path, caplog):
    images = folder_of_images(tmp_path / "images", 3)
    bundle = write_bundle(tmp_path / "model", colour_model())
    chosen = options(tmp_path, images, bundle=str(bundle))
    (line,) = waits_for(chosen, caplog, "model bundle-.* is in use")
    assert re.fullmatch(r"no model yet: bundle-[0-9a-f]{12} is being loaded and tested", line)
    (bundle / "model.onnx").write_bytes(b"no model")
    chosen = replace(chosen, folder=tmp_path / "other")
    waits_for(chosen, caplog, "no model yet: bundle-[0-9a-f]{12} cannot be used; waiting for another")


def test_an_option_of_joint_inference_without_a_cloud_is_refused(tmp_path):
    words = ["--source", "nowhere", "--bundle", "nowhere", "--spool", str(tmp_path / "w")]
    given = ["--keep-miner", "disagreement", "--send", "crop", "--resubmit", "64"]
    done = CliRunner().invoke(edge_worker.app, [*words, *given])
    assert done.exit_code == 1
    assert "error: --keep-miner, --send, --resubmit: without --cloud-url" in done.output
    done = CliRunner().invoke(edge_worker.app, [*words, *given, "--cloud-url", "http://127.0.0.1:1"])
    assert "without --cloud-url" not in done.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [([], "give --job-root, or --bundle"), (["--bundle", "nowhere"], "nowhere: no model.json in it; give the folder")],
)
def test_a_worker_without_a_model_to_run_is_refused(tmp_path, arguments, message):
    source = folder_of_images(tmp_path / "images", 1)
    result = CliRunner().invoke(
        edge_worker.app,
        ["--source", str(source), "--spool", str(tmp_path / "w"), *arguments],
        env={"EDGE_JOB_ROOT": ""},
    )
    assert result.exit_code == 1
    assert message in result.output


def test_a_miner_that_fails_does_not_end_the_worker(job, tmp_path, caplog):
    counts = work(options(tmp_path, video(tmp_path / "v.avi", 8), miner="broken", plugins="tests.broken_miner"))
    assert (counts["frames"], counts["unmined"], counts["failed_frames"]) == (8, 8, 0)
    assert caplog.text.count("mining with broken: ZeroDivisionError") == 1


def test_a_champion_with_other_classes_is_refused_by_a_worker_that_starts_again_too(job, tmp_path):
    assert work(options(tmp_path, folder_of_images(tmp_path / "p1", 12)))["frames"] == 12
    deploy(job, "v2", tmp_path / "bundles" / "v2", bundle=replace(BUNDLE, classes=("forklift", "pallet")))
    chosen = options(tmp_path, folder_of_images(tmp_path / "p2", 3), idle_at_end=True)
    with running(chosen) as worker:
        until(lambda: worker.metrics.value("frames") == 3 and status(job).version == "v2")
    assert "its classes are ['forklift', 'pallet']" in status(job).error
    assert {sidecar.model for sidecar in read_sidecars(job.store)} == {"v1"}


def test_without_a_model_the_source_waits(tmp_path):
    job = Job.open(str(tmp_path / "job"))
    with running(options(tmp_path, video(tmp_path / "v.avi", 6), port=free_port())) as worker:
        port = worker._options.port
        until(lambda: ask(port, "/healthz")[0] == 200)
        assert ask(port, "/readyz")[0] == 503
        assert worker.metrics.value("frames") == 0
        deploy(job, "v1", tmp_path / "b")
        until(lambda: worker.metrics.value("frames") == 6)
        assert ask(port, "/readyz")[0] == 200


def test_no_image_is_lost_when_the_model_changes_and_each_says_which_one_saw_it(job, tmp_path):
    path = video(tmp_path / "v.avi", 400)
    with running(options(tmp_path, path, max_fps=100)) as worker:
        until(lambda: worker.metrics.value("frames") > 30)
        deploy(job, "v2", tmp_path / "bundles" / "v2", padding=7)
        until(lambda: worker.metrics.value("uploaded") == 400, 40)
    sidecars = sorted(read_sidecars(job.store), key=lambda sidecar: sidecar.frame)
    assert [sidecar.frame for sidecar in sidecars] == list(range(400))
    models = [sidecar.model for sidecar in sidecars]
    assert models == sorted(models), "once changed, it stays"
    assert len(set(models)) == 2
    assert status(job).version == "v2"


@pytest.mark.parametrize("fault", ["raise", "nan"])
def test_a_model_that_fails_in_use_gives_way_and_no_image_is_lost(job, tmp_path, fault):
    chosen = options(
        tmp_path, video(tmp_path / "v.avi", 300), runtime="fragile", plugins="tests.fragile_runtime", max_fps=100
    )
    bundle = replace(BUNDLE, lineage={"fault": fault, "after": 3})
    with running(chosen) as worker:
        until(lambda: worker.metrics.value("frames") > 30)
        deploy(job, "v2", tmp_path / "bundles" / "v2", bundle=bundle)
        until(lambda: worker.metrics.value("uploaded") == 300, 40)
    sidecars = sorted(read_sidecars(job.store), key=lambda sidecar: sidecar.frame)
    assert [sidecar.frame for sidecar in sidecars] == list(range(300))
    assert Counter(sidecar.model for sidecar in sidecars) == {"v1": 297, "v2": 3}
    assert (status(job).version, status(job).state) == ("v2", "failed")
    assert [entry["version"] for entry in shelf(chosen)["good"]] == ["v1"]


def test_a_proven_model_that_fails_at_last_gives_way_to_the_one_on_disk(job, tmp_path):
    chosen = options(
        tmp_path, video(tmp_path / "v.avi", 400), runtime="fragile", plugins="tests.fragile_runtime", max_fps=100
    )
    bundle = replace(BUNDLE, lineage={"fault": "raise", "after": 50})
    with running(chosen) as worker:
        until(lambda: worker.metrics.value("frames") > 30)
        deploy(job, "v2", tmp_path / "bundles" / "v2", bundle=bundle)
        until(lambda: worker.metrics.value("failed_frames") == 5)
        until(lambda: worker.metrics.value("uploaded") == 395, 40)
    models = [sidecar.model for sidecar in sorted(read_sidecars(job.store), key=lambda sidecar: sidecar.frame)]
    assert models.count("v2") == 50
    assert models[-1] == "v1"
    assert (status(job).version, status(job).state) == ("v2", "failed")


def test_a_machine_that_lost_its_runtime_is_told_and_its_model_goes_on_afterwards(job, tmp_path, monkeypatch):
    fragile = {"runtime": "fragile", "plugins": "tests.fragile_runtime"}
    chosen = options(tmp_path, folder_of_images(tmp_path / "p", 5), **fragile)
    assert work(chosen)["frames"] == 5
    with monkeypatch.context() as patched:
        patched.setenv("FRAGILE_RUNTIME", "missing")
        with pytest.raises(NoRuntimeError, match="^runtime fragile: there is no device here$"):
            Worker(chosen).run(threading.Event())
    assert (status(job).version, status(job).state) == ("v1", "loaded")
    assert [entry["version"] for entry in shelf(chosen)["good"]] == ["v1"]
    assert work(options(tmp_path, folder_of_images(tmp_path / "q", 5, seed=1), **fragile))["frames"] == 5


def test_a_camera_is_followed_and_what_nobody_took_is_counted(job, tmp_path):
    greys = [np.full((96, 128, 3), value, np.uint8) for value in range(20, 250, 10)]
    with (
        Camera(greys, fps=200, drop_after=40) as camera,
        running(options(tmp_path, camera.url, max_fps=20, port=free_port())) as worker,
    ):
        until(lambda: worker.metrics.value("frames") > 20 and worker._source.retries >= 1)
        text = ask(worker._options.port, "/metrics")[1]
    replaced = next(line for line in text.splitlines() if line.startswith("edge_replaced_frames "))
    assert float(replaced.split()[1]) > 20
    assert 'edge_model_info{version="v1"} 1.0' in text
    assert "edge_inference_seconds_count" in text
    assert not list((tmp_path / "worker").rglob("position.json"))


def test_a_loop_that_is_stuck_is_not_healthy(monkeypatch):
    now = [0.0]
    metrics = Metrics(lambda: now[0])
    with health.served("127.0.0.1", 0, metrics, lambda: False) as port:
        assert ask(port, "/healthz")[0] == 200
        now[0] = health.SILENT_SECONDS + 1
        assert ask(port, "/healthz")[0] == 503
        metrics.alive()
        assert ask(port, "/healthz")[0] == 200
        assert ask(port, "/secret")[0] == 404


class Stop:
    """An event that is set at some time of a clock, which waiting for it moves on."""

    def __init__(self, end):
        self.now, self.end = 0.0, end

    def is_set(self):
        return self.now >= self.end

    def wait(self, seconds):
        self.now += seconds
        return self.is_set()


def longest_silence(monkeypatch, stop, **options):
    """A loop without a model, its metrics, and a list that gets how long it was silent before each sign of life."""
    metrics, silences = Metrics(lambda: stop.now), []
    monkeypatch.setattr(loop_module.time, "monotonic", lambda: stop.now)
    alive = metrics.alive
    monkeypatch.setattr(metrics, "alive", lambda: silences.append(metrics.silence) or alive())
    return EdgeLoop(ActiveModel(), metrics, **options), metrics, silences


@pytest.mark.parametrize("at_once", [1, FRAMES_AT_ONCE])
def test_a_loop_that_takes_a_frame_now_and_then_is_healthy(monkeypatch, at_once):
    stop = Stop(1000.0)
    loop, metrics, silences = longest_silence(monkeypatch, stop, max_fps=0.01)
    monkeypatch.setattr(loop, "_next", lambda *_: metrics.alive() or [None] * at_once)
    monkeypatch.setattr(loop, "_infer", lambda _: [])
    assert not loop.run(None, nullcontext(), stop)
    assert max([*silences, metrics.silence]) < health.SILENT_SECONDS


def test_a_loop_whose_source_passes_over_images_is_healthy_as_long_as_it_does(monkeypatch):
    stop = Stop(math.inf)
    loop, metrics, silences = longest_silence(monkeypatch, stop)
    monkeypatch.setattr(loop, "_change_model", lambda: SimpleNamespace(base=None))
    feed = SimpleNamespace(progress=0, take=lambda seconds, _: stop.wait(seconds) or [])
    for _ in range(1000):
        feed.progress += 25
        loop._next(feed, stop)
    assert max(silences) < health.SILENT_SECONDS
    for _ in range(1000):
        loop._next(feed, stop)
    assert metrics.silence > health.SILENT_SECONDS


def connections(port, count, host="127.0.0.1"):
    """Clients that send half a request and wait."""
    made = [socket.create_connection((host, port), timeout=5) for _ in range(count)]
    for client in made:
        client.sendall(b"GET /healthz HTTP/1.1\r\nX: ")
    return made


def test_connections_that_say_nothing_are_few_and_do_not_keep_a_probe_out():
    with health.served("127.0.0.1", 0, Metrics(), lambda: True) as port:
        before = threading.active_count()
        clients = connections(port, 3 * health.MAX_CONNECTIONS)
        assert ask(port, "/readyz") == (200, "a model is loaded\n")
        until(lambda: threading.active_count() <= before + health.MAX_CONNECTIONS)
        for client in clients:
            client.close()
        until(lambda: threading.active_count() <= before)


def test_a_connection_that_says_nothing_is_closed(monkeypatch):
    monkeypatch.setattr(health._Handler, "timeout", 0.2)
    with health.served("127.0.0.1", 0, Metrics(), lambda: True) as port:
        (client,) = connections(port, 1)
        assert client.recv(1) == b""


def test_it_listens_where_it_is_told_over_either_protocol():
    with health.served("::1", 0, Metrics(), lambda: True) as port:
        assert urllib.request.urlopen(f"http://[::1]:{port}/readyz", timeout=5).status == 200
        assert ask(port, "/readyz")[0] == 0  # nothing at 127.0.0.1
    with health.served("::", 0, Metrics(), lambda: True) as port:
        assert ask(port, "/readyz")[0] == 200
        assert urllib.request.urlopen(f"http://[::1]:{port}/readyz", timeout=5).status == 200


def test_a_host_that_is_not_here_is_refused_in_one_line():
    with (
        pytest.raises(InputError, match=r"^host '192\.0\.2\.1' and port 0 cannot be used .*--host"),
        health.served("192.0.2.1", 0, Metrics(), lambda: False),
    ):
        pass


def test_percentiles_of_the_latency_are_those_of_the_last_inferences(monkeypatch):
    metrics, now = Metrics(), [0.0]
    monkeypatch.setattr(metrics_module.time, "perf_counter", lambda: now[0])
    assert metrics.latency(50) == 0
    for seconds in (9.0, *(number / 1000 for number in range(1, 1001))):  # the first one is forgotten
        with metrics.inference():
            now[0] += seconds
    assert metrics.latency(50) == pytest.approx(0.5005)
    assert metrics.latency(95) == pytest.approx(0.95005)
    assert metrics.registry.get_sample_value("edge_inference_p95_seconds") == pytest.approx(0.95005)
    assert metrics.registry.get_sample_value("edge_inference_seconds_count") == 1001


def test_a_port_in_use_is_refused_in_one_line():
    with (
        health.served("127.0.0.1", 0, Metrics(), lambda: False) as port,
        pytest.raises(InputError, match=f"port {port} cannot be used"),
        health.served("127.0.0.1", port, Metrics(), lambda: False),
    ):
        pass


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ({"source": "nowhere.mp4"}, "no such file or folder"),
        ({"miner": "IBTT"}, "unknown miner"),
        ({"miner": "IBT", "miner_parameters": {"threshold": "1"}}, "threshold"),
        ({"runtime": "tpu"}, "unknown runtime"),
        ({"node": "../secrets"}, "cannot be used in a file name"),
        ({"node": "edge\n1"}, "at most 128 printable characters"),
        ({"node": "e" * 300}, "at most 128 printable characters"),
        ({"spool_bytes": 10}, "is too small"),
    ],
)
def test_options_that_cannot_be_are_refused_before_anything_is_done(job, tmp_path, others, message):
    chosen = options(tmp_path, folder_of_images(tmp_path / "images", 1))
    with pytest.raises(InputError, match=message) as error:
        Worker(replace(chosen, **others))
    assert "\n" not in str(error.value)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


# The command line


def given_by(monkeypatch, arguments=(), environment=None):
    """The options that the command line makes of arguments and environment."""
    found = []
    monkeypatch.setattr(edge_worker, "run", found.append)
    result = CliRunner().invoke(edge_worker.app, [*arguments], env=environment or {})
    return found[0] if found else result.output


def test_each_option_is_an_environment_variable_too(monkeypatch):
    environment = {
        "EDGE_JOB_ROOT": "s3://b/j",
        "EDGE_SOURCE": "0",
        "EDGE_MAX_FPS": "5",
        "EDGE_LOOP": "1",
        "EDGE_POLL": "3",
    }
    chosen = given_by(monkeypatch, environment=environment)
    assert (chosen.job_root, chosen.source, chosen.max_fps, chosen.loop, chosen.poll_s) == ("s3://b/j", "0", 5, True, 3)
    assert chosen.node
    assert chosen.host == "127.0.0.1"  # strangers on the network see nothing unless somebody wants them to


def test_what_sedna_gives_its_workers_is_understood(monkeypatch):
    environment = {
        "HEM_NAME": "IBT", "HEM_PARAMETERS": json.dumps([{"key": "threshold_img", "value": "0.9"}]),
        "MODEL_HOT_UPDATE_CONFIG": "/model-hot-update/model_config.json", "MODEL_POLL_PERIOD_SECONDS": "60",
    }  # fmt: skip
    required = ["--job-root", "j", "--source", "s"]
    chosen = given_by(monkeypatch, required, environment)
    assert (chosen.miner, chosen.miner_parameters) == ("IBT", {"threshold_img": "0.9"})
    assert (chosen.model_config, chosen.poll_s) == ("/model-hot-update/model_config.json", 60)
    own = given_by(monkeypatch, [*required, "--miner", "Threshold", "-p", "threshold=0.3"], environment)
    assert (own.miner, own.miner_parameters) == ("Threshold", {"threshold": "0.3"}), "what the user says holds"
    assert "HEM_PARAMETERS" in given_by(monkeypatch, required, {"HEM_PARAMETERS": "{"})


def test_a_mistake_on_the_command_line_is_one_line(tmp_path):
    result = command(tmp_path, "--source", "nowhere.mp4").communicate(timeout=60)[1]
    (line,) = result.splitlines()
    assert line.startswith("error: source nowhere.mp4: no such file or folder; give a video file, a folder of images, ")


# Ends, wanted and unwanted


def command(tmp_path, *arguments):
    """The worker as its users start it."""
    program = [sys.executable, "-m", "components.serving.edge_worker", "--job-root", str(tmp_path / "job")]
    chosen = ["--spool", str(tmp_path / "worker"), "--node", "edge-1", "--poll", "0.1", "--miner", "CloudOnly"]
    return subprocess.Popen(
        [*program, *chosen, *arguments], cwd=REPOSITORY, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def wait_for(process, words):
    """Read what a process says until it says something."""
    said = []
    for line in process.stderr:
        said.append(line)
        if words in line:
            return
    pytest.fail("".join(said))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_soon_and_the_next_one_goes_on_where_it_was(job, tmp_path, number):
    path = video(tmp_path / "v.avi", 120)
    arguments = ["--source", str(path), "--max-fps", "40", "--duplicate-bits", "-1"]
    with command(tmp_path, *arguments) as process:
        wait_for(process, "model v1 is in use")
        time.sleep(0.7)
        process.send_signal(number)
        started = time.monotonic()
        assert process.wait(timeout=10) == 0
        assert time.monotonic() - started < 5
    place = int(json.loads(next((tmp_path / "worker").glob("*/position.json")).read_text())["place"])
    assert 0 < place < 119
    counts = work(options(tmp_path, path))
    assert counts["frames"] == 119 - place
    assert sorted(sidecar.frame for sidecar in read_sidecars(job.store)) == list(range(120))


def test_a_worker_that_cannot_start_leaves_the_signals_of_its_process_alone(tmp_path):
    before, threads = [signal.getsignal(number) for number in ending_signals()], threading.enumerate()
    with pytest.raises(InputError):
        edge_worker.run(options(tmp_path, tmp_path, miner="nothing-like-it"))
    assert [signal.getsignal(number) for number in ending_signals()] == before
    assert signal.set_wakeup_fd(-1) == -1
    end = time.monotonic() + 10
    while set(threading.enumerate()) - set(threads):
        assert time.monotonic() < end, "what reads the signals goes on"
        time.sleep(0.01)


def test_a_second_ctrl_c_ends_it_at_once(job, tmp_path):
    with Camera(images(1), fps=5, silent_after=1) as camera, command(tmp_path, "--source", camera.url) as process:
        wait_for(process, "model v1 is in use")
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        assert process.poll() is None, "it waits for the camera"
        process.send_signal(signal.SIGINT)
        started = time.monotonic()
        assert process.wait(timeout=10) == 128 + signal.SIGINT
        assert time.monotonic() - started < 0.5


def test_a_signal_ends_it_while_a_camera_is_silent(job, tmp_path):
    with Camera(images(1), fps=5, silent_after=1) as camera, command(tmp_path, "--source", camera.url) as process:
        wait_for(process, "model v1 is in use")
        process.send_signal(signal.SIGTERM)
        started = time.monotonic()
        assert process.wait(timeout=20) == 0
        assert time.monotonic() - started < 8


@pytest.mark.slow
def test_a_signal_in_the_middle_of_a_model_change_ends_it(job, tmp_path):
    path = video(tmp_path / "v.avi", 400)
    arguments = ["--source", str(path), "--loop", "--max-fps", "100"]
    for number in range(2, 6):
        with command(tmp_path, *arguments) as process:
            wait_for(process, "model")
            deploy(job, f"v{number}", tmp_path / "bundles" / f"v{number}", padding=number)
            time.sleep(random.Random(number).uniform(0.1, 2))
            process.send_signal(signal.SIGTERM)
            started = time.monotonic()
            assert process.wait(timeout=10) == 0
            assert time.monotonic() - started < 6
    counts = work(options(tmp_path, video(tmp_path / "w.avi", 20, seed=1)))
    assert counts["frames"] == 20


KILLS = 50


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["video", "folder"])
def test_a_worker_killed_again_and_again_brings_what_an_undisturbed_one_brings(job, tmp_path, kind):
    source = video(tmp_path / "v.avi", 500) if kind == "video" else folder_of_images(tmp_path / "images", 500)
    mined = {"miner": "Random", "miner_parameters": {"random_ratio": "0.4"}, "audit_ratio": 0.1, "duplicate_bits": 20}
    chosen = options(tmp_path, source, max_fps=20, **mined)  # slow enough to be killed often
    calm = replace(chosen, job_root=str(tmp_path / "calm"), folder=tmp_path / "calm-worker", max_fps=0)
    deploy(Job.open(calm.job_root), "v1", tmp_path / "bundles" / "calm")
    counts = work(calm)
    assert counts["frames"] == 500
    assert counts["duplicates"] > 0
    expected = uploaded(Job.open(calm.job_root))

    work(options(tmp_path, folder_of_images(tmp_path / "first", 1), miner="EdgeOnly"))  # brings the model here
    deploy(job, "v2", tmp_path / "bundles" / "v2", padding=9)  # on its way while the worker is killed
    kills = 0
    chance = random.Random(kind)
    while True:
        process = LIVES.Process(target=life, args=(chosen,))
        process.start()
        process.join(chance.uniform(0.15, 0.7) if kills < KILLS else 120)
        if process.exitcode is not None:
            break
        process.kill()
        process.join()
        kills += 1
    assert process.exitcode == 0
    assert kills >= KILLS
    assert uploaded(job) == expected
    assert set(expected.values()) == {1}


def life(chosen):
    logging.disable()
    edge_worker.run(chosen)
    os._exit(0)


LIVES = multiprocessing.get_context("forkserver")
LIVES.set_forkserver_preload(["tests.unit.test_edge_worker", "onnxruntime", "components.core.runtimes.onnx"])
