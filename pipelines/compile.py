"""The compiled pipelines and components that the repository keeps, and whether the code still compiles to them."""

from __future__ import annotations

import ast
import pprint
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

from kfp.compiler import Compiler
from kfp.dsl.base_component import BaseComponent

from components.core.stores.transfer import landing

_COMMAND = "python -m pipelines compile"


def compile_all(
    folder: Path, pipelines: Mapping[str, BaseComponent], components: Mapping[str, BaseComponent]
) -> list[Path]:
    """Write what every pipeline and component compiles to.

    Everything is compiled before the first file is written, and each file is replaced in one step. The same code
    gives the same bytes.

    Args:
        folder: gets ``pipelines/<name>.yaml`` and ``components/<name>.yaml``; made if it is not there.
        pipelines: pipelines by name.
        components: components by name.

    Returns:
        The files written.
    """
    compiled = _compiled(pipelines, components)
    for name, content in compiled.items():
        with landing(folder / name) as file:
            file.write(content)
    return [folder / name for name in compiled]


def stale(folder: Path, pipelines: Mapping[str, BaseComponent], components: Mapping[str, BaseComponent]) -> list[str]:
    """Compare a folder with what the code compiles to now; nothing in it is changed.

    Args:
        folder: what :func:`compile_all` wrote, at some time.
        pipelines: pipelines by name.
        components: components by name.

    Returns:
        One line for each file that is missing, differs, or should not be there; empty if all is up to date.
    """
    compiled = _compiled(pipelines, components)
    present = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*.yaml")}
    lines = {
        name: f"{name}: no pipeline or component compiles to it; delete it" for name in present.keys() - compiled.keys()
    }
    for name, content in compiled.items():
        if name not in present:
            lines[name] = f"{name}: is missing; run {_COMMAND}"
        elif present[name].read_bytes() != content:
            lines[name] = f"{name}: does not match the code; run {_COMMAND}"
    return [line for _, line in sorted(lines.items())]


def _compiled(pipelines: Mapping[str, BaseComponent], components: Mapping[str, BaseComponent]) -> dict[str, bytes]:
    """The content of every file, by its path below the folder."""
    sources = {f"pipelines/{name}.yaml": pipeline for name, pipeline in pipelines.items()}
    sources |= {f"components/{name}.yaml": component for name, component in components.items()}
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "compiled.yaml"
        compiled = {}
        for name, source in sorted(sources.items()):
            Compiler().compile(source, str(path))
            compiled[name] = re.sub(rb"(?<=\[Default: )\{.*\}(?=\]$)", _sorted, path.read_bytes(), flags=re.MULTILINE)
    return compiled


def _sorted(found: re.Match[bytes]) -> bytes:
    """A default that is a mapping, in order: KFP writes it into a comment in any order, which differs each time."""
    return pprint.pformat(ast.literal_eval(found[0].decode()), width=100_000, compact=True).encode()
