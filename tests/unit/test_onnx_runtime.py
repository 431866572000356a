from dataclasses import replace

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from components.core.detections import Detections
from components.core.errors import InputError, NotFoundError
from components.core.heads import SplitHead
from components.core.runtimes.base import open_detector
from tests.models import BUNDLE, colour_model, model, port, write_bundle


@pytest.fixture
def detector(tmp_path):
    return open_detector("onnx", write_bundle(tmp_path / "version", colour_model()), threads=1)


def test_boxes_are_in_pixels_of_each_image(detector):
    small = np.zeros((32, 32, 3), np.uint8)  # drawn twice as large, with 16 columns left and right
    small[8:12, 16:20] = (255, 0, 0)
    large = np.zeros((128, 192, 3), np.uint8)  # drawn half as large
    large[32:48, 64:80] = (0, 0, 255)
    first, second, third = detector.predict([small, large, np.zeros((50, 50, 3), np.uint8)])
    np.testing.assert_allclose(first.boxes, [[16, 8, 20, 12]], atol=1e-4)
    np.testing.assert_allclose(second.boxes, [[64, 32, 80, 48]], atol=1e-4)
    np.testing.assert_array_equal(first.classes, [0])
    np.testing.assert_array_equal(second.classes, [1])
    assert first.scores[0] == pytest.approx(1 / (1 + np.exp(-3)), abs=0.05)
    assert len(third) == 0


def test_thresholds_are_those_of_the_bundle_unless_given(detector):
    image = np.zeros((64, 96, 3), np.uint8)
    image[8:16, 8:16] = (140, 0, 0)  # just above one half
    image[32:40, 8:16] = (100, 0, 0)  # just below
    assert len(detector.predict([image])[0]) == 1
    assert len(detector.predict([image], confidence=0.3)[0]) == 2
    assert len(detector.predict([image], confidence=0.9)[0]) == 0


def test_boxes_beside_the_image_are_left_out(detector):
    wide = np.zeros((8, 96, 3), np.uint8)  # rows 28 to 36 of the canvas: two rows of cells of 8 pixels, two of 16
    (found,) = detector.predict([wide], confidence=0.0)
    assert len(found) == 2 * (2 * 12 + 2 * 6)
    assert (found.boxes[:, 3] - found.boxes[:, 1] == 4).all()


def test_a_concatenated_output_is_refused(tmp_path):
    nodes = [helper.make_node("Identity", ["answer"], ["output0"])]
    answer = numpy_helper.from_array(np.zeros((1, 6, 120), np.float32), "answer")
    graph = model(nodes, [port("images", 1, 3, 64, 96)], [port("output0", 1, 6, 120)], [answer])
    with pytest.raises(InputError, match=r"output0 \(1, 6, 120\), but .*box0 \(1, 4, 8, 12\).* as separate outputs"):
        open_detector("onnx", write_bundle(tmp_path / "version", graph))


def test_a_model_of_another_size_or_with_other_classes_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"images \(1, 3, 32, 32\)"):
        open_detector("onnx", write_bundle(tmp_path / "size", colour_model(32, 32)))
    with pytest.raises(InputError, match=r"cls0 \(1, 3, 8, 12\).* needed"):
        open_detector(
            "onnx", write_bundle(tmp_path / "classes", colour_model(), replace(BUNDLE, classes=("a", "b", "c")))
        )


def test_a_model_in_half_precision_is_refused(tmp_path):
    half = colour_model()
    half.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    half.graph.node.insert(0, helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT))
    half.graph.node[1].input[0] = "pixels"
    with pytest.raises(InputError, match=r"takes tensor\(float16\): export it in float32"):
        open_detector("onnx", write_bundle(tmp_path / "version", half))


def test_a_file_that_is_no_model_is_refused(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"not a graph")
    BUNDLE.write(tmp_path)
    with pytest.raises(InputError, match=r"model\.onnx: ONNX Runtime cannot load it"):
        open_detector("onnx", tmp_path)


def test_a_changed_model_is_not_loaded(tmp_path):
    folder = write_bundle(tmp_path / "version", colour_model())
    (folder / "model.onnx").write_bytes(b"other")
    with pytest.raises(InputError, match="SHA-256"):
        open_detector("onnx", folder)


def test_a_bundle_without_onnx_is_refused(tmp_path):
    (tmp_path / "model.pt").write_bytes(b"weights")
    BUNDLE.write(tmp_path)
    with pytest.raises(NotFoundError, match=r"no model\.onnx in it"):
        open_detector("onnx", tmp_path)


def test_an_unknown_runtime_is_named(tmp_path):
    with pytest.raises(InputError, match="unknown runtime 'cuda': choose from .*onnx"):
        open_detector("cuda", tmp_path)


def wake(network, pixels):
    """Give an untrained network activations and outputs of the size that a trained one has."""
    import torch

    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    network.train()(torch.cat([pixels, torch.rand(3, *pixels.shape[1:])]))
    features = []
    head = network.eval().model[-1]
    hook = head.register_forward_pre_hook(lambda _, inputs: features.extend(inputs[0]))
    network(pixels)
    hook.remove()
    for branch, spread in ((head.cv2, 2.0), (head.cv3, 3.0)):
        for feature, convolutions in zip(features, branch, strict=True):
            convolutions[-1].bias.zero_()
            convolutions[-1].weight *= spread / convolutions(feature).std()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_detections_are_those_of_ultralytics(tmp_path, ultralytics):
    """The whole way, from an image to boxes, with a network that was exported as a trained one is."""
    import torch

    torch.manual_seed(0)
    network = ultralytics.nn.tasks.DetectionModel("yolov8n.yaml", nc=2, verbose=False)
    head = network.model[-1]
    image = np.random.default_rng(0).integers(0, 256, (70, 110, 3), dtype=np.uint8)
    canvas = ultralytics.data.augment.LetterBox((64, 96))(image=image)
    pixels = torch.from_numpy(canvas.transpose(2, 0, 1)[None] / np.float32(255))
    with torch.no_grad():
        wake(network, pixels)
        answer = network(pixels)[0]
    found = ultralytics.utils.nms.non_max_suppression(answer, 0.6, 0.6, multi_label=True)[0].numpy()
    expected = ultralytics.utils.ops.scale_boxes((64, 96), found[:, :4].copy(), image.shape[:2])
    visible = (expected[:, 2:] > expected[:, :2]).all(axis=1)

    head.forward = lambda features: tuple(
        output
        for feature, box, scores in zip(features, head.cv2, head.cv3, strict=True)
        for output in (box(feature), scores(feature).sigmoid())
    )
    outputs = ("box0", "cls0", "box1", "cls1", "box2", "cls2")
    path = tmp_path / "model.onnx"
    torch.onnx.export(network, (pixels,), path, input_names=["images"], output_names=outputs, dynamo=False)
    bundle = replace(BUNDLE, outputs=outputs, head=SplitHead((8, 16, 32), 16, False), nms_threshold=0.6)
    bundle.write(tmp_path)
    (actual,) = open_detector("onnx", tmp_path).predict([image], confidence=0.6)
    assert len(actual) == visible.sum() > 20
    assert isinstance(actual, Detections)
    np.testing.assert_allclose(actual.scores, found[visible, 4], atol=1e-4)
    by_place = [np.lexsort(boxes.T.round(1)) for boxes in (actual.boxes, expected[visible])]
    np.testing.assert_allclose(actual.boxes[by_place[0]], expected[visible][by_place[1]], atol=1e-1)
