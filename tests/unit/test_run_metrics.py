import contextlib
import json
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from components.core.errors import InputError
from components.report.report import keep
from pipelines.__main__ import app
from pipelines.metrics import figures_of, figures_of_run

RUN = "0f0c9d3e-4b7a-4f0e-9a51-0a4f6e1d2c3b"


@pytest.fixture
def job(tmp_path):
    """A job with the reports of two runs, and a page of mining after them."""
    page = tmp_path / "page.html"
    page.write_text("<html></html>")
    root = str(tmp_path / "job")
    keep(str(page), root, "Round 1", {"map50": 0.5, "note": "text"}, RUN)
    keep(str(page), root, "Round 2", {"map50": 0.6}, "another")
    keep(str(page), root, "Images to label", {"asked": 3})
    return root


def test_the_figures_of_a_jobs_last_run_are_printed_as_json(job):
    printed = CliRunner().invoke(app, ["metrics", job])
    assert printed.exit_code == 0
    found = json.loads(printed.stdout)
    assert (found["run"], found["figures"]) == ("another", {"map50": 0.6})
    assert found["report"].endswith("-round-2.html")


def test_the_figures_of_one_run(job):
    found = figures_of(job, RUN)
    assert (found.figures, found.report.endswith("-round-1.html")) == ({"map50": 0.5}, True)
    with pytest.raises(InputError, match="there is no report of the run nothing"):
        figures_of(job, "nothing")


def test_a_run_on_a_cluster_names_its_job(job):
    def cluster(parameters):
        run = SimpleNamespace(runtime_config=SimpleNamespace(parameters=parameters))
        return SimpleNamespace(run=lambda _: run, explained=contextlib.nullcontext)

    assert figures_of_run(cluster({"job_root": job}), RUN).figures == {"map50": 0.5}
    with pytest.raises(InputError, match="has no job_root"):
        figures_of_run(cluster({}), RUN)


def test_a_job_without_reports_says_so(tmp_path):
    with pytest.raises(InputError, match="there is no report; run a pipeline first"):
        figures_of(str(tmp_path))
