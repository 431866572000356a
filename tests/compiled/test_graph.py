"""The graph that Kubeflow's pages draw of each pipeline: a chain, with few edges beside it."""

from collections import Counter
from pathlib import Path

import pytest
import yaml

COMPILED = Path(__file__).resolve().parents[2] / "compiled" / "pipelines"

# Of the first version that ran on a cluster, counted in the same way: 46 and 61.
MOST = {"helmet-detection": 38, "incremental-round": 46, "joint-inference": 46, "lifelong-round": 45, "benchmark": 20}


def drawn(name: str) -> set[tuple[str, str]]:
    """The edges as frontend/src/lib/v2/StaticFlow.ts of Kubeflow Pipelines draws them.

    There is one from a task to each artifact that it makes, from an artifact to each task that takes it, and one from
    task to task where a parameter is handed over or one waits for the other.
    """
    spec = next(yaml.safe_load_all((COMPILED / f"{name}.yaml").read_text(encoding="utf-8")))
    edges = set()
    for task, its in spec["root"]["dag"]["tasks"].items():
        made = spec["components"][its["componentRef"]["name"]].get("outputDefinitions", {}).get("artifacts", {})
        edges |= {(task, f"{task}.{artifact}") for artifact in made}
        edges |= {(one, task) for one in its.get("dependentTasks", [])}
        inputs = its.get("inputs", {})
        for one in inputs.get("artifacts", {}).values():
            if taken := one.get("taskOutputArtifact"):
                edges.add((f"{taken['producerTask']}.{taken['outputArtifactKey']}", task))
        for one in inputs.get("parameters", {}).values():
            if taken := one.get("taskOutputParameter"):
                edges.add((taken["producerTask"], task))
    return edges


@pytest.mark.parametrize(("name", "most"), MOST.items())
def test_edges_do_not_become_more(name, most):
    assert len(drawn(name)) <= most


def test_the_report_of_a_run_hangs_on_its_last_step_alone():
    edges = drawn("helmet-detection")
    assert [source for source, task in edges if task == "report"] == ["promote"]
    assert [source for source, task in edges if task == "conclude"] == ["report"]


@pytest.mark.parametrize("name", MOST)
def test_no_step_takes_the_page_of_another(name):
    assert not [edge for edge in drawn(name) if edge[0].endswith(".report")]


@pytest.mark.parametrize("name", ["helmet-detection", "incremental-round"])
def test_every_step_waits_for_the_one_before_it(name):
    """Without branches: sorted by what they wait for, each step has one direct predecessor of its own."""
    waits = {edge for edge in drawn(name) if "." not in edge[0] and "." not in edge[1]}
    tasks = {task for edge in waits for task in edge}
    behind = Counter({task: len(before(task, waits)) for task in tasks})
    assert sorted(behind.values()) == list(range(len(tasks)))


def before(task: str, waits: set[tuple[str, str]]) -> set[str]:
    """All that a task waits for, directly or not."""
    found = {source for source, target in waits if target == task}
    return found.union(*(before(one, waits) for one in found)) if found else found
