"""Hard frames that got no answer are sent again when the cloud is back."""

import json
import threading
import time
from collections import Counter
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest

from components.core.detections import Detections
from components.core.job.job import Job
from components.core.miners.base import make_miner
from components.serving.cloud_client import LONGEST_PAUSE_SECONDS, CloudClient
from components.serving.mining import Inference
from components.serving.offload import JointInference, OffloadRules
from components.serving.parcel import Send
from components.serving.resubmission import Resubmission
from components.serving.sources.base import Shot
from components.serving.worker import Cloud, Worker
from tests.cloud import FakeClock, fake_cloud
from tests.edge import deploy, folder_of_images, options

CLASSES = ("red", "blue")
MODEL = SimpleNamespace(detector=SimpleNamespace(bundle=SimpleNamespace(classes=CLASSES)))
EDGE = Detections.of([[1, 1, 11, 11]], [0], [0.9])
IMAGES = np.random.default_rng(0).integers(0, 255, (9, 60, 80, 3), dtype=np.uint8)


class Site:
    """The edge's side, step by step: a frame is looked at, and another one may be sent again."""

    def __init__(self, url, clock, *, resubmit_bytes=1 << 20, **rules):
        self.counts, self.answered = Counter(), []
        client_rules = OffloadRules(resubmit_bytes=resubmit_bytes, **rules)
        self.joint = JointInference(
            make_miner("CloudOnly", {}), CloudClient(url, "", 2.0, clock=clock), client_rules,
            count=self.count, timed=nullcontext, clock=clock,
        )  # fmt: skip
        self.again = Resubmission(self.joint, resubmit_bytes, self.answered.append, self.count)

    def count(self, name, amount=1):
        self.counts[name] += amount

    def look(self, number):
        result = self.joint.infer(IMAGES[number], f"{number:064}", CLASSES, lambda: EDGE)
        self.again.put(Inference(Shot(IMAGES[number], number, str(number)), MODEL, EDGE, result))
        return result

    def send_again(self):
        """What the thread does until there is nothing to do."""
        stop = SimpleNamespace(wait=lambda pause: pause > 0)
        self.again.run(stop)

    def adds_up(self):
        count = self.counts
        assert count["joint_hard"] == count["joint_sent"] + count["joint_kept"]
        assert count["joint_sent"] == count["joint_answered"] + count["joint_failed"]
        assert count["joint_waited"] == count["joint_late_answered"] + count["joint_late_dropped"] + len(self.again)


@pytest.fixture
def fake():
    with fake_cloud() as fake:
        yield fake


@pytest.fixture
def job(tmp_path):
    job = Job.open(str(tmp_path / "job"))
    deploy(job, "v1", tmp_path / "bundles" / "v1")
    return job


@pytest.fixture
def clock():
    return FakeClock()


def test_frames_of_an_outage_are_answered_when_the_cloud_is_back(fake, clock):
    site = Site(fake.url, clock)
    fake.status = 503
    results = [site.look(number) for number in range(6)]
    assert all(tuple(result) == (True, EDGE, EDGE, None) for result in results)
    assert (site.counts["joint_failed"], site.counts["joint_circuit_open"], len(site.again)) == (3, 3, 6)
    site.send_again()
    assert site.answered == []
    fake.status, clock.now = 200, clock.now + LONGEST_PAUSE_SECONDS
    site.send_again()
    assert [seen.shot.number for seen in site.answered] == list(range(6))
    for seen in site.answered:
        assert seen.joint.late and seen.joint.edge is EDGE
        assert seen.joint.final.boxes.tolist() == seen.joint.cloud.boxes.tolist() == [[2, 2, 8, 8]]
        assert seen.shot.image.shape == (60, 80, 3)
        assert seen.version == "big-1"
    assert site.counts["joint_late_answered"] == 6
    site.adds_up()


@pytest.mark.parametrize("send", list(Send))
def test_a_late_answer_has_the_image_that_was_sent(fake, clock, send):
    flat = np.full((60, 80, 3), (200, 40, 120), np.uint8)
    site = Site(fake.url, clock, send=send, max_side=40)
    fake.status = 503
    unsure = Detections.of([[20, 20, 40, 40]], [0], [0.3])
    result = site.joint.infer(flat, "0" * 64, CLASSES, lambda: unsure)
    site.again.put(Inference(Shot(flat, 0, "0"), MODEL, unsure, result))
    fake.status, clock.now = 200, clock.now + LONGEST_PAUSE_SECONDS
    site.send_again()
    (seen,) = site.answered
    expected = np.zeros_like(flat) if send is Send.CROP else flat
    if send is Send.CROP:
        expected[10:50, 10:50] = flat[10:50, 10:50]  # the box and half its side around it
    assert np.abs(seen.shot.image.astype(int) - expected).max() < 8


def test_no_live_frame_waits_to_see_whether_the_cloud_is_back(fake, clock):
    site = Site(fake.url, clock)
    fake.status = 503
    for number in range(3):
        site.look(number)
    clock.now += LONGEST_PAUSE_SECONDS
    asked = len(fake.sent)
    site.look(3)
    assert len(fake.sent) == asked
    assert site.counts["joint_circuit_open"] == 1
    fake.status = 200
    site.send_again()
    assert site.look(4).cloud is not None
    site.adds_up()


def test_an_image_that_the_server_refuses_is_not_sent_again(fake, clock):
    site = Site(fake.url, clock)
    fake.status = 400
    site.look(0)
    assert len(site.again) == 0
    fake.status = 503
    site.look(1)
    fake.status, clock.now = 413, clock.now + LONGEST_PAUSE_SECONDS
    site.send_again()
    assert len(site.again) == 0
    assert site.counts["joint_late_dropped"] == 1
    site.adds_up()


def test_the_oldest_frames_make_room_for_newer_ones(fake, clock):
    site = Site(fake.url, clock, resubmit_bytes=1)
    fake.status = 503
    for number in range(4):
        site.look(number)
    assert (len(site.again), site.counts["joint_late_dropped"]) == (1, 3)
    fake.status, clock.now = 200, clock.now + LONGEST_PAUSE_SECONDS
    site.send_again()
    assert [seen.shot.number for seen in site.answered] == [3]
    site.adds_up()


def test_live_frames_have_the_bandwidth_first(fake, clock):
    site = Site(fake.url, clock, max_bytes_per_s=1000.0)  # a frame has more than that
    for number in range(9):
        site.look(number)
    assert site.counts["joint_over_budget"] == len(site.again) > 0
    site.send_again()
    assert site.answered == []
    sent = site.counts["joint_bytes_sent"]
    while len(site.again):
        clock.now += 1
        site.send_again()
    assert site.counts["joint_bytes_sent"] - 10_000 <= 1000 * (clock.now - clock.start)
    assert site.counts["joint_bytes_sent"] > sent
    site.adds_up()


def test_without_it_nothing_waits(fake, clock):
    site = Site(fake.url, clock, resubmit_bytes=0)
    fake.status = 503
    assert site.look(0).unsent is None
    assert len(site.again) == 0


def test_a_worker_appends_late_answers_by_the_number_of_their_frame(job, tmp_path, fake):
    fake.status = 503
    lines = tmp_path / "lines.jsonl"
    chosen = options(
        tmp_path, folder_of_images(tmp_path / "images", 5), sinks=(f"jsonl:{lines}", f"sedna:{tmp_path / 'out'}"),
        cloud=Cloud(fake.url, rules=OffloadRules(resubmit_bytes=1 << 20)),
    )  # fmt: skip
    worker = Worker(chosen)
    thread = threading.Thread(target=worker.run, args=(threading.Event(),), daemon=True)
    thread.start()
    end = time.monotonic() + 30
    while worker.metrics.value("joint_waited") < 5 and time.monotonic() < end:
        time.sleep(0.02)
    fake.status = 200
    thread.join(60)
    assert not thread.is_alive()
    written = [json.loads(line) for line in lines.read_text().splitlines()]
    first, late = written[:5], written[5:]
    assert [line["frame"] for line in first] == list(range(5))
    assert not any("late" in line for line in first)
    assert sorted(line["frame"] for line in late) == list(range(5))
    assert all(line["late"] and line["model"] == "big-1" for line in late)
    assert worker.metrics.value("uploaded") == 5
    for name in ("all_examples", "hard_example_edge", "hard_example_cloud"):
        assert len(list((tmp_path / "out" / f"{name}_inference_output").glob("*.jpeg"))) == 5
