"""Which of the data set's classes count, and what they are called from here on."""

from __future__ import annotations

import logging
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping

from components.core.errors import InputError
from components.core.masks import VOID
from components.core.parameters import parse_classes
from components.ingest.dataset import Label, Record, few
from components.ingest.masks import Values

logger = logging.getLogger(__name__)

LONGEST_NAME = 200  # characters of a class name


class Classes:
    """The classes that the user wants.

    Args:
        classes: ``hat:helmet,person:head`` or plain names; empty: what the data set declares, or else what is found.
        ignore_classes: classes whose boxes are left out and whose pixels are void, separated by commas; ``*``: all that
            ``classes`` names not.

    Raises:
        InputError: they contradict each other.
    """

    def __init__(self, classes: str, ignore_classes: str) -> None:
        self._renamed = {composed(name): target for name, target in parse_classes(classes).items()}
        self._ignored = {composed(name.strip()) for name in ignore_classes.split(",") if name.strip()}
        self._declared: tuple[str, ...] | None = None
        self._met: Counter[str] = Counter()
        both = sorted(self._ignored & self._renamed.keys())
        if both:
            raise InputError(f"{', '.join(both)}: in both classes and ignore_classes; remove it from one of them")
        if "*" in self._ignored and not self._renamed:
            raise InputError("ignore_classes='*' ignores all classes that are not in classes, but classes is empty")

    def declare(self, names: tuple[str, ...] | None) -> None:
        """Say which names the data set declares; None: it declares none.

        Raises:
            InputError: one is not a line of text.
        """
        self._declared = None if names is None else tuple(map(composed, names))
        for name in self._declared or ():
            if not _is_line(name):
                raise InputError(_no_line(name))

    def apply(self, record: Record) -> Record:
        """The record with its classes renamed, without ignored boxes; or, if a class is unknown, with a reason."""
        if record.reason or not record.labels:
            return record
        names = [composed(label.name) for label in record.labels]
        odd = next((name for name in dict.fromkeys(names) if not _is_line(name)), None)
        if odd is not None:
            return record._replace(reason=f"annotation unreadable: {_no_line(odd)}")
        self._met.update(dict.fromkeys(names, 1))
        kept: list[Label] = []
        for label, given in zip(record.labels, names, strict=True):
            if given in self._ignored:
                continue
            name = self._target(given)
            if name is not None:
                kept.append(label._replace(name=name))
            elif "*" not in self._ignored:
                return record._replace(reason=f"unknown class: {given}")
        left_out = record.left_out + len(record.labels) - len(kept)
        return record._replace(labels=tuple(kept), left_out=left_out)

    def ignores(self, name: str) -> bool:
        """Whether a label of Label Studio, which has the names of the job, is to be left out."""
        is_wanted = composed(name) in self._renamed.values()
        return not is_wanted and (composed(name) in self._ignored or "*" in self._ignored)

    def warnings(self) -> list[str]:
        """What to do about classes that are unknown, and about names that differ only in upper and lower case."""
        found = []
        unknown = [
            name
            for name, _ in self._met.most_common()
            if self._target(name) is None and name not in self._ignored and "*" not in self._ignored
        ]
        if unknown:
            counts = few(f"{name} ({self._met[name]} images)" for name in unknown)
            if self._renamed:
                known = f"classes has {few(self._renamed)}"
                target = next(iter(self._renamed.values()))
                remedy = f"name it in classes, as {unknown[0]} or {unknown[0]}:{target}, or ignore it with "
                remedy += f"ignore_classes={unknown[0]}, or ignore all unknown ones with ignore_classes=*"
            else:
                known = f"the data set has {few(self._declared or ())}"
                remedy = f"correct the names, or ignore it with ignore_classes={unknown[0]}"
            found.append(f"unknown class {counts}; {known}: {remedy}")
        if not self._renamed:
            alike: dict[str, list[str]] = {}
            for name in dict.fromkeys((*(self._declared or ()), *self._met)):
                alike.setdefault(name.casefold(), []).append(name)
            found += [
                f"classes {few(names)} differ only in upper and lower case" for names in alike.values() if names[1:]
            ]
        return found

    def names(self, found: Iterable[str]) -> tuple[str, ...]:
        """The class names in the order of their ids.

        Args:
            found: those of the boxes that came in.
        """
        if self._renamed:
            absent = self._renamed.keys() - self._met.keys() - set(self._declared or ())
            if absent:
                logger.warning("classes contains %s, which the data set does not have", ", ".join(sorted(absent)))
        return self.order(found)

    def values(self, named: Mapping[int, str], known: Iterable[str] = ()) -> Values:
        """What the values of masks mean. Ignored classes become void; what a mask holds of unknown ones makes it bad.

        Args:
            named: what the data set calls the values; empty: they have the names of ``classes``, in its order.
            known: classes that the job has already, whose numbers stay as they are.

        Raises:
            InputError: the values have no names, or there are more classes than a mask has numbers for.
        """
        if not named:
            if not self._renamed:
                raise InputError(
                    "the data does not say which classes the mask values are: list them in classes, in order from 0, "
                    "or put a classes.txt with one name per line next to the images"
                )
            named = dict(enumerate(self._renamed))
            self._declared = tuple(self._renamed)
        named = {value: composed(name) for value, name in named.items()}
        order = list(dict.fromkeys((*known, *self.order(()))))
        if len(order) > VOID:
            raise InputError(f"{len(order)} classes: a mask has numbers for {VOID}")
        places = {VOID: VOID}
        for value in range(VOID + (VOID in named)):
            name = named.get(value, f"number {value}")
            target = None if name in self._ignored else self._target(name)
            if target is not None:
                places[value] = order.index(target)
            elif not name or name in self._ignored or "*" in self._ignored:
                places[value] = VOID
        return Values(named, places)

    def order(self, found: Iterable[str]) -> tuple[str, ...]:
        """What :meth:`names` gives, without a word about names that the data set does not have."""
        if self._renamed:
            return tuple(dict.fromkeys(self._renamed.values()))
        if self._declared is not None:
            return tuple(name for name in self._declared if name not in self._ignored)
        return tuple(sorted(found, key=lambda name: (int(name) if name.isdecimal() else -1, name)))

    def _target(self, name: str) -> str | None:
        if self._renamed:
            return self._renamed.get(name)
        return name if self._declared is None or name in self._declared else None


def _is_line(name: str) -> bool:
    return name.isprintable() and len(name) <= LONGEST_NAME


def _no_line(name: str) -> str:
    return f"the class name {name[:40]!r} is not a line of at most {LONGEST_NAME} printable characters"


def composed(name: str) -> str:
    """A class name with its letters composed (NFC), so that one name is not two."""
    return unicodedata.normalize("NFC", name)
