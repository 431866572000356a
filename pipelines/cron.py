"""Cron expressions as Kubeflow Pipelines reads them.

It uses version 1 of https://github.com/robfig/cron: seconds come first and the day of the week may be left out, so that
``*/5 * * * *``, every five minutes everywhere else, is accepted and means every five seconds. Here an expression has
exactly six fields, and what it means can be asked before anything is sent.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from itertools import islice, pairwise, product

from components.core.errors import InputError

_MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
_WEEKDAYS = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"]
_FIELDS: tuple[tuple[str, int, int, dict[str, int]], ...] = (
    ("second", 0, 59, {}),
    ("minute", 0, 59, {}),
    ("hour", 0, 23, {}),
    ("day of the month", 1, 31, {}),
    ("month", 1, 12, {name: number for number, name in enumerate(_MONTHS, start=1)}),
    ("day of the week", 0, 6, {name: number for number, name in enumerate(_WEEKDAYS)}),
)
_ORDER = "second minute hour day month weekday"
_PART = re.compile(r"(?P<all>[*?])(/(?P<all_step>\d+))?|(?P<first>\w+)(-(?P<last>\w+))?(/(?P<step>\d+))?")
_HORIZON = timedelta(days=5 * 366)  # where KFP stops looking, too
_SOME_DAY = datetime(2024, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Cron:
    """When a cron expression fires; in the server's time zone, which is UTC unless its administrator changed it."""

    text: str
    seconds: frozenset[int]
    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]  # 0 is Sunday
    both_days: bool  # a day must be in ``days`` and ``weekdays``; else one of them is enough

    def after(self, moment: datetime) -> Iterator[datetime]:
        """The times it fires at later than a moment, for five years."""
        times = [
            time(*parts, tzinfo=moment.tzinfo)
            for parts in product(sorted(self.hours), sorted(self.minutes), sorted(self.seconds))
        ]
        for days in range(_HORIZON.days):
            day = moment.date() + timedelta(days)
            if self._on(day.month, day.day, day.isoweekday() % 7):
                yield from (fire for fire in (datetime.combine(day, at) for at in times) if fire > moment)

    def shortest_gap(self) -> timedelta | None:
        """The least time between two firings; None if it never fires twice."""
        # What is shorter than a minute shows in the first minutes it fires in.
        return min((later - earlier for earlier, later in pairwise(islice(self.after(_SOME_DAY), 100))), default=None)

    def _on(self, month: int, day: int, weekday: int) -> bool:
        hits = (day in self.days, weekday in self.weekdays)
        return month in self.months and (all(hits) if self.both_days else any(hits))


def parse_cron(text: str) -> Cron:
    """Read a cron expression of six fields: second, minute, hour, day of the month, month, day of the week.

    Raises:
        InputError: another number of fields, a value out of range, or an expression that never fires (with one, KFP's
            controller would search for ever).
    """
    words = text.split()
    if len(words) == 5:
        raise InputError(_five_fields(text, words))
    if len(words) != 6:
        raise InputError(f"cron {text!r} has {len(words)} fields, not 6: {_ORDER}, such as '0 */5 * * * *'")
    cron = _cron(text, words)
    if next(cron.after(_SOME_DAY), None) is None:
        raise InputError(f"cron {text!r} never fires: its months have no such day")
    return cron


def span(length: timedelta) -> str:
    """A length of time in words, such as ``5 seconds``; whole seconds."""
    seconds = int(length.total_seconds())
    for size, unit in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= size and seconds % size == 0:
            return f"{seconds // size} {unit}{'s' if seconds > size else ''}"
    return f"{seconds} second{'' if seconds == 1 else 's'}"


def _five_fields(text: str, words: list[str]) -> str:
    """What KFP would make of an expression without seconds."""
    try:
        gap = _cron(text, [*words, "*"]).shortest_gap()
    except InputError:
        gap = None
    meaning = f" and would run every {span(gap)}" if gap else ""
    return f"cron {text!r} has 5 fields: KFP reads the first as seconds{meaning}; write '0 {' '.join(words)}'"


def _cron(text: str, words: list[str]) -> Cron:
    seconds, minutes, hours, days, months, weekdays = (
        _values(text, word, *field) for word, field in zip(words, _FIELDS, strict=True)
    )
    both_days = any(re.search(r"(^|,)[*?]", word) for word in (words[3], words[5]))
    return Cron(text, seconds, minutes, hours, days, months, weekdays, both_days)


def _values(text: str, word: str, name: str, low: int, high: int, names: dict[str, int]) -> frozenset[int]:
    found: set[int] = set()
    for part in word.split(","):
        match = _PART.fullmatch(part)
        if not match:
            raise InputError(f"cron {text!r}: {part!r} is not a {name}: write *, 5, 1-5, */5 or 1,3")
        step = match["all_step"] or match["step"]
        first = low if match["all"] else _number(match["first"], names)
        single = high if match["all"] or step else first
        last = single if match["last"] is None else _number(match["last"], names)
        if first is None or last is None or not low <= first <= last <= high:
            raise InputError(f"cron {text!r}: {name} {part!r} is not within {low}-{high}")
        if step is not None and int(step) == 0:
            raise InputError(f"cron {text!r}: {name} {part!r} has a step of 0")
        found.update(range(first, last + 1, int(step or 1)))
    return frozenset(found)


def _number(word: str, names: dict[str, int]) -> int | None:
    return int(word) if word.isascii() and word.isdigit() else names.get(word.lower())
