"""Conversions by the real toolkit, of a detector that is trained here in seconds."""

import hashlib
from dataclasses import replace

import cv2
import numpy as np
import onnxruntime
import pytest

from components.convert import builds
from components.convert.builds import Builds
from components.convert.calibration import calibration_samples
from components.convert.convert import convert
from components.convert.gate import Limits, judge
from components.convert.measure import measure
from components.convert.toolkit import ToolkitError, toolkit_version
from components.core.bundle import Bundle
from components.core.reports.page import read_sections, write_page
from components.core.runtimes.base import open_detector
from components.core.runtimes.decode import decode
from components.core.runtimes.golden import Golden
from components.core.runtimes.letterbox import read_image
from components.serving.agreement import compare
from tests.images import job_with_images
from tests.tiny_detector import through_one_tensor, train_network, write_bundle

pytestmark = [
    pytest.mark.skipif(not toolkit_version(), reason="rknn-toolkit2 is for Linux on x86-64 alone"),
    pytest.mark.slow,
]


@pytest.fixture(scope="module")
def network():
    return train_network()


@pytest.fixture(scope="module")
def model(network, tmp_path_factory):
    return write_bundle(tmp_path_factory.mktemp("trained") / "model", network)


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    root = tmp_path_factory.mktemp("a job with spaces")
    return str(root), job_with_images(root, {"train": 25, "test": 60})


@pytest.fixture
def run(job, tmp_path):
    def converted(model, targets="rk3588", **options):
        root, manifest = job
        settings = {"quantization_retries": "", "limits": Limits(), **options}
        return convert(manifest, model, tmp_path / "out", job_root=root, targets=targets, **settings)

    return converted


@pytest.fixture
def builder(job, model, tmp_path):
    def make(folder=model, max_eval_images=3, time_limit=120.0):
        _, manifest = job
        samples = manifest.split("test")
        return Builds(
            folder,
            calibration_samples(manifest, 20, 0, needed=True),
            replace(samples, table=samples.table.head(max_eval_images)),
            blobs=tmp_path / "blobs",
            cache=tmp_path / "cache",
            toolkit=toolkit_version(),
            time_limit=time_limit,
        )

    return make


@pytest.fixture
def calibrate_with(monkeypatch, tmp_path):
    """Replace every calibration canvas by what a function makes of it."""
    usual = builds.write_canvases
    monkeypatch.setenv("EDGE_CACHE_DIR", str(tmp_path / "cache"))  # the usual one knows the builds of right canvases

    def use(change):
        def write(canvases, folder):
            names = usual(canvases, folder)
            for index, name in enumerate(names):
                canvas = cv2.imread(str(folder / name))
                cv2.imwrite(str(folder / name), change(canvas, np.random.default_rng(index)))
            return names

        monkeypatch.setattr(builds, "write_canvases", write)

    return use


def unmet(conversion):
    return [check.question for check in conversion.attempts[-1].checks if not check.met]


def test_int8_keeps_what_the_model_finds_and_is_not_built_twice(run, model, tmp_path, monkeypatch):
    done = run(model, "rk3588,rk3576")
    assert done.outcome == "converted", done.describe()
    assert done.reference.metrics.map50 > 0.9
    assert done.as_flat()["map50[rk3576]"] > 0.9

    bundle = Bundle.read(tmp_path / "out")
    chips = {f"model.{chip}.{kind}" for chip in ("rk3588", "rk3576") for kind in ("rknn", "golden.npz")}
    assert {"model.pt", "model.onnx"} | chips == set(bundle.files)
    assert bundle.files["model.onnx"] == Bundle.read(model).files["model.onnx"]
    told = bundle.lineage["rknn"]["rk3588"]
    assert (told["precision"], told["algorithm"], told["toolkit"]) == ("int8", "normal", toolkit_version())
    assert bundle.lineage["base_model"] == "none"
    note = f'"onnx_sha256":"{bundle.files["model.onnx"]}"'.encode()
    assert note in (tmp_path / "out" / "model.rk3588.rknn").read_bytes()

    for built in (attempt.built for attempt in done.attempts):
        assert built.operators.total > 5
        assert built.operators.cycles > 1000
        assert built.operators.weight_kb > 10
        assert built.score_steps["cls0"] <= 1.001 / 255
    write_page(tmp_path / "page.html", "Convert", done.sections)
    titles = [section.title for section in read_sections(tmp_path / "page.html")]
    assert titles == [
        "Conversion", "Accuracy on the simulator", "F1 per class at the deployed confidence",
        "Size and cost on the chip",
    ]  # fmt: skip

    monkeypatch.setattr(builds, "build", lambda *_: pytest.fail("what is in the cache was built again"))
    assert run(model, "rk3588,rk3576").as_flat() == done.as_flat()


def float_boxes(model, canvas):
    """What the ONNX finds on a canvas, which is an image that needs no letterbox."""
    return open_detector("onnx", model).predict([canvas])[0]


@pytest.mark.parametrize("quantization", ["int8", "fp16"])
def test_golden_tensors_tell_what_a_board_should_compute(run, model, tmp_path, quantization):
    assert run(model, quantization=quantization).outcome == "converted"
    bundle = Bundle.read(tmp_path / "out")
    golden = Golden.read(bundle.file(tmp_path / "out", "model.rk3588.golden.npz"))
    assert golden.canvases.shape == (4, 96, 96, 3)
    assert golden.names == ("box0", "cls0")
    assert [one.shape for one in golden.outputs[0]] == [(1, 4, 12, 12), (1, 2, 12, 12)]
    for name_index, step in enumerate(golden.steps):
        assert (step > 0) == (quantization == "int8")
        levels = np.stack([one[name_index] for one in golden.outputs]) / (step or 1)
        assert not step or np.abs(levels - np.rint(levels)).max() < 1e-3

    # Canvases, outputs, decoder and float model belong together: each finds what the others find.
    classes = set()
    for canvas, outputs in zip(golden.canvases, golden.outputs, strict=True):
        found = decode(outputs, bundle.head, confidence=bundle.confidence_threshold, nms=bundle.nms_threshold)
        expected = float_boxes(model, canvas)
        assert len(found) >= 1
        assert matched(found, expected) == len(found)
        assert matched(expected, found) == len(expected)
        classes |= set(found.classes.tolist())
    assert classes == {0, 1}

    findings = compare(bundle, golden, [float_outputs(model, canvas) for canvas in golden.canvases])
    assert all(finding.met for finding in findings), findings
    wrong_colours = [float_outputs(model, canvas[:, :, ::-1]) for canvas in golden.canvases]
    assert [one.question for one in compare(bundle, golden, wrong_colours) if not one.met] == ["differences", "boxes"]


def float_outputs(model, canvas):
    session = onnxruntime.InferenceSession(str(model / "model.onnx"))
    return session.run(["box0", "cls0"], {"images": canvas.transpose(2, 0, 1)[None].astype(np.float32) / 255})


def matched(found, others):
    """How many have one of the same class nearly there, with nearly the same score."""
    return sum(
        any(
            kind == other_kind and abs(score - other_score) < 0.1 and np.abs(box - other).max() < 3
            for other, other_kind, other_score in zip(others.boxes, others.classes, others.scores, strict=True)
        )
        for box, kind, score in zip(found.boxes, found.classes, found.scores, strict=True)
    )


def test_fp16_is_the_float_model(run, model):
    done = run(model, quantization="fp16")
    assert done.outcome == "converted", done.describe()
    assert done.as_flat()["map50_95[rk3588]"] == pytest.approx(done.reference.metrics.map50_95, abs=0.005)
    assert done.attempts[0].built.score_steps == {}


def test_boxes_and_scores_in_one_tensor_fail(run, network, tmp_path):
    joined = write_bundle(tmp_path / "joined", through_one_tensor(network))
    done = run(joined)
    assert done.reference.metrics.map50 > 0.9  # the float model is as good as ever
    assert done.outcome == "failed"
    assert {"mAP50", "F1 of red", "F1 of blue", "highest score"} <= set(unmet(done))
    assert set(Bundle.read(tmp_path / "out").files) == {"model.pt", "model.onnx"}
    assert "rknn" not in Bundle.read(tmp_path / "out").lineage
    assert "mAP50: " in done.sections[0].body


def noise(canvas, rng):
    return rng.integers(0, 256, canvas.shape, dtype=np.uint8)


def black(canvas, rng):
    return np.zeros_like(canvas)


@pytest.mark.parametrize("wrong", [noise, black])
def test_calibration_with_something_else_fails(run, model, calibrate_with, wrong):
    calibrate_with(wrong)
    done = run(model)
    assert done.outcome == "failed"
    assert "highest score" in unmet(done)


def test_what_is_tried_next_can_pass(run, model, calibrate_with, tmp_path):
    calibrate_with(noise)
    done = run(model, "rk3588,rv1106", quantization_retries="fp16")
    assert [(one.target, one.how, one.passed) for one in done.attempts] == [
        ("rk3588", "int8 normal", False),
        ("rk3588", "fp16", True),
        ("rv1106", "int8 normal", False),  # it has no fp16
    ]
    assert done.outcome == "failed"
    assert [reason.split(":")[0] for reason in done.reasons] == ["rv1106 int8 normal"]
    bundle = Bundle.read(tmp_path / "out")
    assert "model.rk3588.rknn" in bundle.files
    assert "model.rv1106.rknn" not in bundle.files
    assert bundle.lineage["rknn"]["rk3588"]["precision"] == "fp16"


def test_wrong_colours_fail(builder, job, model, tmp_path):
    _, manifest = job
    samples = manifest.split("test")
    building = builder(max_eval_images=len(samples))
    local = building.samples
    wrong = [swapped(path, tmp_path / f"{index}.png") for index, path in enumerate(local.paths)]
    building.samples = replace(local, paths=wrong)
    built = building.get("rk3588", "int8", "normal")
    bundle, detector = Bundle.read(model), open_detector("onnx", model)
    found = [detector.predict([read_image(path)], confidence=0.001)[0] for path in local.paths]
    converted, reference = measure(local, built.predictions, bundle), measure(local, found, bundle)
    checks = judge(converted, reference, built.score_steps, Limits())
    assert {"mAP50", "F1 of red", "F1 of blue"} <= {check.question for check in checks if not check.met}


def swapped(path, target):
    cv2.imwrite(str(target), cv2.imread(str(path))[:, :, ::-1])
    return target


def test_a_float_model_that_finds_nothing_is_not_built(run, network, tmp_path, monkeypatch):
    monkeypatch.setattr(builds, "build", lambda *_: pytest.fail("built although nothing can be compared"))
    blind = write_bundle(tmp_path / "blind", finds_nothing(network))
    done = run(blind)
    assert done.outcome == "failed"
    assert done.reasons[0].startswith("float model: its mAP50 is 0.000, need >= 0.05")


def finds_nothing(network):
    import copy

    blind = copy.deepcopy(network)
    blind.scores.bias.data -= 100
    return blind


def test_a_crash_is_one_line(builder):
    with pytest.raises(ToolkitError, match=r"^the toolkit crashed \(SIGABRT\) while converting for rk2118: .+$"):
        builder().get("rk2118", "int8", "normal")


def test_a_refusal_is_one_line(builder, tmp_path):
    with pytest.raises(ToolkitError, match="failed while building for rv1106: .*not support do_quantization = False!$"):
        builder().get("rv1106", "fp16", "")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_build_that_takes_too_long_is_ended(builder, tmp_path):
    with pytest.raises(ToolkitError, match=r"^the toolkit exceeded 0\.5 s for rk3588: raise conversion_timeout$"):
        builder(time_limit=0.5).get("rk3588", "int8", "normal")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_target_that_crashes_fails_and_the_others_go_on(run, model, monkeypatch):
    usual = builds.build

    def crash(request, time_limit):
        usual(replace(request, target="rk2118") if request.target == "rk3566" else request, time_limit)

    monkeypatch.setattr(builds, "build", crash)
    done = run(model, "rk3566,rk3568")
    assert [one.passed for one in done.attempts] == [False, True]
    assert done.reasons == (f"rk3566 int8 normal: {done.attempts[0].error}",)
    assert "SIGABRT" in done.reasons[0]


def test_a_damaged_build_is_made_again(builder):
    first = builder().get("rk3588", "int8", "normal")
    first.file.write_bytes(first.file.read_bytes()[:-1])
    again = builder().get("rk3588", "int8", "normal")
    assert again.file == first.file
    assert hashlib.sha256(again.file.read_bytes()).hexdigest() == again.sha256
    again.golden.write_bytes(again.golden.read_bytes()[:-1])
    last = builder().get("rk3588", "int8", "normal")
    assert hashlib.sha256(last.golden.read_bytes()).hexdigest() == last.golden_sha256


def test_a_network_that_the_toolkit_chokes_on_is_built(ultralytics, builder, tmp_path):
    from components.core.estimators.yolo import Yolo

    estimator = Yolo()
    estimator.load("yolo11n.yaml")
    sizes = {"image_size": (96, 96), "confidence_threshold": 0.25, "nms_threshold": 0.7}
    estimator.save(tmp_path / "yolo", **sizes, lineage={})
    built = builder(tmp_path / "yolo").get("rk3588", "int8", "normal")
    assert len(built.predictions) == 3
    assert set(built.score_steps) == {"cls0", "cls1", "cls2"}
