"""A model for tests that needs no training: it finds red and blue squares on the grid of its cells."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from components.core.bundle import Bundle
from components.core.heads import SplitHead

BUNDLE = Bundle(
    classes=("red", "blue"),
    image_size=(64, 96),
    estimator="colours",
    head=SplitHead(strides=(8, 16), reg_max=1, end_to_end=False),
    confidence_threshold=0.5,
    nms_threshold=0.7,
    outputs=("box0", "cls0", "box1", "cls1"),
)


def port(name, *shape):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def colour_model(height=64, width=96, kind=TensorProto.FLOAT, channels=(0, 2)):
    """A detector of cells of 8 pixels that are wholly of a colour: red (class 0) or blue (class 1)."""
    classes = len(channels)
    weights = np.full((classes, 3, 8, 8), -1 / 64, np.float32)
    weights[np.arange(classes), list(channels)] = 1 / 64
    nodes = [
        helper.make_node("Conv", ["images", "weights", "bias"], ["colour"], strides=[8, 8]),
        helper.make_node("Mul", ["colour", "steep"], ["logits"]),
        helper.make_node("Sigmoid", ["logits"], ["cls0"]),
        helper.make_node("Identity", ["half0"], ["box0"]),
        helper.make_node("Identity", ["half1"], ["box1"]),
        helper.make_node("Identity", ["never"], ["cls1"]),
    ]
    constants = {
        "weights": weights,
        "bias": np.full(classes, -0.5, np.float32),
        "steep": np.float32(6),
        "half0": np.full((1, 4, height // 8, width // 8), 0.5, np.float32),
        "half1": np.full((1, 4, height // 16, width // 16), 0.5, np.float32),
        "never": np.zeros((1, classes, height // 16, width // 16), np.float32),
    }
    outputs = [
        port(f"{name}{scale}", 1, size, height // (8 << scale), width // (8 << scale))
        for scale in (0, 1)
        for name, size in (("box", 4), ("cls", classes))
    ]
    images = helper.make_tensor_value_info("images", kind, [1, 3, height, width])
    initializers = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    return model(nodes, [images], outputs, initializers)


def model(nodes, inputs, outputs, initializers=()):
    graph = helper.make_graph(nodes, "test", inputs, outputs, initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


def write_bundle(folder: Path, graph: onnx.ModelProto, bundle: Bundle = BUNDLE) -> Path:
    """Write a bundle."""
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(graph, folder / "model.onnx")
    bundle.write(folder)
    return folder
