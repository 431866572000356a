"""Named things a user can add to: estimators, data formats, miners, runtimes, metrics for conditions.

A plug-in is registered with a decorator, found through an entry point of the same group, or imported because the
``plugins`` parameter names its module::

    @estimators.register("my-detector")
    class MyDetector: ...

``python -m pipelines plugins`` lists what is known.
"""

from __future__ import annotations

import hashlib
import importlib
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Generic, TypeVar, cast

from components.core.errors import InputError

T = TypeVar("T")


class Registry(Generic[T]):
    """Names and what they stand for, of one kind.

    Args:
        kind: the field's word for one entry, such as ``estimator``; used in messages. Installed packages add entries
            through the entry-point group ``edge_learning.<plural>``, such as ``edge_learning.estimators``.
        built_in: modules of this suite that register entries; imported when the first name is asked for, so that a
            step loads only what it uses.
    """

    def __init__(self, kind: str, built_in: Sequence[str] = ()) -> None:
        self.kind = kind
        self._built_in = list(built_in)
        # The name of a group may hold letters, digits and underscores alone.
        plural = re.sub(r"y$", "ie", re.sub(r"\W", "_", kind)) + "s"
        self.group = f"edge_learning.{plural}"
        self._entries: dict[str, T] = {}
        self._complete = False

    def register(self, name: str) -> Callable[[T], T]:
        """Register what is decorated under a name.

        Raises:
            InputError: the name is taken by something else.
        """

        def add(entry: T) -> T:
            self._add(name, entry)
            return entry

        return add

    def get(self, name: str) -> T:
        """What a name stands for.

        Raises:
            InputError: no such name; the message lists the known ones.
        """
        self._load()
        if name not in self._entries:
            raise InputError(
                f"unknown {self.kind} {name!r}: choose from {', '.join(sorted(self._entries)) or 'none'}; "
                "to use your own, add its module to the parameter 'plugins'"
            )
        return self._entries[name]

    def names(self) -> list[str]:
        """Every known name, sorted."""
        self._load()
        return sorted(self._entries)

    def items(self) -> Iterator[tuple[str, T]]:
        """Every name with what it stands for, sorted by name."""
        for name in self.names():
            yield name, self._entries[name]

    def _add(self, name: str, entry: T) -> None:
        known = self._entries.get(name)
        if known is not None and _origin(known) != _origin(entry):
            raise InputError(
                f"{self.kind} {name!r} is registered twice, by {_origin(known)} and by {_origin(entry)}: "
                f"rename one; choose from {', '.join(sorted(self._entries))}"
            )
        self._entries[name] = entry

    def _loaded(self, point: EntryPoint) -> T:
        try:
            return cast(T, point.load())
        except (Exception, SystemExit) as error:
            raise InputError(
                f"{self.kind} {point.name!r} of an installed package: {point.value} cannot be imported "
                f"({type(error).__name__}: {error}): repair the package, or uninstall it"
            ) from error

    def _load(self) -> None:
        """Import what registers entries, once: a worker asks for names at every frame, and packages do not change."""
        if self._complete:
            return
        while self._built_in:
            importlib.import_module(self._built_in.pop(0))
        for point in entry_points(group=self.group):
            if point.name not in self._entries or _origin(self._entries[point.name]) != point.value.replace(":", "."):
                self._add(point.name, self._loaded(point))
        self._complete = True


def load(modules: str) -> None:
    """Import the modules that a ``plugins`` parameter names, so that what they register is known.

    Args:
        modules: module names, separated by commas; they are looked for on the Python path and in the working directory.

    Raises:
        InputError: a module cannot be imported, or registers a name that is taken.
    """
    for name in filter(None, (part.strip() for part in modules.split(","))):
        if str(Path.cwd()) not in sys.path:
            sys.path.append(str(Path.cwd()))
        try:
            importlib.import_module(name)
        except InputError:
            raise
        except (Exception, SystemExit) as error:  # the latter of a script that parses a command line
            raise InputError(
                f"plugins names the module {name!r}, which cannot be imported ({type(error).__name__}: {error}): "
                "put it on PYTHONPATH or in the working directory"
            ) from error


def digest_of(module: str) -> str:
    """A digest of the file of a module that is imported already, which tells two states of a user's code apart."""
    file = getattr(sys.modules[module], "__file__", None)
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()[:12] if file else ""


def _origin(entry: object) -> str:
    """Where an entry was defined, so that importing the same module twice is not a clash."""
    return f"{getattr(entry, '__module__', '?')}.{getattr(entry, '__qualname__', type(entry).__qualname__)}"
