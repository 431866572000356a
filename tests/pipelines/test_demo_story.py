"""The demo's whole story, so small that its models learn nothing: pipelines, edge worker, stand-in and report."""

import json
import re

import pytest

from components.core.job.job import Job
from components.core.manifest import Manifest
from pipelines.demo.loop import NODE, Size, play

TINY = Size(
    scenes=140, tests=6, frames=30, examples=16, budget=14, least=10, first_epochs=1, epochs=1, hasty_epochs=1,
    image_size=64, min_map50=0.0, pair_scenes=12, pair_image_size=32,  # one epoch finds nothing
)  # fmt: skip


@pytest.mark.slow
def test_the_story_is_played_to_its_end(tmp_path):
    report = play(tmp_path / "demo", 0, TINY)
    page = report.read_text()
    job = Job.open(str(tmp_path / "demo" / "job"))
    state, _ = job.read()
    assert state.round == 4
    table = Manifest.read(tmp_path / "demo" / "job" / state.manifest).table
    assert table.group_by("round").len().sort("round").rows() == [(1, 140), (2, 14), (4, 14)]
    assert all(row.startswith("hard-examples/") for row in table.filter(table["round"] > 1)["source"])
    status = json.loads((tmp_path / "demo" / "job" / "status" / f"{NODE}.json").read_text())
    assert (status["state"], status["version"]) == ("loaded", state.champion)
    assert "; 0 frames failed." in page
    assert "The pair was not released" in page  # its models find nothing that could be promised
    assert not re.search(r"(src|href)=.https?:", page)  # it is one file
