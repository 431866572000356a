import gzip
import json
import tracemalloc

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
    unzipped,
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
        ({"data": [[1, 2], [3]]}, "data must be an image"),
        ({"data": [[1, 2], [3, 4]]}, "data must be an image"),
        ({"data": [[[1, 2, 3]], [[1, 2, 3], [4, 5, 6]]]}, "data must be an image"),
        ({"data": [[[1, 2, 3, 4]]]}, "data must be an image"),
        ({"data": [[[1, 2, 3]], []]}, "data must be an image"),
        ({"data": [[]]}, "data must be an image"),
        ({"data": [[[[1, 2, 3]]]]}, "data must be an image"),
        ({"data": []}, "data must be an image"),
        ({"data": 3}, "data"),
        ({"data": [[[0.5, 0.5, 0.5]]]}, "whole numbers from 0 to 255"),
        ({"data": [[[1, 2, 256]]]}, "whole numbers from 0 to 255"),
        ({"data": [[[-1, 2, 3]]]}, "whole numbers from 0 to 255"),
        ({"data": [[["a", "b", "c"]]]}, "data must be an image"),
        ({"data": [[[1, 2, None]]]}, "data must be an image"),
        ({"data": [[[1, 2, float("nan")]]]}, "data must be an image"),
        ({"data": [[[1, 2, 3]]], "threshold": 1}, "threshold"),
        ({"data": [[[1, 2, 3]]], "post_process": "f"}, "post_process"),
        ({"post_process": [[[1, 2, 3]]]}, "data"),
        ({"data": [[[1, 2, 3]]], "callback": [[[1, 2, 3]]]}, "callback|data"),
        ({}, "data"),
    ],
)
def test_another_body_of_json_is_refused(sent, message):
    with pytest.raises(InputError, match=message):
        read_sedna(json.dumps(sent).encode(), LIMITS)


def test_json_that_is_too_large_or_too_deep_is_refused():
    with pytest.raises(TooLargeError, match="send JPEG"):
        read_sedna(b'{"data": [1]}', Limits(max_bytes=4))
    with pytest.raises(InputError, match="data must be an image"):
        read_sedna(b'{"data": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", LIMITS)


def test_the_path_is_that_of_the_protocol():
    assert predict_path("big") == "/v1/models/big:predict"


@pytest.mark.parametrize(
    "text",
    [
        "[[[1,2 3,4]]]",
        "[[[1,,3]]]",
        "[[[1,2,3-4]]]",
        "[[[1,2,e]]]",
        "[[[1,2,]]]",
        "[[[,,]]]",
        "[[[1,2,1e999]]]",
        "[[[1,2,1" + 999 * "0" + "]]]",
        "[[[1,2,1" + 9999 * "0" + "]]]",
    ],
)
def test_what_is_no_json_is_no_image_either(text):
    with pytest.raises(InputError, match="whole numbers from 0 to 255|data must be an image"):
        read_sedna(f'{{"data": {text}}}'.encode(), LIMITS)


def test_an_image_is_read_however_its_json_is_spaced():
    pixels = gradient()
    for text in (json.dumps({"data": pixels.tolist()}, indent=1), json.dumps({"data": pixels.astype(float).tolist()}),
                 json.dumps({"callback": None, "data": pixels.tolist()}, separators=(" , ", " : "))):  # fmt: skip
        assert (read_sedna(text.encode(), LIMITS) == pixels).all()


def test_an_image_of_many_pieces_is_read_whole():
    pixels = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    assert (read_sedna(json.dumps({"data": pixels.tolist()}).encode(), LIMITS) == pixels).all()


def test_what_was_compressed_on_the_way_is_unpacked_as_far_as_the_limit():
    data = b"x" * 1000
    packed = gzip.compress(data)
    assert unzipped(packed, Limits(max_bytes=1000)) == data
    with pytest.raises(TooLargeError, match="exceeds the limit of 999 bytes"):
        unzipped(packed, Limits(max_bytes=999))
    for wrong, message in ((data, "is not gzip"), (packed[:-3], "truncated"), (packed + b"y", "more behind its end")):
        with pytest.raises(InputError, match=message):
            unzipped(wrong, LIMITS)


def test_a_bomb_takes_no_more_memory_than_the_limit():
    bomb = gzip.compress(bytes(100 << 20))
    tracemalloc.start()
    with pytest.raises(TooLargeError):
        unzipped(bomb, Limits(max_bytes=1 << 20))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20
