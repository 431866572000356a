"""What `pip install .` makes of this repository."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import cv2
import numpy as np
import pytest

from components.core.job.job import Job
from tests.edge import deploy

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


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder that pip has installed this repository into, from a wheel that it has built of a copy."""
    folder = tmp_path_factory.mktemp("package")
    copy = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("components", "pipelines", "compiled"):
        shutil.copytree(REPOSITORY / name, folder / "source" / name, ignore=copy)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, folder / "source")
    pip("wheel", "--no-build-isolation", "--wheel-dir", folder / "wheels", folder / "source")
    (wheel,) = (folder / "wheels").iterdir()
    pip("install", "--no-index", "--target", folder / "site", wheel)
    return folder / "site"


def pip(verb: str, *words: object) -> None:
    command = [sys.executable, "-m", "pip", verb, "--quiet", "--no-deps", *map(str, words)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def say(installed: Path, folder: Path, program: str, *words: str) -> str:
    """What a command that pip has made prints, in a folder that has nothing of the repository."""
    done = subprocess.run(
        [installed / "bin" / program, *words], check=False, cwd=folder, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(installed), "PYTHONSAFEPATH": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("command", PROJECT["scripts"])
def test_a_command_that_is_installed_knows_its_options(installed, tmp_path, command):
    assert "--help" in say(installed, tmp_path, command, "--help")


def test_what_is_installed_is_complete(installed):
    """All code, manifests and compiled pipelines are in the wheel."""
    for folder in ("components", "pipelines", "compiled"):
        for path in (REPOSITORY / folder).rglob("*"):
            if path.suffix in (".py", ".yaml"):
                assert (installed / path.relative_to(REPOSITORY)).exists(), path.relative_to(REPOSITORY)


def test_an_installed_suite_compiles_the_same_pipelines(installed, tmp_path):
    said = say(installed, tmp_path, "edge-learning", "compile", "--output", "mine")
    assert "are written and valid" in said
    for path in (REPOSITORY / "compiled").rglob("*.yaml"):
        assert (tmp_path / "mine" / path.relative_to(REPOSITORY / "compiled")).read_bytes() == path.read_bytes()


def test_an_installed_suite_works_on_a_job(installed, tmp_path):
    deploy(Job.open(str(tmp_path / "job")), "r0001-1a2b3c4d", tmp_path / "bundle")
    assert "r0001-1a2b3c4d" in say(installed, tmp_path, "edge-learning", "jobs", "job")
    cv2.imwrite(str(tmp_path / "a.jpg"), np.full((64, 96, 3), 120, np.uint8))
    assert "a.jpg" in say(installed, tmp_path, "edge-learning", "predict", "job", "a.jpg")
    assert list((tmp_path / "predictions").iterdir())
