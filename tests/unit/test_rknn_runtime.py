"""An ``.rknn`` on a board; a stand-in for the board's library computes with the ONNX of the same bundle."""

import sys
import types

import numpy as np
import onnxruntime
import pytest

from components.core.errors import InputError, NoRuntimeError, NotFoundError
from components.core.runtimes import rknn
from components.core.runtimes.base import open_detector
from tests.models import BUNDLE, colour_model, write_bundle


@pytest.fixture
def folder(tmp_path):
    made = write_bundle(tmp_path / "version", colour_model())
    (made / "model.rk3588.rknn").write_bytes((made / "model.onnx").read_bytes())
    BUNDLE.write(made)
    return made


@pytest.fixture
def board(tmp_path, monkeypatch):
    """An rk3588s, whose library is handed bytes and divides them by 255 itself."""
    compatible = tmp_path / "compatible"
    compatible.write_text("vendor,board\0rockchip,rk3588s\0rockchip,rk3588\0")
    monkeypatch.setattr(rknn, "COMPATIBLE", compatible)
    monkeypatch.setattr(rknn, "NEEDED", (tmp_path / "librknnrt.so", tmp_path / "renderD129"))
    for path in rknn.NEEDED:
        path.touch()

    class Lite:
        code = 0
        started = 0

        def load_rknn(self, path):
            self._session = onnxruntime.InferenceSession(path)
            return self.code

        def init_runtime(self):
            if isinstance(self.started, Exception):
                raise self.started
            return self.started

        def inference(self, inputs, data_format):
            assert (inputs[0].dtype, data_format) == (np.uint8, ["nhwc"])
            pixels = inputs[0].transpose(0, 3, 1, 2).astype(np.float32) / 255
            return self._session.run(None, {"images": pixels})

    module = types.ModuleType("rknnlite.api")
    module.RKNNLite = Lite
    monkeypatch.setitem(sys.modules, "rknnlite", types.ModuleType("rknnlite"))
    monkeypatch.setitem(sys.modules, "rknnlite.api", module)
    return Lite


def test_a_board_finds_what_the_processor_finds(folder, board):
    image = np.zeros((50, 120, 3), np.uint8)
    image[10:30, 20:50] = (250, 0, 0)
    image[25:45, 80:110] = (0, 0, 250)
    (expected,) = open_detector("onnx", folder).predict([image], confidence=0.2)
    (found,) = open_detector("rknn", folder).predict([image], confidence=0.2)
    assert len(found) > 1
    np.testing.assert_array_equal(found.boxes, expected.boxes)
    np.testing.assert_array_equal(found.classes, expected.classes)


def test_a_board_that_the_model_was_not_converted_for_is_told(folder, board):
    rknn.COMPATIBLE.write_text("rockchip,rk3568\0")
    with pytest.raises(NotFoundError, match=r"no model\.rk3568\.rknn in it; it names .*model\.rk3588\.rknn"):
        open_detector("rknn", folder)


def test_another_machine_is_told(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(rknn, "COMPATIBLE", tmp_path / "none")
    with pytest.raises(InputError, match=r"not a Rockchip board \(no device tree\): use the runtime onnx") as told:
        open_detector("rknn", folder)
    assert "systempaths=unconfined" in str(told.value)  # it may be one, seen from a container
    rknn.COMPATIBLE.write_text("raspberrypi,4-model-b\0brcm,bcm2711\0")
    with pytest.raises(InputError, match=r"\(raspberrypi,4-model-b, brcm,bcm2711\): use the runtime onnx$"):
        open_detector("rknn", folder)


def test_a_library_that_is_missing_or_too_old_is_told(folder, board, monkeypatch):
    monkeypatch.setattr(board, "code", -1)
    with pytest.raises(InputError, match=r"librknnrt\.so on the board must be at least as new as the toolkit"):
        open_detector("rknn", folder)
    monkeypatch.setattr(board, "code", 0)
    monkeypatch.setattr(board, "started", RuntimeError("rknn_init\nfailed"))
    with pytest.raises(InputError, match=r"as new as the toolkit .*\(rknn_init failed\)$"):
        open_detector("rknn", folder)
    monkeypatch.setitem(sys.modules, "rknnlite.api", None)
    with pytest.raises(InputError, match="rknn-toolkit-lite2 is not installed"):
        open_detector("rknn", folder)


@pytest.mark.parametrize("missing", [[0], [1], [0, 1]])
def test_what_is_missing_for_the_npu_is_named_in_one_line(folder, board, monkeypatch, missing):
    monkeypatch.setattr(board, "started", -1)
    for place in missing:
        rknn.NEEDED[place].unlink()
    with pytest.raises(NoRuntimeError) as told:
        open_detector("rknn", folder)
    named = " and ".join(str(rknn.NEEDED[place]) for place in missing)
    assert f"{named} not found; a container of Docker needs --device /dev/dri " in str(told.value)
    assert "\n" not in str(told.value)
