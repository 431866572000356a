import json
from dataclasses import replace

import pytest
from pydantic import ValidationError

from components.core.bundle import Bundle
from components.core.errors import InputError, NotFoundError
from components.core.heads import SplitHead

BUNDLE = Bundle(
    classes=("helmet", "head"),
    image_size=(352, 640),
    estimator="yolo",
    head=SplitHead(strides=(8, 16, 32), reg_max=16, end_to_end=False),
    confidence_threshold=0.25,
    nms_threshold=0.7,
    metrics={"map50": 0.83},
    lineage={"base_model": "yolo11n.pt", "parameters": {"epochs": 3}, "experiment_labels": {}},
)


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "version"
    folder.mkdir()
    (folder / "model.pt").write_bytes(b"weights")
    (folder / "model.onnx").write_bytes(b"graph")
    BUNDLE.write(folder)
    return folder


def change(folder, **values):
    path = folder / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_a_bundle_reads_back_with_the_digests_of_its_files(folder):
    bundle = Bundle.read(folder)
    assert replace(bundle, files={}) == BUNDLE
    assert bundle.files == {
        "model.onnx": "eef93e1d14482804277fca0172464032d1a4fdbcc338524059fa1e861454ad4d",
        "model.pt": "9a129038d9a00aed0cf6a7ea059ca50a813449061ab87848cf1a13eafdf33b2c",
    }
    assert bundle.file(folder, "model.onnx").read_bytes() == b"graph"
    assert sorted(path.name for path in folder.parent.rglob("*")) == ["model.json", "model.onnx", "model.pt", "version"]


def test_writing_again_takes_up_new_files_and_figures(folder):
    (folder / "model.rknn").write_bytes(b"for one chip")
    written = replace(Bundle.read(folder), metrics={"map50": 0.9}).write(folder)
    assert Bundle.read(folder) == written
    assert set(written.files) == {"model.onnx", "model.pt", "model.rknn"}
    assert written.metrics == {"map50": 0.9}


def test_a_changed_file_is_named(folder):
    (folder / "model.pt").write_bytes(b"other weights")
    with pytest.raises(InputError, match=r"version: model\.pt does not have the SHA-256"):
        Bundle.read(folder)


def test_a_missing_file_is_named(folder):
    (folder / "model.onnx").unlink()
    with pytest.raises(NotFoundError, match=r"version: no model\.onnx in it"):
        Bundle.read(folder)


def test_a_file_without_a_digest_is_not_given_out(folder):
    (folder / "model.rknn").write_bytes(b"from somewhere")
    with pytest.raises(NotFoundError, match=r"no model\.rknn in it; it names model\.onnx, model\.pt"):
        Bundle.read(folder).file(folder, "model.rknn")


def test_a_folder_without_description_is_no_bundle(tmp_path):
    with pytest.raises(NotFoundError, match=r"no model\.json in it"):
        Bundle.read(tmp_path)


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"classes": []}, "classes: "),
        ({"classes": ["helmet", "helmet"]}, "contain duplicates"),
        ({"image_size": [640]}, "image_size.1: "),
        ({"image_size": [640, 650]}, "not a multiple of the strides"),
        ({"outputs": ["output0"]}, "1 outputs for 3 strides"),
        ({"confidence_threshold": 25}, "confidence_threshold: "),
        ({"files": {"../model.pt": "0" * 64}}, "files.../model.pt"),
        ({"files": {"model.pt": "abc"}}, "files.model.pt: "),
        ({"metrics": {"map50": "good"}}, "metrics.map50: "),
        ({"colour": "BGR"}, "colour: "),
        ({"sharpness": 1}, "sharpness: "),
    ],
)
def test_a_wrong_description_is_refused(folder, values, complaint):
    change(folder, **values)
    with pytest.raises(InputError, match=r"version: model\.json is wrong: ") as caught:
        Bundle.read(folder)
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_description_that_is_not_json_is_refused(folder):
    (folder / "model.json").write_bytes(b"\x80pickle")
    with pytest.raises(InputError, match=r"model\.json is wrong"):
        Bundle.read(folder)


def test_a_figure_that_is_no_number_is_not_written(folder):
    with pytest.raises(ValidationError, match="finite"):
        replace(BUNDLE, metrics={"map50": float("nan")})
