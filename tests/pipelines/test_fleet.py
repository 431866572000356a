"""Deploying to edge workers that really run: to some of them first, and back when they cannot run what they get."""

from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import pytest
from onnx import numpy_helper

from components.core.job.job import Job
from components.core.manifest import Manifest
from components.deploy.canary import CanaryPlan
from components.deploy.candidate import Candidate
from components.deploy.deploy import Deployed, deploy
from components.serving import status as reports
from tests.edge import folder_of_images, options, running, status
from tests.models import BUNDLE, colour_model, write_bundle
from tests.unit.test_edge_worker import until

NODES = ("edge-1", "edge-2", "edge-3", "edge-4")


@pytest.fixture
def root(tmp_path) -> str:
    return str(tmp_path / "job")


@pytest.fixture
def end_round(root, tmp_path):
    """Ends a round with a model that is steeper the later it is, or with a bundle of the test's own."""

    def run(number: int, bundle=BUNDLE, **wanted) -> Deployed:
        graph = colour_model()
        for tensor in graph.graph.initializer:
            if tensor.name == "steep":
                tensor.CopyFrom(numpy_helper.from_array(np.float32(6 + number / 8), "steep"))
        folder = write_bundle(tmp_path / f"round-{number}", graph, bundle)
        row = {
            "id": "ab" * 32, "uri": "file:///a.jpg", "width": 1, "height": 1, "split": "test", "group": "a",
            "source": "a.jpg", "round": number, "annotations": [],
        }  # fmt: skip
        Manifest.of([row], ["red"]).write(tmp_path / f"{number}.parquet")
        champion = Job.open(root).read()[0].champion
        return deploy(
            root, Candidate.of_one(folder), tmp_path / f"{number}.parquet", outcome="promoted", why="better",
            round_number=number, run_id=f"run-{number}", cursor="", champion=champion, rollout_timeout=60, poll_s=0.05,
            **wanted,
        )  # fmt: skip

    return run


@pytest.fixture
def fleet(root, end_round, tmp_path, monkeypatch):
    """Four workers that look at the same images again and again, with the first model."""
    monkeypatch.setattr(reports, "BEAT_SECONDS", 0.2)
    end_round(1)
    source = folder_of_images(tmp_path / "images", 6)
    job = Job.open(root)
    first = job.read()[0].champion
    with ExitStack() as stack:
        for node in NODES:
            chosen = options(
                tmp_path, source, node=node, folder=tmp_path / node, miner="EdgeOnly", max_fps=40, loop=True
            )
            stack.enter_context(running(chosen))
        until(lambda: all(status(job, node) and status(job, node).version == first for node in NODES))
        yield job


def versions(job: Job) -> dict[str, str]:
    return {node: status(job, node).version for node in NODES}


def test_a_good_candidate_is_tried_by_half_of_the_workers_and_then_runs_on_all(fleet, end_round):
    first = fleet.read()[0].champion
    ended = end_round(2, canary=CanaryPlan(fraction=0.5, frames=15, hours=1))
    assert (ended.outcome, ended.champion) == ("deployed", ended.version)
    assert ended.version != first
    assert ended.canary == "2 of 2 workers have processed 15 images with it"
    assert ended.workers.outcome == "confirmed"
    assert set(versions(fleet).values()) == {ended.version}


def test_a_candidate_that_the_chosen_workers_refuse_is_withdrawn_and_the_others_never_hear_of_it(
    fleet, end_round, tmp_path
):
    first = fleet.read()[0].champion
    stranger = replace(BUNDLE, classes=("green", "yellow"))
    ended = end_round(2, bundle=stranger, canary=CanaryPlan(fraction=0.5, frames=15, hours=1))
    assert (ended.outcome, ended.champion) == ("withdrawn", first)
    assert "its classes are" in ended.canary
    until(lambda: set(versions(fleet).values()) == {first})
    assert all(status(fleet, node).state == "loaded" for node in NODES)
    known = {node: next((tmp_path / node).rglob("shelf.json")).read_text() for node in NODES}
    untouched = [node for node in NODES if ended.version not in known[node]]
    assert len(untouched) >= 2  # one failure is enough; the other may not have got to it


def test_a_champion_that_no_worker_can_run_is_taken_back(fleet, end_round):
    first = fleet.read()[0].champion
    ended = end_round(2, bundle=replace(BUNDLE, classes=("green", "yellow")))
    assert (ended.outcome, ended.champion) == ("rolled back", first)
    assert len(ended.workers.failed) >= 1
    until(lambda: set(versions(fleet).values()) == {first})
