import gzip
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from components.core.bundle import sha256_of
from components.core.errors import InputError
from components.core.job.job import Job
from components.core.runtimes.onnx import open_onnx
from components.core.wire import Answer, Limits, decode_image, encode_image
from components.deploy.workers import read_reports
from components.serving.active_model import PROVEN_AFTER
from components.serving.cloud_model import LANES
from components.serving.cloud_server import CloudServer
from tests.cloud import ask, options, serving
from tests.edge import deploy, images, status
from tests.models import BUNDLE

PREDICT = "/v1/models/model:predict"
REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def job(tmp_path):
    job = Job.open(str(tmp_path / "job"))
    deploy(job, "v1", tmp_path / "bundles" / "v1")
    return job


@pytest.fixture
def server(job, tmp_path):
    with serving(options(tmp_path)) as server:
        yield server


IMAGE = images(1)[0]
DATA = encode_image(IMAGE, 95)


def held_up(server, seconds):
    """Make the model slow, as a large one is."""
    detector = server.active.coming.detector
    quick = detector.infer

    def slow(canvas):
        time.sleep(seconds)
        return quick(canvas)

    detector.infer = slow


def test_the_boxes_are_those_of_the_model_in_the_edge_s_order_of_classes(server, job, tmp_path):
    code, headers, body = ask(server.port, PREDICT, DATA)
    assert (code, headers["Content-Type"]) == (200, "application/json")
    height, width = IMAGE.shape[:2]
    answer = Answer.decode(json.dumps(body).encode(), width, height)
    assert answer.model == "v1"
    assert answer.digest == sha256_of(tmp_path / "bundles" / "v1" / "model.json")
    (expected,) = open_onnx(tmp_path / "bundles" / "v1", 1).predict([decode_image(DATA, Limits())])
    assert len(expected) > 0
    assert answer.detections(["red", "blue"]).boxes == pytest.approx(expected.boxes, abs=0.01)


def test_a_client_of_sedna_is_answered_in_its_own_form(server):
    data = json.dumps({"data": IMAGE.tolist(), "post_process": None}).encode()
    code, _, body = ask(server.port, "/sedna/predict", data, "application/json")
    assert code == 200
    assert len(body["result"][0]) == 6
    assert body["result"][0][5] in ("red", "blue")


def test_the_json_of_a_client_of_sedna_may_be_compressed(job, tmp_path):
    data = json.dumps({"data": IMAGE.tolist()}).encode()
    with serving(options(tmp_path, max_bytes=len(data) // 4 + 100)) as server:

        def sent(body, encoding="gzip", path="/sedna/predict", kind="application/json"):
            return ask(server.port, path, body, kind, Content_Encoding=encoding)

        plain = ask(server.port, "/sedna/predict", data, "application/json")[2]
        assert sent(gzip.compress(data))[2] == plain
        code, _, body = sent(gzip.compress(data + b" " * 10_000_000))
        assert (code, "the unpacked body exceeds the limit" in body["error"]) == (413, True)
        assert sent(data)[0] == 400
        assert sent(data, "br")[::2] == (415, {"error": "Content-Encoding 'br': send gzip or nothing"})
        assert sent(gzip.compress(DATA), path=PREDICT, kind="image/jpeg")[0] == 415


def test_objects_are_counted_by_class_from_the_first_on(server):
    body = ask(server.port, PREDICT, DATA)[2]["predictions"][0]
    names = [body["classes"][index] for index in body["class_ids"]]
    assert names
    for name in ("red", "blue"):
        assert server.metrics.registry.get_sample_value("cloud_objects_total", {"class": name}) == names.count(name)


def test_the_model_looks_at_a_few_images_at_a_time(job, tmp_path):
    with serving(options(tmp_path)) as server:
        meeting = threading.Barrier(LANES["onnx"])  # which breaks where one of these waits for another to end
        detector = server.active.coming.detector
        quick = detector.infer

        def meet(canvas):
            meeting.wait(20)
            return quick(canvas)

        detector.infer = meet
        with ThreadPoolExecutor(LANES["onnx"]) as clients:
            answers = list(clients.map(lambda _: ask(server.port, PREDICT, DATA), range(LANES["onnx"])))
        assert [code for code, _, _ in answers] == [200] * LANES["onnx"]


def test_health_readiness_and_models(server):
    for path in ("/healthz", "/readyz", "/v2/health/live", "/v2/health/ready", "/v2/models/model/ready"):
        assert ask(server.port, path)[0] == 200
    assert ask(server.port, "/v1/models")[2] == {"models": ["model"]}
    described = ask(server.port, "/v1/models/model")[2]
    assert (described["ready"], described["version"], described["classes"]) == (True, "v1", ["red", "blue"])


@pytest.mark.parametrize(
    ("path", "data", "kind", "code", "message"),
    [
        ("/v1/models/other:predict", DATA, "image/jpeg", 404, "this server has 'model'"),
        ("/nothing", None, "", 404, "Not Found"),
        ("/sedna/predict", None, "", 405, "Method Not Allowed"),
        (PREDICT, b"<html>", "image/jpeg", 400, "not a JPEG or PNG"),
        (PREDICT, DATA[:-200], "image/jpeg", 400, "truncated"),
        (PREDICT, DATA, "video/mp4", 415, "image/jpeg or image/png"),
        (PREDICT, b"{}", "application/json", 415, "image/jpeg or image/png"),
        ("/sedna/predict", b"{}", "application/json", 400, "data"),
        ("/sedna/predict", DATA, "image/jpeg", 415, "application/json"),
    ],
)
def test_a_request_that_cannot_be_answered_is_told_why(server, path, data, kind, code, message):
    found, _, body = ask(server.port, path, data, kind)
    assert found == code
    assert message in body["error"]


def test_too_many_bytes_or_pixels_are_not_read(job, tmp_path):
    with serving(options(tmp_path, max_bytes=2000, max_pixels=96 * 95)) as server:
        code, _, body = ask(server.port, PREDICT, b"x" * 5000)
        assert (code, "5000 bytes, but at most 2000 are allowed" in body["error"]) == (413, True)
        code, _, body = ask(server.port, PREDICT, encode_image(IMAGE, 20))
        assert (code, "96x96 pixels, but at most 9120 are allowed" in body["error"]) == (413, True)


def test_a_body_that_does_not_say_how_long_it_is_is_limited_too(job, tmp_path):
    with (
        serving(options(tmp_path, max_bytes=2000)) as server,
        socket.create_connection(("127.0.0.1", server.port), 20) as connection,
    ):
        connection.sendall(f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\n".encode())
        connection.sendall(b"Transfer-Encoding: chunked\r\n\r\n" + b"800\r\n" + b"x" * 0x800 + b"\r\n")
        assert b"413" in connection.recv(64)


def test_only_those_with_the_token_are_answered(job, tmp_path, monkeypatch):
    monkeypatch.setenv("CLOUD_TOKEN", "let-me-in\n")
    with serving(options(tmp_path, anonymous=False)) as server:
        code, headers, body = ask(server.port, PREDICT, DATA)
        assert (code, headers["WWW-Authenticate"]) == (401, "Bearer")
        assert "Authorization: Bearer" in body["error"]
        assert ask(server.port, PREDICT, DATA, Authorization="Bearer other")[2] == {"error": "the token is wrong"}
        assert ask(server.port, "/sedna/predict", b"{}", Authorization="Basic let-me-in")[0] == 401
        assert ask(server.port, "/v1/models")[0] == 401
        assert ask(server.port, PREDICT, DATA, Authorization="Bearer let-me-in")[0] == 200
        assert "let-me-in" not in str(ask(server.port, "/metrics")[2])


def test_a_server_without_a_token_starts_only_if_told_so(job, tmp_path, monkeypatch):
    monkeypatch.delenv("CLOUD_TOKEN", raising=False)
    with pytest.raises(InputError, match="set CLOUD_TOKEN .*, or give --allow-anonymous"):
        CloudServer(options(tmp_path, anonymous=False))
    monkeypatch.setenv("CLOUD_TOKEN", "x")
    with pytest.raises(InputError, match="use one of the two"):
        CloudServer(options(tmp_path))


def test_a_full_queue_sheds_load_and_says_when_to_come_back(job, tmp_path):
    with serving(options(tmp_path, queue=2)) as server:
        held_up(server, 0.5)
        with ThreadPoolExecutor(6) as clients:
            answers = list(clients.map(lambda _: ask(server.port, PREDICT, DATA), range(6)))
        codes = sorted(code for code, _, _ in answers)
        assert codes == [200, 200, 503, 503, 503, 503]
        assert all(int(headers["Retry-After"]) >= 1 for code, headers, _ in answers if code == 503)
        assert server.metrics.requests(200) == 2
        assert server.metrics.requests(503) == 4
        assert ask(server.port, PREDICT, DATA)[0] == 200


def test_a_request_ends_at_its_deadline_or_at_the_client_s_if_that_is_sooner(job, tmp_path):
    with serving(options(tmp_path, deadline_s=5)) as server:
        held_up(server, 0.6)
        code, _, body = ask(server.port, PREDICT, DATA, X_Timeout_Ms="100")
        assert (code, body["error"]) == (504, "no result within 0.1 s")
        assert ask(server.port, PREDICT, DATA, X_Timeout_Ms="soon")[0] == 400
        assert ask(server.port, PREDICT, DATA, X_Timeout_Ms="99999")[0] == 200


def test_health_is_answered_while_the_model_works(job, tmp_path):
    with serving(options(tmp_path)) as server:
        held_up(server, 1.5)
        with ThreadPoolExecutor(1) as client:
            asked = client.submit(ask, server.port, PREDICT, DATA)
            time.sleep(0.3)
            assert ask(server.port, "/healthz")[0] == 200
            assert not asked.done()
            assert asked.result()[0] == 200


def test_a_client_that_goes_away_leaves_its_place_to_others(job, tmp_path):
    with serving(options(tmp_path, queue=1, deadline_s=1)) as server:
        with socket.create_connection(("127.0.0.1", server.port), 20) as connection:
            connection.sendall(f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\n".encode())
            connection.sendall(b"Content-Length: 1000\r\n\r\nhalf")
            while not server.model.under_way:
                time.sleep(0.01)
            assert ask(server.port, PREDICT, DATA)[0] == 503
        while server.model.under_way:
            time.sleep(0.01)
        assert ask(server.port, PREDICT, DATA)[0] == 200


def test_it_follows_the_job_and_says_so(job, tmp_path):
    with serving(options(tmp_path)) as server:
        assert ask(server.port, PREDICT, DATA)[2]["predictions"][0]["model"] == "v1"
        deploy(job, "v2", tmp_path / "bundles" / "v2")
        end = time.monotonic() + 60
        while ask(server.port, PREDICT, DATA)[2]["predictions"][0]["model"] != "v2":
            assert time.monotonic() < end
            time.sleep(0.1)
        while (said := status(job, "cloud-1")) is None or said.version != "v2":
            assert time.monotonic() < end
            time.sleep(0.1)
        assert said.state == "loaded"
        assert set(read_reports(job)) == {"cloud-1"}
        assert 'cloud_model_info{digest="' in ask(server.port, "/metrics")[2]
    assert not read_reports(job), "a pod that has ended is no worker that others wait for"


def test_without_a_model_it_lives_but_is_not_ready(tmp_path):
    Job.open(str(tmp_path / "job"))
    with serving(options(tmp_path), ready=False) as server:
        assert ask(server.port, "/readyz")[0] == 503
        code, headers, body = ask(server.port, PREDICT, DATA)
        assert (code, headers["Retry-After"], body) == (503, "5", {"error": "no model is loaded yet"})


def test_a_server_that_is_moved_to_another_job_begins_without_the_model_of_the_one_before(job, tmp_path):
    with serving(options(tmp_path)) as server:
        for _ in range(PROVEN_AFTER):
            assert ask(server.port, PREDICT, DATA)[0] == 200
    other = Job.open(str(tmp_path / "forklifts"))
    with serving(options(tmp_path, job_root=str(tmp_path / "forklifts")), ready=False) as moved:
        assert ask(moved.port, "/readyz")[0] == 503
        deploy(other, "w1", tmp_path / "bundles" / "w1", bundle=replace(BUNDLE, classes=("forklift", "pallet")))
        end = time.monotonic() + 60
        while ask(moved.port, "/readyz")[0] != 200:
            assert time.monotonic() < end
            time.sleep(0.1)
        assert ask(moved.port, PREDICT, DATA)[2]["predictions"][0]["model"] == "w1"


def test_an_image_that_the_model_fails_at_costs_one_answer(server):
    detector = server.active.coming.detector
    works = detector.infer

    def fails(canvas):
        raise RuntimeError("out of luck")

    detector.infer = fails
    code, _, body = ask(server.port, PREDICT, DATA)
    assert (code, "RuntimeError: out of luck" in body["error"]) == (500, True)
    detector.infer = works
    assert ask(server.port, PREDICT, DATA)[0] == 200


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"tls_cert": Path("cert.pem")}, "--tls-cert and --tls-key"),
        ({"tls_client_ca": Path("ca.pem")}, "--tls-client-ca needs"),
        ({"tls_cert": Path("cert.pem"), "tls_key": Path("key.pem")}, "cert.pem: no such file"),
        ({"host": "203.0.113.1"}, "cannot be used"),
        ({"runtime": "abacus"}, "unknown runtime 'abacus'"),
    ],
)
def test_an_option_that_cannot_be_is_told_at_the_start(job, tmp_path, wrong, message):
    with pytest.raises(InputError, match=message):
        CloudServer(options(tmp_path, **wrong))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_the_program_answers_what_is_under_way_before_it_ends(job, tmp_path, number):
    environment = os.environ | {"CLOUD_JOB_ROOT": str(tmp_path / "job"), "CLOUD_PORT": "0", "CLOUD_THREADS": "1"}
    command = [sys.executable, "-m", "components.serving.cloud_server", "--allow-anonymous"]
    command += ["--folder", str(tmp_path / "cloud"), "--poll", "0.1"]
    with subprocess.Popen(command, cwd=REPOSITORY, env=environment, stderr=subprocess.PIPE, text=True) as program:
        try:
            port = next(int(line.split()[-1]) for line in program.stderr if "listening on port" in line)
            threading.Thread(target=program.stderr.read, daemon=True).start()
            end = time.monotonic() + 60
            while ask(port, "/readyz")[0] != 200:
                assert time.monotonic() < end
                time.sleep(0.05)
            large = encode_image(np.tile(IMAGE, (20, 20, 1)), 95)
            with ThreadPoolExecutor(1) as client:
                asked = client.submit(ask, port, PREDICT, large)
                time.sleep(0.02)
                program.send_signal(number)
                assert asked.result()[0] == 200
            assert program.wait(30) == 0
        finally:
            program.kill()


def test_a_bundle_is_needed_and_not_another_port(job, tmp_path):
    with serving(options(tmp_path)) as server, pytest.raises(InputError, match="cannot be used"):
        CloudServer(options(tmp_path, port=server.port))
