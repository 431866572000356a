import hashlib
import logging
import re
import socket
import threading
import time
from contextlib import contextmanager, nullcontext, suppress

import cv2
import numpy as np
import pytest

from components.core.errors import InputError
from components.serving.active_model import ActiveModel
from components.serving.frame_queue import FrameQueue
from components.serving.loop import EdgeLoop
from components.serving.metrics import Metrics
from components.serving.position import Position
from components.serving.sources import folder as folder_source
from components.serving.sources.base import Shot
from components.serving.sources.camera import CameraSource
from components.serving.sources.diagnosis import why_silent
from components.serving.sources.open import open_source
from tests.edge import folder_of_images, images, video
from tests.rtsp import Camera

GREYS = [np.full((96, 128, 3), value, np.uint8) for value in range(20, 250, 10)]


def shots(address, after="", every=1):
    return list(open_source(str(address)).shots(threading.Event(), after, every))


def test_a_folder_gives_its_images_sorted_with_their_own_bytes(tmp_path):
    folder = folder_of_images(tmp_path / "images", 3)
    (folder / "site b").mkdir()
    (folder / "0001.jpg").rename(folder / "site b" / "0001.JPG")
    (folder / "notes.txt").write_text("no image")
    found = shots(folder)
    assert [shot.place for shot in found] == ["0000.jpg", "0002.jpg", "site b/0001.JPG"]
    assert [shot.number for shot in found] == [0, 1, 2]
    assert found[2].original == (folder / "site b" / "0001.JPG").read_bytes()
    assert found[2].suffix == ".jpg"
    assert found[0].image.shape == (96, 96, 3)


def test_an_image_that_cannot_be_read_is_passed_over_and_said(tmp_path, caplog):
    folder = folder_of_images(tmp_path / "images", 3)
    (folder / "0001.jpg").write_bytes((folder / "0001.jpg").read_bytes()[:40])
    (folder / "0002.jpg").write_bytes(b"")
    assert [shot.place for shot in shots(folder)] == ["0000.jpg"]
    assert "0001.jpg: not a readable image" in caplog.text
    assert "0002.jpg: not a readable image" in caplog.text


def test_an_image_that_is_too_large_for_a_board_is_passed_over(tmp_path, caplog):
    folder = folder_of_images(tmp_path / "images", 2)
    with (folder / "0001.jpg").open("ab") as file:
        file.truncate(folder_source.MAX_BYTES + 1)  # takes no room on the disk
    assert [shot.place for shot in shots(folder)] == ["0000.jpg"]
    assert "0001.jpg: not a readable image, or too large" in caplog.text


def test_a_video_gives_its_frames_in_order_and_in_rgb(tmp_path):
    found = shots(video(tmp_path / "v.avi", 12))
    assert [shot.number for shot in found] == list(range(12))
    for shot, drawn in zip(found, images(12), strict=True):
        assert np.abs(shot.image.astype(int) - drawn).mean() < 20
    assert found[0].original is None


@pytest.mark.parametrize("kind", ["video", "folder"])
def test_a_finite_source_goes_on_after_a_place(tmp_path, kind):
    make = {"video": lambda: video(tmp_path / "v.avi", 12), "folder": lambda: folder_of_images(tmp_path / "p", 12)}
    source = make[kind]()
    whole = shots(source)
    rest = shots(source, after=whole[4].place)
    assert [shot.number for shot in rest] == list(range(5, 12))
    assert all((one.image == other.image).all() for one, other in zip(rest, whole[5:], strict=True))
    assert [shot.number for shot in shots(source, after=whole[4].place, every=3)] == [6, 9]
    assert shots(source, after=whole[-1].place) == []


def test_of_a_video_that_was_cut_off_what_is_there_is_used_and_said(tmp_path, caplog):
    path = video(tmp_path / "v.avi", 40)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    found = shots(path)
    assert 10 < len(found) < 30
    assert f"has 40 frames by its header, {len(found)} could be read" in caplog.text


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [("empty.mp4", b"", "is empty"), ("text.mp4", b"this is no video" * 100, "not a readable video")],
)
def test_what_is_no_video_is_refused_in_one_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        open_source(str(tmp_path / name))
    assert name in str(error.value)
    assert "\n" not in str(error.value)


def test_an_mp4_without_its_index_is_refused(tmp_path):
    path = tmp_path / "v.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 25, (96, 96))
    for image in images(30):
        writer.write(image)
    writer.release()
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match="cut off before its index"):
        open_source(str(path))


def test_a_source_that_is_not_there_or_empty_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such file or folder"):
        open_source(str(tmp_path / "nothing"))
    with pytest.raises(InputError, match="no image in it"):
        open_source(str(tmp_path))


def test_a_camera_that_drops_is_opened_again_and_again():
    with Camera(GREYS, fps=200, drop_after=10) as camera:
        source, stop = CameraSource(camera.url, open_s=5, read_s=5, pause_s=0.05), threading.Event()
        found = []
        for shot in source.shots(stop):
            found.append(shot)
            if len(found) == 35:
                stop.set()
    assert [shot.number for shot in found] == list(range(35))
    assert [round(shot.image.mean()) for shot in found[10:13]] == [20, 30, 40]
    assert source.retries >= 3
    assert camera.connections >= 4


def test_a_camera_that_falls_silent_is_given_up_at_the_deadline():
    with Camera(GREYS, fps=200, silent_after=10) as camera:
        source, stop = CameraSource(camera.url, open_s=1, read_s=1, pause_s=0.05), threading.Event()
        started, found = time.monotonic(), []
        for shot in source.shots(stop):
            found.append(shot)
            if len(found) == 15:
                stop.set()
    assert 1 < time.monotonic() - started < 10
    assert source.retries >= 1


def test_a_camera_that_accepts_and_never_answers_is_tried_again(caplog):
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"rtsp://user:secret@127.0.0.1:{server.getsockname()[1]}/cam"
        source, stop = CameraSource(url, open_s=0.4, read_s=0.4, pause_s=0.05), threading.Event()
        threading.Timer(2.5, stop.set).start()
        started = time.monotonic()
        assert list(source.shots(stop)) == []
        assert time.monotonic() - started < 6
    assert source.retries >= 2
    assert "127.0.0.1 does not answer on port" in caplog.text
    assert "secret" not in caplog.text + source.name


def y4m(path, scan, frames=3, value=None):
    """An uncompressed video of bars that move: progressive (p), top field first (t) or bottom field first (b)."""
    with path.open("wb") as file:
        file.write(f"YUV4MPEG2 W96 H64 F25:1 I{scan} A1:1 C420jpeg\n".encode())
        for number in range(frames):
            bars = np.full((64, 96), 20 if value is None else value, np.uint8)
            if value is None:
                bars[:, 5 * number : 5 * number + 8] = 235
            file.write(b"FRAME\n" + bars.tobytes() + bytes([128]) * (64 * 96 // 2))
    return path


@pytest.mark.parametrize("scan", ["t", "b"])
def test_an_interlaced_video_is_refused_since_opencv_gives_the_memory_of_another_one(tmp_path, scan):
    with pytest.raises(InputError, match="its frames are interlaced.*ffmpeg") as error:
        open_source(str(y4m(tmp_path / "v.y4m", scan)))
    assert "\n" not in str(error.value)


def test_a_progressive_video_is_not_refused_even_if_nothing_in_it_moves(tmp_path, capfd):
    assert len(shots(y4m(tmp_path / "v.y4m", "p"))) == 3
    still = shots(y4m(tmp_path / "w.y4m", "p", value=128))
    assert [round(shot.image.mean()) for shot in still] == [130] * 3  # of 16 to 235
    assert "interlaced" not in capfd.readouterr().err


def test_a_codec_without_a_decoder_is_named(tmp_path):
    path = video(tmp_path / "v.avi", 2)
    path.write_bytes(path.read_bytes().replace(b"MJPG", b"XXXX"))
    with pytest.raises(InputError, match="no decoder for its codec XXXX|not a readable video"):
        open_source(str(path))


@pytest.mark.parametrize(
    "address",
    ["0", "/dev/video7", "http://camera/video.mjpg", "RTSP://camera/s", "rtmp://camera/live", "udp://239.0.0.1:1"],
)
def test_cameras_are_known_by_number_device_and_address(address):
    assert isinstance(open_source(address), CameraSource)


@pytest.mark.parametrize(
    "address", ["v4l2src device=/dev/video0 ! videoconvert ! appsink", "s3://bucket/video.mp4", "ftp://h/v"]
)
def test_what_is_no_source_is_told_what_is(address):
    with pytest.raises(InputError, match="/dev/video0.*rtsp://") as error:
        open_source(address)
    assert "s3://bucket/prefix" not in str(error.value)


@contextmanager
def rtsp_answers(*answers):
    """A camera that gives these answers to the requests of each connection, and what it was asked."""
    asked = []

    def serve(connection):
        with connection, suppress(OSError):
            for answer in answers:
                asked.append(connection.recv(4096).decode())
                connection.sendall(answer.encode())

    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept():
            with suppress(OSError):
                while True:
                    serve(server.accept()[0])

        threading.Thread(target=accept, daemon=True).start()
        yield server.getsockname()[1], asked


UNKNOWN = 'RTSP/1.0 401 Unauthorized\r\nCSeq: 1\r\nWWW-Authenticate: Digest realm="cam", nonce="abc"\r\n\r\n'
ABSENT = "RTSP/1.0 404 Not Found\r\nCSeq: 2\r\n\r\n"


@pytest.mark.parametrize(
    ("login", "answers", "reason"),
    [
        ("", [UNKNOWN], r"asks for a user and password \(401\): write rtsp://USER:PASSWORD@"),
        ("me:wrong@", [UNKNOWN, UNKNOWN], r"refuses this user and password \(401\)"),
        ("me:secret@", [UNKNOWN, ABSENT], r"no stream at this path \(404\)"),
        ("", [ABSENT], r"no stream at this path \(404\)"),
        ("", ["RTSP/1.0 454 Session Not Found\r\n\r\n"], r"refuses the stream \(454\)"),
        ("", ["SSH-2.0-x\r\n\r\n"], "does not speak RTSP"),
    ],
)
def test_a_camera_says_why_it_gives_nothing(login, answers, reason):
    with rtsp_answers(*answers) as (port, asked):
        told = why_silent(f"rtsp://{login}127.0.0.1:{port}/stream?channel=1", 2)
    assert re.search(reason, told)
    assert "secret" not in told + "".join(asked)
    if len(asked) == 2:  # RFC 2617, 3.2.2, computed by hand
        key = hashlib.md5(f"{login[:-1].replace(':', ':cam:')}".encode()).hexdigest()
        target = hashlib.md5(f"DESCRIBE:rtsp://127.0.0.1:{port}/stream?channel=1".encode()).hexdigest()
        assert hashlib.md5(f"{key}:abc:{target}".encode()).hexdigest() in asked[1]


def test_a_camera_that_is_not_there_is_told_in_one_line():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert why_silent(f"rtsp://127.0.0.1:{port}/s") == (
        f"127.0.0.1 refuses connections on port {port}: check the port and that its streaming is on"
    )
    assert "is unknown" in why_silent("rtsp://no-such-camera.invalid/s")
    assert "%40" in why_silent("rtsp://me:pass/word@camera/s")
    assert why_silent("udp://239.0.0.1:1234") == ""


def test_a_device_that_is_not_there_is_tried_again_and_told(caplog):
    source, stop = CameraSource("/dev/video77", pause_s=0.01), threading.Event()
    threading.Timer(0.5, stop.set).start()
    assert list(source.shots(stop)) == []
    assert "/dev/video77 does not exist, is in use, or gives no video; opening it again" in caplog.text


class Numbers:
    """A source of numbered images that come as fast as they are taken."""

    name = identity = "numbers"
    retries = read = 0

    def __init__(self, count, live, error=None):
        self.count, self.live, self.error = count, live, error

    def shots(self, stop, after="", every=1):
        for number in range(self.count):
            yield Shot(np.zeros((8, 8, 3), np.uint8), number, str(number))
        if self.error:
            raise self.error


def drained(feed):
    while not feed.ended:
        for shot in feed.take(1):
            yield shot.number


def test_of_a_finite_source_no_image_is_dropped():
    feed = FrameQueue(Numbers(200, live=False))
    taken = []
    for number in drained(feed):
        taken.append(number)
        time.sleep(0.0005)
    assert taken == list(range(200))
    assert feed.dropped == 0
    assert feed.close()


def test_of_a_live_source_the_newest_image_is_taken_and_the_others_counted():
    feed = FrameQueue(Numbers(200, live=True))
    time.sleep(0.3)
    assert list(drained(feed)) == [199]
    assert feed.dropped == 199
    assert feed.close()


def test_what_goes_wrong_in_the_source_is_raised_behind_its_last_image():
    feed = FrameQueue(Numbers(3, live=False, error=InputError("the disk is gone")))
    assert [shot.number for _ in range(3) for shot in feed.take(1)] == [0, 1, 2]
    with pytest.raises(InputError, match="the disk is gone"):
        feed.take(1)


@pytest.mark.parametrize("after_all", [False, True])
@pytest.mark.parametrize("kind", ["folder", "video"])
def test_images_that_are_passed_over_are_progress_too(tmp_path, kind, after_all):
    address = folder_of_images(tmp_path / "images", 12) if kind == "folder" else video(tmp_path / "v.avi", 12)
    last = "0011.jpg" if kind == "folder" else "11"
    feed = FrameQueue(open_source(str(address)), after=last if after_all else "", every=1000)
    assert list(drained(feed)) == ([] if after_all else [0])
    assert feed.progress == 12


def test_frames_of_a_camera_that_are_passed_over_are_progress_too():
    with Camera(GREYS, fps=100) as camera:
        feed = FrameQueue(open_source(camera.url), every=10**6)
        end = time.monotonic() + 20
        while feed.progress < 20:
            assert time.monotonic() < end
            feed.take(0.05)
        assert feed.close()


def test_what_goes_wrong_in_the_source_is_raised_while_there_is_no_model_too():
    feed = FrameQueue(Numbers(0, live=False, error=InputError("the disk is gone")))
    with pytest.raises(InputError, match="the disk is gone"):
        EdgeLoop(ActiveModel(), Metrics()).run(feed, nullcontext(), threading.Event())


def test_a_feed_that_nobody_takes_from_can_be_closed():
    feed = FrameQueue(Numbers(10**9, live=False))
    started = time.monotonic()
    assert feed.close()
    assert time.monotonic() - started < 1


def test_a_position_is_kept_for_its_source_alone(tmp_path):
    path, now = tmp_path / "position.json", [100.0]
    position = Position(path, "a", lambda: now[0])
    position.advance("1")
    assert not path.exists()
    position.advance("2", spooled=True)
    assert Position(path, "a").place == "2"
    position.advance("3")
    assert Position(path, "a").place == "2"
    now[0] += 1.5
    position.advance("4")
    assert Position(path, "a").place == "4"
    assert Position(path, "b").place == ""


def test_a_broken_position_begins_anew_and_says_so(tmp_path, caplog):
    (tmp_path / "position.json").write_bytes(b'{"source": "a", "pla')
    with caplog.at_level(logging.WARNING):
        assert Position(tmp_path / "position.json", "a").place == ""
    assert "starting from the beginning" in caplog.text
