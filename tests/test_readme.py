"""The documentation says what is so: every pipeline is named, every parameter is listed."""

import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipelines.docs import pages, parameters_of
from pipelines.registry import COMPONENTS, PIPELINES
from tests.models import colour_model, write_bundle

REPOSITORY = Path(__file__).resolve().parents[1]
README = REPOSITORY / "README.md"
PAGES = [README, *sorted((REPOSITORY / "docs").glob("*.md"))]


@pytest.mark.parametrize("name", PIPELINES)
def test_every_parameter_is_listed_with_its_default(name):
    page = pages(PIPELINES, COMPONENTS)[REPOSITORY / "pipelines" / "README.md"]
    section = page[page.index(f"## {name}\n") :].split("\n## ")[0]
    for parameter, (_, default, _) in parameters_of(name).items():
        assert re.search(rf"^\| `{parameter}` \| `?{re.escape(default)}`? \|", section, re.MULTILINE), parameter


def test_readme_names_every_pipeline_and_every_page():
    text = README.read_text(encoding="utf-8")
    assert all(f"`{name}`" in text for name in PIPELINES)
    assert all(f"(docs/{page.name})" in text for page in PAGES[1:])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_the_text_names_exist(page):
    """A path in backticks that begins with a folder of the repository."""
    named = r"`((?:components|pipelines|images|tests|notebooks|compiled|benchmarks)/[\w./-]+)`"
    for target in re.findall(named, page.read_text(encoding="utf-8")):
        assert (REPOSITORY / target).exists(), target


def test_its_python_runs_a_bundle(tmp_path, monkeypatch, capsys):
    write_bundle(tmp_path / "bundles" / "r0001-1a2b3c4d", colour_model())
    image = np.full((64, 96, 3), 120, np.uint8)
    image[8:16, 16:24] = (0, 0, 255)  # OpenCV wants blue first
    cv2.imwrite(str(tmp_path / "photo.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, 100])
    monkeypatch.chdir(tmp_path)
    (lines,) = re.findall(r"^```python\n(.*?)^```", README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert len([line for line in lines.splitlines() if line]) <= 6
    exec(lines, {})
    assert capsys.readouterr().out.startswith("['red'] [")
