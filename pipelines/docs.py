"""The documentation that is made of the table of parameters and of what components and pipelines declare.

``python -m pipelines compile`` writes it, and ``--check`` says what is out of date.
"""

from __future__ import annotations

import json
import shutil
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import docstring_parser

from components.core.parameters import MODELS, ROWS, SETTINGS, WORKFLOWS, must_be
from components.core.stores.transfer import landing
from pipelines.contract import sections_read

REPOSITORY = Path(__file__).resolve().parent.parent

BACKEND = ">=2.14"  # of Kubeflow Pipelines, that runs what is compiled here
VERIFIED = "2026-11-27T00:00:00Z"  # when all of it was last run


def parameters_of(name: str) -> dict[str, tuple[str, str, str]]:
    """Section, default and description of each parameter of a pipeline, by name, in the order of the table."""
    rows = {}
    for phase in WORKFLOWS[name]:
        for row, field in phase.model_fields.items():
            default = "required" if field.is_required() else _shown(field.get_default())
            rows[row] = (phase.section, default, field.description or "")
    return rows


def parameter_table(name: str) -> str:
    """The parameters of a pipeline as a table in Markdown."""
    lines = ["| parameter | default | value | section | meaning |", "|---|---|---|---|---|"]
    for row, (section, default, description) in parameters_of(name).items():
        code = default if default in ("", "required") else f"`{default}`"
        lines.append(f"| `{row}` | {code} | {must_be(ROWS[row])} | {section} | {_cell(description)} |")
    return "\n".join(lines) + "\n"


def help_of(name: str) -> str:
    """The parameters of a pipeline for a terminal: name and default, what it does, what it must be."""
    lines = [f"Parameters of {name}, each as -p NAME=VALUE:"]
    width = max(60, shutil.get_terminal_size((100, 24)).columns)
    before = None
    for row, (section, default, description) in parameters_of(name).items():
        if section != before:
            lines += ["", section] if section else []
            before = section
        head = row if default == "required" else f"{row}={default}"
        what = must_be(ROWS[row])
        form = "" if what in ("text", "a mapping", "a list") else f" Must be {what}."
        required = "Required. " if default == "required" else ""
        lines.append(f"  {head}")
        lines += textwrap.wrap(
            f"{required}{description}{form}", width, initial_indent=" " * 6, subsequent_indent=" " * 6
        )
    return "\n".join(lines)


def pages(pipelines: Mapping[str, Any], components: Mapping[str, Any]) -> dict[Path, str]:
    """Every page that is made here, by its path.

    Args:
        pipelines: pipelines by name.
        components: components by name.
    """
    made = {
        REPOSITORY / "components" / "README.md": "\n".join(_components_page(components)),
        REPOSITORY / "pipelines" / "README.md": "\n".join(_pipelines_page(pipelines)),
        REPOSITORY / "pipelines" / "metadata.yaml": "---\n".join(_metadata(name, "pipelines") for name in pipelines),
    }
    phases: dict[str, list[str]] = {}
    for name, component in components.items():
        phases.setdefault(component.python_func.__module__.split(".")[1], []).append(_metadata(name, "components"))
    return made | {
        REPOSITORY / "components" / phase / "metadata.yaml": "---\n".join(documents)
        for phase, documents in phases.items()
    }


def stale_pages(made: Mapping[Path, str]) -> list[str]:
    """One line for each page that is not what :func:`pages` made."""
    return [
        f"{path.relative_to(REPOSITORY)}: is not what the code says; run python -m pipelines compile"
        for path, text in made.items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]


def write_pages(made: Mapping[Path, str]) -> None:
    """Write what :func:`pages` made."""
    for path, text in made.items():
        with landing(path) as file:
            file.write(text.encode())


def _components_page(components: Mapping[str, Any]) -> Iterator[str]:
    yield "# Components"
    yield ""
    yield "Made by `python -m pipelines compile`; do not edit."
    yield ""
    yield "Each component is `compiled/components/<name>.yaml`, and a Python object: `from components.train.component"
    yield 'import train`. `settings` holds its parameters by name, such as `{"epochs": 30}`, or by section and name as'
    yield "the pipelines hand them on; those of other sections are left alone. Defaults and meanings are in the"
    yield "[tables of the pipelines](../pipelines/README.md)."
    for name, component in components.items():
        spec = component.component_spec
        told = docstring_parser.parse(component.python_func.__doc__ or "")
        described = {argument.arg_name: argument.description or "" for argument in told.params}
        sections = [model for model in MODELS if model in sections_read(component)]
        yield ""
        yield f"## {name}"
        yield ""
        yield _flat(told.short_description)
        yield ""
        yield f"Container image: `{spec.implementation.container.image}`"
        yield ""
        yield "| port | type | default | meaning |"
        yield "|---|---|---|---|"
        for port, declared in (spec.inputs or {}).items():
            if port != SETTINGS:
                default = f"`{_shown(declared.default)}`" if declared.optional else "required"
                yield f"| `{port}` | {_kind(declared.type)} | {default} | {_cell(described.get(port, ''))} |"
        if sections:
            names = ", ".join(dict.fromkeys(f"`{model.section}`" for model in sections))
            yield f"| `{SETTINGS}` | Dict | `{{}}` | Parameters of the sections {names}. |"
        for port, declared in (spec.outputs or {}).items():
            meaning = told.returns.description if port == "Output" and told.returns else described.get(port, "")
            yield f"| `{port}` | {_kind(declared.type)} | output | {_cell(meaning or '')} |"
    yield ""


def _pipelines_page(pipelines: Mapping[str, Any]) -> Iterator[str]:
    yield "# Pipelines"
    yield ""
    yield "Made by `python -m pipelines compile`; do not edit."
    yield ""
    yield 'Parameters with a section travel in the input `settings`, as `{"train": {"epochs": 30}}`; what is left out'
    yield "keeps its default. On the command line, in parameter files and with"
    yield "`pipelines.arguments.sort_into_place` each is given by its own name."
    for name, pipeline in pipelines.items():
        told = docstring_parser.parse(pipeline.pipeline_func.__doc__ or "")
        steps = sorted(task.removeprefix("comp-") for task in pipeline.pipeline_spec.components)
        yield ""
        yield f"## {name}"
        yield ""
        yield _flat(told.short_description)
        if told.returns:
            yield ""
            yield f"Output: {_flat(told.returns.description)}"
        yield ""
        yield f"Steps: {', '.join(f'`{step}`' for step in steps if not step.startswith('condition'))}"
        yield ""
        yield parameter_table(name).rstrip()
    yield ""


def _metadata(name: str, kind: str) -> str:
    """What a catalogue of components needs, in the form of kubeflow/pipelines-components."""
    lines = [
        f"name: {name.replace('-', '_')}", "tier: third_party", "stability: beta", "dependencies:", "  kubeflow:",
        "    - name: Pipelines", f"      version: '{BACKEND}'", "  external_services:",
        "    - name: S3-compatible object store", "      version: 'any with conditional writes'", "tags:",
        "  - computer-vision", "  - edge", f"  - {kind.removesuffix('s')}", f"lastVerified: {VERIFIED}",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _kind(declared: str) -> str:
    return declared.removeprefix("system.").partition("@")[0]


def _flat(text: str | None) -> str:
    return " ".join((text or "").split())


def _shown(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, str) else json.dumps(value)


def _cell(text: str) -> str:
    return _flat(text).replace("|", "\\|")
