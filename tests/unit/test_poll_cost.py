"""What a poll of an idle feed costs: a pod of the small image, and few requests to the store."""

import shutil

import numpy as np
import pytest

from components.core.cache import cache_folder
from components.core.job.job import Job
from components.core.job.registry import FOLDER
from components.deploy.canary import CanaryPlan
from components.deploy.candidate import Candidate
from components.deploy.deploy import deploy
from components.deploy.pointer import is_current, publish_pointer
from components.ingest.feed import take_new
from tests.images import jpeg
from tests.models import colour_model, write_bundle
from tests.odd_s3 import odd_s3
from tests.small_image import packages, run_step

FEED, JOB = "s3://bucket/feed", "s3://bucket/job"
DATA = {"classes": "0:helmet", "data_format": "yolo"}
IMAGES = 12


def image(seed):
    return jpeg(np.random.default_rng(seed).integers(0, 255, (64, 96, 3), dtype=np.uint8))


@pytest.fixture
def store(monkeypatch, tmp_path):
    """A server with a feed of images and labels, and the environment that leads to it, as the secret has it."""
    with odd_s3() as server:
        for name, value in {
            "AWS_ENDPOINT_URL": server.address, "AWS_ACCESS_KEY_ID": "AKIATESTTESTTESTTEST",
            "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1", "NO_PROXY": "127.0.0.1",
            "EDGE_CACHE_DIR": str(tmp_path / "cache"),
        }.items():  # fmt: skip
            monkeypatch.setenv(name, value)
        for number in range(IMAGES):
            server.objects[f"feed/images/{number:04}.jpg"] = image(number)
            server.objects[f"feed/labels/{number:04}.txt"] = b"0 0.5 0.5 0.2 0.2\n"
        yield server


def commit(tmp_path):
    """A first round of all that is in the feed, with its champion."""
    arrivals = take_new(FEED, JOB, **DATA)
    samples = tmp_path / "samples.parquet"
    arrivals.manifest.write(str(samples))
    write_bundle(tmp_path / "bundle", colour_model())
    deploy(
        JOB, Candidate.of_one(tmp_path / "bundle"), samples, outcome="promoted", why="test", round_number=1,
        run_id="run", cursor=arrivals.cursor, champion=None, rollout_timeout=0, rollout_fraction=0.9,
        canary=CanaryPlan(0, 0, 0),
    )  # fmt: skip


def test_an_idle_poll_is_one_small_pod_with_few_requests(store, tmp_path):
    commit(tmp_path)
    links = packages(tmp_path / "packages")
    assert not list(links.glob("*torch*")) and (links / "polars").exists()
    given = {"feed_url": FEED, "job_root": JOB, "settings": {"data": DATA}}
    for number in (1, 2):
        store.requests.clear()
        said = run_step("trigger", tmp_path / f"poll{number}", links, given)
        assert said.output == "WAIT"
        assert "trigger | wait: num_of_samples >= 50: have 0" in said.log
    assert sum(method == "GET" for method, _ in store.requests) == len(store.requests) <= 10
    keys = [key for _, key in store.requests]
    assert keys.count("job/state.json") == keys.count("job/champion.json") == keys.count("job/feed/memory.json") == 1
    assert not any(key.startswith(("job/bundles", "job/manifests")) for key in keys)
    store.objects["feed/images/9999.jpg"] = image(99)
    said = run_step("trigger", tmp_path / "poll3", links, given)
    assert "1 found, 1 images" in said.log


def test_the_class_names_of_the_job_are_known_to_a_poll_that_reads_no_manifest(store, tmp_path):
    commit(tmp_path)
    for _ in range(2):
        store.requests.clear()
        assert take_new(FEED, JOB, **DATA).manifest.classes == ("helmet",)
        shutil.rmtree(cache_folder(JOB))  # the next pod has a cache of its own
    assert not any(key.startswith("job/manifests") for _, key in store.requests)


def test_pointers_that_say_what_the_state_says_are_looked_at_by_one_request(store, tmp_path):
    commit(tmp_path)
    job = Job.open(JOB)
    state, _ = job.read()
    store.requests.clear()
    assert is_current(job, state)
    assert store.requests == [("GET", "job/champion.json")]
    newer = job.commit(state.pointing_at(state.champion, "again"), job.read()[1])
    assert not is_current(job, newer), "a run that was killed after its commit"
    publish_pointer(job, newer)
    assert is_current(job, newer)
    for damaged in (b"{}", b"\xff"):
        store.objects["job/champion.json"] = damaged
        assert not is_current(job, newer)
    del store.objects["job/champion.json"]
    assert not is_current(job, newer)


def test_the_pointer_of_sedna_is_written_before_our_own(store, tmp_path):
    commit(tmp_path)
    job = Job.open(JOB)
    state, etag = job.read()
    newer = job.commit(state.pointing_at(state.champion, "again"), etag)
    store.requests.clear()
    publish_pointer(job, newer)
    written = [key for method, key in store.requests if method == "PUT"]
    assert written == ["job/model_config.json", "job/champion.json"]
    assert any(key.startswith(FOLDER) for key in (key.removeprefix("job/") for _, key in store.requests))
