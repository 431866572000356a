"""Conditions over named metrics: should a round run, may the candidate replace the champion?

A condition is written as text, or as what YAML and JSON make of it::

    num_of_samples > 50
    {metric: num_of_samples, operator: ">", threshold: 50}
    [map50_delta >= 0, "min(recall_delta) >= -0.02"]                                  # a list: all of them
    {any: [num_of_samples > 500, {all: [num_of_samples > 50, {not: model_age_days < 7}]}]}

Operators are ``>`` ``>=`` ``==`` ``!=`` ``<=`` ``<``, also as ``gt`` ``ge`` ``eq`` ``=`` ``ne`` ``le`` ``lt``. Numbers
less than a millionth apart are equal for all six.

====================  ==================================================================================
metric                its value
====================  ==================================================================================
``map50``             one number
``precision[helmet]`` that of one class; also ``precision[2]``, by its place among the class names, counted
                      from 0. A class whose name is ``2`` goes before the place.
``min(precision)``    the least over the classes; also ``max`` and ``mean``
``map50_delta``       candidate - champion; ``precision_delta[helmet]`` and ``min(precision_delta)`` likewise,
                      where the difference is taken for each class first
``map50_rel``         (candidate - champion) / champion; a champion that is not above 0 is an error
====================  ==================================================================================

The outcome is met, not met or error. A metric that is missing or not a finite number is an error, and an error anywhere
is one of the whole condition, whatever the other clauses say: nothing is decided on half knowledge. Where there is no
champion yet, a comparison with it never stands in the way: it counts as met, and under ``not`` as not met.
"""

from __future__ import annotations

import difflib
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from numbers import Real
from typing import Any, Literal, TypeAlias

from components.core.errors import InputError

Metrics: TypeAlias = Mapping[str, float | Mapping[str, float] | Sequence[float]]
"""Values by metric: one number, numbers by class name, or one number for each class in the order of the class names.
Numbers of classes may also stand each under a name of their own, ``precision[helmet]``."""

_EQUAL = 1e-6
_DEEPEST = 32
_JOINS: tuple[Literal["all", "any", "not"], ...] = ("all", "any", "not")
_SPELLINGS = {
    **{">": ">", ">=": ">=", "==": "==", "!=": "!=", "<=": "<=", "<": "<"},
    **{"gt": ">", "ge": ">=", "eq": "==", "=": "==", "ne": "!=", "le": "<=", "lt": "<"},
}
_REDUCERS: dict[str, Callable[[Sequence[float]], float]] = {
    "min": min,
    "max": max,
    "mean": lambda values: sum(values) / len(values),
}

_NAME = r"[^\W\d_](?:[\w./@-]*\w)?"
_CLASS = r"(?:[^\[\]\n]|\[[^\[\]\n]*\])+"
_METRIC = re.compile(
    rf"(?P<reducer>\w+)\s*\(\s*(?P<all>{_NAME})\s*\)|(?P<one>{_NAME})(?:\s*\[(?P<of_class>{_CLASS})\])?"
)
_COMPARISON = re.compile(
    rf"\s*(?P<metric>\w+\s*\(.*?\)|{_NAME}(?:\s*\[{_CLASS}\])?)(?P<operator>\s*[<>=!]+|\s+[A-Za-z]+\b)(?P<threshold>.+)"
)


class Outcome(StrEnum):
    """What became of a condition or of one of its clauses."""

    MET = "met"
    NOT_MET = "not_met"
    ERROR = "error"


@dataclass(frozen=True)
class Clause:
    """One comparison, judged.

    Attributes:
        text: the comparison, ``num_of_samples > 50``.
        have: the metric's value; None where there is none, or no champion to compare with.
        need: what it is compared with, ``> 50``.
        outcome: of this comparison alone, before any ``not`` around it.
        reason: one line, such as ``have 37, need > 50``.
    """

    text: str
    have: float | None
    need: str
    outcome: Outcome
    reason: str


@dataclass(frozen=True)
class Verdict:
    """A condition, judged.

    Attributes:
        outcome: of the whole condition; error if that of any clause is.
        condition: the condition as one line of text.
        clauses: each comparison in the order in which it was written, the ones that did not matter among them.
    """

    outcome: Outcome
    condition: str
    clauses: tuple[Clause, ...]

    def __bool__(self) -> bool:
        raise TypeError("a verdict has three outcomes: ask for verdict.outcome")

    def describe(self) -> str:
        """The outcome and its reasons as one line for logs."""
        if self.condition == self.clauses[0].text:
            return f"{self.outcome}: {self.condition} ({self.clauses[0].reason})"
        reasons = "; ".join(f"{clause.text} {clause.outcome}: {clause.reason}" for clause in self.clauses)
        return f"{self.outcome}: {self.condition} ({reasons})"


class Condition(ABC):
    """A comparison, or conditions joined by all, any or not."""

    @staticmethod
    def parse(value: object, name: str = "condition") -> Condition:
        """Read a condition as users write it, in any of the forms that this module describes.

        Args:
            value: text, mapping or list.
            name: what the user knows the condition as; messages begin with it.

        Raises:
            InputError: it cannot be read; the message lists every problem.
        """
        problems: list[str] = []
        condition = _read(value, name, problems)
        if condition is None or problems:
            raise InputError("; ".join(problems))
        return condition

    def evaluate(self, metrics: Metrics, champion: Metrics | None = None, classes: Sequence[str] = ()) -> Verdict:
        """Judge the condition; every clause is evaluated, so that all reasons are reported.

        Args:
            metrics: what is known, such as the candidate's scores.
            champion: the same of the champion, which ``_delta`` and ``_rel`` compare with; None if there is none yet.
            classes: class names in the order of both, for ``[2]`` and for metrics that are lists.
        """
        order = tuple(classes)
        ours = _Scores(metrics, order, "")
        theirs = None if champion is None else _Scores(champion, order, "champion: ")
        held, clauses = self._judge(ours, theirs, wanted=True)
        outcome = Outcome.MET if held else Outcome.NOT_MET
        if any(clause.outcome == Outcome.ERROR for clause in clauses):
            outcome = Outcome.ERROR
        return Verdict(outcome, self.describe(), tuple(clauses))

    @abstractmethod
    def describe(self) -> str:
        """The condition as one line of text."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """The condition as a mapping for JSON, which ``parse`` reads."""

    @abstractmethod
    def metrics(self) -> frozenset[str]:
        """The metrics that it names, without ``_delta`` or ``_rel``, classes and reducers."""

    @abstractmethod
    def _judge(self, ours: _Scores, theirs: _Scores | None, *, wanted: bool) -> tuple[bool, list[Clause]]:
        """Whether it holds, and its clauses.

        Args:
            ours: the metrics.
            theirs: the champion's.
            wanted: whether the whole condition wants this part to hold; turned round by each ``not``.
        """


def no_regression(metric: str, classes: Sequence[str], tolerance: float = 0.0) -> Condition:
    """A condition that no class may lose more than the tolerance against the champion.

    Args:
        metric: a metric with one value for each class, such as ``recall``.
        classes: names of the classes that are to be held; ones without a value, because the split has no true box of
            them, would make the outcome an error.
        tolerance: how much each may lose, in the metric's own unit.

    Raises:
        InputError: no classes, not a name of a metric, or a tolerance that is negative or not finite.
    """
    if not (math.isfinite(tolerance) and tolerance >= 0):
        raise InputError(f"no_regression: tolerance={tolerance} must be a number >= 0")
    clauses = [{"metric": f"{metric}_delta[{name}]", "operator": ">=", "threshold": -tolerance} for name in classes]
    return Condition.parse(clauses, name="no_regression")


@dataclass(frozen=True)
class _Metric:
    """What the left side of a comparison names.

    Attributes:
        name: the metric, without suffix.
        change: ``delta`` or ``rel`` where it is compared with the champion's, else empty.
        of_class: name or place of the one class that is meant.
        reducer: what makes one number of those of all classes.
    """

    name: str
    change: str
    of_class: str | None = None
    reducer: str | None = None

    @classmethod
    def parse(cls, text: object) -> _Metric:
        match = _METRIC.fullmatch(text.strip()) if isinstance(text, str) else None
        if not match or not (match["of_class"] or "?").strip():
            raise InputError(f"{text!r} is not a metric: write name, name[class], min(name), max(name) or mean(name)")
        if match["reducer"] and match["reducer"] not in _REDUCERS:
            raise InputError(f"unknown reducer {match['reducer']!r} in {text!r}: choose from {', '.join(_REDUCERS)}")
        written = match["all"] or match["one"]
        compared = re.fullmatch(r"(.+)_(delta|rel)", written)
        name, change = compared.groups() if compared else (written, "")
        return cls(name, change, match["of_class"] and match["of_class"].strip(), match["reducer"])

    def __str__(self) -> str:
        if self.reducer is not None:
            return f"{self.reducer}({self.written})"
        return self.written if self.of_class is None else f"{self.written}[{self.of_class}]"

    @property
    def written(self) -> str:
        """The name with its suffix."""
        return f"{self.name}_{self.change}" if self.change else self.name

    def value(self, ours: _Scores, theirs: _Scores | None) -> float | None:
        """Its value; None where it compares with a champion and there is none."""
        values = ours.select(self)
        if self.change and theirs is None:
            return None
        if self.change and theirs is not None:
            old = theirs.select(self)
            if old.keys() != values.keys():
                raise _UnknownError(f"{self.name} is of {_listed(values)}, the champion's of {_listed(old)}")
            values = {name: self._changed(new, old[name]) for name, new in values.items()}
        result = _REDUCERS[self.reducer or "max"](list(values.values()))  # of a single value each is that value
        if not math.isfinite(result):
            raise _UnknownError(f"{self} is too large for a number")
        return result

    def _changed(self, new: float, old: float) -> float:
        if self.change == "delta":
            return new - old
        if old <= 0:
            raise _UnknownError(
                f"the champion's {self.name} is {_short(old)}, and a relative change needs a number above 0: "
                f"use {self.name}_delta"
            )
        return (new - old) / old


@dataclass(frozen=True)
class _Comparison(Condition):
    metric: _Metric
    operator: str
    threshold: float

    def describe(self) -> str:
        return f"{self.metric} {self._need()}"

    def to_dict(self) -> dict[str, Any]:
        return {"metric": str(self.metric), "operator": self.operator, "threshold": self.threshold}

    def metrics(self) -> frozenset[str]:
        return frozenset({self.metric.name})

    def _judge(self, ours: _Scores, theirs: _Scores | None, *, wanted: bool) -> tuple[bool, list[Clause]]:
        have = None
        try:
            have = self.metric.value(ours, theirs)
        except _UnknownError as error:
            outcome, reason = Outcome.ERROR, str(error)
        else:
            held = wanted if have is None else _holds(have, self.operator, self.threshold)
            outcome = Outcome.MET if held else Outcome.NOT_MET
            reason = "no champion yet" if have is None else f"have {_short(have)}, need {self._need()}"
        return outcome == Outcome.MET, [Clause(self.describe(), have, self._need(), outcome, reason)]

    def _need(self) -> str:
        number = self.threshold
        return f"{self.operator} {int(number) if number.is_integer() and abs(number) < 1e15 else number}"


@dataclass(frozen=True)
class _Joined(Condition):
    how: Literal["all", "any", "not"]
    parts: tuple[Condition, ...]

    def describe(self) -> str:
        if self.how == "not":
            return f"not ({self.parts[0].describe()})"
        texts = [part.describe() for part in self.parts]
        if len(texts) == 1:
            return texts[0]
        texts = [
            f"({text})" if isinstance(part, _Joined) and part.how != "not" and len(part.parts) > 1 else text
            for part, text in zip(self.parts, texts, strict=True)
        ]
        return (" and " if self.how == "all" else " or ").join(texts)

    def to_dict(self) -> dict[str, Any]:
        parts = [part.to_dict() for part in self.parts]
        return {self.how: parts[0] if self.how == "not" else parts}

    def metrics(self) -> frozenset[str]:
        return frozenset[str]().union(*(part.metrics() for part in self.parts))

    def _judge(self, ours: _Scores, theirs: _Scores | None, *, wanted: bool) -> tuple[bool, list[Clause]]:
        wanted = wanted != (self.how == "not")
        judged = [part._judge(ours, theirs, wanted=wanted) for part in self.parts]
        clauses = [clause for _, part in judged for clause in part]
        held = [part for part, _ in judged]
        return {"all": all(held), "any": any(held), "not": not held[0]}[self.how], clauses


class _UnknownError(Exception):
    """A metric has no value; the message is the clause's reason."""


@dataclass(frozen=True)
class _Scores:
    """Metrics to look values up in.

    Attributes:
        metrics: the values.
        classes: class names in their order.
        whose: what reasons begin with.
    """

    metrics: Metrics
    classes: tuple[str, ...]
    whose: str

    def select(self, metric: _Metric) -> dict[str, float]:
        """The finite numbers that a metric is made of: those of all classes, or a single one.

        Raises:
            _UnknownError: there is none, or one is not a finite number.
        """
        values = self._by_class(metric.name)
        if metric.reducer is None and metric.of_class is None:
            chosen = {metric.name: self._whole(metric, values)}
        elif not values:
            raise self._missing(metric)
        elif metric.of_class is None:
            chosen = {f"{metric.name}[{name}]": value for name, value in values.items()}
        else:
            name = self._class(metric, values)
            chosen = {f"{metric.name}[{name}]": values[name]}
        return {name: self._number(name, value) for name, value in chosen.items()}

    def _by_class(self, name: str) -> dict[str, object]:
        """What a metric has for its classes, by class name or, where lists have no names, by place."""
        value: object = self.metrics.get(name)
        if isinstance(value, Mapping):
            return {str(key): one for key, one in value.items()}
        if isinstance(value, Sequence) and not isinstance(value, str | bytes):
            if self.classes and len(value) != len(self.classes):
                raise self._unknown(f"{name} has {len(value)} values for {len(self.classes)} classes")
            return dict(zip(self.classes or map(str, range(len(value))), value, strict=True))
        prefix = f"{name}["
        return {
            key[len(prefix) : -1]: one
            for key, one in self.metrics.items()
            if key.startswith(prefix) and key.endswith("]")
        }

    def _whole(self, metric: _Metric, by_class: Mapping[str, object]) -> object:
        value: object = self.metrics.get(metric.name)
        if _is_several(value) or (by_class and metric.name not in self.metrics):
            reducers = ", ".join(f"{reducer}({metric.written})" for reducer in _REDUCERS)
            raise self._unknown(
                f"{metric.name} has a value for each class: name one of {_listed(by_class)}, as in "
                f"{metric.written}[{next(iter(by_class), 'class')}], or write one of {reducers}"
            )
        if metric.name not in self.metrics:
            raise self._missing(metric)
        return value

    def _class(self, metric: _Metric, by_class: Mapping[str, object]) -> str:
        """The class that a metric means: its name, or the name at its place."""
        name = metric.of_class or ""
        is_place = re.fullmatch(r"[0-9]{1,6}", name) and name not in by_class and name not in self.classes
        if is_place and int(name) < len(self.classes):
            name = self.classes[int(name)]
        if name in by_class:
            return name
        hint = " (an index needs class names)" if is_place and not self.classes else ""
        raise self._unknown(f"{metric.name} has no class {name!r}: choose from {_listed(by_class)}{hint}")

    def _number(self, name: str, value: object) -> float:
        try:
            if not isinstance(value, bool) and isinstance(value, Real) and math.isfinite(value):
                return float(value)
        except OverflowError:
            pass
        raise self._unknown(f"{name} is {value!r}, not a finite number")

    def _missing(self, metric: _Metric) -> _UnknownError:
        if metric.name in self.metrics and _is_several(self.metrics[metric.name]):
            return self._unknown(f"{metric.name} has no value for any class")
        if metric.name in self.metrics:
            return self._unknown(f"{metric.name} is a single number, not one per class: write {metric.written}")
        known = sorted({name.partition("[")[0] for name in self.metrics})
        return self._unknown(f"no metric {metric.name!r}: choose from {_listed(known)}")

    def _unknown(self, text: str) -> _UnknownError:
        return _UnknownError(self.whose + text)


def _read(value: object, where: str, problems: list[str], depth: int = 0) -> Condition | None:
    """Read a condition; what is wrong with it is added to the problems, each with the place where it stands."""
    if depth > _DEEPEST:
        raise InputError(f"{where}: nested more than {_DEEPEST} deep")  # at once: YAML can nest without end
    if isinstance(value, str) and (match := _COMPARISON.fullmatch(value)):
        written = {key: text.strip() for key, text in match.groupdict().items()}
        return _read_comparison(written, f"{where} {value!r}", problems)
    if isinstance(value, list | tuple):
        return _read_list("all", value, where, problems, depth)
    if isinstance(value, Mapping):
        how = next((how for how in _JOINS if how in value), None)
        if how is None:
            return _read_comparison(value, where, problems)
        if others := [key for key in value if key != how]:
            problems.append(f"{where}: {how!r} cannot be combined with {_listed(others)}")
        inner = value[how]
        if how == "not":
            return _read_not(inner, f"{where}.not", problems, depth)
        return _read_list(how, inner, f"{where}.{how}", problems, depth)
    problems.append(
        f"{where}: {value!r} is not a condition: write metric, operator and number, such as 'num_of_samples > 50', "
        "and join several with all, any and not"
    )
    return None


def _read_list(
    how: Literal["all", "any"], value: object, where: str, problems: list[str], depth: int
) -> Condition | None:
    if not isinstance(value, list | tuple) or not value:
        problems.append(f"{where}: {value!r} is not a list of at least one condition")
        return None
    parts = [_read(part, f"{where}[{place}]", problems, depth + 1) for place, part in enumerate(value)]
    return _Joined(how, tuple(part for part in parts if part is not None))


def _read_not(value: object, where: str, problems: list[str], depth: int) -> Condition | None:
    if isinstance(value, list | tuple):
        problems.append(f"{where}: a list is ambiguous here: write {{all: [...]}} or {{any: [...]}} under not")
        return None
    part = _read(value, where, problems, depth + 1)
    return part and _Joined("not", (part,))


def _read_comparison(value: Mapping[Any, object], where: str, problems: list[str]) -> Condition | None:
    for key in value:
        if key not in _READERS:
            close = difflib.get_close_matches(str(key), [*_READERS, *_JOINS], n=1)
            hint = f"did you mean {close[0]}?" if close else f"choose from {_listed([*_READERS, *_JOINS])}"
            problems.append(f"{where}: unknown key {key!r}: {hint}")
    found: dict[str, Any] = {}
    for key, read in _READERS.items():
        if key not in value:
            problems.append(f"{where}: {key} is missing")
            continue
        try:
            found[key] = read(value[key])
        except InputError as error:
            problems.append(f"{where}: {error}")
    return _Comparison(**found) if len(found) == len(_READERS) else None


def _operator(value: object) -> str:
    spelling = value.strip() if isinstance(value, str) else ""
    if spelling not in _SPELLINGS:
        raise InputError(f"unknown operator {value!r}: choose from {' '.join(_SPELLINGS)}")
    return _SPELLINGS[spelling]


def _threshold(value: object) -> float:
    try:
        number = float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"threshold {value!r} is not a finite number")
    return number + 0.0  # makes -0.0 a plain 0.0


_READERS: dict[str, Callable[[object], Any]] = {
    "metric": _Metric.parse,
    "operator": _operator,
    "threshold": _threshold,
}


def _holds(have: float, operator: str, threshold: float) -> bool:
    equal = abs(have - threshold) < _EQUAL
    return {
        ">": have > threshold and not equal,
        ">=": have >= threshold or equal,
        "==": equal,
        "!=": not equal,
        "<=": have <= threshold or equal,
        "<": have < threshold and not equal,
    }[operator]


def _is_several(value: object) -> bool:
    """Whether a metric has a value for each class."""
    return isinstance(value, Mapping | Sequence) and not isinstance(value, str | bytes)


def _short(value: float) -> str:
    return f"{value:.9g}"


def _listed(names: Iterable[object]) -> str:
    return ", ".join(map(str, names)) or "none"
