"""A board is compared with the simulator: the comparison, the program, and the worker that refuses a model."""

import sys
import threading
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from components.convert.golden import choose
from components.core.bundle import Bundle, sha256_of
from components.core.errors import InputError
from components.core.heads import SemanticHead
from components.core.job.job import Job
from components.core.release import Member
from components.core.runtimes import rknn
from components.core.runtimes.base import open_detector
from components.core.runtimes.golden import Golden, golden_file
from components.serving import board_check, edge_worker
from components.serving.active_model import ActiveModel
from components.serving.agreement import MAX_STEPS, compare
from components.serving.board import compare_with_golden, find_golden
from components.serving.hot_update import HotUpdate, Loader
from components.serving.model_cache import ModelCache, UnfitModelError
from components.serving.pointers import JobPointer
from components.serving.smoke_test import run_smoke_test
from components.serving.status import StatusReport
from tests.edge import point_at, status
from tests.fake_board import Lite, modules, scenes, write_board_bundle
from tests.knowledge_base import release
from tests.models import BUNDLE


@pytest.fixture
def board(tmp_path, monkeypatch):
    """This process, and those that it starts with the plug-in ``tests.fake_board``, are an rk3588."""
    compatible = tmp_path / "compatible"
    compatible.write_text("vendor,board\0rockchip,rk3588\0")
    monkeypatch.setenv("FAKE_BOARD", str(compatible))
    monkeypatch.setattr(rknn, "COMPATIBLE", compatible)
    monkeypatch.setattr(rknn, "NEEDED", (compatible,))
    for name, module in modules().items():
        monkeypatch.setitem(sys.modules, name, module)


# The file


@pytest.mark.parametrize("quantised", [True, False])
def test_golden_tensors_survive_the_way_through_a_file(tmp_path, quantised):
    golden = scenes(quantised=quantised)
    golden.write(tmp_path / "golden.npz")
    back = Golden.read(tmp_path / "golden.npz")
    assert (back.names, back.steps) == (golden.names, pytest.approx(golden.steps))
    np.testing.assert_array_equal(back.canvases, golden.canvases)
    for old, new in zip(golden.outputs, back.outputs, strict=True):
        for one, other in zip(old, new, strict=True):
            assert other.dtype == np.float32
            np.testing.assert_array_equal(one, other)
    kinds = {array.dtype for name, array in np.load(tmp_path / "golden.npz").items() if name.startswith("output_")}
    assert kinds == {np.dtype(np.float32 if quantised else np.float16)}


@pytest.mark.parametrize("data", [b"", b"not an archive"])
def test_what_is_no_golden_file_is_told(tmp_path, data):
    (tmp_path / "golden.npz").write_bytes(data)
    with pytest.raises(InputError, match=r"golden\.npz: not golden tensors .* convert the model again"):
        Golden.read(tmp_path / "golden.npz")


def test_half_a_golden_file_is_told(tmp_path):
    np.savez(tmp_path / "golden.npz", canvases=scenes().canvases, names=np.array(["box0"]), steps=np.ones(1))
    with pytest.raises(InputError, match="not golden tensors"):
        Golden.read(tmp_path / "golden.npz")


def test_images_with_something_of_every_class_are_chosen():
    shown = [frozenset(classes) for classes in ((), (0,), (0,), (), (0,), (0, 1), (1,))]
    assert choose(shown, 1) == [5]
    assert choose(shown, 3) == [1, 5, 6]
    assert choose(shown, 5) == [1, 2, 4, 5, 6]
    assert choose(shown, 99) == list(range(7))
    assert choose([frozenset(), frozenset()]) == [0, 1]


# The comparison


def unmet(findings):
    return {finding.question: finding.reason for finding in findings if not finding.met}


def test_the_simulators_own_numbers_agree():
    golden = scenes()
    findings = compare(BUNDLE, golden, golden.outputs)
    assert unmet(findings) == {}
    assert [finding.question for finding in findings] == ["outputs", "numbers", "alive", "differences", "boxes"]
    assert "100.0% of the numbers are the same" in findings[3].reason
    assert "the simulator finds 12 at the deployed confidence, 0.5, and so does the board" in findings[4].reason


def test_a_segmentation_is_held_against_by_its_pixels():
    bundle = Bundle(
        classes=("ground", "red", "blue"), image_size=(64, 96), estimator="tiny", task="segmentation",
        head=SemanticHead(stride=8), confidence_threshold=0.25, nms_threshold=0.7, outputs=("logits",),
    )  # fmt: skip
    rng = np.random.default_rng(0)
    logits = tuple((rng.normal(size=(1, 3, 8, 12)).astype(np.float32) * 8,) for _ in range(2))
    golden = Golden(np.zeros((2, 64, 96, 3), np.uint8), ("logits",), (0.2,), logits)
    findings = compare(bundle, golden, golden.outputs)
    assert unmet(findings) == {}
    assert findings[-1].question == "pixels"
    rounded = changed(golden, lambda _, values: values + np.float32(0.2) * rng.integers(-1, 2, values.shape))
    assert unmet(compare(bundle, golden, rounded)) == {}
    noisy = changed(golden, lambda _, values: values + np.float32(0.2) * rng.integers(-40, 41, values.shape))
    assert set(unmet(compare(bundle, golden, noisy))) == {"pixels"}
    turned = changed(golden, lambda _, values: values[:, ::-1])
    assert {"differences", "pixels"} <= set(unmet(compare(bundle, golden, turned)))
    assert "alive" in unmet(compare(bundle, golden, changed(golden, lambda _, values: values * 0)))


def changed(golden, change):
    """Outputs of a board, of which each is changed by a function of its index and values."""
    return [[change(index, values.copy()) for index, values in enumerate(one)] for one in golden.outputs]


def test_one_number_that_is_far_off_is_enough_to_fail():
    golden = scenes()

    def off(steps):
        def change(index, values):
            values[0, 0, 0, 0] += steps * golden.steps[index] * (index == 0)
            return values

        return change

    assert unmet(compare(BUNDLE, golden, changed(golden, off(MAX_STEPS - 1)))) == {}
    assert "65.0 steps of 8 bits, in box0" in unmet(compare(BUNDLE, golden, changed(golden, off(65))))["differences"]


def test_a_box_that_is_lost_fails_although_its_score_changed_by_few_steps():
    golden = scenes()

    def lower(index, values):
        return values - np.float32(30 / 255) * (values > 0.5) if index % 2 else values

    (reason,) = unmet(compare(BUNDLE, golden, changed(golden, lower))).values()
    assert "0.80 at " in reason
    assert "of image 1 has no match on the board, and 23 more; the simulator finds 12" in reason


def test_a_box_at_the_edge_of_the_confidence_may_go():
    golden = scenes()
    edge = replace(BUNDLE, confidence_threshold=0.79)

    def lower(index, values):
        return values - np.float32(5 / 255) * (values > 0.5) if index % 2 else values

    findings = compare(edge, golden, changed(golden, lower))
    assert unmet(findings) == {}
    assert "scores change by 0.020 at most" in findings[-1].reason


def test_boxes_that_nearly_tie_may_change_places():
    golden = scenes(images=1)
    distances, scores = (values.copy() for values in golden.outputs[0][:2])
    distances[:], scores[:] = 0, 0
    distances[0, :, 3, 3], distances[0, :, 3, 4] = (2, 2, 2.5, 2), (2.5, 2, 2, 2)
    scores[0, 0, 3, 3], scores[0, 0, 3, 4] = 0.80, 0.81
    other = scores.copy()
    other[0, 0, 3, 3], other[0, 0, 3, 4] = 0.81, 0.80
    rest = tuple(np.zeros_like(values) for values in golden.outputs[0][2:])
    tied = replace(golden, outputs=((distances, scores, *rest),))
    assert unmet(compare(BUNDLE, tied, [[distances, other, *rest]])) == {}


def test_an_fp16_model_is_measured_in_the_steps_it_would_have():
    golden = scenes(quantised=False)
    assert unmet(compare(BUNDLE, golden, changed(golden, lambda index, values: values * np.float32(1.002)))) == {}
    # A score that goes up by 0.3 goes up by 76 of 255 steps.
    far = changed(golden, lambda index, values: values + np.float32(0.3 * (index % 2)))
    assert "at most 76." in unmet(compare(BUNDLE, golden, far))["differences"]


def test_outputs_of_one_shape_in_another_order_are_told_apart():
    four = replace(BUNDLE, classes=("a", "b", "c", "d"))
    golden = scenes(four)
    swapped = [[one[1], one[0], *one[2:]] for one in golden.outputs]
    reason = unmet(compare(four, golden, swapped))["differences"]
    assert "another order: box0 takes the place of cls0, cls0 takes the place of box0" in reason


# The program

FAULTS = {
    "": "",
    "rounding": "",
    "noise": "differences: at most",
    "zeros": "alive: every output is constant (box0: 0): the NPU does not compute",
    "blind": "alive: cls0 is 0 everywhere, the simulator's reaches 0.8; cls1 is 0 everywhere",
    "capped": "has no match on the board",
    "nan": "numbers: box0, cls0, box1, cls1: NaN or infinite",
    "nhwc": "outputs: the board gives them channels last (NHWC)",
    "mixed": "read channels last: the board gives NHWC in the shape of NCHW",
    "swapped": "outputs: they come in another order",
    "stuck": "the board's outputs are the same for every image: the images do not reach the NPU",
    "old noise": "librknnrt.so 2.3.0 is older than the toolkit 2.5.0 that made the model: update it first",
}


def program(*arguments, environment=None):
    return CliRunner().invoke(board_check.app, [*map(str, arguments)], env=environment or {})


@pytest.mark.parametrize(("faults", "says"), FAULTS.items())
def test_the_program_tells_what_is_wrong_with_a_board(board, tmp_path, faults, says):
    folder = write_board_bundle(tmp_path / "model", faults)
    result = program("--bundle", folder, "--runs", 3)
    lines = result.output.splitlines()
    assert lines[0] == f"model: {folder} on rk3588, 3 images"
    assert lines[-2].endswith(" ms per image on the NPU, median of 3 runs")
    if says:
        assert (result.exit_code, lines[-1].split(":")[1]) == (1, " FAILED")
        assert says in lines[-1]
        assert [line for line in lines if line.startswith("FAIL")]
    else:
        assert (result.exit_code, lines[-1]) == (
            0, "verdict: passed: the board matches the simulator up to rounding"
        )  # fmt: skip
        assert not [line for line in lines if line.startswith("FAIL")]


def test_an_old_runtime_that_agrees_is_noted(board, tmp_path):
    result = program("--bundle", write_board_bundle(tmp_path / "model", "old"), "--runs", 1)
    assert result.exit_code == 0
    assert "note  versions: toolkit 2.5.0, librknnrt.so of the board 2.3.0, which is older" in result.output


@pytest.mark.parametrize(
    ("faults", "says"),
    [
        ("refuses", "must be at least as new as the toolkit that converted the model, 2.5.0"),
        ("silent", "error: the NPU runtime gave no outputs"),
    ],
)
def test_a_runtime_that_gives_nothing_is_one_line(board, tmp_path, faults, says):
    result = program("--bundle", write_board_bundle(tmp_path / "model", faults))
    assert result.exit_code == 1
    assert says in result.output
    assert len(result.output.splitlines()) == 1


def test_the_champion_of_a_job_is_checked_by_the_workers_own_variables(board, tmp_path):
    job = Job.open(str(tmp_path / "job"))
    assert "the job has no champion yet" in program(environment={"EDGE_JOB_ROOT": str(tmp_path / "job")}).output
    job.registry.publish(write_board_bundle(tmp_path / "model", "zeros"), "v1")
    point_at(job, "v1")
    result = program(environment={"EDGE_JOB_ROOT": str(tmp_path / "job"), "EDGE_RUNS": "2"})
    assert result.exit_code == 1
    assert "verdict: FAILED: alive: every output" in result.output


def test_of_several_models_that_are_released_together_one_is_checked(board, tmp_path):
    job = Job.open(str(tmp_path / "job"))
    folder = write_board_bundle(tmp_path / "model")
    job.registry.publish(folder, "v1")
    release(job, tmp_path, "first", {"shared": Member(version="v1", sha256=sha256_of(folder / "model.json"))})
    result = program("--job-root", tmp_path / "job", "--runs", 1)
    assert result.exit_code == 1 and "has no member 'model'; choose --member from shared" in result.output
    result = program("--job-root", tmp_path / "job", "--runs", 1, "--member", "shared")
    assert result.exit_code == 0 and "verdict: passed" in result.output


def test_nothing_to_check_is_told(board, tmp_path):
    assert "give --bundle FOLDER, or --job-root" in program().output
    folder = write_board_bundle(tmp_path / "model")
    rknn.COMPATIBLE.write_text("rockchip,rk3566\0")
    assert "no model.rk3566.rknn in it" in program("--bundle", folder).output
    rknn.COMPATIBLE.write_text("none")
    assert "this machine is not a Rockchip board (none): use the runtime onnx" in program("--bundle", folder).output


def test_a_bundle_from_before_there_were_golden_tensors_is_told(board, tmp_path, monkeypatch):
    monkeypatch.setattr(Lite, "load_rknn", lambda *_: 0)
    result = program("--bundle", write_board_bundle(tmp_path / "model", golden=False))
    assert result.exit_code == 1
    assert "no model.rk3588.golden.npz in it: it was converted by an earlier version" in result.output


def test_golden_tensors_of_another_model_are_told(board, tmp_path):
    folder = write_board_bundle(tmp_path / "model")
    replace(scenes(), names=("a", "b", "c", "d")).write(folder / golden_file("rk3588"))
    BUNDLE.write(folder)
    detector = open_detector("rknn", folder)
    with pytest.raises(InputError, match="the golden tensors have outputs a, b, c, d, the model box0"):
        compare_with_golden(detector, find_golden(detector, folder))


def test_other_runtimes_have_nothing_to_hold(tmp_path):
    folder = write_board_bundle(tmp_path / "model")
    assert find_golden(open_detector("onnx", folder), folder) is None


# The worker


class Site:
    """An updater on a board, and in place of the loop somebody who takes the models it hands over."""

    def __init__(self, job, folder, check=True):
        self.slot = ActiveModel(proven_after=1)
        self.updater = HotUpdate(
            JobPointer(job.store, "edge-1"),
            ModelCache(folder / "models", "rknn", golden=check),
            Loader("rknn", 1, "tests.fake_board", check),
            self.slot,
            StatusReport(job.store, "edge-1", lambda: self.slot.frames),
            poll_s=0.01,
        )

    def turn(self):
        """One look at the pointer, and the loop taking what there is; the model in use."""
        self.updater._look(threading.Event())
        model = self.slot.next()
        self.updater._follow_loop()
        return model


@pytest.fixture
def job(tmp_path):
    return Job.open(str(tmp_path / "job"))


def deploy(job, version, folder, faults="", golden=True):
    job.registry.publish(write_board_bundle(folder, faults, golden), version)
    point_at(job, version)


def test_golden_tensors_come_along_for_this_board_alone(board, job, tmp_path):
    deploy(job, "v1", tmp_path / "v1", "rounding")
    shelved = Site(job, tmp_path).turn().cached
    assert set(Bundle.read(shelved.folder).files) == {"model.rk3588.rknn", "model.rk3588.golden.npz"}
    assert (status(job).version, status(job).state) == ("v1", "loaded")


def test_a_model_that_the_board_computes_otherwise_is_refused(board, job, tmp_path):
    deploy(job, "v1", tmp_path / "v1")
    site = Site(job, tmp_path)
    assert site.turn().version == "v1"
    deploy(job, "v2", tmp_path / "v2", "blind")
    assert site.turn().version == "v1"
    told = status(job)
    assert (told.version, told.state) == ("v2", "failed")
    assert told.error.startswith("on this board its outputs differ from those measured: alive: cls0 is 0 everywhere")
    assert "such a model finds nothing" in told.error
    deploy(job, "v3", tmp_path / "v3", "rounding")
    assert site.turn().version == "v3"


def test_a_runtime_that_is_too_old_is_told_to_the_job(board, job, tmp_path):
    deploy(job, "v1", tmp_path / "v1")
    site = Site(job, tmp_path)
    site.turn()
    deploy(job, "v2", tmp_path / "v2", "refuses")
    assert site.turn().version == "v1"
    assert status(job).error.endswith("that converted the model, 2.5.0")


def test_who_does_not_want_the_check_does_not_pay_for_it(board, job, tmp_path):
    wanted, unwanted = (ModelCache(tmp_path / "models", "rknn", golden=check) for check in (True, False))
    files = ["model.json", "model.rk3568.golden.npz", "model.rk3588.golden.npz", "model.rk3588.rknn"]
    assert wanted._needed(files) == ["model.rk3588.rknn", "model.rk3588.golden.npz"]
    assert unwanted._needed(files) == ["model.rk3588.rknn"]


def test_a_check_that_is_not_wanted_refuses_nothing(board, tmp_path):
    folder = write_board_bundle(tmp_path / "model", "noise")
    options = {"threads": 1, "modules": "tests.fake_board", "stop": threading.Event()}
    with pytest.raises(UnfitModelError, match="its outputs differ from those measured: differences"):
        run_smoke_test(folder, "rknn", **options)
    run_smoke_test(folder, "rknn", **options, board_check=False)


def test_the_option_is_an_environment_variable_too(monkeypatch):
    found = []
    monkeypatch.setattr(edge_worker, "run", found.append)
    for arguments, environment in (([], {}), (["--no-board-check"], {}), ([], {"EDGE_BOARD_CHECK": "0"})):
        CliRunner().invoke(edge_worker.app, ["--job-root", "j", "--source", "s", *arguments], env=environment)
    assert [options.board_check for options in found] == [True, False, False]
