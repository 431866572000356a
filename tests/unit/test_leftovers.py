"""What runs that were killed leave behind is bounded, and what is damaged by hand is named."""

import errno
import fcntl
import hashlib
import json
import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from components.convert import builds
from components.core.cache import fetch_blobs, own_folder, version_folder
from components.core.errors import InputError, LostRaceError, OutOfReachError
from components.core.estimators.base import Epoch
from components.core.job.job import Job
from components.core.job.state import State
from components.core.manifest import Manifest
from components.core.stores.files import FileStore
from components.deploy.garbage import ABANDONED, UNFINISHED, remove_leftovers
from components.ingest.feed import take_new
from components.ingest.fingerprints import Fingerprints, Notes, file_rows, hashes_of, remove_superseded
from components.ingest.poll_memory import MEMORY
from components.train.checkpoint import Checkpoints
from components.train.train import _only_one
from tests.images import jpeg
from tests.models import colour_model, write_bundle


@pytest.fixture
def job(tmp_path) -> Job:
    return Job.open(str(tmp_path / "job"))


def age(path: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


def test_checkpoints_of_rounds_that_have_ended_are_removed(job):
    for training in ("r0001-aa", "r0002-bb", "r0003-cc", "ddee"):
        for name in ("checkpoint.json", "best.pt"):
            job.store.write(f"checkpoints/{training}/{name}", b"weights")
    remove_leftovers(job, State(round=2))
    assert {info.key.split("/")[1] for info in job.store.list("checkpoints/")} == {"r0003-cc", "ddee"}
    folder = job.store.local_path("checkpoints")
    assert {path.name for path in folder.iterdir()} == {"r0003-cc", "ddee"}, "without their locks and folders"


def test_a_training_outside_of_rounds_may_be_resumed_for_a_week(job):
    job.store.write("checkpoints/ddee/checkpoint.json", b"{}")
    job.store.write("checkpoints/ddee/best.pt", b"weights")
    folder = job.store.local_path("checkpoints/ddee")
    age(folder / "checkpoint.json", ABANDONED.total_seconds() + 60)
    remove_leftovers(job, State(round=2))
    assert len(list(job.store.list("checkpoints/"))) == 2
    age(folder / "best.pt", ABANDONED.total_seconds() + 60)
    remove_leftovers(job, State(round=2))
    assert list(job.store.list("checkpoints/")) == []


def test_unfinished_files_are_removed_after_a_day_and_locks_never(job):
    job.store.write("bundles/v1/model.onnx", b"model")
    folder = job.store.local_path("bundles/v1")
    old, fresh, lock = folder / f".edge-{'0' * 32}", folder / f".edge-{'1' * 32}", folder / ".edge-lock"
    for path in (old, fresh, lock):
        path.write_bytes(b"half")
    age(old, UNFINISHED.total_seconds() + 60)
    age(lock, UNFINISHED.total_seconds() + 60)
    age(folder / "model.onnx", UNFINISHED.total_seconds() + 60)
    remove_leftovers(job, State())
    assert {path.name for path in folder.iterdir()} == {"model.onnx", fresh.name, lock.name}


def test_of_a_jobs_models_the_machine_keeps_the_one_asked_for_and_the_latest_before(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGE_CACHE_DIR", str(tmp_path))
    root = str(tmp_path / "job")
    for number in range(1, 5):
        folder = version_folder(root, "champion", f"v{number}")
        folder.mkdir(parents=True, exist_ok=True)
        age(folder, 100 - number)
    assert {path.name for path in (own_folder(root) / "champion").iterdir()} == {"v3", "v4"}
    assert version_folder(root, "prelabels", "v1") != version_folder(root, "champion", "v1")


def test_of_a_models_conversions_the_machine_keeps_those_of_the_last_week(tmp_path, monkeypatch):
    made = []

    def build(request, _):
        made.append(request.target)
        for name in (builds.MODEL, builds.GOLDEN):
            (Path(request.output) / name).write_bytes(b"x")
        digest = hashlib.sha256(b"x").hexdigest()
        facts = json.dumps({"sha256": digest, "golden_sha256": digest})
        (Path(request.output) / builds.FACTS).write_text(facts)

    monkeypatch.setattr(builds, "build", build)
    monkeypatch.setattr(builds, "read_build", lambda folder, _: folder)
    nothing = Manifest.of([], ())
    of_model = builds.Builds(
        write_bundle(tmp_path / "model", colour_model()), nothing, nothing, blobs=tmp_path / "blobs",
        cache=tmp_path / "conversions", toolkit="2.5.0", time_limit=1,
    )  # fmt: skip
    asked, other = (of_model.get(target, "fp16", "") for target in ("rk3588", "rk3566"))
    (tmp_path / "conversions" / "killed").mkdir()
    for path in (asked, other, tmp_path / "conversions" / "killed"):
        age(path, 8 * 86400)
    assert of_model.get("rk3588", "fp16", "") == asked
    assert list((tmp_path / "conversions").iterdir()) == [asked]
    assert made == ["rk3588", "rk3566"]


def test_a_training_removes_what_killed_ones_left_beside_it_and_nothing_that_is_in_use(tmp_path):
    for name in ("killed", "running", "ours"):
        (tmp_path / name).mkdir()
        (tmp_path / f"{name}.lock").touch()
    with (tmp_path / "running.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with _only_one(tmp_path / "ours") as folder:
            assert {path.name for path in tmp_path.iterdir()} == {"running", "running.lock", "ours", "ours.lock"}
            with pytest.raises(LostRaceError, match="another run is training the same model"), _only_one(folder):
                pass
    assert {path.name for path in tmp_path.iterdir()} == {"running", "running.lock"}


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"last": 1}', b'{"last": "x", "best": "y", "finished": 1}',
                                  b'{"history": [1], "finished": true}'])  # fmt: skip
def test_a_damaged_checkpoint_is_named_and_training_starts_from_scratch(job, tmp_path, caplog, text):
    job.store.write("checkpoints/r0001-aa/checkpoint.json", text)
    assert Checkpoints(job.store, "r0001-aa").restore(tmp_path) is None
    assert "checkpoints/r0001-aa/checkpoint.json" in caplog.text
    assert "starting from epoch 1" in caplog.text


@pytest.mark.parametrize("error", [OutOfReachError("the store cannot be reached"), OSError(errno.ENOSPC, "full")])
def test_a_checkpoint_that_cannot_be_fetched_now_is_not_trained_over(job, tmp_path, monkeypatch, error):
    weights = tmp_path / "epoch.pt"
    weights.write_bytes(b"95 epochs")
    Checkpoints(job.store, "r0001-aa").save(Epoch(95, {}, weights, weights, False), [{"epoch": 95.0}])

    def fails(*_):
        raise error

    with monkeypatch.context() as change:
        change.setattr("components.core.stores.files.copy", fails)
        with pytest.raises(InputError, match="cannot be reached|no space left"):
            Checkpoints(job.store, "r0001-aa").restore(tmp_path / "again")
    found = Checkpoints(job.store, "r0001-aa").restore(tmp_path / "again")
    assert found is not None and found.last.read_bytes() == b"95 epochs"


def test_a_blob_that_was_changed_on_this_disk_is_not_trained_on(tmp_path):
    store = FileStore(tmp_path / "job")
    data = jpeg(np.zeros((8, 8, 3), np.uint8))
    digest = hashlib.sha256(data).hexdigest()
    key = f"blobs/{digest[:2]}/{digest}.jpg"
    store.write(key, data)
    row = {
        "id": digest, "uri": store.uri_of(key), "width": 8, "height": 8, "split": "train", "group": "a",
        "source": "a.jpg", "round": 1, "annotations": [],
    }  # fmt: skip
    manifest = Manifest.of([row], ["helmet"])
    assert fetch_blobs(manifest, tmp_path / "cache")[0].read_bytes() == data
    store.local_path(key).write_bytes(data[:-2] + b"\0\0")
    with pytest.raises(InputError, match=rf"{digest}\.jpg: damaged, its content does not match its name"):
        fetch_blobs(manifest, tmp_path / "cache")


@pytest.mark.parametrize("text", [
    '{"bad": [], "listed": "2026-01-01T00:00:00"}', '{"bad": 3, "listed": null}', '{"bad": [[1]], "listed": "x"}',
    '{"bad": [], "listed": "0001-01-01T00:00:00+14:00"}', "[]", "null", '"x"', "{",
])  # fmt: skip
def test_a_damaged_memory_of_the_feed_costs_work_and_nothing_else(tmp_path, monkeypatch, text):
    monkeypatch.setenv("EDGE_CACHE_DIR", str(tmp_path / "cache"))
    feed, root = tmp_path / "feed", str(tmp_path / "job")
    feed.mkdir()
    (feed / "classes.txt").write_text("helmet")
    Job.open(root).store.write(MEMORY, text.encode())
    assert len(take_new(str(feed), root).manifest) == 0
    assert json.loads(Job.open(root).store.read(MEMORY))["bad"] in ([], ["[1]"])


def test_tables_of_polls_that_came_to_nothing_are_removed_and_those_of_the_cursor_stay(tmp_path):
    store = FileStore(tmp_path / "job")
    folder = tmp_path / "cache"
    first = Fingerprints.read(store, "", folder).extended(store, file_rows({f"{n}.jpg": n for n in range(90)}), Notes())
    read = Fingerprints.read(store, first, folder)
    lost = read.extended(store, file_rows({"lost.jpg": 1}), Notes())
    second = read.extended(store, file_rows({"a.jpg": 1, "b.jpg": 2}), Notes())
    running = read.extended(store, file_rows({"new.jpg": 3}), Notes())
    store.write(MEMORY, b"{}")
    for key in (first, lost, second):
        age(store.local_path(key), 60)
    assert len({first, lost, second, running}) == 4
    now = datetime.now(UTC) - timedelta(seconds=30)
    assert remove_superseded(store, second, before=now) == [lost]
    again = Fingerprints.read(store, second, folder)
    assert not again.lacks(hashes_of(["5.jpg", "a.jpg"]), np.array([5, 1], np.uint64)).any()
    assert store.stat(running) and store.stat(MEMORY)
    assert remove_superseded(store, "", before=now) == []
