import json

import cv2
import numpy as np
import pytest

from components.core.detections import Detections
from components.core.errors import InputError
from components.core.wire import (
    Answer,
    Limits,
    TooLargeError,
    decode_image,
    encode_image,
    image_size,
    predict_path,
    read_sedna,
)

LIMITS = Limits()


def gradient(width=64, height=48):
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows * 4, columns * 3, np.full((height, width), 90)], axis=2).clip(0, 255).astype(np.uint8)


def png(image):
    return cv2.imencode(".png", image[:, :, ::-1])[1].tobytes()


def answer(**changed):
    found = Detections.of([[1, 2, 30.004, 40], [5, 5, 9, 9]], [0, 1], [0.9, 0.123456])
    return Answer.of(found, gradient(), "r1", "0" * 64, ["red", "blue"]).model_copy(update=changed)


def body(**changed):
    return answer(**changed).encode()


def test_a_jpeg_arrives_as_the_image_in_its_colours():
    image = gradient()
    assert np.abs(decode_image(encode_image(image, 95), LIMITS).astype(int) - image).mean() < 2


def test_a_png_arrives_pixel_by_pixel():
    assert (decode_image(png(gradient()), LIMITS) == gradient()).all()


@pytest.mark.parametrize("data", [encode_image(gradient(70, 33), 80), png(gradient(70, 33))], ids=["jpeg", "png"])
def test_the_size_is_read_from_the_header(data):
    assert image_size(data) == (70, 33)
    assert image_size(data[:20]) is None


def test_a_header_after_a_long_comment_is_found():
    data = encode_image(gradient(70, 33), 80)
    comment = b"\xff\xfe" + (1002).to_bytes(2, "big") + b"x" * 1000
    assert image_size(data[:2] + comment + data[2:]) == (70, 33)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a JPEG or PNG"),
        (b"<html>please log in</html>", "not a JPEG or PNG"),
        (b"\xff\xd8\xff", "not a JPEG or PNG"),
        (encode_image(gradient(), 90)[:-300], "truncated"),
        (png(gradient())[:-30], "truncated"),
        (png(gradient())[:60] + b"\0" * 40 + png(gradient())[100:], "damaged"),
    ],
)
def test_what_is_no_whole_image_is_refused(data, message):
    with pytest.raises(InputError, match=message):
        decode_image(data, LIMITS)


def test_a_small_file_that_unfolds_to_many_pixels_is_refused_by_its_header():
    bomb = png(np.zeros((2000, 2000, 3), np.uint8))
    assert len(bomb) < 100_000
    with pytest.raises(TooLargeError, match="2000x2000 pixels, but at most 1000000 are allowed"):
        decode_image(bomb, Limits(max_pixels=1_000_000))
    with pytest.raises(TooLargeError, match="bytes"):
        decode_image(bomb, Limits(max_bytes=100))


def test_an_answer_arrives_with_model_digest_and_boxes():
    read = Answer.decode(body(), 64, 48)
    assert (read.model, read.digest) == ("r1", "0" * 64)
    found = read.detections(["blue", "red"])
    assert found.boxes.tolist() == [[1, 2, 30, 40], [5, 5, 9, 9]]
    assert found.classes.tolist() == [1, 0]
    assert found.scores.tolist() == pytest.approx([0.9, 0.1235])


def test_an_answer_without_boxes():
    assert len(Answer.decode(body(boxes=(), scores=(), class_ids=()), 64, 48).detections(["red", "blue"])) == 0


def test_models_of_other_classes_do_not_answer_for_each_other():
    with pytest.raises(InputError, match="classes red, blue, but the local model has red, green"):
        answer().detections(["red", "green"])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"<html>please log in</html>", "not an answer of a cloud server"),
        (b'{"predictions": []}', "not an answer of a cloud server"),
        (b'{"predictions": [{"boxes": []}]}', "not an answer of a cloud server"),
        (body().replace(b"0.9", b"1.9"), "not an answer of a cloud server"),
        (body().replace(b"0.9", b"NaN"), "not an answer of a cloud server"),
        (body(scores=(0.5,)), "2 boxes, 1 scores"),
        (body(class_ids=(0, 2)), "class 2 has no name"),
        (body(boxes=((1, 2, 300, 40), (5, 5, 9, 9))), "not within the image"),
        (body(boxes=((30, 2, 1, 40), (5, 5, 9, 9))), "not within the image"),
        (body(width=640), "for an image of 640x48 pixels, but one of 64x48 was sent"),
    ],
)
def test_a_lying_cloud_is_not_believed(data, message):
    with pytest.raises(InputError, match=message):
        Answer.decode(data, 64, 48)


def test_what_a_client_of_sedna_sends_and_reads():
    sent = json.dumps({"data": gradient().tolist(), "post_process": None}).encode()
    assert (read_sedna(sent, LIMITS) == gradient()).all()
    rows = json.loads(answer().for_sedna())["result"]
    assert rows[0] == [1, 2, 30, 40, 0.9, "red"]


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        ({"data": [[1, 2], [3]]}, "rows of different lengths"),
        ({"data": [[1, 2], [3, 4]]}, r"shape \(2, 2\)"),
        ({"data": []}, "shape"),
        ({"data": [[[0.5, 0.5, 0.5]]]}, "whole numbers from 0 to 255"),
        ({"data": [[[1, 2, 256]]]}, "whole numbers from 0 to 255"),
        ({"data": [[["a", "b", "c"]]]}, "whole numbers from 0 to 255"),
        ({"data": [[[1, 2, None]]]}, "whole numbers from 0 to 255"),
        ({"data": [[[1, 2, 3]]], "threshold": 1}, "threshold"),
        ({"data": [[[1, 2, 3]]], "post_process": "f"}, "post_process"),
        ({}, "data"),
    ],
)
def test_another_body_of_json_is_refused(sent, message):
    with pytest.raises(InputError, match=message):
        read_sedna(json.dumps(sent).encode(), LIMITS)


def test_json_that_is_too_large_or_too_deep_is_refused():
    with pytest.raises(TooLargeError, match="send JPEG"):
        read_sedna(b'{"data": [1]}', Limits(max_bytes=4))
    with pytest.raises(InputError, match="not the body"):
        read_sedna(b'{"data": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", LIMITS)


def test_the_path_is_that_of_the_protocol():
    assert predict_path("big") == "/v1/models/big:predict"
