"""The cells of the notebooks that need a server, against the fake one."""

import nbformat
import pytest

from pipelines.client import COMPILED
from tests.test_notebooks import NOTEBOOKS

WORKFLOWS = {"your-own-pipeline": "helmet-detection"}


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_submits_and_schedules(name, api, monkeypatch, capsys):
    monkeypatch.setenv("KF_PIPELINES_ENDPOINT", api.url)
    cells = [cell for cell in nbformat.read(NOTEBOOKS[name], 4).cells if "cluster" in cell.metadata.get("tags", [])]
    known = {"package": COMPILED / "pipelines" / f"{WORKFLOWS.get(name, name)}.yaml"}
    for cell in cells:
        exec(cell.source, known)
    (run,) = api.runs.values()
    assert run["runtime_config"]["parameters"]["job_root"].startswith("s3://jobs/")
    (schedule,) = api.recurringruns.values()
    assert schedule["max_concurrency"] == "1" and schedule["no_catchup"]
    assert "run" in capsys.readouterr().out
