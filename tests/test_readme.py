"""The README says what is so: every parameter with its default, and no file that is not there."""

import re
from pathlib import Path

from pipelines.registry import PIPELINES

REPOSITORY = Path(__file__).resolve().parents[1]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


def told(section: str) -> dict[str, str]:
    """Parameters and defaults in the table of one section."""
    text = re.search(rf"^## {section}$(.*?)^## ", README, re.MULTILINE | re.DOTALL)[1]
    return dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", text, re.MULTILINE))


def test_every_parameter_is_told_with_its_default():
    straight = told("Your own images")
    again = straight | told("Again and again")
    for name, pipeline in PIPELINES.items():
        for parameter, spec in pipeline.component_spec.inputs.items():
            default = f"`{spec.default}`" if spec.default not in ("", None) else ""
            expected = default if spec.optional else "required"
            assert (straight if name == "helmet-detection" else again).get(parameter) == expected, parameter


def test_every_pipeline_is_told():
    assert all(f"`{name}`" in README for name in PIPELINES)


def test_every_file_it_links_to_is_there():
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", README):
        assert (REPOSITORY / target).exists(), target
