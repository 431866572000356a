"""What a YOLO data set says of itself: ``data.yaml``, and class names in ``classes.txt`` or ``obj.names``.

YAML is read as the text that stands there. Its rules would make other classes of names such as ``no``, ``1e3`` or
``2024-01-01``: False, 1000.0 and a date.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Any

from components.core.documents import read_yaml
from components.core.errors import InputError
from components.ingest.dataset import Folder, LabelError, few

MAX_YAML_BYTES = 2**18
MOST_DIGITS = 9  # of a number in it
NAMES_FILES = ("classes.txt", "obj.names", "_darknet.labels", "_classes.txt")  # the latter two of Roboflow
USUAL_STEMS = ("data", "dataset")  # of a description
_NUMBERED = re.compile(r"([0-9]{1,6})[\s:.,;)]+(.*\S)")  # ``0 hat`` or ``0: hat`` in a list of names
_NAMES = re.compile(rb"^[ \t]*[\"']?names[\"']?[ \t]*:", re.MULTILINE)


def descriptions(folder: Folder) -> list[str]:
    """The descriptions of a data set in the folder that lie highest.

    Raises:
        InputError: a file that must be one cannot be read.
    """
    found = [name for name in folder.named(".yaml", ".yml") if _is_meant(name, description(folder, name))]
    top = min((name.count("/") for name in found), default=0)
    return [name for name in found if name.count("/") == top]


def _is_meant(name: str, content: dict[str, Any]) -> bool:
    """Whether a file is meant to be a description, be its names missing."""
    return "names" in content or (_has_usual_name(name) and not {"nc", "train", "val"}.isdisjoint(content))


def _has_usual_name(name: str) -> bool:
    return PurePosixPath(name).stem.lower() in USUAL_STEMS


def description(folder: Folder, name: str) -> dict[str, Any]:
    """What a ``data.yaml`` says, every value as text; nothing if the file is none.

    Raises:
        InputError: it cannot be read or is empty, and has ``names`` or is called like a description.
    """
    try:
        content = read_yaml(folder.text(name, MAX_YAML_BYTES), name, as_text=True)
    except (LabelError, InputError) as error:
        if _has_usual_name(name) or _NAMES.search(folder.head(name)):
            raise InputError(f"{name} cannot be read: {error}: correct it, and save it as UTF-8") from error
        return {}
    if content is None and _has_usual_name(name):
        raise InputError(f"{name} is empty: it must list the classes, and can list the images of each split")
    return content if isinstance(content, dict) else {}


def numbered_names(name: str, content: dict[str, Any]) -> dict[int, str]:
    """The class names of a ``data.yaml`` by number.

    Args:
        name: of the file, for messages.
        content: what it says.

    Raises:
        InputError: neither a list of names nor names by number, or not as many as ``nc`` says.
    """
    given = content.get("names")
    named = dict(enumerate(given)) if isinstance(given, list) else given
    if not isinstance(named, dict) or not named:
        raise InputError(f"{name}: 'names' must be a list of class names, or a mapping from numbers to names")
    names: dict[int, str] = {}
    for key, value in named.items():
        if not (str(key).isdecimal() and isinstance(value, str) and value.strip()):
            raise InputError(f"{name}: 'names' must be text by number; it has {str(key)[:40]!r}: {str(value)[:40]!r}")
        if int(key) in names:
            raise InputError(f"{name}: 'names' has two names for class {int(key)}")
        names[int(key)] = value.strip()
    count = content.get("nc", "")
    if isinstance(given, list) and _is_number(count) and int(count) != len(names):
        raise InputError(f"{name}: nc says {count} classes, but names has {len(names)}: they must agree")
    return names


def key_point_columns(name: str, content: dict[str, Any]) -> int:
    """How many columns of key points a line has behind its box, by ``kpt_shape``; 0: there are none.

    Raises:
        InputError: ``kpt_shape`` is not two whole numbers.
    """
    shape = content.get("kpt_shape")
    if shape is None:
        return 0
    if not (isinstance(shape, list) and len(shape) == 2 and all(map(_is_number, shape))):
        raise InputError(f"{name}: 'kpt_shape' must be two numbers, of the key points and of the values of each")
    return int(shape[0]) * int(shape[1])


def _is_number(value: object) -> bool:
    return isinstance(value, str) and value.isdecimal() and len(value) <= MOST_DIGITS


class ListedNames:
    """Class names by the number of their line, from 0, in the ``classes.txt`` files of a folder.

    A folder may have several: labelImg writes one beside the labels of each folder, in the order in which the classes
    were drawn there. The one that lies above a label is its own.

    Args:
        folder: the data set.

    Raises:
        InputError: one cannot be read.
    """

    def __init__(self, folder: Folder) -> None:
        self._lists: dict[str, dict[int, str]] = {}
        for name in folder.files:
            if name.rpartition("/")[2].lower() in NAMES_FILES:
                self._lists[name] = _listed(folder, name)

    def names(self) -> tuple[str, ...]:
        """Every name once."""
        return tuple(dict.fromkeys(name for names in self._lists.values() for name in names.values()))

    def of(self, label: str) -> dict[int, str]:
        """The names for a label file; empty: the classes have no names.

        Raises:
            LabelError: several lists may be meant, and they differ.
        """
        above = [name for name in self._lists if label.startswith(name[: name.rfind("/") + 1])]
        return _agreed({name: self._lists[name] for name in above or self._lists})

    def only(self) -> dict[int, str]:
        """The names where all lists must be the same.

        Raises:
            InputError: they differ.
        """
        try:
            return _agreed(self._lists)
        except LabelError as error:
            raise InputError(f"class names are {error}: keep one of them") from error


def _agreed(lists: dict[str, dict[int, str]]) -> dict[int, str]:
    if len({tuple(names.items()) for names in lists.values()}) > 1:
        raise LabelError(f"ambiguous: {few(lists)} differ")
    return next(iter(lists.values()), {})


def _listed(folder: Folder, name: str) -> dict[int, str]:
    try:
        lines = folder.text(name).splitlines()
    except LabelError as error:
        raise InputError(f"class names: {error}: save it as UTF-8, with a name in each line") from error
    names = {number: line.strip() for number, line in enumerate(lines) if line.strip()}
    if len(names) == 1 and "," in names.get(0, ""):
        raise InputError(f"class names: {name} has all names in one line: put each in a line of its own")
    numbered = {number: _NUMBERED.fullmatch(line) for number, line in names.items()}
    if len(names) > 1 and all(match and int(match[1]) == number for number, match in numbered.items()):
        return {number: match[2] for number, match in numbered.items() if match}
    return names
