"""What a conversion decides without the toolkit: targets, early errors, gate, the compiler's table."""

import json
import signal
from dataclasses import replace

import numpy as np
import onnx
import polars as pl
import pytest

from components.convert import convert as conversions
from components.convert.calibration import (
    calibration_canvases,
    calibration_samples,
    draw_samples,
    write_canvases,
    write_list,
    zoom,
)
from components.convert.gate import Limits, check_reference, judge
from components.convert.measure import measure
from components.convert.toolkit import Operators, describe_crash, parse_compiler, parse_operators
from components.core import parameters
from components.core.cache import fetch_blobs
from components.core.detections import Detections
from components.core.errors import InputError
from components.core.heads import BoxesHead
from components.core.manifest import Manifest
from components.core.runtimes.base import decoder_of
from components.core.runtimes.letterbox import letterbox, read_image
from components.core.runtimes.rockchip import check_precision, parse_retries, parse_targets, rknn_file
from components.core.tasks.base import LocalSamples, open_task
from tests.images import job_with_images
from tests.models import BUNDLE, colour_model, write_bundle

CLASSES = ("red", "blue")


@pytest.fixture
def job(tmp_path):
    return job_with_images(tmp_path / "job", {"train": 30, "test": 10})


@pytest.fixture
def convert(tmp_path, job):
    def run(model=None, bundle=BUNDLE, manifest=job, **options):
        folder = write_bundle(tmp_path / "model", model or colour_model(), bundle)
        settings = {"job_root": str(tmp_path / "job"), "targets": "rk3588", "limits": Limits(), **options}
        return conversions.convert(manifest, folder, tmp_path / "out", **settings)

    return run


@pytest.fixture
def without_toolkit(monkeypatch):
    monkeypatch.setattr(conversions, "toolkit_version", lambda: "")


# Targets


def test_targets_are_read_in_the_order_given():
    assert parse_targets(" RK3588, rv1106 ,") == ("rk3588", "rv1106")
    assert parse_targets("") == ()
    assert rknn_file("rk3588") == "model.rk3588.rknn"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rk3588s", "did you mean rk3588?"),
        ("jetson", "choose from rk2118, rk3562"),
        ("rk1808", "needs the older RKNN-Toolkit 1"),
        ("rk3588,RK3588", "rk3588 is given twice"),
    ],
)
def test_a_wrong_target_is_told(text, words):
    with pytest.raises(InputError, match=f"^targets='{text}': .*{words}"):
        parse_targets(text)


def test_a_precision_that_a_chip_cannot_do_is_told():
    with pytest.raises(InputError, match="quantization=fp16: not supported by rv1106, rv1103, only int8"):
        check_precision(("rk3588", "rv1106", "rv1103"), "fp16")
    with pytest.raises(InputError, match="quantization=int8: not supported by rk2118"):
        check_precision(("rk2118",), "int8")
    check_precision(("rk2118", "rk3588"), "fp16")


def test_retries():
    assert parse_retries("mmse, fp16") == ("mmse", "fp16")
    for wrong in ("kl", "fp16,fp16", "normal"):
        with pytest.raises(InputError, match="unknown or given twice; choose from kl_divergence, mmse, fp16"):
            parse_retries(wrong)


CONVERT = [parameters.ConvertSettings]


def test_parameters_of_a_run():
    assert parameters.problems({}, CONVERT) == []
    found = parameters.problems({"targets": "rk3588s", "max_map_drop": 2, "quantization_retries": "kl"}, CONVERT)
    assert len(found) == 3
    (found,) = parameters.problems({"targets": "rv1106", "quantization": "fp16"}, CONVERT)
    assert found.startswith("quantization=fp16: not supported by rv1106")


# What is told before the toolkit starts


def test_without_targets_the_model_stays_what_it_was(convert, tmp_path):
    done = convert(targets="")
    assert (done.outcome, done.reasons) == ("skipped", ("no targets are given",))
    for name in ("model.json", "model.onnx"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "model" / name).read_bytes()


def test_without_the_toolkit_the_model_stays_what_it_was(convert, without_toolkit, tmp_path):
    done = convert()
    assert done.outcome == "skipped"
    assert "rknn-toolkit2 is not installed here" in done.describe()
    assert (tmp_path / "out" / "model.json").read_bytes() == (tmp_path / "model" / "model.json").read_bytes()
    assert done.to_dict()["attempts"] == []
    assert "rknn-toolkit2 is not installed" in done.sections[0].body


def test_mistakes_are_told_even_without_the_toolkit(convert, without_toolkit):
    with pytest.raises(InputError, match="rk3599"):
        convert(targets="rk3599")


def test_a_model_of_finished_boxes_is_refused(convert):
    boxes = replace(BUNDLE, head=BoxesHead(), outputs=("boxes", "scores", "labels"))
    with pytest.raises(InputError, match="outputs decoded boxes .* train with estimator=yolo, or leave targets empty"):
        convert(bundle=boxes)


def test_an_opset_that_is_too_new_is_refused(convert):
    model = colour_model()
    model.opset_import[0].version = 20
    with pytest.raises(InputError, match="opset 20 is not supported by the toolkit: export it with opset 19"):
        convert(model)


def test_what_is_no_onnx_is_refused(convert, tmp_path, job):
    folder = write_bundle(tmp_path / "text", colour_model())
    (folder / "model.onnx").write_text("not a model")
    BUNDLE.write(folder)
    with pytest.raises(InputError, match="not an ONNX file"):
        conversions.convert(
            job, folder, tmp_path / "out", job_root=str(tmp_path), targets="rk3588", limits=Limits()
        )  # fmt: skip


def test_float16_weights_are_refused(convert):
    model = colour_model()
    half = onnx.numpy_helper.from_array(np.zeros(2, np.float16), "half")
    model.graph.initializer.append(half)
    with pytest.raises(InputError, match="its weights are float16"):
        convert(model)


@pytest.mark.parametrize("side", ["N", 2])
def test_a_batch_that_is_not_one_is_refused(convert, side):
    model = colour_model()
    size = model.graph.input[0].type.tensor_type.shape.dim[0]
    if side == "N":
        size.dim_param = "N"
    else:
        size.dim_value = side
    with pytest.raises(InputError, match=r"export it with batch 1, without dynamic axes, with boxes and class scores"):
        convert(model)


def test_too_few_images_are_told(job):
    few = job.where(~job.table["split"].eq("train")).table.vstack(job.split("train").table.head(5))
    with pytest.raises(InputError, match="5 training images to calibrate int8 with, at least 20 are needed"):
        calibration_samples(Manifest(few, CLASSES), 100, 0, needed=True)
    assert len(calibration_samples(Manifest(few, CLASSES), 100, 0, needed=False)) == 5


def test_a_split_without_boxes_is_told(convert, monkeypatch):
    monkeypatch.setattr(conversions, "toolkit_version", lambda: "2.5.0")
    with pytest.raises(InputError, match="split 'val' has 0 labelled images"):
        convert(split="val")
    with pytest.raises(InputError, match="evaluate the conversion on val or test"):
        convert(split="train")


def test_images_that_are_drawn_without_a_box_among_them_are_told(convert, job, monkeypatch):
    monkeypatch.setattr(conversions, "toolkit_version", lambda: "2.5.0")
    (drawn,) = draw_samples(job.split("test"), 1, 0).table["id"]
    boxes = pl.when(pl.col("id") == drawn).then(pl.lit([])).otherwise("annotations")
    rare = Manifest(job.table.with_columns(annotations=boxes), job.classes)
    with pytest.raises(
        InputError, match="no boxes in the 1 images that are drawn of the 10 of split 'test': raise max"
    ):
        convert(manifest=rare, max_eval_images=1)


# Calibration


def test_samples_are_drawn_alike_whatever_their_order(job):
    train = job.split("train")
    drawn = draw_samples(train, 10, 3)
    turned = draw_samples(Manifest(train.table.reverse(), CLASSES), 10, 3)
    assert sorted(drawn.table["id"]) == sorted(turned.table["id"])
    assert len(drawn) == 10
    assert sorted(draw_samples(train, 10, 4).table["id"]) != sorted(drawn.table["id"])


def test_canvases_are_what_the_model_sees(tmp_path):
    path = tmp_path / "a b.png"
    path.write_bytes(orange_image(path))
    row = {"id": "1", "uri": path.as_uri(), "width": 64, "height": 64, "split": "train", "group": "1", "source": "a",
           "round": 0, "annotations": []}  # fmt: skip
    names = write_canvases(calibration_canvases(Manifest.of([row], CLASSES), [path], BUNDLE), tmp_path)
    canvas = read_image(tmp_path / names[0])
    assert canvas.shape == (64, 96, 3)
    assert canvas[0, 0].tolist() == [114, 114, 114]  # beside the image
    assert canvas[32, 48].tolist() == [200, 100, 0]  # red first
    assert write_list(tmp_path, names, "normal").read_text() == "00000.png\n"
    assert len(write_list(tmp_path, ["x.png"] * 50, "mmse").read_text().splitlines()) == 20


def test_every_fourth_image_is_shown_again_with_its_largest_object_enlarged(tmp_path, job):
    train = job.split("train")
    paths = fetch_blobs(train, tmp_path / "blobs")
    canvases = list(calibration_canvases(train, paths, BUNDLE))
    plain = [letterbox(read_image(path), BUNDLE.image_size)[0] for path in paths]
    assert len(canvases) == 30 + 8
    truths = train.truths()
    for number in range(8):
        place = 4 * number
        np.testing.assert_array_equal(canvases[place + number], plain[place])
        # A square of one colour on grey noise: of its pixels on the canvas there are many more than before.
        ids = truths[place].classes[np.argmax(np.prod(truths[place].boxes[:, 2:] - truths[place].boxes[:, :2], axis=1))]
        before, after = (coloured(image, int(ids)) for image in (plain[place], canvases[place + number + 1]))
        assert after > 1.3 * before


def coloured(image, class_id):
    """How many pixels have the colour of a class."""
    strong, weak = (0, 2) if class_id == 0 else (2, 0)
    return int((image[:, :, strong].astype(int) - image[:, :, weak] > 80).sum())


def test_images_without_boxes_are_not_enlarged(tmp_path, job):
    train = job.split("train")
    unlabelled = Manifest(train.table.with_columns(annotations=pl.lit(None, train.table["annotations"].dtype)), CLASSES)
    paths = fetch_blobs(train, tmp_path / "blobs")
    assert len(list(calibration_canvases(unlabelled, paths, BUNDLE))) == len(train)


@pytest.mark.parametrize(
    ("box", "shape"),
    [
        ((40, 40, 60, 50), (25, 38)),  # the wider side decides: 20 pixels of 96 are half of 40 by 27
        ((0, 0, 20, 10), (27, 40)),  # at the edge the part stays inside
        ((10, 10, 11, 11), (1, 2)),
        ((0, 0, 99, 99), (100, 100)),  # larger already
    ],
)
def test_a_part_of_an_image_shows_an_object_at_the_size_asked_for(box, shape):
    image = np.arange(100 * 100, dtype=np.uint32).reshape(100, 100, 1)
    part = zoom(image, np.array(box, np.float32), BUNDLE.image_size, 0.5)
    top, left = divmod(int(part[0, 0, 0]), 100)
    assert left <= box[0] and left + part.shape[1] >= box[2]
    assert top <= box[1] and top + part.shape[0] >= box[3]
    assert abs(part.shape[0] - shape[0]) <= 3 and abs(part.shape[1] - shape[1]) <= 3


def orange_image(path):
    import cv2

    image = np.full((64, 64, 3), (0, 100, 200), np.uint8)  # OpenCV wants blue first
    return cv2.imencode(path.suffix, image)[1].tobytes()


def test_a_detector_feeds_bytes_and_reads_split_outputs():
    seen = []

    def infer(canvas):
        seen.append(canvas)
        outputs = [np.full((1, 4, 8, 12), 0.5, np.float32), np.zeros((1, 2, 8, 12), np.float32)]
        outputs += [np.full((1, 4, 4, 6), 0.5, np.float32), np.zeros((1, 2, 4, 6), np.float32)]
        outputs[1][0, 1, 2, 3] = 0.9
        return outputs

    (found,) = decoder_of(BUNDLE).network(BUNDLE, infer).predict([np.full((64, 96, 3), 7, np.uint8)])
    assert (seen[0].shape, seen[0].dtype, seen[0].max()) == ((1, 64, 96, 3), np.uint8, 7)
    np.testing.assert_array_equal(found.boxes, [[24, 16, 32, 24]])
    assert (found.classes.tolist(), found.scores.tolist()) == ([1], [pytest.approx(0.9)])


# The gate


def crowd(rng, images=100):
    rows, found = [], []
    for index in range(images):
        corners = rng.uniform(0, 60, (4, 2)).astype(np.float32)
        boxes = np.concatenate([corners, corners + rng.uniform(10, 30, (4, 2))], axis=1).astype(np.float32)
        classes = rng.integers(0, 2, 4)
        rows.append(
            {
                "id": f"{index:064x}", "uri": "file:///x.png", "width": 96, "height": 96, "split": "test", "group": "g",
                "source": "s", "round": 0,
                "annotations": [
                    {"class_id": int(c), **dict(zip(("x1", "y1", "x2", "y2"), map(float, box), strict=True))}
                    for box, c in zip(boxes, classes, strict=True)
                ],
            }
        )  # fmt: skip
        found.append(Detections.of(boxes, classes, rng.uniform(0.4, 0.98, 4)))
    return LocalSamples(Manifest.of(rows, CLASSES), []), found


def asked(samples, found, converted, steps=None, limits=None):
    reference, measured = measure(samples, found, BUNDLE), measure(samples, converted, BUNDLE)
    return {check.question: check for check in judge(measured, reference, steps or {}, limits or Limits())}


def unmet(checks):
    return [question for question, check in checks.items() if not check.met]


def scaled(found, factor):
    return [replace(one, scores=one.scores * np.float32(factor)) for one in found]


def test_a_faithful_conversion_passes():
    samples, found = crowd(np.random.default_rng(0))
    checks = asked(samples, found, found, {"cls0": 1 / 255})
    assert unmet(checks) == []
    assert list(checks) == [
        "mAP50", "mAP50-95", "enough images", "F1 of red", "F1 of blue", "highest score", "score steps",
    ]  # fmt: skip


def test_scores_that_are_capped_fail_although_map_does_not_see_it():
    samples, found = crowd(np.random.default_rng(0))
    checks = asked(samples, found, scaled(found, 0.5))
    assert unmet(checks) == ["F1 of red", "F1 of blue", "highest score"]
    assert checks["mAP50"].reason.startswith("1.000 -> 1.000")


def test_a_dead_model_fails():
    samples, found = crowd(np.random.default_rng(0))
    dead = asked(samples, found, [Detections.none()] * len(found))
    assert unmet(dead) == ["mAP50", "mAP50-95", "F1 of red", "F1 of blue", "highest score"]


def test_one_class_alone_can_fail():
    samples, found = crowd(np.random.default_rng(0))
    worse = [
        replace(one, scores=np.where((one.classes == 1) & (one.scores < 0.6), 0.3, one.scores).astype(np.float32))
        for one in found
    ]
    assert unmet(asked(samples, found, worse)) == ["F1 of blue"]


def test_moved_boxes_fail_by_the_strict_measure():
    samples, found = crowd(np.random.default_rng(0))
    moved = [replace(one, boxes=(one.boxes + 1.0).clip(0, 96).astype(np.float32)) for one in found]
    assert unmet(asked(samples, found, moved)) == ["mAP50-95"]


def test_steps_shared_with_boxes_fail():
    samples, found = crowd(np.random.default_rng(0))
    checks = asked(samples, found, found, {"cls0": 1 / 255, "cls1": 2.03})
    assert unmet(checks) == ["score steps"]
    assert "2.03 of cls1" in checks["score steps"].reason


def test_few_images_decide_nothing_when_the_models_differ():
    rng = np.random.default_rng(5)
    samples, found = crowd(rng, images=6)
    jittered = [replace(one, scores=rng.uniform(0.4, 0.98, 4).astype(np.float32)) for one in found]
    noisy = [Detections.of(one.boxes, rng.permutation(one.classes), one.scores) for one in found]
    assert "enough images" in unmet(asked(samples, noisy, jittered, limits=Limits(max_map_drop=0.02)))


def test_a_float_model_that_finds_nothing_cannot_be_compared_with():
    samples, found = crowd(np.random.default_rng(0))
    assert check_reference(measure(samples, found, BUNDLE)).met
    assert not check_reference(measure(samples, [Detections.none()] * len(found), BUNDLE)).met


def test_limits_that_are_no_fractions_are_told():
    with pytest.raises(InputError, match="max_f1_drop=2 must be a number from 0 to 1"):
        Limits(max_f1_drop=2)


def test_classes_in_another_order_are_matched_by_name_and_unknown_ones_told():
    samples, found = crowd(np.random.default_rng(0))
    turned = replace(BUNDLE, classes=("blue", "red"))
    swapped = [Detections.of(one.boxes, 1 - one.classes, one.scores) for one in found]
    assert measure(samples, swapped, turned).flat["map50"] == pytest.approx(1.0)
    with pytest.raises(InputError, match="the model predicts green, which has no labels"):
        measure(samples, found, replace(BUNDLE, classes=("red", "green")))


# What comes out of the child


def test_predictions_survive_the_way_through_a_file(tmp_path):
    _, found = crowd(np.random.default_rng(1), images=3)
    given = [found[0], Detections.none(), found[1], found[2], Detections.none()]
    task = open_task("detection")
    task.write(tmp_path / "p.npz", given)
    back = task.read(tmp_path / "p.npz")
    assert [len(one) for one in back] == [4, 0, 4, 4, 0]
    for old, new in zip(given, back, strict=True):
        np.testing.assert_array_equal(old.boxes, new.boxes)
        np.testing.assert_array_equal(old.scores, new.scores)
        np.testing.assert_array_equal(old.classes, new.classes)


TABLE = """\
I RKNN: [13:26:21.962] librknnc version: 2.5.0 (74ea630ce@2026-09-29T14:54:20)
D RKNN: [13:26:22.444] ID   OpType      DataType Target InputShape   OutputShape Cycles(DDR/NPU/Total)    RW(KB)   FullName
D RKNN: [13:26:22.444] 0    InputOperator      INT8     CPU    \\               (1,3,160,160)  0/0/0          0     InputOperator:images
D RKNN: [13:26:22.444] 1    ConvExSwish        INT8     NPU    (1,3,160,160),(16,3,3,3),(16)  (1,16,80,80) 7685/57600/57600   77    Conv:/model.0/conv/Conv
D RKNN: [13:26:22.444] 2    exSoftmax13        FLOAT16  CPU    (1,2,25,25)     (1,2,25,25)    0/0/2400       50    Softmax:/attn/Softmax
D RKNN: [13:26:22.444] 3    OutputOperator     INT8     CPU    (1,2,5,5)       \\              0/0/0          0     OutputOperator:cls2
D RKNN: [13:26:22.460] Total Internal Memory Size: 275KB
D RKNN: [13:26:22.460] Total Weight Memory Size: 2585.44KB
"""  # noqa: E501


def test_the_compilers_table_is_read():
    assert parse_operators(TABLE) == Operators(2, ("exSoftmax13",), 60000, 275.0, 2585.44)
    assert parse_compiler(TABLE) == "2.5.0"
    # That of rk3576 has one column more, which is empty for some operators.
    wider = TABLE.replace("57600   77 ", "57600   0%   77 ")
    assert parse_operators(wider) == parse_operators(TABLE)


def test_a_table_with_a_row_that_cannot_be_read_is_not_half_read():
    assert parse_operators(TABLE.replace("0/0/2400", "none")) is None
    assert parse_operators("") is None


def test_a_child_that_was_killed_is_told_as_out_of_memory():
    assert "(SIGKILL)" in describe_crash(signal.SIGKILL, "rk3588")
    assert "lower calibration_size" in describe_crash(signal.SIGKILL, "rk3588")
    assert (
        describe_crash(signal.SIGSEGV, "rk3588", "why")
        == "the toolkit crashed (SIGSEGV) while converting for rk3588: why"
    )


def test_the_outcome_is_json(convert, without_toolkit):
    assert json.loads(json.dumps(convert().to_dict()))["outcome"] == "skipped"
