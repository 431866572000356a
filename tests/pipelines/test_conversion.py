"""A round whose model is to be converted for a chip: the pointer stays where it is when that fails."""

import json

import pytest
from kfp import dsl

from components.core.job.job import Job
from tests import one_poll
from tests.pipelines.test_rounds import PER_ROUND, arrive


@pytest.fixture
def failing(monkeypatch):
    """Let conversion end as it does when a chip's model loses too much."""

    class Convert:
        @staticmethod
        def python_func(
            model: dsl.Model, converted: dsl.Model, conversion: dsl.Artifact, report: dsl.HTML, **_
        ) -> None:
            import shutil
            from pathlib import Path

            from components.core.reports.page import Section, note, write_page

            shutil.copytree(model.path, converted.path)
            told = {"outcome": "failed", "reasons": ["rk3588 int8: mAP50 falls by 0.4, at most 0.02 is allowed"]}
            Path(conversion.path).write_text(json.dumps(told))
            write_page(report.path, "Convert", [Section("Conversion", note("failed"))])

    monkeypatch.setattr(one_poll, "convert", Convert)


def test_a_model_that_cannot_be_converted_is_not_deployed_and_the_report_says_which_chip(
    tmp_path, monkeypatch, failing
):
    monkeypatch.setenv("EDGE_CACHE_DIR", str(tmp_path / "cache"))
    arrive(tmp_path / "feed", 0, PER_ROUND)
    job = Job.open(str(tmp_path / "job"))
    one_poll.poll(str(tmp_path / "feed" / "train_data.txt"), job.store.uri, str(tmp_path / "run"), "run")
    state, _ = job.read()
    assert (state.round, state.champion, state.history) == (1, None, ())
    assert state.candidate is not None
    (page,) = (tmp_path / "job" / "reports").glob("*.html")
    assert "conversion: rk3588 int8: mAP50 falls by 0.4, at most 0.02 is allowed" in page.read_text()
