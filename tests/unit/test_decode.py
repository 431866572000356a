import numpy as np
import pytest
import torch

from components.core.detections import Detections
from components.core.errors import InputError
from components.core.heads import BoxesHead, SplitHead
from components.core.runtimes.decode import MAX_DETECTIONS, candidates, decode, suppress

SIZE = (96, 160)


def run(ultralytics, name, end_to_end=False):
    """What a head makes of random features: its own answer, its last convolutions' outputs, and what it is."""
    torch.manual_seed(0)
    head = ultralytics.YOLO(name).model.eval().model[-1]
    head.end2end = end_to_end
    branch = head.one2one if end_to_end else head.one2many
    strides = tuple(int(stride) for stride in head.stride)
    features, outputs = [], []
    with torch.no_grad():
        for stride, box, scores in zip(strides, branch["box_head"], branch["cls_head"], strict=True):
            feature = 5 * torch.randn(1, box[0].conv.in_channels, SIZE[0] // stride, SIZE[1] // stride)
            for branch_end, spread in ((box, 2.0), (scores, 3.0)):
                branch_end[-1].bias.data.zero_()
                weight = branch_end[-1].weight.data.normal_()
                weight *= spread / branch_end(feature).std()
            features.append(feature)
            outputs += [box(feature).numpy(), scores(feature).sigmoid().numpy()]
        answer = head(features)[0]
    return answer, outputs, SplitHead(strides=strides, reg_max=head.reg_max, end_to_end=end_to_end)


@pytest.mark.parametrize(("name", "reg_max"), [("yolo11n.yaml", 16), ("yolov8n.yaml", 16), ("yolo26n.yaml", 1)])
def test_boxes_and_scores_are_those_of_the_model(name, reg_max, ultralytics):
    answer, outputs, head = run(ultralytics, name)
    assert head.reg_max == reg_max
    found = candidates(outputs, head, confidence=0.0)
    x, y, width, height = answer[0, :4].numpy()
    expected = np.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], axis=1)
    scores = answer[0, 4:].numpy().T
    cells, classes = scores.shape
    assert len(found) == cells * classes
    assert np.ptp(expected) > 100
    np.testing.assert_allclose(found.boxes.reshape(cells, classes, 4)[:, 0], expected, atol=1e-3)
    np.testing.assert_allclose(found.scores.reshape(cells, classes), scores, atol=1e-6)
    np.testing.assert_array_equal(found.classes.reshape(cells, classes)[0], np.arange(classes))


@pytest.mark.parametrize("name", ["yolo11n.yaml", "yolo26n.yaml"])
@pytest.mark.parametrize("confidence", [0.9, 0.999])
def test_detections_are_those_of_ultralytics(name, confidence, ultralytics):
    answer, outputs, head = run(ultralytics, name)
    expected = ultralytics.utils.nms.non_max_suppression(answer, confidence, 0.7, multi_label=True)[0].numpy()
    found = decode(outputs, head, confidence=confidence, nms=0.7)
    assert len(found) == len(expected) > 20
    np.testing.assert_allclose(found.scores, expected[:, 4], atol=1e-6)
    np.testing.assert_allclose(rows(found)[:, :4], by_row(expected)[:, :4], atol=1e-2)


def test_an_end_to_end_head_keeps_the_best_of_all(ultralytics):
    answer, outputs, head = run(ultralytics, "yolo26n.yaml", end_to_end=True)
    expected = answer[0].numpy()
    found = decode(outputs, head, confidence=0.0, nms=0.7)
    assert len(found) == len(expected) == MAX_DETECTIONS
    np.testing.assert_allclose(found.scores, expected[:, 4], atol=1e-6)
    np.testing.assert_array_equal(found.classes, expected[:, 5])
    np.testing.assert_allclose(found.boxes, expected[:, :4], atol=1e-3)


def rows(found):
    return by_row(np.column_stack([found.boxes, found.scores, found.classes]))


def by_row(table):
    return table[np.lexsort(table[:, ::-1].round(2).T)]


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("threshold", [0.3, 0.7])
def test_suppression_is_that_of_torchvision(seed, threshold):
    from torchvision.ops import batched_nms

    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 900))
    corner = rng.uniform(0, 60, (count, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(5, 40, (count, 2))], axis=1)
    found = Detections.of(boxes, rng.integers(0, 3, count), np.sort(rng.permutation(count) / count)[::-1])
    tensors = (torch.tensor(found.boxes), torch.tensor(found.scores), torch.tensor(found.classes))
    expected = batched_nms(*tensors, threshold).numpy()[:MAX_DETECTIONS]
    np.testing.assert_array_equal(suppress(found, threshold), expected)


def test_a_cell_may_hold_several_classes_and_the_threshold_belongs_to_the_score():
    scores = np.zeros((1, 3, 1, 2), np.float32)
    scores[0, :, 0, 1] = 0.5, 0.25, 0.2499
    distances = np.ones((1, 4, 1, 2), np.float32)
    head = SplitHead(strides=(8,), reg_max=1, end_to_end=False)
    found = decode([distances, scores], head, confidence=0.25, nms=0.5)
    np.testing.assert_array_equal(found.classes, [0, 1])
    np.testing.assert_array_equal(found.boxes, [[4, -4, 20, 12]] * 2)


def test_only_an_end_to_end_head_may_find_one_place_twice():
    outputs = [np.full((1, 4, 1, 2), 9, np.float32), np.full((1, 1, 1, 2), 0.8, np.float32)]
    assert len(decode(outputs, SplitHead((8,), 1, False), confidence=0.5, nms=0.5)) == 1
    assert len(decode(outputs, SplitHead((8,), 1, True), confidence=0.5, nms=0.5)) == 2


def test_nothing_above_the_threshold_is_no_detection():
    head = SplitHead(strides=(8, 16), reg_max=16, end_to_end=False)
    outputs = [np.zeros((1, c, n, n), np.float32) for n in (4, 2) for c in (64, 2)]
    assert len(decode(outputs, head, confidence=0.1, nms=0.5)) == 0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("output", "what"), [(0, "boxes"), (1, "scores"), (2, "boxes"), (3, "scores")])
def test_outputs_that_are_no_numbers_are_refused_and_not_left_out(output, what, value):
    head = SplitHead(strides=(8, 16), reg_max=1, end_to_end=False)
    outputs = [np.full((1, c, n, n), 0.5, np.float32) for n in (4, 2) for c in (4, 2)]
    outputs[output][0, :, 1, 1] = value
    with pytest.raises(InputError, match=f"^the model gives {what} that are not finite numbers"):
        decode(outputs, head, confidence=0.1, nms=0.5)


@pytest.mark.parametrize(("place", "what"), [(0, "boxes"), (1, "scores")])
def test_a_two_stage_model_that_gives_no_numbers_is_refused(place, what):
    outputs = [np.array([[0, 0, 4, 4]] * 2, np.float32), np.full(2, 0.9, np.float32), np.zeros(2, np.float32)]
    outputs[place][1] = np.nan
    with pytest.raises(InputError, match=f"^the model gives {what} that are not finite numbers"):
        decode(outputs, BoxesHead(), confidence=0.1, nms=0.5)


def test_outputs_must_match_the_strides():
    with pytest.raises(ValueError, match="zip"):
        decode([np.zeros((1, 4, 2, 2), np.float32)] * 2, SplitHead((8, 16), 1, False), confidence=0.1, nms=0.5)
