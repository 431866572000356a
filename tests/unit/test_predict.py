"""The predict verb: what a model sees in images, folders and videos, drawn and counted."""

import json

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from components.core.errors import InputError
from components.core.job.job import Job
from components.core.runtimes.letterbox import read_image
from pipelines.__main__ import app
from pipelines.predict import predict
from tests.edge import deploy
from tests.images import jpeg, squares
from tests.models import colour_model, write_bundle
from tests.tiny_segmenter import train_network
from tests.tiny_segmenter import write_bundle as write_segmenter

RED, BLUE = (200, 30, 30), (30, 30, 200)


def image_with(*colours):
    """A grey image (64, 96, 3) with a square of each colour, each exactly one cell of the model."""
    image = np.full((64, 96, 3), 120, np.uint8)
    for index, colour in enumerate(colours):
        image[8:16, 16 * index : 16 * index + 8] = colour
    return image


@pytest.fixture
def bundle(tmp_path):
    return write_bundle(tmp_path / "model", colour_model())


@pytest.fixture
def look(tmp_path, bundle):
    def look(*sources, model=bundle, output=tmp_path / "out", **options):
        return list(predict(str(model), [str(one) for one in sources], output, work=tmp_path / "work", **options))

    return look


def write(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), image[:, :, ::-1])
    return path


def test_an_image_is_drawn_under_its_name_and_its_boxes_are_counted(look, tmp_path):
    path = write(tmp_path / "two.png", image_with((255, 0, 0), (0, 0, 255), (255, 0, 0)))
    (seen,) = look(path)
    assert seen.describe() == f"{path}: 1 image, 3 boxes: red 2, blue 1"
    drawn = read_image(tmp_path / "out" / "two.png")
    assert drawn.shape[0] % 64 == 0 and drawn.shape[1] % 96 == 0
    assert not np.array_equal(cv2.resize(drawn, (96, 64), interpolation=cv2.INTER_NEAREST), read_image(path))


def test_an_image_without_objects_is_told_as_such(look, tmp_path):
    (seen,) = look(write(tmp_path / "grey.png", image_with()))
    assert seen.describe().endswith("grey.png: 1 image, 0 boxes")


def test_the_images_of_a_folder_keep_their_places(look, tmp_path):
    write(tmp_path / "site a" / "1.png", image_with((255, 0, 0)))
    write(tmp_path / "site a" / "inner" / "2.png", image_with((255, 0, 0), (0, 0, 255)))
    (seen,) = look(tmp_path / "site a")
    assert (seen.images, dict(seen.counts)) == (2, {"red": 2, "blue": 1})
    assert (tmp_path / "out" / "site a" / "1.png").is_file()
    assert (tmp_path / "out" / "site a" / "inner" / "2.png").is_file()


def test_a_video_becomes_a_video_with_as_many_frames_at_the_same_rate(look, tmp_path):
    path = tmp_path / "camera.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 12, (96, 64))
    for _ in range(5):
        writer.write(image_with((255, 0, 0))[:, :, ::-1])
    writer.release()
    (seen,) = look(path, confidence=0.3)
    assert (seen.images, seen.counts["red"]) == (5, 5)
    capture = cv2.VideoCapture(str(tmp_path / "out" / "camera.mp4"))
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(12)
    assert sum(capture.read()[0] for _ in range(9)) == 5


def test_a_video_whose_frames_cannot_be_decoded_is_told_in_one_line(look, tmp_path, monkeypatch):
    path = tmp_path / "camera.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 12, (96, 64))
    writer.write(image_with()[:, :, ::-1])
    writer.release()
    monkeypatch.setattr("pipelines.predict.VideoSource.shots", lambda *_: iter(()))
    with pytest.raises(InputError, match="camera.avi: no frame of this video can be decoded"):
        look(path)


def test_sources_of_one_name_do_not_replace_each_other(look, tmp_path):
    paths = [write(tmp_path / side / "gate.png", image_with((255, 0, 0))) for side in ("north", "south")]
    first, second = look(*paths)
    assert (first.drawn.name, second.drawn.name) == ("gate.png", "gate-2.png")
    assert first.drawn.is_file() and second.drawn.is_file()


def test_the_champion_of_a_job_looks_where_a_job_root_is_given(look, tmp_path):
    deploy(Job.open(str(tmp_path / "job")), "r0001-aaaaaaaa", tmp_path / "deployed")
    (seen,) = look(write(tmp_path / "a.png", image_with((255, 0, 0))), model=(tmp_path / "job").as_uri())
    assert seen.counts == {"red": 1}


def test_weights_alone_are_made_a_bundle_first(look, tmp_path):
    import tests.quick_estimator  # noqa: F401

    (tmp_path / "best.pt").write_text(json.dumps({"learned": "nothing"}))
    path = write(tmp_path / "a.png", image_with((255, 0, 0)))
    (seen,) = look(path, model=tmp_path / "best.pt", estimator="quick", image_size=(64, 96), confidence=0.5)
    assert seen.counts == {"red": 1}


def test_a_model_that_segments_paints_and_counts_pixels(look, tmp_path):
    model = write_segmenter(tmp_path / "segmenter", train_network(steps=1))
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg(squares(np.random.default_rng(0))[0]))
    (seen,) = look(path, model=model)
    assert seen.counts.total() == 96 * 96
    assert "a.jpg: 1 image, pixels: " in seen.describe()
    assert read_image(tmp_path / "out" / "a.jpg").shape == (96, 96, 3)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("nothing", "no such file or folder: give a bundle, .pt weights, or a job_root"),
        ("alone/model.onnx", "no model.json beside it, which describes its outputs"),
        ("empty", "the job has no champion"),
    ],
)
def test_what_is_no_model_is_told(look, tmp_path, model, words):
    (tmp_path / "empty").mkdir()
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone" / "model.onnx").write_bytes(b"onnx")
    with pytest.raises(InputError, match=words):
        look(write(tmp_path / "a.png", image_with()), model=tmp_path / model)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("0", "cameras are not supported here"),
        ("rtsp://gate/stream", "cameras are not supported here"),
        ("no.png", "no such file or folder"),
        ("s3://images/a.png", "only files on this machine"),
        ("https://example.com/a.png", "only files on this machine"),
    ],
)
def test_what_is_no_source_is_told(look, source, words):
    with pytest.raises(InputError, match=words):
        look(source)


def test_a_source_is_never_drawn_upon(look, tmp_path):
    path = write(tmp_path / "images" / "a.png", image_with())
    before = path.read_bytes()
    other = write(tmp_path / "elsewhere" / "images" / "a.png", image_with())
    for sources, output in (
        ([path], tmp_path / "images"),
        ([tmp_path / "images"], tmp_path / "images" / "drawn"),
        ([tmp_path / "images"], tmp_path),  # the folder is drawn under its own name
        ([other.parent, path], tmp_path),
        ([other, tmp_path / "images"], tmp_path / "images" / "." / "drawn" / ".."),
    ):
        with pytest.raises(InputError, match="give another"):
            look(*sources, output=output)
    assert path.read_bytes() == before


def test_a_source_that_is_given_twice_is_drawn_once_under_its_name(look, tmp_path):
    path = write(tmp_path / "a.png", image_with())
    assert [seen.drawn for seen in look(path, path)] == [tmp_path / "out" / "a.png"]


def test_the_verb_prints_the_counts_and_where_the_images_are(bundle, tmp_path):
    path = write(tmp_path / "a.png", image_with((255, 0, 0)))
    done = CliRunner().invoke(app, ["predict", str(bundle), str(path), "--output", str(tmp_path / "my out")])
    assert done.exit_code == 0, done.output
    assert f"{path}: 1 image, 1 box: red 1" in done.output
    assert f"results saved to {tmp_path / 'my out'}" in done.output
    done = CliRunner().invoke(app, ["predict", str(bundle), str(tmp_path / "no.png")])
    assert done.exit_code == 1
    assert "no such file or folder" in done.output


def test_an_output_that_cannot_be_written_is_told_in_one_line(bundle, tmp_path):
    path = write(tmp_path / "a.png", image_with())
    (tmp_path / "file").touch()
    done = CliRunner().invoke(app, ["predict", str(bundle), str(path), "--output", str(tmp_path / "file")])
    assert done.exit_code == 1
    assert done.output.splitlines()[-1] == f"error: File exists ({tmp_path / 'file'})"
