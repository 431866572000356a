"""The parts of the documentation that are made of the table of parameters."""

from __future__ import annotations

import json
import re
from collections.abc import Container
from typing import Any

from components.core.errors import InputError
from components.core.parameters import WORKFLOWS

_BLOCK = re.compile(r"(<!-- parameters of ([-\w]+)(?:, beyond ([-\w]+))? -->\n).*?(<!-- end -->)", re.DOTALL)


def parameters_of(name: str) -> dict[str, tuple[str, str, str]]:
    """Section, default and description of each parameter of a pipeline, by name, in the order of the table."""
    rows = {}
    for phase in WORKFLOWS[name]:
        for row, field in phase.model_fields.items():
            default = "required" if field.is_required() else _shown(field.get_default())
            rows[row] = (phase.section, default, field.description or "")
    return rows


def parameter_table(name: str, without: Container[str] = ()) -> str:
    """The parameters of a pipeline as a table in Markdown.

    Args:
        name: of the pipeline.
        without: parameters to leave out.
    """
    lines = ["| parameter | default | section | meaning |", "|---|---|---|---|"]
    for row, (section, default, description) in parameters_of(name).items():
        if row not in without:
            code = default if default in ("", "required") else f"`{default}`"
            lines.append(f"| `{row}` | {code} | {section} | {_cell(description)} |")
    return "\n".join(lines) + "\n"


def with_tables(text: str) -> str:
    """A page whose tables of parameters are up to date.

    A table stands between ``<!-- parameters of PIPELINE -->`` or ``<!-- parameters of PIPELINE, beyond PIPELINE -->``
    and ``<!-- end -->``.

    Raises:
        InputError: a table is of a pipeline that is not known.
    """

    def made(found: re.Match[str]) -> str:
        unknown = {found[2], found[3] or found[2]} - WORKFLOWS.keys()
        if unknown:
            raise InputError(f"a table of parameters is of {min(unknown)!r}: choose from {', '.join(WORKFLOWS)}")
        known = parameters_of(found[3]) if found[3] else {}
        same = {row for row, told in parameters_of(found[2]).items() if known.get(row) == told}
        return found[1] + parameter_table(found[2], same) + found[4]

    return _BLOCK.sub(made, text)


def _shown(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, str) else json.dumps(value)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
