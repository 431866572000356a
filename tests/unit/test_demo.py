"""The parts of the demo: what stands in for a camera, a feed, a person who labels, and where it may write."""

import hashlib
import io
import socket
import subprocess
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from unittest.mock import Mock

import cv2
import pytest

from components.core.errors import InputError
from components.core.job.hard_examples import Sidecar, image_key, read_sidecars, sidecar_key
from components.core.job.label_requests import LabelRequest, LabelRequests, write_list
from components.core.processes import direct_on_this_machine
from components.core.stores.connections import proxy_for
from components.core.stores.open import open_store
from components.ingest.ingest import ingest
from pipelines.demo import label_studio
from pipelines.demo.label_studio import Server
from pipelines.demo.labelling import Size, Story, play
from pipelines.demo.loop import MARK, SCENERIES, cleared
from pipelines.demo.stage import CLASSES, FRAME_SIZE, Camera, Feed, label, metrics_of


def test_a_camera_shows_the_scenes_that_it_knows_the_boxes_of(tmp_path):
    camera = Camera(tmp_path / "camera.avi", SCENERIES[0], 6, seed=3)
    capture = cv2.VideoCapture(str(camera.path))
    for image, boxes in SCENERIES[0].draw(6, seed=3):
        there, frame = capture.read()
        assert there
        difference = cv2.absdiff(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), image)
        assert difference.mean() < 4  # of 255: the codec is not lossless
        assert boxes == camera.truth.pop(0)
    assert not capture.read()[0]
    assert camera.truth == []


def test_what_comes_into_the_feed_is_read_as_it_was_drawn(tmp_path):
    feed = Feed(tmp_path / "feed")
    drawn = list(SCENERIES[1].draw(4, seed=1))
    for number, (image, boxes) in enumerate(drawn):
        feed.add(f"images/{number}.png", cv2.imencode(".png", image)[1].tobytes(), boxes)
    manifest = ingest(str(feed.index), str(tmp_path / "job"), classes="helmet,head").manifest
    assert len(manifest) == 4
    for row in manifest.rows():
        number = int(row["source"].removeprefix("images/").removesuffix(".png"))
        found = [(CLASSES[b["class_id"]], b["x1"], b["y1"], b["x2"], b["y2"]) for b in row["annotations"]]
        assert sorted(found) == sorted(drawn[number][1])
        assert (row["height"], row["width"]) == FRAME_SIZE


def test_the_stand_in_labels_what_is_asked_for_and_nothing_else(tmp_path):
    cameras = [Camera(tmp_path / f"camera-{n}.avi", SCENERIES[n], 3, seed=n) for n in range(2)]
    store = open_store(str(tmp_path / "job"))
    asked = []
    for camera, frame, wanted in ((0, 2, True), (1, 1, True), (1, 0, False)):
        data = f"image {camera} {frame}".encode()
        sidecar = Sidecar(
            image=hashlib.sha256(data).hexdigest(), width=320, height=240, captured=datetime.now(UTC), node="n",
            source=str(cameras[camera].path), frame=frame, kind="hard", miner="IBT", score=1, reason="r", model="m",
            classes=CLASSES,
        )  # fmt: skip
        store.write(image_key(sidecar), data)
        store.write(sidecar_key(sidecar), sidecar.model_dump_json().encode())
        if wanted:
            given = {"id": sidecar.image, "uri": "file:///x", "width": 320, "height": 240, "source": "s"}
            asked.append(LabelRequest(**given, share="random", score=0.5, reason="r"))
    write_list(store, LabelRequests(round=1, model=None, miner="entropy", classes=CLASSES, images=tuple(asked)))
    feed = Feed(tmp_path / "feed")
    assert label(tmp_path / "job", cameras, feed) == 2
    lines = dict(line.split(" ", 1) if " " in line else (line, "") for line in feed.index.read_text().splitlines())
    assert lines.keys() == {f"hard-examples/{image.id}.jpg" for image in asked}
    boxes = [f"{x1},{y1},{x2},{y2},{CLASSES.index(name)}" for name, x1, y1, x2, y2 in cameras[0].truth[2]]
    assert lines[f"hard-examples/{asked[0].id}.jpg"] == " ".join(boxes)
    assert {one.image for one in read_sidecars(store)}.isdisjoint(image.id for image in asked)  # scenes by themselves


def test_the_demo_throws_away_an_earlier_demo_and_nothing_else(tmp_path):
    with cleared(tmp_path / "new"):
        (tmp_path / "new" / "feed").mkdir()
    with cleared(tmp_path / "new"):
        assert [path.name for path in (tmp_path / "new").iterdir()] == [MARK]
    (tmp_path / "mine.txt").write_text("precious")
    with (
        pytest.raises(InputError, match="contains files that are not from an earlier demo"),
        cleared(tmp_path),
    ):
        pass
    assert (tmp_path / "mine.txt").exists()


def test_a_demo_that_runs_keeps_its_folder(tmp_path):
    with cleared(tmp_path / "demo"):
        (tmp_path / "demo" / "job").mkdir()
        with pytest.raises(InputError, match="a demo is running there"), cleared(tmp_path / "demo"):
            pass
        assert (tmp_path / "demo" / "job").is_dir()


def test_a_demo_of_labelling_that_cannot_start_throws_nothing_away(tmp_path):
    with cleared(tmp_path / "demo"):
        (tmp_path / "demo" / "demo.html").write_text("the earlier report")
    program = tmp_path / "label-studio"
    with pytest.raises(InputError, match="no Label Studio there"):
        play(tmp_path / "demo", program, seed=0, port=0, by_api=True)
    program.touch()
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(InputError, match="cannot be used"):
        play(tmp_path / "demo", program, seed=0, port=other.getsockname()[1], by_api=True)
    assert (tmp_path / "demo" / "demo.html").exists()


@pytest.fixture
def story(tmp_path, monkeypatch):
    """A demo of labelling whose trigger waits for labels twice."""
    waits = iter([False, False, True])
    monkeypatch.setattr(Story, "_learned", lambda _: next(waits))
    return Story(tmp_path, Server("http://127.0.0.1:1", "token", "password"), 0, Size())


def test_the_demo_of_labelling_asks_for_more_while_the_trigger_waits(story, monkeypatch):
    asked = []
    monkeypatch.setattr("builtins.input", asked.append)
    monkeypatch.setattr(Story, "_project", lambda _: None)
    story.learn(by_api=False)
    assert len(asked) == 2 and "label more images" in asked[0]


def test_without_a_person_the_demo_of_labelling_says_that_no_round_ran(story):
    with pytest.raises(InputError, match="no round ran"):
        story.learn(by_api=True)


@pytest.mark.parametrize("key", [EOFError, KeyboardInterrupt])
def test_ctrl_d_ends_the_demo_of_labelling_as_ctrl_c_does(story, monkeypatch, capsys, key):
    monkeypatch.setattr("builtins.input", Mock(side_effect=key))
    with pytest.raises(KeyboardInterrupt):
        story.learn(by_api=False)
    assert capsys.readouterr().out == "\n"  # the message is a line of its own


def test_a_server_that_ends_while_the_demo_of_labelling_waits_is_told(story, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda _: "")
    with pytest.raises(InputError, match="Label Studio does not answer"):
        story.learn(by_api=False)


class Answers(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"edge_frames_total 3\n")

    def log_message(self, *_):
        pass


def test_the_demos_reach_their_programs_past_a_proxy_that_leads_outside(tmp_path, monkeypatch):
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")  # where nothing answers
    monkeypatch.setattr("pipelines.demo.label_studio.FIRST_START_SECONDS", 20)
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server, subprocess.Popen(["sleep", "60"]) as program:
        Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        try:
            assert metrics_of(url) == {"frames": 3}
            label_studio._await(url, program, tmp_path / "server.log")
            assert proxy_for(url) == "http://127.0.0.1:1"
            for name, value in direct_on_this_machine().items():
                monkeypatch.setenv(name, value)
            assert proxy_for(url) == ""
            assert proxy_for("http://example.com") == "http://127.0.0.1:1"
        finally:
            program.kill()
            server.shutdown()


def test_without_a_terminal_the_demo_of_labelling_says_at_once_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO())
    with pytest.raises(InputError, match="--by-api"):
        play(tmp_path / "demo", tmp_path / "label-studio", seed=0, port=0, by_api=False)
    assert not (tmp_path / "demo").exists()
