"""The last part of the demo: both programs work on a video, and the page says what came of it."""

from pathlib import Path

from pipelines import local
from pipelines.demo.loop import SCENERIES
from pipelines.demo.pair import play_pair, refused, section
from pipelines.demo.stage import Camera, Feed
from tests.unit.test_rollout_processes import release

TESTED = {
    "map50": 0.61, "edge.map50": 0.4, "cloud.map50": 0.7, "fraction": 0.25, "bytes_per_frame": 2512.0,
    "cloud.bytes_per_frame": 10001.0, "recall_of_cloud": 0.93,
}  # fmt: skip


def test_an_edge_worker_asks_a_cloud_server_about_every_hard_frame(tmp_path, monkeypatch):
    given = {}

    def run(pipeline, values, folder):  # a pair of which every frame goes to the cloud
        given.update(values)
        return Path(release(Path(values["job_root"]).parent)).as_uri()

    monkeypatch.setattr(local, "run", run)
    monkeypatch.setattr(local, "figures", lambda report: TESTED)
    camera = Camera(tmp_path / "camera.avi", SCENERIES[0], 5, seed=3)
    sizes = (96, 160)
    joint = play_pair(
        tmp_path / "pair", tmp_path / "bundle", Feed(tmp_path / "feed"), camera, sizes=sizes, confidence=0.9
    )
    assert (given["image_size"], given["big_image_size"], given["epochs"]) == ("96", "160", 0)
    assert given["base_model"] == given["big_model"] == str(tmp_path / "bundle")
    assert [joint.counted[f"joint_{name}"] for name in ("frames", "hard", "sent", "answered")] == [5, 5, 5, 5]
    text = str(section(joint, sizes).body)
    for words in (
        "0.400",
        "0.610",
        "0.700",
        "25%",
        "2,512",
        "10,001",
        "found 93%",
        "at most 40%",
        "of 5 frames",
        "5 answered",
    ):
        assert words in text


def test_a_pair_that_is_refused_is_told_on_the_page():
    text = str(refused(local.RunError("calibrate: needs 99 labelled frames")).body)
    assert "was not released: calibrate: needs 99 labelled frames" in text
