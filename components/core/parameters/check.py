"""Reading parameters, and every complaint about them at once."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any, TypeVar, get_args

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from components.core.errors import InputError
from components.core.parameters import table
from components.core.parameters.forms import shown
from components.core.parameters.table import OLD_NAMES, OTHER_NAMES, Parameters, kind_of

Chosen = TypeVar("Chosen", bound=Parameters)

SETTINGS = "settings"  # the input of a pipeline or component that holds all parameters without an input of their own

_LONGEST = 500  # characters of one complaint

MODELS: tuple[type[Parameters], ...] = tuple(
    model
    for model in vars(table).values()
    if isinstance(model, type) and issubclass(model, Parameters) and model.model_fields
)
SECTIONS = frozenset(model.section for model in MODELS if model.section)
ROWS: dict[str, FieldInfo] = {name: row for model in MODELS for name, row in model.model_fields.items()}


def read(model: type[Chosen], settings: Mapping[str, Any]) -> Chosen:
    """The parameters of one section, checked, with a default for each that is not given.

    Args:
        model: a section of the table, such as ``TrainSettings``.
        settings: parameters by name, or by section and name; those of other sections are left alone.

    Raises:
        InputError: one line that tells everything that is wrong: with values of this section, and with names that no
            section has.
    """
    values = flat(settings)
    strangers = [unknown(name, ROWS, "setting") for name in values if name not in ROWS]
    try:
        chosen = model.model_validate({name: value for name, value in values.items() if name in model.model_fields})
    except ValidationError as error:
        raise InputError(all_wrong(strangers + _sentences(model, error))) from error
    if strangers:
        raise InputError(all_wrong(strangers))
    return chosen


def flat(values: Mapping[str, Any], kept: Collection[str] = ()) -> dict[str, Any]:
    """Parameters by their own names, wherever they were given.

    What is inside ``settings`` comes out, and so does what is in a section. A name given beside ``settings`` wins over
    the same one in it. Old names become new ones.

    Args:
        values: parameters by name, or by section and name, or under ``settings``.
        kept: names that are not to be changed, since a pipeline has them as its own.

    Raises:
        InputError: ``settings`` or a section is not a mapping, or a name is given twice.
    """
    found: dict[str, Any] = {}
    for name, value in spread(values, kept).items():
        known = name if name in kept else OLD_NAMES.get(name, name)
        if known in found:
            raise InputError(
                f"{known} is given twice, once by its old name {next(k for k, v in OLD_NAMES.items() if v == known)}"
            )
        found[known] = value
    return found


def spread(values: Mapping[str, Any], kept: Collection[str] = ()) -> dict[str, Any]:
    """The same as :func:`flat`, but for old names, which stay."""
    inside = values.get(SETTINGS)
    found: dict[str, Any] = {} if inside is None else spread(_mapping(inside, SETTINGS), kept)
    own: dict[str, Any] = {}
    for name, value in values.items():
        if name == SETTINGS:
            continue
        is_section = name in SECTIONS and name not in kept
        members = ({} if value is None else _mapping(value, name)) if is_section else {name: value}
        for member, given in members.items():
            if not isinstance(member, str):
                raise InputError(f"{shown(member)} is not a parameter name: names must be text")
            if member in own:
                raise InputError(f"{member} is given twice")
            own[member] = given
    return found | own


def renamed(values: Mapping[str, Any], kept: Collection[str] = ()) -> list[str]:
    """A line for each parameter that is given by its old name; ``kept`` is as in :func:`flat`."""
    lines = [
        f"{name} has been renamed to {OLD_NAMES[name]}" for name in values if name in OLD_NAMES and name not in kept
    ]
    for name in (SETTINGS, *SECTIONS):
        if isinstance(inside := values.get(name), Mapping):
            lines += renamed(inside, kept)
    return lines


def problems(values: Mapping[str, Any], models: Iterable[type[Parameters]]) -> list[str]:
    """Everything that is wrong with the parameters of a run, one line each.

    Args:
        values: parameters as :func:`flat` takes them; a missing one has its default.
        models: what the run takes, such as ``WORKFLOWS["helmet-detection"]``.
    """
    try:
        given = flat(values)
    except InputError as error:
        return [str(error)]
    taken = list(models)
    known = {name for model in taken for name in model.model_fields}
    found = [unknown(name, known) for name in given if name not in known]
    for model in taken:
        try:
            model.model_validate({name: given[name] for name in model.model_fields if name in given})
        except ValidationError as error:
            found += _sentences(model, error)
    return list(dict.fromkeys(found))


def phases_of(inputs: Mapping[str, Any]) -> list[type[Parameters]]:
    """The parts of the table that a pipeline takes something of.

    Args:
        inputs: of the pipeline, by name, as KFP has them: with a ``default``.
    """
    names = set(inputs)
    if SETTINGS in inputs:
        names |= flat(getattr(inputs[SETTINGS], "default", None) or {}).keys()
    return [model for model in MODELS if not names.isdisjoint(model.model_fields)]


def check(values: Mapping[str, Any], models: Iterable[type[Parameters]]) -> None:
    """Raise one ``InputError`` that tells everything ``problems`` finds."""
    found = problems(values, models)
    if found:
        raise InputError(all_wrong(found))


def check_settings(settings: Mapping[str, Any]) -> None:
    """Check the parameters of all sections, those of later steps too.

    Raises:
        InputError: everything that is wrong with them.
    """
    check(settings, [model for model in MODELS if model.section])


def check_repeated(values: Mapping[str, Any]) -> None:
    """Refuse what is meant for a single run in one that is repeated.

    Raises:
        InputError: a parameter would run a round at every poll, whatever the trigger says.
    """
    chosen = read(table.RoundSettings, {name: value for name, value in flat(values).items() if name in ROWS})
    forced = [name for name in ("force_train", "force_evaluate") if getattr(chosen, name)]
    if forced:
        raise InputError(
            f"{' and '.join(forced)} would run a round at every poll, regardless of trigger_conditions: "
            "set it on a single run, with run or submit"
        )


def settings_of(models: Iterable[type[Parameters]]) -> dict[str, dict[str, Any]]:
    """The defaults of all that travels under ``settings``, by section: what a form shows."""
    shown_: dict[str, dict[str, Any]] = {}
    for model in models:
        if model.section:
            shown_[model.section] = {name: row.get_default() for name, row in model.model_fields.items()}
    return shown_


def must_be(row: FieldInfo) -> str:
    """What the values of a row are, in words: ``a whole number >= 1``."""
    choices = get_args(row.annotation) if kind_of(row.annotation) is str else ()
    if choices:
        return f"one of {', '.join(map(str, choices))}"
    kinds = {str: "text", bool: "true or false", int: "a whole number", float: "a number", list: "a list"}
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    bounds = [
        f"{sign} {limit:,}".replace(",", "") for bound in row.metadata for key, sign in signs.items()
        if (limit := getattr(bound, key, None)) is not None
    ]  # fmt: skip
    return " ".join([kinds.get(kind_of(row.annotation), "a mapping"), " and ".join(bounds)]).strip()


def unknown(name: str, known: Collection[str], what: str = "parameter of this pipeline") -> str:
    """A line about a name that is not known, with the nearest that is."""
    close = difflib.get_close_matches(OTHER_NAMES.get(name, name), sorted(known), n=1)
    hint = f"did you mean {close[0]}?" if close else f"choose from {', '.join(sorted(known))}"
    return f"{name if len(name) <= 80 else shown(name)} is not a {what}: {hint}"


def _mapping(value: Any, name: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InputError(f"{name}={shown(value)} must be a mapping of parameter names to values")
    return value


def all_wrong(found: list[str]) -> str:
    """One line for everything that is wrong."""
    count = "1 parameter is" if len(found) == 1 else f"{len(found)} parameters are"
    return f"{count} wrong: {'; '.join(found)}"


def _sentences(model: type[Parameters], error: ValidationError) -> list[str]:
    return [_sentence(model, detail) for detail in error.errors()]


def _sentence(model: type[Parameters], detail: Any) -> str:
    name = str(detail["loc"][0]) if detail["loc"] else ""
    if detail["type"] == "input":
        said = str(detail["msg"])
        return said if len(said) <= _LONGEST else f"{said[: _LONGEST // 2]} ... {said[-_LONGEST // 2 :]}"
    if detail["type"] == "missing" or (detail["input"] in ("", None) and model.model_fields[name].is_required()):
        return f"{name} is required"
    row = model.model_fields[name]
    said = f"must be {must_be(row)}"
    if detail["type"] == "value_error":
        own = str(detail["msg"]).removeprefix("Value error, ")
        is_number = kind_of(row.annotation) in (int, float)
        said = re.sub(r"^must be a (whole )?number", said, own) if is_number else own
    return f"{name}={shown(detail['input'])}: {said}"
