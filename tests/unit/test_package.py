"""What `pip install .` makes of this repository."""

import re
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# Rockchip's toolkit asks for an old numpy and torch, so that pip would refuse it; the last two are there for it.
FOR_THE_LOCK_ALONE = {"rknn-toolkit2", "rknn-toolkit-lite2", "protobuf", "setuptools"}


def test_the_dependencies_are_those_of_the_requirements():
    text, _, _ = (REPOSITORY / "requirements.in").read_text(encoding="utf-8").partition("# Tests")
    wanted = [line.split("#")[0].strip() for line in text.splitlines()]
    named = {re.split(r"[<=>; ]", line)[0]: line for line in wanted if line}
    assert set(PROJECT["dependencies"]) == {line for name, line in named.items() if name not in FOR_THE_LOCK_ALONE}
    assert named.keys() >= FOR_THE_LOCK_ALONE


@pytest.mark.parametrize("command", PROJECT["scripts"])
def test_a_command_is_there(command):
    module, _, name = PROJECT["scripts"][command].partition(":")
    assert callable(getattr(import_module(module), name))
