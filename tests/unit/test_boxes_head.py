"""Bundles whose model gives boxes itself, beside those that give a grid."""

import json
from dataclasses import replace

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from components.core.bundle import Bundle
from components.core.errors import InputError
from components.core.heads import BoxesHead, SplitHead
from components.core.runtimes.base import open_detector
from components.core.runtimes.decode import MAX_DETECTIONS, decode
from tests.models import BUNDLE, model, write_bundle

BOXES = replace(BUNDLE, head=BoxesHead(), outputs=("boxes", "scores", "labels"))
NEAR = np.array([[0, 0, 10, 10], [0, 0, 10, 9], [20, 20, 30, 30]], np.float32)


def decoded(scores, labels, head=BOXES.head, confidence=0.1, boxes=NEAR):
    outputs = [boxes, np.array(scores, np.float32), np.array(labels, np.int64)]
    return decode(outputs, head, confidence=confidence, nms=0.5)


def test_of_two_boxes_of_one_class_the_better_stays():
    found = decoded([0.5, 0.9, 0.7], [1, 1, 0])
    np.testing.assert_array_equal(found.boxes, NEAR[[1, 2]])
    np.testing.assert_array_equal(found.classes, [1, 0])
    assert len(decoded([0.5, 0.9, 0.7], [0, 1, 0])) == 3
    assert len(decoded([0.5, 0.9, 0.7], [1, 1, 0], BoxesHead(end_to_end=True))) == 3


def test_a_score_at_the_threshold_counts_and_no_box_is_fine():
    assert len(decoded([0.25, 0.1, 0.125], [0, 0, 0], confidence=0.25)) == 1
    assert len(decoded([], [], boxes=np.zeros((0, 4), np.float32))) == 0


def test_a_image_has_at_most_so_many_boxes():
    places = np.arange(400, dtype=np.float32)[:, None] * 20 + np.float32([0, 0, 10, 10])
    found = decoded(np.linspace(0.2, 0.9, 400), np.zeros(400), boxes=places)
    assert len(found) == MAX_DETECTIONS
    assert found.scores[0] == pytest.approx(0.9)


def test_a_description_from_before_there_were_two_heads_is_read(tmp_path):
    BUNDLE.write(tmp_path)
    said = json.loads((tmp_path / "model.json").read_text())
    assert said["head"].pop("kind") == "split"
    (tmp_path / "model.json").write_text(json.dumps(said))
    assert Bundle.read(tmp_path).head == BUNDLE.head == SplitHead((8, 16), 1, False)


def test_a_bundle_with_boxes_comes_back(tmp_path):
    written = BOXES.write(tmp_path)
    assert Bundle.read(tmp_path) == written
    assert json.loads((tmp_path / "model.json").read_text())["head"] == {"end_to_end": False, "kind": "boxes"}


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"outputs": ["boxes", "scores"]}, "2 outputs: three are needed"),
        ({"head": {"kind": "boxes", "strides": [8]}}, "head: a head of kind boxes: strides: Unexpected"),
        ({"head": {"end_to_end": False}}, "head: a head of kind split: strides: Field required"),
    ],
)
def test_a_wrong_description_is_told(tmp_path, changed, words):
    BOXES.write(tmp_path)
    said = json.loads((tmp_path / "model.json").read_text())
    (tmp_path / "model.json").write_text(json.dumps({**said, **changed}))
    with pytest.raises(InputError, match=words):
        Bundle.read(tmp_path)


def answer(length="N", sides=4):
    """A model that finds one red box on every canvas, as long as it is not black."""
    constants = {
        "box": np.float32([[8, 16, 24, 32]]), "score": np.float32([0.8]), "label": np.int64([0]), "least": np.float32(0)
    }  # fmt: skip
    nodes = [
        helper.make_node("ReduceMax", ["images"], ["brightest"], keepdims=0),
        helper.make_node("Greater", ["brightest", "least"], ["bright"]),
        helper.make_node("Unsqueeze", ["bright", "first"], ["chosen"]),
        *(
            helper.make_node("Compress", [given, "chosen"], [name], axis=0)
            for given, name in (("box", "boxes"), ("score", "scores"), ("label", "labels"))
        ),
    ]
    constants["first"] = np.int64([0])
    ports = [
        helper.make_tensor_value_info("boxes", TensorProto.FLOAT, [length, sides]),
        helper.make_tensor_value_info("scores", TensorProto.FLOAT, [length]),
        helper.make_tensor_value_info("labels", TensorProto.INT64, [length]),
    ]
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 64, 96])
    initializers = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    return model(nodes, [images], ports, initializers)


def test_boxes_are_in_pixels_of_each_image_whatever_their_number(tmp_path):
    detector = open_detector("onnx", write_bundle(tmp_path / "version", answer(), BOXES), threads=1)
    small = np.full((32, 48, 3), 200, np.uint8)  # drawn twice as large
    (found,) = detector.predict([small])
    np.testing.assert_allclose(found.boxes, [[4, 8, 12, 16]])
    assert found.scores[0] == pytest.approx(0.8)
    assert [len(one) for one in detector.predict([np.zeros((64, 96, 3), np.uint8), small])] == [0, 1]
    assert len(detector.predict([small], confidence=0.9)[0]) == 0


def test_a_model_with_other_outputs_than_boxes_is_refused(tmp_path):
    described = replace(BOXES, outputs=("boxes", "scores", "classes"))
    with pytest.raises(InputError, match=r"labels \('N',\), but .*classes.* are needed: .*boxes, scores and classes"):
        open_detector("onnx", write_bundle(tmp_path / "version", answer(), described))
