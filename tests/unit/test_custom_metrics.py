"""Metrics of the user's own in the conditions of the trigger and of the gate."""

from datetime import UTC, datetime

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from components.core import plugins
from components.core.errors import InputError
from components.core.job.state import State
from components.core.manifest import Manifest
from components.core.rules.conditions import Condition
from components.core.rules.custom_metrics import gate_metrics, own_values, trigger_metrics
from components.evaluate.compare import compare
from components.evaluate.gate import judge
from components.evaluate.predictor import open_predictor
from components.trigger.trigger import Outcome, compares_with_known, decide
from pipelines.__main__ import app
from tests.images import job_with_images
from tests.tiny_detector import train_network, write_bundle
from tests.unit.test_trigger import arrived

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)

MODULE = '''
from components.core.rules.custom_metrics import Arrival, Predictions, gate_metrics, trigger_metrics


@trigger_metrics.register("growth")
def growth(arrival: Arrival) -> float:
    """New samples for each known one."""
    return len(arrival.samples) / (len(arrival.known) if arrival.known else 1)


@trigger_metrics.register("fragile")
def fragile(arrival: Arrival) -> float:
    """Needs files that there may not be."""
    return arrival.counts["found"] / 0


@gate_metrics.register("boxes_found")
def boxes_found(seen: Predictions) -> dict[str, float]:
    """Boxes found for each true one, of each class."""
    found = {name: 0 for name in seen.samples.classes}
    true = dict(found)
    for truth, boxes in zip(seen.samples.truths(), seen.found, strict=True):
        for index, name in enumerate(seen.samples.classes):
            true[name] += int((truth.classes == index).sum())
            found[name] += int(((boxes.classes == index) & (boxes.scores >= seen.confidence_threshold)).sum())
    return {name: found[name] / true[name] for name in found}


@gate_metrics.register("nothing")
def nothing(seen: Predictions) -> float:
    """Not a number."""
    return float("nan")
'''


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A user's module outside the repository, as ``plugins=my_metrics`` names it."""
    (tmp_path / "my_metrics.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    for registry in (trigger_metrics, gate_metrics):
        monkeypatch.setattr(registry, "_entries", {})
    monkeypatch.delitem(__import__("sys").modules, "my_metrics", raising=False)
    plugins.load("my_metrics")


def test_a_condition_tells_which_metrics_it_names():
    condition = Condition.parse(["a_delta >= 0", {"any": ["min(core.b_rel) > 1", {"not": "c[helmet] < 2"}]}])
    assert condition.metrics() == {"a", "core.b", "c"}


def test_the_trigger_can_ask_for_it(own):
    known = arrived(20).manifest
    waiting = decide(State(), arrived(5), now=NOW, conditions=["growth >= 0.5"], known=known)
    assert waiting.outcome == Outcome.WAIT
    assert waiting.reasons == ("growth >= 0.5: have 0.25, need >= 0.5",)
    assert decide(State(), arrived(10), now=NOW, conditions=["growth >= 0.5"], known=known).outcome == Outcome.RUN


def test_what_no_condition_names_is_not_computed(own):
    decision = decide(State(), arrived(60), now=NOW)
    assert decision.outcome == Outcome.RUN
    assert "growth" not in decision.metrics
    assert not compares_with_known(["num_of_samples >= 50"])
    assert compares_with_known(["growth >= 0.5"])
    assert compares_with_known(["drift > 0.2"])


def test_one_that_fails_is_one_line(own):
    with pytest.raises(InputError, match=r"^trigger metric 'fragile' failed with ZeroDivisionError: division by zero$"):
        decide(State(), arrived(5, found=5), now=NOW, conditions=["fragile > 0"])
    with pytest.raises(InputError, match=r"^gate metric 'nothing' returned nan for nothing: return a finite number$"):
        own_values(gate_metrics, {"nothing"}, None)


def test_one_that_is_not_there_is_told(own):
    decision = decide(State(), arrived(5), now=NOW, conditions=["growht >= 0.5"])
    assert decision.outcome == Outcome.ERROR
    assert "growht" in decision.reasons[0]


@pytest.mark.slow
def test_the_gate_can_ask_for_it_of_both_models_on_each_set(own, tmp_path):
    good = write_bundle(tmp_path / "good", train_network())
    weak = write_bundle(tmp_path / "weak", train_network(steps=40))
    manifest = job_with_images(tmp_path / "job", {"test": 24})
    halves = [Manifest(part, manifest.classes) for part in (manifest.table.head(12), manifest.table.tail(12))]
    questions = Condition.parse(["min(boxes_found) > 0.5", "mean(core.boxes_found_delta) > 0", "boxes_found[red] < 2"])
    comparison = compare(
        {
            "candidate": open_predictor(good, nms_threshold=0.5),
            "champion": open_predictor(weak, nms_threshold=0.5),
        },
        dict(zip(("core", "recent"), halves, strict=True)),
        confidence_threshold=0.5,
        cache_folder=tmp_path / "cache",
        named=questions.metrics(),
    )
    ours, theirs = comparison.metrics("candidate"), comparison.metrics("champion")
    for one in (ours, theirs):
        assert {"boxes_found[red]", "core.boxes_found[blue]", "recent.boxes_found[red]"} <= one.keys()
        assert "nothing" not in one
    assert (
        np.mean([ours[f"core.boxes_found[{name}]"] - theirs[f"core.boxes_found[{name}]"] for name in ("red", "blue")])
        > 0
    )
    judgement = judge(comparison, now=NOW, conditions=questions)
    assert judgement.outcome == "promoted", judgement.describe()
    assert comparison.as_flat()["boxes_found[red]"] == ours["boxes_found[red]"]


def test_it_is_listed(own):
    listed = CliRunner().invoke(app, ["plugins", "my_metrics"])
    assert listed.exit_code == 0, listed.output
    assert "trigger metric growth         New samples for each known one." in listed.output
    assert "gate metric    boxes_found    Boxes found for each true one, of each class." in listed.output


def test_samples_that_have_no_labels_are_handed_over_too(own):
    what = arrived(4)
    what.manifest = Manifest(
        what.manifest.table.with_columns(annotations=pl.lit(None, what.manifest.table.schema["annotations"])),
        what.manifest.classes,
    )
    assert decide(State(), what, now=NOW, conditions=["growth >= 4"]).outcome == Outcome.RUN
