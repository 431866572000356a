"""A candidate that segments against the champion, on core and recent samples, and the gate's questions about it."""

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest

from components.core.errors import InputError
from components.core.manifest import Manifest
from components.core.parameters import GateSettings, read
from components.core.reports.page import read_sections, write_page
from components.core.rules.conditions import Condition
from components.core.tasks.base import open_task
from components.evaluate.compare import compare, compare_measured
from components.evaluate.gate import judge
from components.evaluate.gate_report import sections
from components.evaluate.predictor import open_predictor
from components.evaluate.verdict import judge_comparison
from tests.models import colour_model
from tests.models import write_bundle as write_detector
from tests.tiny_segmenter import job_with_masks, train_network, write_bundle

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    good, weak = train_network(), train_network(steps=15)
    return write_bundle(folder / "good", good), write_bundle(folder / "weak", weak)


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    root = tmp_path_factory.mktemp("job")
    manifest = job_with_masks(root, {"test": 24})
    core, recent = manifest.table.head(16), manifest.table.tail(12)  # four are in both
    return root, Manifest(core, manifest.classes), Manifest(recent, manifest.classes)


def compared(parts, candidate, champion):
    root, core, recent = parts
    folders = {"candidate": candidate, **({"champion": champion} if champion else {})}
    return compare(
        {name: open_predictor(folder, nms_threshold=0.7) for name, folder in folders.items()},
        {"core": core, "recent": recent},
        confidence_threshold=0.25,
        cache_folder=root / "cache",
    )


def asked(comparison, *conditions, **options):
    given = Condition.parse(list(conditions)) if conditions else None
    return judge(comparison, now=NOW, conditions=given, **options)


def test_the_better_one_is_promoted_and_the_worse_one_rejected(models, parts, tmp_path):
    good, weak = models
    gain = compared(parts, good, weak)
    assert gain.images == 24
    images = {name: scores["candidate"].measured.images for name, scores in gain.scores.items()}
    assert images == {
        "core": 16,
        "recent": 12,
        "all": 24,
    }
    delta = gain.delta("all", "miou")
    assert 0 < delta.low < delta.value < delta.high
    flat = gain.as_flat()
    assert flat["recent.miou_delta"] == pytest.approx(flat["recent.miou"] - gain.metrics("champion")["recent.miou"])
    accuracy = gain.delta("core", "pixel_accuracy")
    assert accuracy.low <= accuracy.value <= accuracy.high

    questions = ("miou_delta >= 0", "iou_delta[red] >= -0.02", "min(core.iou) > 0.3")
    promoted = asked(gain, *questions, no_regression=0.05, require_significant=True)
    assert promoted.outcome == "promoted", promoted.describe()
    assert [check.question for check in promoted.checks] == [
        "test images", "conditions", "no class regresses", "beyond chance",
    ]  # fmt: skip
    assert "the gain in mIoU is +" in promoted.checks[-1].reason

    loss = asked(compared(parts, weak, good), no_regression=0.05)
    assert loss.outcome == "rejected"
    assert "iou" in loss.reasons[0]

    write_page(tmp_path / "page.html", "Judge", sections(gain, promoted))
    page = (tmp_path / "page.html").read_text()
    assert "mIoU" in page and "labelled pixels" in page
    assert len(read_sections(tmp_path / "page.html")) == 3


def test_a_condition_on_boxes_is_an_error_and_rejects_nobody(models, parts):
    judgement = asked(compared(parts, *models), "map50_delta >= 0")
    assert judgement.outcome == "error"
    assert "map50" in judgement.reasons[0]


def test_the_first_has_nobody_to_be_held_against(models, parts):
    first = compared(parts, models[0], None)
    assert first.metrics("champion") is None
    assert asked(first, "miou >= 0.5", no_regression=0.05).outcome == "promoted"


def test_another_task_cannot_take_the_place(models, parts, tmp_path):
    detector = write_detector(tmp_path / "detector", colour_model())
    with pytest.raises(InputError, match="the candidate is for detection, the champion for segmentation"):
        compared(parts, detector, models[0])


def test_a_set_without_a_labelled_pixel_is_left_out(models, parts):
    root, core, recent = parts
    none = replace(recent, table=recent.table.clear())
    found = compared((root, core, none), models[0], None)
    assert found.empty == ("recent",)


def test_by_default_the_gate_goes_by_the_figure_of_the_task():
    task = open_task("segmentation")
    row = {"width": 4, "height": 4, "split": "test", "round": 1}
    tests = Manifest.of([{**row, "id": f"{number:064x}"} for number in range(30)], ("sky", "road"))
    good, weak = (task.measure(tests, [np.array(counts)] * 30, 0.25) for counts in ([[8, 0], [1, 7]], [[8, 0], [4, 4]]))
    outcomes = {
        name: judge_comparison(compare_measured(models, {"core": tests}), read(GateSettings, {}), further=[], now=NOW)
        for name, models in {
            "first": {"candidate": good},
            "better": {"candidate": good, "champion": weak},
            "worse": {"candidate": weak, "champion": good},
        }.items()
    }
    found = {name: judgement.outcome for name, judgement in outcomes.items()}
    assert found == {"first": "promoted", "better": "promoted", "worse": "rejected"}, outcomes
    assert "conditions: miou_delta >= 0 (have -" in outcomes["worse"].describe()
