"""Processes that train one model together."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from components.core.bundle import Bundle
from components.core.estimators import peers
from components.core.parameters import TrainerSettings, read
from components.core.stores.open import open_store
from components.train.trainjob import render
from components.train.work_area import WorkArea
from tests.images import CLASSES
from tests.trainjobs import POD, samples

REPOSITORY = Path(__file__).resolve().parents[2]

# What each of two processes does; the first one writes down what came of it.
TOGETHER = """
import json, sys, torch
from components.core.estimators import peers

torch.manual_seed(peers.rank())
network = torch.nn.Linear(3, 1)
unused = torch.nn.Parameter(torch.ones(2))
network.register_parameter("unused", unused)
with peers.joined(torch.device("cpu")):
    peers.same_weights(network)
    network(torch.full((1, 3), 1.0 + 2 * peers.rank())).sum().backward()
    peers.average_gradients(network)
    said = peers.told_by_first(f"from {peers.rank()}")
    found = {"weight": network.weight.tolist(), "gradient": network.weight.grad.tolist(),
             "unused": unused.grad.tolist(), "said": said, "share": peers.share(list(range(5)))}
    with open(f"{sys.argv[1]}-{peers.rank()}.json", "w") as file:
        json.dump(found, file)
"""


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def nodes(count, command, **environment):
    """Start what a TrainJob starts on each node, with the variables that its runtime for torch sets."""
    known = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"} | environment
    known |= {"PET_NNODES": str(count), "PET_MASTER_ADDR": "127.0.0.1", "PET_MASTER_PORT": str(free_port())}
    started = [
        subprocess.Popen(
            command, env=known | {"PET_NODE_RANK": str(number), "PET_NPROC_PER_NODE": "1"}, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True,
        )
        for number in range(count)
    ]  # fmt: skip
    said = [process.communicate(timeout=300)[0] for process in started]
    assert [process.returncode for process in started] == [0] * count, "\n".join(said)
    return said


def test_a_process_by_itself_has_everything_to_itself(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert (peers.rank(), peers.count()) == (0, 1)
    assert peers.share([3, 1, 2]) == [3, 1, 2]
    assert peers.told_by_first("alone") == "alone"


@pytest.mark.parametrize(("items", "length"), [(7, 3), (6, 2), (1, 1), (0, 0)])
def test_shares_are_as_long_as_each_other_and_leave_nothing_out(monkeypatch, items, length):
    monkeypatch.setenv("WORLD_SIZE", "3")
    shares = []
    for number in range(3):
        monkeypatch.setenv("RANK", str(number))
        shares.append(peers.share(list(range(items))))
    assert [len(share) for share in shares] == [length] * 3  # else one waits for a step that no other one makes
    assert {item for share in shares for item in share} == set(range(items))


@pytest.mark.slow
def test_two_processes_have_the_same_weights_and_the_mean_of_their_gradients(tmp_path):
    (tmp_path / "together.py").write_text(TOGETHER)
    command = [sys.executable, "-m", "torch.distributed.run", str(tmp_path / "together.py"), str(tmp_path / "found")]
    nodes(2, command)
    first, second = (json.loads((tmp_path / f"found-{number}.json").read_text()) for number in range(2))
    assert first["weight"] == second["weight"]
    assert first["gradient"] == second["gradient"] == [[2.0, 2.0, 2.0]]  # of 1 and 3
    assert first["unused"] == second["unused"] == [0.0, 0.0]
    assert first["said"] == second["said"] == "from 0"
    assert (first["share"], second["share"]) == ([0, 2, 4], [1, 3, 0])


@pytest.mark.slow
def test_two_nodes_of_a_trainjob_train_one_model(tmp_path):
    training = {
        "estimator": "fpn", "base_model": "fasterrcnn_mobilenet_v3_large_320_fpn", "epochs": 2, "image_size": "64",
        "batch": 4, "patience": 0, "device": "cpu", "workers": 0, "seed": 0, "estimator_options": {"flip": 0.0},
        "experiment_labels": "", "confidence_threshold": 0.25, "nms_threshold": 0.7, "plugin_modules": "",
    }  # fmt: skip
    root = str(tmp_path / "job")
    area = WorkArea(open_store(root), "r0001-1f")
    area.ask(samples(tmp_path, 10), 1, training, tmp_path)
    place = read(TrainerSettings, {"trainer": "trainjob", "train_nodes": 2})
    job = render("train-1f", POD, place, "components.train.node", [root, "r0001-1f"], distributed=True)
    python, *words = job["spec"]["trainer"]["command"]
    assert python == "python3"
    said = nodes(2, [sys.executable, *words], EDGE_CACHE_DIR=str(tmp_path / "cache"))
    result = area.result()
    assert [epoch["epoch"] for epoch in result.history] == [1, 2]
    trained = area.take(result, tmp_path / "model")
    assert trained.bundle.classes == CLASSES and Bundle.read(tmp_path / "model") == trained.bundle
    # Each node learns from its half of the seven samples, two of a batch of four, and the first one alone tells.
    assert ["epoch 2/2" in one for one in said] == [True, False]
