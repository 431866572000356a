"""How values are written: the one grammar of the command line, of parameter files and of Kubeflow's form.

``read_value`` turns what a person wrote into a value of a parameter's type. The ``parse_...`` functions read text that
has its own form, such as ``352,640``.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from components.core.documents import read_yaml
from components.core.errors import InputError
from components.core.redaction import redacted

STRIDE = 32  # the coarsest grid of every YOLO; an image side must be a multiple of it
MAX_SIDE = 4096
MAX_EXACT = 2**53  # KFP hands whole numbers on as doubles, which are exact up to here
MAX_DEPTH = 20  # levels of lists and mappings in one value
_MAX_DIGITS = 40

_WHOLE = re.compile(r"[-+]?[0-9]+")
_NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")
_TRUTHS = {
    "true": True, "yes": True, "on": True, "1": True,
    "false": False, "no": False, "off": False, "0": False,
}  # fmt: skip


def read_value(kind: type, value: Any, joined_by: str = "", pairs: str = "") -> Any:
    """Read a value as a person, a file or KFP gives it.

    Numbers are decimal (``010`` is 10), with or without an exponent (``1e-4``). A list or a mapping may be given as
    JSON or YAML text. KFP hands whole numbers over as floats, so 3.0 is a whole number.

    Args:
        kind: str, bool, int, float, list or dict.
        value: text, or what YAML or JSON made of it.
        joined_by: for text: what joins the items of a list; empty if a list is not taken.
        pairs: for text: what stands between name and value of a mapping; empty if a mapping is not taken.

    Raises:
        ValueError: not such a value; the message says what it must be.
    """
    readers: dict[type, Callable[[Any], Any]] = {bool: _truth, int: _whole, float: _number, list: _list, dict: _mapping}
    return _text(value, joined_by, pairs) if kind is str else readers[kind](value)


def check_plain(value: Any, depth: int = 0) -> None:
    """See that a value can be handed on as JSON.

    Raises:
        ValueError: it is nested too deeply, holds a number that is none, or a key that is not text.
    """
    if depth > MAX_DEPTH:
        raise ValueError(f"more than {MAX_DEPTH} levels of lists and mappings")
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise ValueError(f"the key {shown(key)} must be text: put it in quotes")
            check_plain(item, depth + 1)
    elif isinstance(value, list | tuple):
        for item in value:
            check_plain(item, depth + 1)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value} is not a finite number")
    elif isinstance(value, int) and abs(value) > MAX_EXACT:
        raise ValueError("a number has too many digits")
    elif not isinstance(value, str | int | float | None):
        raise ValueError(f"{shown(value)} is neither text nor a number, a list or a mapping")


def shown(value: Any) -> str:
    """A value for a message: short, and without a password."""
    text = repr(value) if not isinstance(value, int) or abs(value) <= MAX_EXACT else "a number with many digits"
    text = redacted(re.sub(r"//[^/@\s]+@", "//", text))
    return text if len(text) <= 80 else f"{text[:60]}... ({len(text)} characters)"


def parse_image_size(text: str) -> tuple[int, int]:
    """Read an image size: one number, or ``height,width`` such as Sedna's ``352,640``.

    Returns:
        Height and width in pixels.

    Raises:
        InputError: not one or two multiples of 32 between 32 and 4096.
    """
    sides = re.split(r"[,x ]+", text.strip().strip("()[]"))
    if len(sides) not in (1, 2) or not all(re.fullmatch(r"[0-9]{1,9}", side) for side in sides):
        raise InputError(f"image_size={shown(text)} is not one number or height,width: write 640 or 352,640")
    height, width = int(sides[0]), int(sides[-1])
    if "x" in text and height != width:  # which others write as width x height
        raise InputError(f"image_size={shown(text)} does not say which is the height: write height,width as in 352,640")
    for side in (height, width):
        if side % STRIDE or not STRIDE <= side <= MAX_SIDE:
            nearest = min(max(STRIDE, round(side / STRIDE) * STRIDE), MAX_SIDE)
            raise InputError(
                f"image_size={shown(text)}: {side} is not a multiple of {STRIDE} between {STRIDE} and {MAX_SIDE}: "
                f"the nearest is {nearest}"
            )
    return height, width


def parse_labels(text: str) -> dict[str, str]:
    """Read experiment labels, ``site=north,camera=7``.

    Raises:
        InputError: a part is not ``name=value``, or a name comes twice.
    """
    labels: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not name:
            raise InputError(f"experiment_labels={shown(text)}: {shown(part)} is not name=value")
        if name in labels:
            raise InputError(f"experiment_labels={shown(text)}: {shown(name)} is given twice")
        labels[name] = value
    return labels


def parse_seeds(text: str) -> tuple[int, ...]:
    """Read seeds, ``0,1,2``.

    Raises:
        InputError: none, one that is no whole number from 0 to 2147483647, or one that comes twice.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    wrong = [part for part in parts if not re.fullmatch(r"[0-9]{1,10}", part) or int(part) >= 2**31]
    if wrong or not parts:
        raise InputError(f"seeds={shown(text)}: give whole numbers from 0 to 2147483647, such as 0,1,2")
    seeds = tuple(map(int, parts))
    if len(set(seeds)) < len(seeds):
        raise InputError(f"seeds={shown(text)}: a seed is given twice")
    return seeds


def parse_classes(text: str) -> dict[str, str]:
    """Read class names, ``helmet,head``, or with renaming, ``hat:helmet,person:head``.

    Returns:
        What a class is called in the data, and what it is called from here on; several may become one.

    Raises:
        InputError: an empty name, or a name of the data that comes twice.
    """
    renamed: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        source, colon, target = (piece.strip() for piece in part.partition(":"))
        if not source or (colon and not target):
            raise InputError(f"classes={shown(text)}: {shown(part)} is not a name or name-in-the-data:name")
        if source in renamed:
            raise InputError(f"classes={shown(text)}: {shown(source)} is given twice")
        renamed[source] = target or source
    return renamed


def parse_group_pattern(text: str, name: str = "group_pattern") -> re.Pattern[str] | None:
    """Read a regular expression with one group, which says which images belong together.

    Args:
        text: the expression; empty for none.
        name: of the parameter, for the message.

    Raises:
        InputError: not a regular expression, or without exactly one group.
    """
    if not text:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # about sets that another Python may read otherwise
            pattern = re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        raise InputError(f"{name}={shown(text)} is not a regular expression: {error}") from error
    if pattern.groups != 1:
        raise InputError(f"{name}={shown(text)} has {pattern.groups} groups: put exactly one (...) around the part")
    return pattern


def _text(value: Any, joined_by: str = "", pairs: str = "") -> str:
    if isinstance(value, str) and joined_by and value.lstrip().startswith(("[", "{") if pairs else "["):
        value = _read_text(value, "text, or a list of texts", f"a{joined_by}b", as_text=True)
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        raise ValueError("must be text")
    if isinstance(value, int | float):
        check_plain(value)
        return str(int(value)) if float(value).is_integer() else str(value)
    if isinstance(value, list) and joined_by:
        return joined_by.join(_item(item, joined_by) for item in value)
    if isinstance(value, Mapping) and pairs:
        return joined_by.join(f"{_item(name, pairs)}{pairs}{_item(item, pairs)}" for name, item in value.items())
    raise ValueError("must be text" + (f", such as a{joined_by}b" if joined_by else ""))


def _item(value: Any, separator: str) -> str:
    text = _text(value)
    if separator in text or not text.strip():
        raise ValueError(f"the item {shown(text)} must be text without {separator!r}")
    return text


def _truth(value: Any) -> bool:
    if isinstance(value, str):
        value = _TRUTHS.get(value.strip().lower(), value)
    if value in (0, 1) and isinstance(value, bool | int | float):
        return bool(value)
    raise ValueError("must be true or false")


def _whole(value: Any) -> int:
    if isinstance(value, str) and _WHOLE.fullmatch(text := value.strip()) and len(text) <= _MAX_DIGITS:
        value = int(text)
    number = value if isinstance(value, int) and not isinstance(value, bool) else _number(value)
    if abs(number) > MAX_EXACT:
        raise ValueError("must be a whole number, and is too large")
    if number != int(number):
        raise ValueError("must be a whole number")
    return int(number)


def _number(value: Any) -> float:
    if isinstance(value, str) and _NUMBER.fullmatch(text := value.strip()) and len(text) <= _MAX_DIGITS:
        value = float(text)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("must be a number")
    if (abs(value) > MAX_EXACT and isinstance(value, int)) or not math.isfinite(value):
        raise ValueError("must be a number, and is too large")
    return float(value)


def _list(value: Any) -> list[Any]:
    if isinstance(value, str):
        value = _read_text(value, "a list", '["a", "b"]')
    if not isinstance(value, list):
        raise ValueError('must be a list, such as ["a", "b"]')
    check_plain(value)
    return value


def _mapping(value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        value = _read_text(value, "a mapping", '{"name": "value"}')
    if not isinstance(value, dict):
        raise ValueError('must be a mapping, such as {"name": "value"}')
    check_plain(value)
    return {name: whole_numbers(item) for name, item in value.items()}


def _read_text(text: str, what: str, example: str, *, as_text: bool = False) -> Any:
    try:
        return read_yaml(text, shown(text), as_text=as_text)
    except InputError as error:
        raise ValueError(f"must be {what}, such as {example}: {error}") from error


def whole_numbers(value: Any) -> Any:
    """The same value with 3 where KFP has made it 3.0, at every level."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {name: whole_numbers(item) for name, item in value.items()}
    return [whole_numbers(item) for item in value] if isinstance(value, list) else value
