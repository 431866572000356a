"""What holds between the table of parameters, the pipelines and their steps, and is checked when they are compiled."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from google.protobuf.json_format import MessageToDict

from components.core.parameters import MODELS, SETTINGS, WORKFLOWS, Parameters, phases_of

_BY_NAME = {model.__name__: model for model in MODELS}
_CHANNEL = "pipelinechannel--"  # before the name of what a group of tasks hands on
_CHECKS_ONLY = (
    "setup",
    "setup-round",
    "setup-benchmark",
    "setup-joint",
    "setup-lifelong",
)  # steps that take everything, to check it


def sections_read(component: Any) -> set[type[Parameters]]:
    """The parts of the table that a component's own code reads."""
    source = textwrap.dedent(inspect.getsource(component.python_func))
    names = {node.id for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name)}
    return {_BY_NAME[name] for name in names if name in _BY_NAME}


def problems(pipelines: Mapping[str, Any], components: Mapping[str, Any]) -> list[str]:
    """Where pipelines, components and the table disagree, one line each.

    Args:
        pipelines: pipelines by name.
        components: components by name.
    """
    found = []
    for name, pipeline in pipelines.items():
        spec = pipeline.pipeline_spec
        steps = set(_steps(spec))
        used = _used_by_cluster(pipeline) | set(_used(spec, spec.root))
        found += [
            f"{name}: no step takes the input {given}" for given in sorted(pipeline.component_spec.inputs.keys() - used)
        ]
        if SETTINGS in pipeline.component_spec.inputs:
            offered = WORKFLOWS.get(name) or tuple(phases_of(pipeline.component_spec.inputs))
            found += _sections(name, offered, {step: components[step] for step in sorted(steps & components.keys())})
    return found + list(_other_defaults(components))


def different_defaults(function: ast.FunctionDef) -> Iterator[str]:
    """The arguments named like a parameter whose default is another than that of every row of that name.

    Logic may be called without all parameters, by tests and notebooks; it is then to do what a run does.
    """
    arguments = function.args
    plain = [*arguments.posonlyargs, *arguments.args]
    given = [*zip(plain[len(plain) - len(arguments.defaults) :], arguments.defaults, strict=True)]
    given += [
        (name, default) for name, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True) if default
    ]
    for argument, default in given:
        rows = [model.model_fields[argument.arg] for model in MODELS if argument.arg in model.model_fields]
        try:
            value = ast.literal_eval(default)
        except ValueError:
            continue  # a name, such as LATEST
        if value is not None and rows and all(row.is_required() or row.get_default() != value for row in rows):
            yield f"{argument.arg}={value!r}"


def _other_defaults(components: Mapping[str, Any]) -> Iterator[str]:
    """Where the logic of the suite's own components has another default than the table."""
    own = [one.python_func for one in components.values() if one.python_func.__module__.startswith("components.")]
    for folder in sorted({Path(inspect.getfile(function)).parent for function in own}):
        for path in sorted(folder.rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.FunctionDef):
                    for one in different_defaults(node):
                        yield f"{folder.name}/{path.relative_to(folder)}: {node.name}({one}) is not the table's default"


def _sections(name: str, offered: tuple[type[Parameters], ...], steps: Mapping[str, Any]) -> Iterator[str]:
    rows = {phase.section: phase.model_fields.keys() for phase in offered if phase.section}
    read: set[str] = set()
    for step, component in steps.items():
        models = [model for model in sections_read(component) if model.section]
        for section in sorted({model.section for model in models}):
            wanted = [model.model_fields.keys() for model in models if model.section == section]
            lacking = min((names - rows.get(section, set()) for names in wanted), key=len)
            if lacking and step not in _CHECKS_ONLY:
                names = ", ".join(sorted(lacking))
                yield f"{name}: {step} reads {names} of {section}, which the pipeline does not offer"
        read |= {model.section for model in models if step not in _CHECKS_ONLY}
    yield from (f"{name}: no step reads the section {section}" for section in sorted(rows.keys() - read))


def _steps(spec: Any) -> Iterator[str]:
    """Names of the components that run in a pipeline, those of nested pipelines too."""
    for name, component in spec.components.items():
        if component.executor_label:
            yield name.removeprefix("comp-")


def _used(spec: Any, dag: Any) -> Iterator[str]:
    """The inputs of a DAG that a step takes which does more than check them."""
    for task in dag.dag.tasks.values():
        inner = spec.components[task.component_ref.name]
        if task.component_ref.name.removeprefix("comp-") in _CHECKS_ONLY:
            continue
        inside = set(_used(spec, inner)) if inner.HasField("dag") else None
        for name, source in task.inputs.parameters.items():
            if source.component_input_parameter and (inside is None or name.removeprefix(_CHANNEL) in inside):
                yield source.component_input_parameter.removeprefix(_CHANNEL)


def _used_by_cluster(pipeline: Any) -> set[str]:
    """The inputs that Kubernetes takes: secrets, selectors, tolerations."""
    found: set[str] = set()

    def walk(value: Any) -> None:
        if isinstance(value, Mapping):
            given = value.get("componentInputParameter")
            if isinstance(given, str):
                found.add(given.removeprefix(_CHANNEL))
            for item in value.values():
                walk(item)
        elif isinstance(value, list):
            for item in value:
                walk(item)

    walk(MessageToDict(pipeline.platform_spec))
    return found
