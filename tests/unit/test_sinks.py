import json
import shutil
import threading
import time
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cv2
import numpy as np
import pytest

from components.core.detections import Detections
from components.core.errors import InputError
from components.core.job.job import Job
from components.serving.sinks import mqtt, outlet
from components.serving.sinks.base import Result, open_sink, sinks
from components.serving.sinks.jsonl import JsonLines
from components.serving.sinks.outlet import Outlet
from components.serving.sinks.video import BoxVideo
from components.serving.worker import Worker
from tests.edge import deploy, folder_of_images, options
from tests.mqtt import Broker

RECORD = {
    "time": "2026-11-20T12:00:00.250Z", "node": "edge-1", "source": "rtsp://camera/s", "frame": 7, "model": "r0001",
    "width": 64, "height": 48,
    "detections": [{"class": "hat", "score": 0.9, "box": [10.0, 12.5, 30.25, 40.0]}],
}  # fmt: skip


def result(frame=7, size=(64, 48), image=False):
    width, height = size
    return Result(
        time=datetime(2026, 11, 20, 12, 0, 0, 250_000, UTC), node="edge-1", source="rtsp://camera/s", frame=frame,
        model="r0001", classes=("person", "hat"), detections=Detections.of([[10, 12.5, 30.25, 40]], [1], [0.9]),
        width=width, height=height, image=np.full((height, width, 3), 100, np.uint8) if image else None,
    )  # fmt: skip


def until(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


# Each sink


def test_json_lines_are_appended_one_a_frame_and_can_be_read_at_once(tmp_path):
    path = tmp_path / "new" / "found.jsonl"
    for frame in (7, 8):
        sink = open_sink(f"jsonl:{path}")
        sink.write(result(frame))
        assert json.loads(path.read_text().splitlines()[-1]) == RECORD | {"frame": frame}
        sink.close()
    assert len(path.read_text().splitlines()) == 2


def test_json_lines_go_to_standard_output(capsys):
    open_sink("jsonl:-").write(result())
    assert json.loads(capsys.readouterr().out) == RECORD


def test_a_file_of_json_lines_does_not_grow_for_ever(tmp_path):
    sink = JsonLines(str(tmp_path / "found.jsonl"), max_bytes=1000)
    for frame in range(50):
        sink.write(result(frame))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["found.1.jsonl", "found.jsonl"]
    frames = [json.loads(line)["frame"] for name in ("found.1", "found") for line in
              (tmp_path / f"{name}.jsonl").read_text().splitlines()]  # fmt: skip
    assert frames == list(range(frames[0], 50))
    assert all(path.stat().st_size < 1500 for path in tmp_path.iterdir())


def test_a_file_of_json_lines_that_could_not_be_begun_anew_is_begun_when_it_can(tmp_path):
    folder = tmp_path / "found"
    sink = JsonLines(str(folder / "found.jsonl"), max_bytes=10)
    sink.write(result(1))
    shutil.rmtree(folder)
    folder.write_text("in the way")
    for _ in range(2):
        with pytest.raises((OSError, InputError), match="found"):
            sink.write(result(2))
    folder.unlink()
    sink.write(result(3))
    assert json.loads((folder / "found.jsonl").read_text())["frame"] == 3


@pytest.mark.parametrize("suffix", [".mp4", ".avi"])
def test_a_video_shows_the_frames_with_their_boxes(tmp_path, suffix):
    path = tmp_path / f"boxes{suffix}"
    sink = open_sink(f"video:{path}")
    for size in ((320, 240), (320, 240), (160, 120)):  # the last one is scaled
        sink.write(result(size=size, image=True))
    sink.close()
    video = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    frames = [frame for found, frame in (video.read() for _ in range(4)) if found]
    assert [frame.shape for frame in frames] == [(240, 320, 3)] * 3
    edge, inside = frames[0][25, 10].astype(int), frames[0][30, 20].astype(int)
    assert abs(edge - inside).max() > 25  # a line in a colour, around the grey frame
    assert abs(inside - 100).max() < 12


def test_a_video_does_not_grow_for_ever(tmp_path):
    sink = BoxVideo(str(tmp_path / "boxes.avi"), max_frames=3)
    for frame in range(8):
        sink.write(result(frame, image=True))
    sink.close()
    count = {path.name: int(cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FRAME_COUNT)) for path in tmp_path.iterdir()}
    assert count == {"boxes.1.avi": 3, "boxes.avi": 2}


@contextmanager
def server(status=204):
    taken = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            taken.append((self.path, self.headers, json.loads(body)))
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield httpd.server_address[1], taken
    finally:
        httpd.shutdown()
        httpd.server_close()


def test_a_webhook_is_posted_each_result():
    with server() as (port, taken):
        sink = open_sink(f"webhook:http://me:secret@127.0.0.1:{port}/in?site=4")
        sink.write(result())
        sink.close()
    ((path, headers, body),) = taken
    assert (path, body, headers["Content-Type"]) == ("/in?site=4", RECORD, "application/json")
    assert headers["Authorization"] == "Basic bWU6c2VjcmV0"


def test_a_webhook_that_does_not_take_it_is_told_without_its_secrets():
    with server(status=401) as (port, _):
        sink = open_sink(f"webhook:http://me:secret@127.0.0.1:{port}/in?token=secret")
        with pytest.raises(InputError, match="the server answered HTTP 401") as error:
            sink.write(result())
    with pytest.raises(InputError) as gone:
        sink.write(result())
    assert "secret" not in f"{error.value} {gone.value}"


def test_a_message_is_published_to_the_topic_and_confirmed(monkeypatch):
    monkeypatch.setenv("EDGE_MQTT_PASSWORD", "secret")
    with Broker() as broker:
        sink = open_sink(f"mqtt://me@127.0.0.1:{broker.port}/plant/4/boxes")
        sink.write(result(7))
        sink.write(result(8))
        assert [(topic, json.loads(text)) for topic, text in broker.messages] == [
            ("plant/4/boxes", RECORD | {"frame": frame}) for frame in (7, 8)
        ]
        assert broker.logins == [["me", "secret"]]
        sink.close()


def test_a_broker_that_refuses_the_login_is_told_until_it_is_put_right(monkeypatch):
    monkeypatch.setattr(mqtt, "SECONDS", 0.3)
    with Broker(refusal=5) as broker:
        sink = open_sink(f"mqtt://me:secret@127.0.0.1:{broker.port}/t")
        for _ in range(2):
            with pytest.raises(InputError, match=r"^mqtt://127.0.0.1:\d+/t: the broker refuses .*check EDGE_MQTT_USER"):
                sink.write(result())
        broker.refusal = 0
        until(lambda: len(broker.messages) == 1)  # the one that waits for a connection
        sink.write(result())
        sink.close()


def test_a_broker_that_is_gone_or_silent_is_told_in_one_line(monkeypatch):
    monkeypatch.setattr(mqtt, "SECONDS", 0.3)
    with Broker(confirm=False) as broker:
        sink = open_sink(f"mqtt://me:secret@127.0.0.1:{broker.port}/t")
        with pytest.raises(InputError, match=r"^mqtt://127.0.0.1:\d+/t: the broker did not confirm"):
            sink.write(result())
        sink.close()
    with pytest.raises(InputError, match=r"^mqtt://127.0.0.1:\d+/t: cannot be reached"):
        open_sink(f"mqtt://me:secret@127.0.0.1:{broker.port}/t").write(result())


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("jsonl", "write KIND:TARGET"),
        ("found.jsonl", "write KIND:TARGET"),
        ("kafka:topic", "unknown sink 'kafka'"),
        ("video:boxes.mkv", ".mp4 or .avi"),
        ("webhook:ftp://host", "https://"),
        ("mqtt://host", "HOST/TOPIC"),
        ("mqtt://host/all/#", "without"),
        ("mqtt://me:secret@host:port/t", "not a valid address"),
    ],
)
def test_a_sink_that_cannot_be_is_refused_in_one_line(address, message):
    with pytest.raises(InputError, match=message) as error:
        open_sink(address)
    assert "\n" not in str(error.value)
    assert "secret" not in str(error.value)


# The way to a sink


class Memory:
    """A sink that keeps what it takes, once it is open, and fails as often as it is told."""

    needs_image = False

    def __init__(self, failures=0):
        self.taken, self.failures, self.open, self.closed = [], failures, threading.Event(), False

    def write(self, result):
        assert self.open.wait(20)
        if self.failures:
            self.failures -= 1
            raise OSError("the disk is full")
        self.taken.append(result.frame)

    def close(self):
        self.closed = True


@pytest.fixture
def count():
    counts = {}

    def add(name):
        counts[name] = counts.get(name, 0) + 1

    add.of = counts
    return add


def test_a_sink_that_stalls_does_not_hold_up_a_live_source(monkeypatch, count):
    monkeypatch.setattr(outlet, "RESULTS_WAITING", 10)
    sink = Memory()
    way = Outlet("memory", sink, live=True, count=count)
    way.put(result(0))
    until(lambda: not way._waiting)  # it has this one in hand
    for frame in range(1, 31):
        way.put(result(frame))
    sink.open.set()
    assert way.close()
    assert sink.taken == [0, *range(21, 31)]  # the newest ones
    assert count.of == {"sink_written": 11, "sink_dropped": 20}
    assert sink.closed


def test_the_frames_of_a_file_wait_for_a_sink_that_works(monkeypatch, count):
    monkeypatch.setattr(outlet, "RESULTS_WAITING", 2)
    sink = Memory()
    way = Outlet("memory", sink, live=False, count=count)
    threading.Timer(0.2, sink.open.set).start()
    for frame in range(20):
        way.put(result(frame))
    assert way.close()
    assert sink.taken == list(range(20))
    assert count.of == {"sink_written": 20}


def test_a_sink_that_fails_gets_pauses_is_told_once_and_goes_on(monkeypatch, count, caplog):
    monkeypatch.setattr(outlet, "FIRST_PAUSE_SECONDS", 0.01)
    sink = Memory(failures=3)
    sink.open.set()
    way = Outlet("memory", sink, live=False, count=count)
    for frame in range(10):
        way.put(result(frame))
    until(lambda: len(sink.taken) == 7)
    assert way.close()
    assert sink.taken == list(range(3, 10))
    assert count.of == {"sink_written": 7, "sink_failed": 3}
    assert caplog.text.count("the disk is full") == 1


def test_a_sink_that_fails_does_not_hold_up_the_end(count):
    sink = Memory(failures=1 << 30)
    sink.open.set()
    way = Outlet("memory", sink, live=False, count=count)
    for frame in range(10):
        way.put(result(frame))
    until(lambda: count.of.get("sink_failed"))
    assert way.close(timeout_s=2)
    assert count.of["sink_failed"] + count.of["sink_dropped"] == 10


# In the worker


@sinks.register("broken sink of the tests")
class Broken(Memory):
    """A sink of somebody's own that fails at everything."""

    def __init__(self, target):
        super().__init__(failures=1 << 30)
        self.open.set()

    def close(self):
        raise RuntimeError("not even this")


def test_every_frame_reaches_every_sink_and_a_broken_one_changes_nothing(tmp_path):
    deploy(Job.open(str(tmp_path / "job")), "v1", tmp_path / "bundle")
    found = tmp_path / "found.jsonl"
    wanted = (f"jsonl:{found}", f"video:{tmp_path / 'boxes.avi'}", "broken sink of the tests:x")
    worker = Worker(options(tmp_path, folder_of_images(tmp_path / "images", 12), sinks=wanted))
    worker.run(threading.Event())
    records = [json.loads(line) for line in found.read_text().splitlines()]
    assert [record["frame"] for record in records] == list(range(12))
    assert {(record["node"], record["model"], record["width"]) for record in records} == {("edge-1", "v1", 96)}
    assert {box["class"] for record in records for box in record["detections"]} == {"red", "blue"}
    assert cv2.VideoCapture(str(tmp_path / "boxes.avi")).get(cv2.CAP_PROP_FRAME_COUNT) == 12
    assert worker.metrics.value("sink_written") == 24
    assert worker.metrics.value("sink_failed") + worker.metrics.value("sink_dropped") == 12
    assert worker.metrics.value("uploaded") == 12
