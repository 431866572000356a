"""Conversions of a segmentation by the real toolkit."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from components.convert import builds
from components.convert.convert import convert
from components.convert.gate import Limits, judge
from components.convert.toolkit import toolkit_version
from components.core.bundle import Bundle
from components.core.errors import InputError
from components.core.manifest import Manifest
from components.core.reports.page import read_sections, write_page
from components.core.runtimes.base import open_model
from components.core.runtimes.golden import Golden, golden_file
from components.core.tasks.arrays import ArrayFile
from components.core.tasks.base import open_task
from components.serving.agreement import compare
from tests.tiny_segmenter import CLASSES, job_with_masks, train_network, write_bundle

needs_toolkit = pytest.mark.skipif(not toolkit_version(), reason="rknn-toolkit2 is for Linux on x86-64 alone")


@pytest.fixture(scope="module")
def network():
    return train_network()


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    root = tmp_path_factory.mktemp("job")
    return root, job_with_masks(root, {"train": 25, "test": 60})


@pytest.fixture
def run(job, network, tmp_path):
    def converted(manifest=None, **options):
        root, usual = job
        model = write_bundle(tmp_path / "model", network)
        settings = {"targets": "rk3588", "quantization_retries": "", "limits": Limits(), **options}
        return convert(manifest or usual, model, tmp_path / "out", job_root=str(root), **settings)

    return converted


@pytest.mark.slow
@needs_toolkit
def test_int8_says_of_the_pixels_what_the_model_says(run, tmp_path):
    done = run(targets="rk3588,rv1106")
    assert done.outcome == "converted", done.describe()
    assert done.reference.flat["miou"] > 0.8
    assert done.as_flat()["miou[rv1106]"] == pytest.approx(done.reference.flat["miou"], abs=0.02)
    assert [check.question for check in done.attempts[0].checks] == [
        "mIoU", "correct pixels", "enough images", "IoU of ground", "IoU of red", "IoU of blue",
    ]  # fmt: skip
    bundle = Bundle.read(tmp_path / "out")
    assert {"model.rk3588.rknn", "model.rv1106.rknn"} <= set(bundle.files)
    golden = Golden.read(tmp_path / "out" / golden_file("rk3588"))
    float_outputs = [[open_model("onnx", tmp_path / "out").infer(canvas[None])[0]] for canvas in golden.canvases]
    findings = compare(bundle, golden, float_outputs)
    assert all(finding.met for finding in findings), findings
    assert bundle.task == "segmentation"
    assert bundle.lineage["rknn"]["rk3588"]["simulated_miou"] == done.as_flat()["miou[rk3588]"]
    write_page(tmp_path / "page.html", "Convert", done.sections)
    titles = [section.title for section in read_sections(tmp_path / "page.html")]
    assert titles == ["Conversion", "Accuracy on the simulator", "IoU per class", "Size and cost on the chip"]


@pytest.mark.slow
@needs_toolkit
def test_calibration_with_black_images_fails(run, monkeypatch, tmp_path):
    import cv2

    usual = builds.write_canvases

    def write(canvases, folder):
        names = usual(canvases, folder)
        for name in names:
            cv2.imwrite(str(folder / name), np.zeros((96, 96, 3), np.uint8))
        return names

    monkeypatch.setattr(builds, "write_canvases", write)
    monkeypatch.setenv("EDGE_CACHE_DIR", str(tmp_path / "cache"))
    done = run()
    assert done.outcome == "failed"
    assert "mIoU" in [check.question for check in done.attempts[-1].checks if not check.met]


def test_without_masks_nothing_can_be_measured(run, job):
    _, manifest = job
    bare = replace(manifest, table=manifest.table.with_columns(mask=pl.lit(None, pl.String)))
    boxes = pl.Series("annotations", [[]] * len(manifest), dtype=manifest.table.schema["annotations"])
    with pytest.raises(InputError, match=r"split 'test' has 60 labelled images and no masks|not installed"):
        done = run(replace(bare, table=bare.table.with_columns(boxes)))
        raise InputError(done.describe())  # where there is no toolkit


def test_maps_are_read_one_at_a_time(tmp_path):
    maps = [np.full((3 + index, 5), index, np.uint8) for index in range(12)]
    task = open_task("segmentation")
    task.write(tmp_path / "maps.npz", iter(maps))
    found = task.read(tmp_path / "maps.npz")
    assert isinstance(found, ArrayFile)
    assert len(found) == 12
    assert all((a == b).all() for a, b in zip(found, maps, strict=True))
    assert [one.shape for one in found[10:]] == [(13, 5), (14, 5)]


def measured(*matrices):
    counts = [np.array(one, np.int64) for one in matrices]
    return open_task("segmentation").measure(Manifest.of([], CLASSES), counts, 0.25)


def test_a_class_that_is_lost_fails_though_the_pixels_are_nearly_all_right():
    before = measured(*[[[9000, 0, 0], [0, 50, 0], [0, 0, 50]]] * 8)
    after = measured(*[[[9000, 0, 0], [50, 0, 0], [0, 0, 50]]] * 8)
    checks = {check.question: check.met for check in judge(after, before, {}, Limits())}
    assert checks["correct pixels"]
    assert not checks["IoU of red"]
    assert not checks["mIoU"]
    assert checks["IoU of blue"]
    assert all(check.met for check in judge(before, before, {}, Limits()))


def test_a_class_in_few_images_is_not_asked_for():
    rare = [[[9000, 0, 0], [0, 5, 0], [0, 0, 50]]] * 2 + [[[9000, 0, 0], [0, 0, 0], [0, 0, 50]]] * 8
    asked = [check.question for check in judge(measured(*rare), measured(*rare), {}, Limits())]
    assert "IoU of blue" in asked
    assert "IoU of red" not in asked
