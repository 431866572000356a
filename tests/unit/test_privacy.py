import json
import re
import threading

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from components.core.detections import Detections
from components.core.errors import InputError
from components.core.job.hard_examples import image_key, read_sidecars
from components.core.job.job import Job
from components.core.privacy.base import Protected, make_filter, privacy_filters
from components.serving.edge_worker import app
from components.serving.worker import Worker
from tests.edge import deploy, folder_of_images, options

CLASSES = ("helmet", "face")


class Seen:
    """A model that finds a face of score 0.1 in the middle of a 60x60 image, and a helmet beside it."""

    classes = CLASSES

    def boxes(self, confidence):
        found = Detections.of([[20, 20, 40, 40], [42, 20, 58, 40]], [1, 0], [0.1, 0.9])
        return found[found.scores >= confidence]


def checkered():
    """A board of single pixels, in which every change shows."""
    return np.kron(np.indices((30, 30)).sum(axis=0) % 2, np.ones((2, 2)))[..., None].repeat(3, axis=2).astype(
        np.uint8
    ) * 255  # fmt: skip


def test_a_face_is_blurred_with_its_margin_and_nothing_else():
    image = checkered()
    protected = make_filter("blur", {"classes": "face"}).protect(image, Seen())
    assert protected.done == "blurred 1 face"
    assert np.array_equal(image, checkered())  # the worker's own image stays
    changed = (protected.image != image).any(axis=2)
    rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
    assert (rows[0], rows[-1], columns[0], columns[-1]) == (18, 41, 18, 41)
    assert np.ptp(protected.image[18:42, 18:42].astype(int)) < 30  # nothing of the pattern is left


def test_faces_below_the_confidence_stay():
    image = checkered()
    protected = make_filter("blur", {"classes": "face", "confidence": "0.2"}).protect(image, Seen())
    assert protected == (image, "")
    assert protected.image is image


def test_images_with_a_face_can_be_dropped():
    assert make_filter("blur", {"classes": "face", "drop": "true"}).protect(checkered(), Seen()) == (
        None, "dropped for 1 face",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "parameters", "words"),
    [
        ("blurr", {}, "unknown privacy filter 'blurr'"),
        ("blur", {}, "its parameters are classes"),
        ("blur", {"classes": ""}, "classes"),
        ("blur", {"classes": "face", "margin": "2"}, "margin"),
        ("blur", {"classes": "face", "colour": "red"}, "its parameters are classes"),
    ],
)
def test_a_filter_that_cannot_be_is_refused(name, parameters, words):
    with pytest.raises(InputError, match=words):
        make_filter(name, parameters)


@pytest.mark.parametrize("classes", ["person", "face,person"])
def test_a_class_that_the_model_does_not_know_is_refused(classes):
    with pytest.raises(InputError, match="the model knows helmet, face, but not person"):
        make_filter("blur", {"classes": classes}).protect(checkered(), Seen())


@privacy_filters.register("red-only")
class RedOnly:
    """Drops images without a red square, and blacks out the upper half of the others."""

    def protect(self, image, look):
        if not (look.boxes(0.5).classes == 0).any():
            return Protected(None, "no red")
        changed = image.copy()
        changed[:48] = 0
        return Protected(changed, "upper half black")


@privacy_filters.register("broken")
class Broken:
    def protect(self, image, look):
        raise RuntimeError("no detector of faces")


@privacy_filters.register("in-place")
class InPlace:
    def protect(self, image, look):
        image[:] = 0
        return Protected(image, "black")


@privacy_filters.register("returns")
class Returns:
    """Returns a half of the image, or what is no image."""

    def __init__(self, what):
        self._what = what

    def protect(self, image, look):
        if self._what == "nothing":
            return None
        return Protected(image[::2, ::2].copy() if self._what == "half" else image.astype(float), "changed")


def kept(tmp_path, **chosen):
    """The sidecars and images of a job whose worker looked at 12 images, and the counters of the worker."""
    job = Job.open(str(tmp_path / "job"))
    deploy(job, "v1", tmp_path / "bundle")
    folder = folder_of_images(tmp_path / "images", 12)
    worker = Worker(options(tmp_path, folder, **chosen))
    assert worker.run(threading.Event())
    counts = {name: int(worker.metrics.value(name)) for name in ("kept", "withheld", "unkept")}
    sidecars = list(read_sidecars(job.store))
    images = [cv2.imdecode(np.frombuffer(job.store.read(image_key(one)), np.uint8), 1) for one in sidecars]
    return sidecars, images, counts


def test_a_worker_keeps_what_its_filter_lets_pass(tmp_path):
    sidecars, images, counts = kept(tmp_path, privacy="red-only")
    assert 0 < counts["kept"] < 12
    assert counts == {"kept": len(sidecars), "withheld": 12 - len(sidecars), "unkept": 0}
    assert {sidecar.privacy for sidecar in sidecars} == {"upper half black"}
    assert all(image[:44].max() < 30 < image[52:].max() for image in images)
    assert {sidecar.suffix for sidecar in sidecars} == {".jpg"}


def test_an_image_is_dropped_if_the_filter_fails(tmp_path, caplog):
    sidecars, _, counts = kept(tmp_path, privacy="broken")
    assert (sidecars, counts["unkept"]) == ([], 12)
    assert (
        "a hard example is dropped, since the privacy filter failed: RuntimeError: no detector of faces" in caplog.text
    )


def test_an_image_that_was_changed_in_place_is_dropped_and_not_kept_as_it_was(tmp_path, caplog):
    sidecars, _, counts = kept(tmp_path, privacy="in-place")
    assert (sidecars, counts["unkept"]) == ([], 12)
    assert "since the privacy filter failed: ValueError: assignment destination is read-only" in caplog.text


@pytest.mark.parametrize(
    ("what", "words"),
    [("half", r"shape \(48, 48, 3\) and type uint8"), ("floats", "and type float64"), ("nothing", "NoneType")],
)
def test_an_image_is_dropped_if_the_filter_returns_something_else(tmp_path, caplog, what, words):
    sidecars, _, counts = kept(tmp_path, privacy="returns", privacy_parameters={"what": what})
    assert (sidecars, counts["unkept"]) == ([], 12)
    assert re.search(f"since the privacy filter failed: .*{words}", caplog.text)


def test_without_a_filter_images_go_as_they_are(tmp_path):
    sidecars, _, counts = kept(tmp_path)
    assert counts["kept"] == 12
    assert {json.loads(sidecar.model_dump_json())["privacy"] for sidecar in sidecars} == {""}


def test_the_command_takes_a_filter(tmp_path):
    folder = folder_of_images(tmp_path / "images", 1)
    words = ["--source", folder, "--job-root", tmp_path / "job", "--privacy", "blur", "--spool", tmp_path / "spool"]
    words = list(map(str, words))
    told = CliRunner().invoke(app, words)
    assert told.exit_code == 1
    assert "its parameters are classes" in told.output
    told = CliRunner().invoke(app, [*words, "--privacy-parameter", "face"])
    assert "--privacy-parameter 'face': write NAME=VALUE" in told.output
    told = CliRunner().invoke(app, [*words[:4], "--privacy-parameter", "classes=face"])
    assert told.exit_code == 1
    assert "--privacy-parameter is given, but no --privacy" in told.output
