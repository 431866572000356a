"""The parameters of a pipeline as people give them, and as KFP takes them.

People name each parameter by itself: ``epochs=30``. A pipeline has few inputs, so that its form can be read; all other
parameters travel in one of them, ``settings``, by section. :func:`sort_into_place` turns the one into the other:

    arguments = sort_into_place(helmet_detection, {"data_url": "s3://images/voc.zip", "epochs": 30, ...})
    client.create_run_from_pipeline_package("compiled/pipelines/helmet-detection.yaml", arguments=arguments)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from components.core import parameters
from components.core.errors import InputError
from components.core.parameters import OLD_NAMES, ROWS, SETTINGS, flat, shown, spread

# The types of inputs, as KFP's components and its compiled files call them.
_KINDS = {
    "String": str, "Boolean": bool, "Integer": int, "Float": float, "List": list, "Dict": dict,
    "STRING": str, "BOOLEAN": bool, "NUMBER_INTEGER": int, "NUMBER_DOUBLE": float, "LIST": list, "STRUCT": dict,
}  # fmt: skip


@dataclass(frozen=True)
class Input:
    """An input of a pipeline.

    Attributes:
        kind: str, bool, int, float, list or dict.
        default: None if it is required, or has none.
        optional: whether it may be left out.
    """

    kind: type
    default: Any
    optional: bool


@dataclass(frozen=True)
class Face:
    """What a pipeline takes.

    Attributes:
        inputs: by name, as KFP knows them.
        sections: what travels under ``settings``: the default of each parameter, by section and name; None where the
            steps have their own.
        chosen: what a pipeline of a user's own puts in ``settings`` where nothing else is given.
    """

    inputs: Mapping[str, Input]
    sections: Mapping[str, Mapping[str, Any]]
    chosen: Mapping[str, Any] = field(default_factory=dict)

    @property
    def names(self) -> set[str]:
        """Every name that people may give."""
        return (self.inputs.keys() - {SETTINGS}) | {name for rows in self.sections.values() for name in rows}

    def default_of(self, name: str) -> Any:
        """What a parameter is if it is not given; None if it is required or there is none of this name."""
        if name in self.inputs:
            return self.inputs[name].default
        return next((rows[name] for rows in self.sections.values() if name in rows), None)


def face_of(pipeline: Any) -> Face:
    """What a pipeline of KFP, loaded or defined in Python, takes."""
    inputs = (pipeline.component_spec.inputs or {}).items()
    return _face({name: Input(_KINDS.get(spec.type, str), spec.default, spec.optional) for name, spec in inputs})


def face_of_compiled(inputs: Mapping[str, Mapping[str, Any]]) -> Face:
    """What a compiled pipeline takes.

    Args:
        inputs: what the file says of each input: ``parameterType``, ``isOptional``, ``defaultValue``.
    """
    return _face(
        {
            name: Input(
                _KINDS.get(spec["parameterType"], str),
                spec.get("defaultValue"),
                bool(spec.get("isOptional")) or "defaultValue" in spec,
            )
            for name, spec in inputs.items()
        }
    )


def _face(inputs: Mapping[str, Input]) -> Face:
    if SETTINGS not in inputs:
        return Face(inputs, {})
    default = parameters.whole_numbers(inputs[SETTINGS].default or {})
    if _is_whole(default):
        return Face(inputs, default)
    own = flat({SETTINGS: default})
    everything = parameters.settings_of(parameters.MODELS)
    return Face(inputs, {section: {name: own.get(name) for name in rows} for section, rows in everything.items()}, own)


def _is_whole(default: Mapping[str, Any]) -> bool:
    """Whether a default of ``settings`` is a list of all that a pipeline takes, and not a choice of a user's own."""
    rows = [(phase.section, phase.model_fields.keys()) for phase in parameters.MODELS]
    return bool(default) and all(
        isinstance(given, Mapping) and (section, given.keys()) in rows for section, given in default.items()
    )


def parse(face: Face, pairs: Iterable[str], values: Mapping[str, Any]) -> dict[str, Any]:
    """Turn ``name=value`` words and the contents of a file into parameters by name.

    A value that is not of its parameter's type stays as it is, for :func:`problems` to complain about; nothing
    (``null``) leaves the parameter at its default.

    Args:
        face: of the pipeline.
        pairs: from the command line; they win over ``values``.
        values: from a file; a parameter by name, or by section and name.

    Raises:
        InputError: a word is not ``name=value``, or a parameter is given twice.
    """
    words = list(pairs)
    wrong = [word[:80] for word in words if "=" not in word]
    if wrong:
        raise InputError(f"not name=value: {', '.join(wrong)}")
    names = Counter(word.partition("=")[0] for word in words)
    twice = [name[:80] for name, count in names.items() if count > 1]
    if twice:
        raise InputError(f"{', '.join(twice)}: given more than once; which value is meant?")
    typed_in = spread(
        {name: _opened(face, name, text) for name, text in (word.split("=", 1) for word in words)}, face.inputs
    )
    again = flat(typed_in, face.inputs)
    read = spread(values, face.inputs)
    given = {name: value for name, value in read.items() if OLD_NAMES.get(name, name) not in again} | typed_in
    return {name: _typed(face, name, value) for name, value in given.items()}


def problems(face: Face, given: Mapping[str, Any]) -> list[str]:
    """Everything that is wrong with the parameters of a pipeline, one line each.

    Args:
        face: of the pipeline.
        given: parameters by name, or by section and name; a missing one has its default.
    """
    try:
        values = flat(given, face.inputs)
    except InputError as error:
        return [str(error)]
    found = [parameters.unknown(name, face.names) for name in values if name not in face.names]
    mine = {name for name in face.inputs if name not in ROWS and name != SETTINGS}
    for name in mine & values.keys():
        try:
            parameters.read_value(face.inputs[name].kind, values[name])
        except ValueError as error:
            found.append(f"{name}={shown(values[name])}: {error}")
    defaults = {name: port.default for name, port in face.inputs.items() if port.optional}
    known = {name: value for name, value in (defaults | values).items() if name in face.names and name in ROWS}
    phases = [phase for phase in parameters.MODELS if not face.names.isdisjoint(phase.model_fields)]
    found += parameters.problems(known, phases)
    found += [
        f"{name} is required"
        for name, port in face.inputs.items()
        if not port.optional and name != SETTINGS and values.get(name) is None
    ]
    return sorted(dict.fromkeys(found))


def check(face: Face, given: Mapping[str, Any]) -> None:
    """Raise one ``InputError`` that tells everything :func:`problems` finds."""
    if found := problems(face, given):
        raise InputError(parameters.all_wrong(found))


def sort_into_place(pipeline: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """Turn parameters by name into the arguments that KFP takes.

    Args:
        pipeline: of KFP, loaded or defined in Python, or its :class:`Face`.
        given: parameters by name, or by section and name; a missing one keeps its default.

    Raises:
        InputError: everything that is wrong with them.
    """
    face = pipeline if isinstance(pipeline, Face) else face_of(pipeline)
    check(face, given)
    arguments: dict[str, Any] = {}
    values = flat(given, face.inputs)
    if not values.keys() <= face.inputs.keys():
        values = {**face.chosen, **values}
    typed = {name: _typed(face, name, value) for name, value in values.items()}
    for name, value in typed.items():
        if value is None:
            continue
        if name in face.inputs:
            arguments[name] = value
        else:
            section = next(section for section, rows in face.sections.items() if name in rows)
            arguments.setdefault(SETTINGS, {}).setdefault(section, {})[name] = value
    return arguments


def _opened(face: Face, name: str, text: str) -> Any:
    """What was written for ``settings`` as a whole, or a section of it, as a mapping."""
    is_section = name == SETTINGS or (name in parameters.SECTIONS and name not in face.inputs)
    try:
        return parameters.read_value(dict, text) if is_section else text
    except ValueError as error:
        raise InputError(f"{name}={shown(text)}: {error}") from error


def _typed(face: Face, name: str, value: Any) -> Any:
    """A value in its parameter's type, if it can be read as that; nothing is the pipeline's default."""
    known = name if name in face.inputs else OLD_NAMES.get(name, name)
    row, port = ROWS.get(known), face.inputs.get(known)
    if value is None or (row and parameters.is_nothing(row, value)):
        return face.default_of(known)
    try:
        read = parameters.read_row(row, value) if row else value
        return parameters.read_value(port.kind, read) if port else read
    except ValueError:
        return value
