"""The README says what is so: every parameter with its default, and no file that is not there."""

import re
from pathlib import Path

from pipelines.docs import parameters_of, with_tables
from pipelines.registry import PIPELINES

REPOSITORY = Path(__file__).resolve().parents[1]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


def test_every_parameter_is_there_with_its_default_and_meaning():
    assert with_tables(README) == README
    for name in PIPELINES:
        for parameter, (_, default, _) in parameters_of(name).items():
            assert re.search(rf"^\| `{parameter}` \| `?{re.escape(default)}`? \|", README, re.MULTILINE), parameter


def test_every_pipeline_is_told():
    assert all(f"`{name}`" in README for name in PIPELINES)


def test_every_file_it_links_to_is_there():
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", README):
        assert (REPOSITORY / target).exists(), target
