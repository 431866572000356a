"""YAML and JSON that come from outside: read within limits, or refused in one line.

YAML is read by the core schema of YAML 1.2, in which ``yes`` and ``12:30`` are texts, ``010`` is ten and ``1e-4`` is a
number. PyYAML's own rules are those of YAML 1.1, where the same words are true, 750, eight and a text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, ClassVar, cast

import yaml

from components.core.errors import InputError

MAX_YAML_CHARACTERS = 1 << 20
MAX_DEPTH = 50  # lists and mappings inside each other
MAX_NODES = 200_000  # values, where what an alias stands for counts each time that it is used

# What PyYAML's constructors raise for values such as ``!!bool maybe`` and ``!!int ""``, beside YAMLError.
_WRONG_VALUES = (ValueError, LookupError, AttributeError, TypeError, OverflowError, RecursionError)

_Fast: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_FastText: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)


class _Loader(_Fast):  # type: ignore[misc]
    """Safe, and by the core schema of YAML 1.2; ``<<`` merges mappings as in YAML 1.1."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}


def _integer(loader: Any, node: Any) -> int:
    text = loader.construct_scalar(node)
    return int(text, 0) if text[:2] in ("0o", "0x") else int(text)


def _number(loader: Any, node: Any) -> float:
    return float(re.sub(r"(?i)\.(inf|nan)$", r"\1", loader.construct_scalar(node)))


for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+0123456789."),
    ),
    ("merge", r"<<", ["<"]),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), _first)
_Loader.add_constructor("tag:yaml.org,2002:int", _integer)
_Loader.add_constructor("tag:yaml.org,2002:float", _number)


def read_yaml(text: str, name: str, *, as_text: bool = False) -> Any:
    """What a YAML document says; None if it is empty.

    Args:
        text: of the document.
        name: of the file, for messages.
        as_text: every value is the text that stands there, so that ``no`` and ``010`` can be names.

    Raises:
        InputError: it is not YAML, has a key twice, or is larger, deeper or more entangled than any honest one.
    """
    return _read_yaml(text, name, lambda: yaml.load(text, Loader=_FastText if as_text else _Loader))


def read_yaml_documents(text: str, name: str) -> list[Any]:
    """What each document of a YAML file says; see :func:`read_yaml`."""
    return cast(list[Any], _read_yaml(text, name, lambda: list(yaml.load_all(text, Loader=_Loader))))


def _read_yaml(text: str, name: str, load: Callable[[], Any]) -> Any:
    if len(text) > MAX_YAML_CHARACTERS:
        raise InputError(f"{name}: {len(text):,} characters of YAML exceed the limit of {MAX_YAML_CHARACTERS:,}")
    try:
        _check_extent(text, name)
        return load()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f" in line {mark.line + 1}" if mark else ""
        has_tab = mark and "\t" in "".join(text.split("\n")[mark.line : mark.line + 1])
        hint = "; indent with spaces, not tabs" if has_tab else ""
        raise InputError(f"{name}: not valid YAML{place} ({_brief(error.problem or error.context)}{hint})") from None
    except yaml.YAMLError as error:
        raise InputError(f"{name}: not valid YAML ({_brief(error)})") from None
    except _WRONG_VALUES as error:
        raise InputError(f"{name}: a value in it does not match its tag ({_brief(error)})") from None


def read_json(text: str | bytes, name: str) -> Any:
    """What a JSON document says.

    Args:
        text: of the document; whoever read it has seen to its length.
        name: of the file, for messages.

    Raises:
        InputError: it is not JSON, or nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise InputError(f"{name}: not valid JSON (nested too deeply)") from None
    except ValueError as error:
        raise InputError(f"{name}: not valid JSON ({_brief(error)})") from None


def _brief(error: object) -> str:
    return " ".join(str(error).split())[:120]


class _Open:
    """A collection of which the end has not come yet.

    Attributes:
        anchor: its own.
        size: values in it so far, and itself.
        keys: of a mapping; None of a list.
        at_key: of a mapping: a key comes next.
    """

    def __init__(self, anchor: str | None, *, is_mapping: bool) -> None:
        self.anchor, self.size, self.at_key = anchor, 1, is_mapping
        self.keys: set[str] | None = set() if is_mapping else None

    def add(self, size: int, event: Any) -> None:
        """Count what has ended, and see that it is no key that is there already; ``<<`` may be."""
        self.size += size
        if self.keys is None:
            return
        if self.at_key and isinstance(event, yaml.ScalarEvent) and event.value != "<<":
            if event.value in self.keys:
                raise yaml.MarkedYAMLError(problem=f"duplicate key {event.value[:40]!r}", problem_mark=event.start_mark)
            self.keys.add(event.value)
        self.at_key = not self.at_key


def _check_extent(text: str, name: str) -> None:
    """Walk through a document's events, which takes neither recursion nor more memory than the text."""
    open_nodes = [_Open(None, is_mapping=False)]  # the document first
    sizes: dict[str, int] = {}

    def close(anchor: str | None, size: int, event: Any) -> None:
        if anchor:
            sizes[anchor] = size
        open_nodes[-1].add(size, event)
        if open_nodes[-1].size > MAX_NODES:
            raise InputError(f"{name}: more than {MAX_NODES:,} values, counting what its aliases repeat")

    for event in yaml.parse(text, Loader=_Fast):
        if isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append(_Open(event.anchor, is_mapping=isinstance(event, yaml.MappingStartEvent)))
            if len(open_nodes) > MAX_DEPTH + 1:
                raise InputError(f"{name}: nested more than {MAX_DEPTH} deep in line {event.start_mark.line + 1}")
            sizes.pop(event.anchor, None)
        elif isinstance(event, yaml.CollectionEndEvent):
            ended = open_nodes.pop()
            close(ended.anchor, ended.size, event)
        elif isinstance(event, yaml.ScalarEvent):
            close(event.anchor, 1, event)
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes:
                place = f"*{event.anchor} in line {event.start_mark.line + 1}"
                raise InputError(f"{name}: the alias {place} refers to an unknown or unfinished anchor")
            close(None, sizes[event.anchor], event)
