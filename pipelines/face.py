"""The face of a pipeline: its inputs with their defaults and descriptions, as the table of parameters has them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from kfp import dsl

from components.core.parameters import SETTINGS, WORKFLOWS, settings_of
from components.core.parameters.table import kind_of


def pipeline(workflow: str, name: str = "") -> Callable[[Callable[[Mapping[str, Any]], Any]], Any]:
    """Make a KFP pipeline of a function of one mapping, which holds the inputs by name.

    The inputs are those that the table lists for the workflow; the first lines of the function's docstring describe it.
    A pipeline of your own takes the inputs of the workflow that it is most like::

        @pipeline("helmet-detection", name="my-helmets")
        def my_helmets(given):
            ...

    Args:
        workflow: a key of ``WORKFLOWS``.
        name: of the pipeline; by default that of the workflow.
    """

    def made(function: Callable[[Mapping[str, Any]], Any]) -> Any:
        parameters = _parameters(workflow)

        def face(*values: Any) -> Any:
            return function({row.name: value for row, value in zip(parameters, values, strict=True)})

        returns = inspect.signature(function).return_annotation
        summary, _, rest = inspect.cleandoc(function.__doc__ or "").partition("\n\n")
        described = [f"    {row}: {text}" for row, text in _descriptions(workflow).items()]
        face.__name__ = function.__name__
        face.__doc__ = "\n".join([summary, "", "Args:", *described, "", rest]).rstrip()
        face.__signature__ = inspect.Signature(parameters, return_annotation=returns)  # type: ignore[attr-defined]
        return dsl.pipeline(name=name or workflow, description=" ".join(summary.split()))(face)

    return made


def _parameters(workflow: str) -> list[inspect.Parameter]:
    either = inspect.Parameter.POSITIONAL_OR_KEYWORD
    rows = {
        row: field for phase in WORKFLOWS[workflow] if not phase.section for row, field in phase.model_fields.items()
    }
    parameters = [
        inspect.Parameter(
            row,
            either,
            annotation=kind_of(field.annotation),
            default=inspect.Parameter.empty if field.is_required() else field.get_default(),
        )
        for row, field in rows.items()
    ]
    shown = settings_of(WORKFLOWS[workflow])
    return [*parameters, inspect.Parameter(SETTINGS, either, annotation=dict, default=shown)]


def _descriptions(workflow: str) -> dict[str, str]:
    rows = {
        row: field.description or "" for phase in WORKFLOWS[workflow] if not phase.section
        for row, field in phase.model_fields.items()
    }  # fmt: skip
    return rows | {SETTINGS: "All other parameters, by section; what is left out keeps its default."}
