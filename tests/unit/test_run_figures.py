"""What KFP's pages show of a run: ten figures, what classes are taken for, and what each confidence finds."""

import json
import re

import numpy as np
import pytest
import yaml
from kfp import dsl

from components.core.detections import Detections
from components.core.metrics.confusion import confidence_curve, confusion_of_boxes
from components.core.metrics.detection import evaluate_detections, match
from components.core.reports.figures import (
    MOST,
    MOST_CLASSES,
    key_figures,
    log_classification,
    log_figures,
    read_figures,
    write_figures,
)
from components.core.tasks.base import open_task
from components.core.tasks.detection import Detection
from pipelines.client import COMPILED

MLFLOW = re.compile(r"[/\w.\- ]+")  # mlflow/utils/validation.py, names of metrics
CLASSES = ("helmet", "head")
LEFT, RIGHT, FAR = [0, 0, 10, 10], [20, 0, 30, 10], [50, 50, 60, 60]


def boxes(*found):
    """Boxes as (corners, class, score)."""
    corners, classes, scores = zip(*found, strict=True) if found else ((), (), ())
    return Detections(
        np.array(corners, np.float32).reshape(-1, 4), np.array(scores, np.float32), np.array(classes, np.int32)
    )


TRUTHS = [boxes((LEFT, 0, 1), (RIGHT, 1, 1)), boxes((FAR, 1, 1))]
FOUND = [boxes((LEFT, 1, 0.9), (LEFT, 0, 0.5), (RIGHT, 0, 0.8)), boxes((LEFT, 0, 0.6))]


def test_true_boxes_are_taken_for_their_own_class_first_and_for_another_then():
    found = confusion_of_boxes(TRUTHS, FOUND, CLASSES, 0.25)
    assert found.labels == ("helmet", "head", "background")
    # The helmet is found although a better box says head, which is false then; one head is taken for a helmet, one is
    # missed; and in the second image a helmet is seen where nothing is.
    assert found.counts.tolist() == [[1, 0, 0], [1, 0, 1], [1, 1, 0]]


def test_the_diagonal_is_what_recall_counts():
    measured = evaluate_detections(TRUTHS, FOUND, CLASSES, [(64, 64)] * 2, confidence_threshold=0.25)
    counts = confusion_of_boxes(TRUTHS, FOUND, CLASSES, 0.25).counts
    assert np.trace(counts) / counts[:2].sum() == pytest.approx(measured.recall_micro)
    assert np.trace(counts) / counts[:, :2].sum() == pytest.approx(measured.precision_micro)


def test_a_box_below_the_confidence_is_missed():
    assert confusion_of_boxes(TRUTHS, FOUND, CLASSES, 0.55).counts[0].tolist() == [0, 1, 0]
    assert confusion_of_boxes(TRUTHS, FOUND, CLASSES, 0.95).counts.tolist() == [[0, 0, 1], [0, 0, 2], [0, 0, 0]]


def test_the_curve_goes_from_nothing_to_everything_that_is_found():
    curve = confidence_curve(match(TRUTHS, FOUND, len(CLASSES)))
    assert (curve[0].confidence, curve[0].recall, curve[0].false_share) == (1, 0, 0)
    assert (curve[-1].confidence, curve[-1].recall, curve[-1].false_share) == (0, pytest.approx(1 / 3), 0.75)
    assert [one.recall for one in curve] == sorted(one.recall for one in curve)


FLAT = {
    "map50": 0.7, "map50_95": 0.5, "precision_micro": 0.9, "recall_micro": 0.8, "f1_micro": 0.85,
    "precision_macro": 0.91, "recall_macro": 0.81, "f1_macro": 0.86, "false_positives_per_image": 0.1, "images": 40.0,
    "truths": 90.0, "ap50[helmet]": 0.8, "ap50[head]": 0.6, "ap50_95[head]": 0.1,
}  # fmt: skip


def test_a_run_is_told_by_ten_figures_with_names_that_mlflow_takes():
    found = key_figures(FLAT | {"map50_low": 0.6, "map50_high": 0.8}, Detection.figures)
    assert found == {
        "map50": 0.7, "map50_low": 0.6, "map50_high": 0.8, "map50_95": 0.5, "min_ap50": 0.6, "recall_macro": 0.81,
        "precision_macro": 0.91, "false_positives_per_image": 0.1, "f1_macro": 0.86, "images": 40.0,
    }  # fmt: skip
    compared = FLAT | {"core.map50": 0.7, "map50_delta": 0.1, "map50_delta_low": 0.0, "map50_delta_high": 0.2}
    found = key_figures(compared, Detection.figures)
    assert list(found)[:4] == ["map50", "map50_delta", "map50_delta_low", "map50_delta_high"]
    assert len(found) == MOST and all(MLFLOW.fullmatch(name) for name in found)


def test_figures_that_come_first_stand_behind_the_main_one():
    found = key_figures(FLAT | {"forgetting": 0.0}, Detection.figures, first=["forgetting"])
    assert list(found)[:3] == ["map50", "forgetting", "map50_95"]


def test_a_segmentation_is_told_by_its_own():
    flat = {"miou": 0.5, "pixel_accuracy": 0.9, "mean_recall": 0.6, "fwiou": 0.8, "images": 3.0, "iou[sky]": 0.2}
    found = key_figures(flat, open_task("segmentation").figures)
    assert list(found) == ["miou", "pixel_accuracy", "min_iou", "mean_recall", "fwiou", "images"]


def test_all_figures_are_kept_as_json(tmp_path):
    write_figures(str(tmp_path / "figures"), FLAT)
    assert read_figures(str(tmp_path / "figures")) == FLAT
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_figures(str(tmp_path / "figures"), {"map50": float("nan")})


def test_the_artifacts_hold_what_kfp_reads():
    metrics, classification = dsl.Metrics(metadata={}), dsl.ClassificationMetrics(metadata={})
    log_figures(metrics, {"map50": 0.5})
    matches = match(TRUTHS, FOUND, len(CLASSES))
    log_classification(classification, confusion_of_boxes(TRUTHS, FOUND, CLASSES, 0.25), confidence_curve(matches))
    assert metrics.metadata == {"map50": 0.5}
    matrix = classification.metadata["confusionMatrix"]
    assert [one["displayName"] for one in matrix["annotationSpecs"]] == ["helmet", "head", "background"]
    assert matrix["rows"][1] == {"row": [1, 0, 1]}
    points = classification.metadata["confidenceMetrics"]
    assert points[-1] == {"confidenceThreshold": 0.0, "recall": pytest.approx(1 / 3), "falsePositiveRate": 0.75}
    json.dumps(classification.metadata, allow_nan=False)


def test_a_matrix_of_too_many_classes_and_a_task_without_any_leave_the_artifact_empty():
    names = [str(number) for number in range(MOST_CLASSES)]
    many, none = dsl.ClassificationMetrics(metadata={}), dsl.ClassificationMetrics(metadata={})
    log_classification(many, confusion_of_boxes(TRUTHS, FOUND, names, 0.25), [])
    log_classification(none, None, [])
    assert many.metadata == none.metadata == {}


# The cases of a benchmark have metrics of their own, by which its page compares them.
RUNS = [path for path in sorted((COMPILED / "pipelines").glob("*.yaml")) if path.stem != "benchmark"]


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_a_run_has_one_metrics_artifact(path):
    spec = next(yaml.safe_load_all(path.read_text(encoding="utf-8")))
    kinds = [
        artifact["artifactType"]["schemaTitle"]
        for component in spec["components"].values()
        if "executorLabel" in component
        for artifact in component.get("outputDefinitions", {}).get("artifacts", {}).values()
    ]
    assert kinds.count("system.Metrics") == 1
    assert kinds.count("system.ClassificationMetrics") == (path.stem != "hard-example-mining")
