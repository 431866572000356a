"""A pipeline of a user's own, as the documentation writes it."""

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from kfp import dsl
from kfp.compiler import Compiler

from components import images
from components.core.errors import InputError
from pipelines.arguments import sort_into_place
from pipelines.validate import problems

PAGE = Path(__file__).resolve().parents[2] / "docs" / "extending.md"


@images.train_component
def train_mine(manifest: dsl.Input[dsl.Dataset], job_root: str, model: dsl.Output[dsl.Model]):
    """Train."""


@pytest.fixture(scope="module")
def my_helmets():
    steps = ModuleType("my_steps")
    steps.train_mine = train_mine
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    known = {}
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(sys.modules, "my_steps", steps)
        exec(code, known)
    return known["my_helmets"]


def test_it_compiles_to_what_a_server_takes(my_helmets, tmp_path):
    Compiler().compile(my_helmets, str(tmp_path / "my-helmets.yaml"))
    assert problems(tmp_path / "my-helmets.yaml") == []
    spec, platform = yaml.safe_load_all((tmp_path / "my-helmets.yaml").read_text(encoding="utf-8"))
    assert spec["pipelineInfo"] == {"name": "my-helmets", "description": "Train with a step of our own."}
    settings = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert set(settings) == {"exec-evaluate", "exec-ingest", "exec-prepare", "exec-train-mine"}
    for asked in settings.values():
        assert {"secretAsEnv", "nodeSelector", "tolerations", "securityContext"} <= asked.keys()
    assert [one["volumeName"] for one in settings["exec-train-mine"]["emptyDirMounts"]] == ["shm", "cache"]


def test_its_parameters_are_checked_and_sorted_like_those_of_the_workflow(my_helmets):
    given = {"data_url": "voc.zip", "job_root": "job", "image_size": "96", "train_cpu": "4"}
    assert sort_into_place(my_helmets, given) == {
        "data_url": "voc.zip", "job_root": "job", "train_cpu": "4", "settings": {"train": {"image_size": "96"}},
    }  # fmt: skip
    with pytest.raises(InputError, match="epochs"):
        sort_into_place(my_helmets, given | {"epochs": -1})
