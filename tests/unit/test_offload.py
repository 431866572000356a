import json
import re
import threading
from collections import Counter
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from components.core.detections import Detections
from components.core.errors import InputError
from components.core.job.hard_examples import read_sidecars
from components.core.job.job import Job
from components.core.miners.base import make_miner
from components.core.wire import Answer, encode_image, image_size
from components.serving.active_model import ActiveModel, LoadedModel
from components.serving.cloud_client import CircuitBreaker, CloudClient, CloudError
from components.serving.loop import EdgeLoop
from components.serving.metrics import Metrics
from components.serving.model_cache import CachedModel
from components.serving.offload import JointInference, Mode, OffloadRules
from components.serving.parcel import Send
from components.serving.sources.base import Shot
from components.serving.worker import Cloud, Worker
from tests import cloud
from tests.cloud import FakeClock, fake_cloud
from tests.edge import deploy, folder_of_images, options
from tests.images import jpeg
from tests.models import BUNDLE

CLASSES = ("red", "blue")
HARD = make_miner("CloudOnly", {})
EASY = make_miner("EdgeOnly", {})
IMAGE = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
EDGE = Detections.of([[1, 1, 11, 11], [60, 40, 70, 50]], [0, 1], [0.9, 0.4])
ITM, MTI = Mode.INFERENCE_THEN_MINING, Mode.MINING_THEN_INFERENCE


@pytest.fixture
def fake():
    with fake_cloud() as fake:
        yield fake


def joint(url, miner=HARD, *, clock=None, timeout_s=2.0, **rules):
    """Joint inference and its counts."""
    counts = Counter()
    clock = clock or FakeClock()

    def count(name, amount):
        counts[name] += amount

    client = CloudClient(url, "let-me-in", timeout_s, clock=clock)
    made = JointInference(miner, client, OffloadRules(**rules), count=count, timed=nullcontext, clock=clock)
    return made, counts


def look(made, edge=EDGE, image=IMAGE, original=None):
    return made.infer(image, "0" * 64, CLASSES, lambda: edge, original)


def adds_up(counts):
    assert counts["joint_frames"] == counts["joint_easy"] + counts["joint_hard"]
    assert counts["joint_hard"] == counts["joint_sent"] + counts["joint_kept"]
    assert counts["joint_sent"] == counts["joint_answered"] + counts["joint_failed"]
    reasons = ("joint_unchanged", "joint_over_budget", "joint_circuit_open")
    assert counts["joint_kept"] == sum(counts[name] for name in reasons)
    return {name.removeprefix("joint_"): amount for name, amount in counts.items() if amount}


# Both modes


@pytest.mark.parametrize("mode", Mode)
def test_a_hard_frame_is_answered_by_the_cloud_in_the_edge_s_class_numbers(fake, mode):
    made, counts = joint(fake.url, mode=mode)
    is_hard, final, edge, cloud_found = look(made)
    assert is_hard is True
    assert final is cloud_found
    assert (edge is None) == (mode is MTI)
    assert cloud_found.boxes.tolist() == [[2, 2, 8, 8]]
    assert cloud_found.classes.tolist() == [1]  # the cloud's model has its classes in another order
    assert fake.headers[0]["Authorization"] == "Bearer let-me-in"
    assert adds_up(counts) == {"frames": 1, "hard": 1, "sent": 1, "answered": 1, "bytes_sent": len(fake.sent[0])}


@pytest.mark.parametrize("mode", Mode)
def test_an_easy_frame_stays_here(fake, mode):
    made, counts = joint(fake.url, EASY, mode=mode)
    assert tuple(look(made)) == (False, EDGE, EDGE, None)
    assert fake.sent == []
    assert adds_up(counts) == {"frames": 1, "easy": 1}


def test_the_names_of_the_modes_are_sedna_s():
    assert [str(mode) for mode in Mode] == ["inference-then-mining", "mining-then-inference"]


def test_the_edge_s_model_is_not_asked_where_the_cloud_answers_first(fake):
    made, _ = joint(fake.url, mode=MTI)

    def edge():
        pytest.fail("it was asked")

    assert len(made.infer(IMAGE, "", CLASSES, edge).final) == 1


# A cloud that fails


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ({"body": b"<html>please log in</html>"}, "a web page, such as a login page"),
        ({"status": 302, "extra": {"Location": "http://127.0.0.1:1/login"}}, "the address of the cloud server itself"),
        ({"status": 401}, "set EDGE_CLOUD_TOKEN"),
        ({"status": 413, "body": b'{"error": "too large"}'}, "HTTP 413 .*too large"),
        ({"status": 500}, "HTTP 500"),
        ({"status": 503, "extra": {"Retry-After": "7"}}, "HTTP 503"),
        ({"body": b"x" * 2_000_000}, "more than"),
        ({"pause": 1.0}, r"no answer within 0\.3 s"),
    ],
)
def test_where_the_cloud_gives_nothing_the_edge_s_result_counts(fake, caplog, mode, told, reason):
    vars(fake).update(told)
    made, counts = joint(fake.url, mode=mode, timeout_s=0.3)
    assert tuple(look(made)) == (True, EDGE, EDGE, None)
    assert adds_up(counts) == {"frames": 1, "hard": 1, "sent": 1, "failed": 1, "bytes_sent": len(fake.sent[0])}
    assert re.search(reason, caplog.text)
    assert "let-me-in" not in caplog.text


def test_an_answer_of_other_classes_is_not_used(fake, caplog):
    made, counts = joint(fake.url)
    result = made.infer(IMAGE, "", ("red", "green"), lambda: EDGE)
    assert tuple(result) == (True, EDGE, EDGE, None)
    assert adds_up(counts)["failed"] == 1
    assert "deploy two models with the same classes" in caplog.text


def test_a_model_that_fails_here_counts_as_no_frame(fake):
    for mode in Mode:
        made, counts = joint(fake.url, EASY, mode=mode)
        assert look(made, edge=None) is None
        assert counts["joint_frames"] == (1 if mode is MTI else 0)


def test_a_dead_cloud_costs_three_tries_and_then_one_now_and_then(fake):
    clock = FakeClock()
    made, counts = joint("http://127.0.0.1:1", clock=clock)
    for _ in range(10):
        assert tuple(look(made)) == (True, EDGE, EDGE, None)
    assert adds_up(counts)["failed"] == 3
    assert counts["joint_circuit_open"] == 7
    clock.now += 3
    look(made)
    assert counts["joint_failed"] == 4
    look(made)
    assert counts["joint_failed"] == 4
    adds_up(counts)


def test_the_circuit_closes_with_the_first_answer():
    clock = FakeClock()
    circuit = CircuitBreaker(clock)
    for _ in range(2):
        circuit.failed()
        assert circuit.allows
    circuit.failed()
    assert not circuit.allows
    clock.now += 2.1
    assert circuit.allows
    circuit.succeeded()
    circuit.failed()
    assert circuit.allows


def test_a_busy_server_is_left_alone_for_as_long_as_it_asks(fake):
    clock = FakeClock()
    made, counts = joint(fake.url, clock=clock)
    fake.status, fake.extra = 503, {"Retry-After": "7"}
    look(made)
    clock.now += 6.9
    look(made)
    assert (counts["joint_sent"], counts["joint_circuit_open"]) == (1, 1)
    clock.now += 0.2
    fake.status = 200
    look(made)
    assert counts["joint_answered"] == 1
    adds_up(counts)


def test_a_server_cannot_ask_to_be_left_alone_for_ever():
    clock = FakeClock()
    circuit = CircuitBreaker(clock)
    circuit.failed(1e9)
    clock.now += 61
    assert circuit.allows


@pytest.mark.parametrize("url", ["cloud:8080", "ftp://cloud", "http://", "http://user:secret@cloud", "http://c/?x=1"])
def test_an_address_that_cannot_be_is_told_without_its_secrets(url):
    with pytest.raises(InputError, match="http://HOST:PORT") as told:
        CloudClient(url, "", 1.0)
    assert "secret" not in str(told.value)


def test_an_address_is_given_without_the_path_of_the_prediction():
    with pytest.raises(InputError, match="give it without /v1/models/"):
        CloudClient("http://cloud/edge/v1/models/model:predict", "", 1.0)


@pytest.mark.parametrize(("token", "said"), [("", "a token is required"), ("wrong", "the token was rejected")])
def test_a_missing_token_is_told_from_a_wrong_one(fake, token, said):
    fake.status = 401
    with pytest.raises(CloudError, match=f"HTTP 401, {said}: set EDGE_CLOUD_TOKEN"):
        CloudClient(fake.url, token, 1.0).ask(jpeg(IMAGE), "image/jpeg", 80, 60, CLASSES)


def test_the_client_says_what_is_wrong_itself(fake):
    fake.status = 404
    with pytest.raises(CloudError, match="HTTP 404"):
        CloudClient(fake.url, "", 1.0).ask(jpeg(IMAGE), "image/jpeg", 80, 60, CLASSES)


# What is sent


def test_a_file_s_own_bytes_are_sent_as_they_are(fake):
    made, _ = joint(fake.url)
    original = jpeg(IMAGE)
    look(made, original=original)
    look(made, original=cv2.imencode(".webp", IMAGE)[1].tobytes())
    assert fake.sent[0] == original
    assert image_size(fake.sent[1]) == (80, 60)  # as JPEG, since the wire has no other kinds


def test_a_resized_frame_comes_back_in_pixels_of_the_whole(fake):
    made, _ = joint(fake.url, send=Send.RESIZED, max_side=40)
    _, final, _, _ = look(made)
    assert image_size(fake.sent[0]) == (40, 30)
    assert final.boxes.tolist() == [[4, 4, 16, 16]]


def test_a_crop_is_made_around_uncertain_boxes_and_the_rest_stays(fake):
    made, _ = joint(fake.url, send=Send.CROP)
    result = look(made)
    around = np.ascontiguousarray(IMAGE[35:55, 55:75])  # the box of score 0.4 and half its size on each side
    assert fake.sent[0] == encode_image(around, 90)
    assert result.cloud.boxes.tolist() == [[57, 37, 63, 43]]
    assert sorted(result.final.boxes.tolist()) == [[1, 1, 11, 11], [57, 37, 63, 43]]
    assert result.final.scores.tolist() == pytest.approx([0.9, 0.8])


@pytest.mark.parametrize("edge", [Detections.none(), Detections.of([[0, 0, 79, 59]], [0], [0.3])])
def test_without_an_uncertain_region_the_whole_frame_is_sent(fake, edge):
    made, _ = joint(fake.url, send=Send.CROP)
    assert len(look(made, edge).final) == 1
    assert image_size(fake.sent[0]) == (80, 60)


def test_a_crop_needs_boxes():
    with pytest.raises(InputError, match="send full or resized frames"):
        OffloadRules(mode=MTI, send=Send.CROP)


def test_the_budget_of_bytes_holds_over_time(fake):
    clock = FakeClock()
    made, counts = joint(fake.url, clock=clock, max_bytes_per_s=500)
    for _ in range(600):
        look(made)
        clock.now += 1
    size = len(fake.sent[0])
    assert size > 500
    assert 500 * 550 < counts["joint_bytes_sent"] < 500 * 610 + size
    assert counts["joint_over_budget"] > 0
    adds_up(counts)


def test_a_frame_like_the_one_sent_last_is_not_sent_again(fake):
    made, counts = joint(fake.url, unchanged_bits=4)
    moved = IMAGE[::-1].copy()
    noisy = np.clip(IMAGE.astype(int) + 1, 0, 255).astype(np.uint8)
    for image in (IMAGE, noisy, moved, moved, IMAGE):
        look(made, image=image)
    assert (counts["joint_sent"], counts["joint_unchanged"]) == (3, 2)
    adds_up(counts)


def test_a_frame_that_the_cloud_did_not_answer_is_sent_again(fake):
    made, counts = joint(fake.url, unchanged_bits=4)
    fake.status = 500
    look(made)
    fake.status = 200
    look(made)
    assert (counts["joint_failed"], counts["joint_answered"]) == (1, 1)


# The release's thresholds


def test_a_release_brings_its_miner_along(fake, caplog):
    caplog.set_level("INFO")
    made, counts = joint(fake.url, EASY)
    made.route({"miner": "IBT", "parameters": {"threshold_img": 0.5, "threshold_box": 0.5}})
    assert "IBT (threshold_img=0.5, threshold_box=0.5) chooses what is sent to the cloud, not EdgeOnly" in caplog.text
    assert look(made).is_hard
    made.route({"miner": "nobody"})
    assert "continuing with miner IBT" in caplog.text
    assert look(made).is_hard
    assert counts["joint_answered"] == 2


# In the worker


@pytest.fixture
def job(tmp_path):
    job = Job.open(str(tmp_path / "job"))
    deploy(job, "v1", tmp_path / "bundles" / "v1")
    return job


def test_an_edge_worker_and_a_cloud_server_work_together(job, tmp_path):
    with cloud.serving(cloud.options(tmp_path)) as server:
        chosen = options(
            tmp_path, folder_of_images(tmp_path / "images", 6), cloud=Cloud(f"http://127.0.0.1:{server.port}"),
            sinks=(f"sedna:{tmp_path / 'out'}",),
        )  # fmt: skip
        worker = Worker(chosen)
        assert worker.run(threading.Event())
    metrics = worker.metrics
    assert metrics.value("frames") == metrics.value("joint_frames") == metrics.value("hard") == 6
    assert metrics.value("joint_answered") == 6
    assert server.metrics.requests(200) == 6
    assert {sidecar.model for sidecar in read_sidecars(job.store)} == {"v1"}
    for name in ("all_examples", "hard_example_edge", "hard_example_cloud"):
        folder = tmp_path / "out" / f"{name}_inference_output"
        assert len(list(folder.glob("*.jpeg"))) == 6
        (lines,) = folder.glob("*.jsonl")
        assert [json.loads(line)["frame"] for line in lines.read_text().splitlines()] == list(range(6))


def test_the_cloud_s_answer_is_kept_as_what_to_correct(job, tmp_path, fake):
    worker = Worker(options(tmp_path, folder_of_images(tmp_path / "images", 2), cloud=Cloud(fake.url)))
    assert worker.run(threading.Event())
    for sidecar in read_sidecars(job.store):
        assert (sidecar.model, sidecar.boxes, sidecar.classes) == ("big-1", ((2, 2, 8, 8),), ("red", "blue"))
        assert sidecar.class_ids == (1,)
    objects = {name: worker.metrics.registry.get_sample_value("edge_objects_total", {"class": name})
               for name in ("red", "blue")}  # fmt: skip
    assert objects == {"red": 0, "blue": 2}, "of the results that count, which are the cloud's"


def test_only_what_the_two_models_see_differently_is_kept_if_asked(job, tmp_path, fake):
    with cloud.serving(cloud.options(tmp_path)) as server:
        same = Cloud(f"http://127.0.0.1:{server.port}", timeout_s=20)
        folder = folder_of_images(tmp_path / "images", 3)
        for number, (asked, kept) in enumerate([(same, 0), (Cloud(fake.url, timeout_s=20), 3)]):
            chosen = options(tmp_path, folder, cloud=asked, keep_miner="disagreement", folder=tmp_path / str(number))
            worker = Worker(chosen)
            assert worker.run(threading.Event())
            assert worker.metrics.value("joint_answered") == 3
            assert worker.metrics.value("kept") == kept
    assert {sidecar.miner for sidecar in read_sidecars(job.store)} == {"disagreement"}


def test_a_worker_whose_cloud_is_gone_loses_no_frame(job, tmp_path, caplog):
    chosen = options(tmp_path, folder_of_images(tmp_path / "images", 8), cloud=Cloud("http://127.0.0.1:1"))
    worker = Worker(chosen)
    assert worker.run(threading.Event())
    value = worker.metrics.value
    assert value("frames") == value("joint_frames") == value("uploaded") == 8
    assert value("joint_failed") + value("joint_circuit_open") == 8
    assert caplog.text.count("Connection refused; using the edge's result") == 1
    assert {sidecar.model for sidecar in read_sidecars(job.store)} == {"v1"}


def test_where_the_model_before_has_to_answer_its_result_counts_in_its_own_classes(fake):
    grown = replace(BUNDLE, classes=("red", "blue", "green"))
    found = Detections.of([[2, 2, 8, 8]], [2], [0.8])
    fake.body = Answer.of(found, IMAGE, "big-1", "0" * 64, grown.classes).encode()
    slot = ActiveModel()
    for bundle, answer in ((BUNDLE, lambda *_, **__: [EDGE]), (grown, None)):  # the new one cannot be run
        slot.offer(LoadedModel(SimpleNamespace(bundle=bundle, predict=answer), CachedModel("v", Path(), "")))
        slot.next()
    loop = EdgeLoop(slot, Metrics(), joint=joint(fake.url)[0])
    (seen,) = loop._infer([Shot(IMAGE, 0, "0")])
    loop._count_objects(seen)
    assert (seen.model.detector.bundle, seen.final) == (BUNDLE, EDGE)


def test_a_second_start_overwrites_no_output(job, tmp_path):
    folder = folder_of_images(tmp_path / "images", 2)
    for start in range(2):
        chosen = options(tmp_path, folder, sinks=(f"sedna-lines:{tmp_path / 'out'}",), folder=tmp_path / str(start))
        assert Worker(chosen).run(threading.Event())
    written = list((tmp_path / "out" / "all_examples_inference_output").iterdir())
    assert len(written) == 2
    assert all(path.suffix == ".jsonl" for path in written)
    assert not list((tmp_path / "out" / "hard_example_cloud_inference_output").iterdir())


def test_boxes_that_do_not_count_make_a_frame_hard_and_are_not_shown(job, tmp_path, fake):
    folder = tmp_path / "images"
    folder.mkdir()
    for number, red in enumerate((255, 115, 0)):  # found with a score above 0.5, with 0.4, and with none
        image = np.zeros((64, 96, 3), np.uint8)
        image[:8, :8, 0] = red
        (folder / f"{number}.png").write_bytes(cv2.imencode(".png", image[:, :, ::-1])[1].tobytes())
    rule = {"miner": "missed", "miner_parameters": {"shown": 0.5, "threshold_missed": 0.3}}
    lines = tmp_path / "lines.jsonl"
    fake.status = 503
    worker = Worker(options(tmp_path, folder, **rule, cloud=Cloud(fake.url), sinks=(f"jsonl:{lines}",)))
    assert worker.run(threading.Event())
    written = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [line["is_hard"] for line in written] == [False, True, False]
    assert [[round(box["score"], 1) for box in line["detections"]] for line in written] == [[1.0], [], []]
    assert worker.metrics.value("joint_sent") == 1
    alone = Worker(options(tmp_path, folder, **rule, folder=tmp_path / "alone"))  # as the miner of hard examples
    assert alone.run(threading.Event())
    assert (alone.metrics.value("hard"), alone.metrics.value("easy")) == (1, 2)
