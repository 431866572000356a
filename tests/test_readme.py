"""The README says what is so: every parameter with its default, and no file that is not there."""

import re
from pathlib import Path

from pipelines.registry import PIPELINES

REPOSITORY = Path(__file__).resolve().parents[1]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


def test_every_parameter_is_told_with_its_default():
    told = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", README, re.MULTILINE))
    for pipeline in PIPELINES.values():
        for name, spec in pipeline.component_spec.inputs.items():
            expected = (
                "required" if not spec.optional else f"`{spec.default}`" if spec.default not in ("", None) else ""
            )
            assert told.get(name) == expected, name


def test_every_pipeline_is_told():
    assert all(f"`{name}`" in README for name in PIPELINES)


def test_every_file_it_links_to_is_there():
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", README):
        assert (REPOSITORY / target).exists(), target
