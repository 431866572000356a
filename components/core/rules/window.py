"""A time window: the hours in which a round may run or a model may be replaced.

A window is written as what YAML and JSON make of it, or as text::

    {start: "22:00", end: "06:00", timezone: Europe/Berlin, weekdays: mon-fri}
    22:00-06:00 Europe/Berlin mon-fri

The start belongs to the window, the end does not. An end that is not after the start is one on the next day, so
``00:00-00:00`` is the whole day and ``06:00-06:00`` the 24 hours from six. A window that goes on over midnight belongs
to the weekday on which it starts. Without a time zone it is UTC, without weekdays every day.

What counts is what a clock on the wall of that time zone shows. Where clocks are put forward, the hour that they skip
is in no window, and one that lies wholly inside it does not open on that day; where they are put back, the hour that
comes twice is in the window both times.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

from components.core.errors import InputError

_DAY = 24 * 60
_WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_MINUTE = timedelta(minutes=1)
_DEFAULTS = {"timezone": "UTC", "weekdays": "mon-sun"}


@dataclass(frozen=True)
class Window:
    """Hours of the day on some days of the week.

    Attributes:
        start: first minute of the window, counted from midnight, 0..1439.
        end: first minute after it, 0..1440; one that is not above ``start`` is on the next day.
        timezone: where the clock hangs that shows these times.
        weekdays: days on which the window starts, Monday is 0.
    """

    start: int
    end: int
    timezone: ZoneInfo
    weekdays: frozenset[int]

    @classmethod
    def parse(cls, value: object, name: str = "window") -> Window:
        """Read a window as users write it.

        Args:
            value: a mapping with ``start`` and ``end`` (``HH:MM`` or ``H:MM``; ``24:00`` as an end) and, if wanted,
                ``timezone`` (an IANA name) and ``weekdays`` (names, ranges such as ``mon-fri``, or a list of these);
                or the text ``START-END [TIMEZONE] [WEEKDAYS]``.
            name: what the user knows the window as; messages begin with it.

        Raises:
            InputError: it cannot be read; the message lists every problem.
        """
        fields, problems = _fields(value)
        found: dict[str, Any] = {}
        for key, read in _READERS.items():
            if key not in fields:
                continue
            try:
                found[key] = read(fields[key])
            except InputError as error:
                problems.append(f"{key}: {error}")
        if problems:
            raise InputError(f"{name}={value!r}: " + "; ".join(problems))
        return cls(**found)

    def contains(self, moment: datetime) -> bool:
        """Whether the window is open at a moment.

        Raises:
            ValueError: the moment has no time zone.
        """
        local = _utc(moment).astimezone(self.timezone)
        minute = local.hour * 60 + local.minute
        starts_today = local.weekday() in self.weekdays
        if self.start < self.end:
            return starts_today and self.start <= minute < self.end
        started_yesterday = (local.weekday() - 1) % 7 in self.weekdays
        return (starts_today and minute >= self.start) or (started_yesterday and minute < self.end)

    def opens_next(self, moment: datetime) -> datetime:
        """When the window is open next: the moment itself, or the minute at which the window opens.

        Returns:
            A time in the window's time zone.

        Raises:
            ValueError: the moment has no time zone.
        """
        # Windows open on whole minutes. Looking at each of them is quick (a fortnight takes some 30 ms) and right
        # where clocks are put forward or back, which arithmetic on local times is not.
        then = _utc(moment)
        while not self.contains(then):
            then = then.replace(second=0, microsecond=0) + _MINUTE
        return then.astimezone(self.timezone)

    def describe(self) -> str:
        """The window as one line of text, which ``parse`` reads."""
        days = "" if len(self.weekdays) == len(_WEEKDAYS) else " " + ",".join(self._days())
        return f"{_clock(self.start)}-{_clock(self.end)} {self.timezone.key}{days}"

    def _days(self) -> list[str]:
        return [_WEEKDAYS[day][:3] for day in sorted(self.weekdays)]


def _fields(value: object) -> tuple[dict[str, object], list[str]]:
    """The four fields, defaults among them, and what is wrong with their names."""
    if isinstance(value, str):
        value = _split(value)
    if not isinstance(value, Mapping):
        return {}, ['not a window: write {start: "22:00", end: "06:00"} or 22:00-06:00']
    problems = [_unknown(key) for key in value if key not in _READERS]
    fields = {**_DEFAULTS, **value}
    return fields, problems + [f"{key} is missing" for key in _READERS if key not in fields]


def _split(text: str) -> dict[str, object] | None:
    """Take ``START-END [TIMEZONE] [WEEKDAYS]`` apart; None where it does not begin with two times."""
    match = re.fullmatch(r"\s*([^\s-]+)\s*-\s*([^\s-]+)((?:\s+\S+)*)\s*", text)
    if not match:
        return None
    fields: dict[str, object] = {"start": match[1], "end": match[2]}
    for word in match[3].replace(",", " ").split():
        key = "weekdays" if any(day.startswith(word[:3].lower()) for day in _WEEKDAYS) else "timezone"
        fields[key] = f"{fields[key]},{word}" if key in fields else word
    return fields


def _unknown(key: object) -> str:
    close = difflib.get_close_matches(str(key), list(_READERS), n=1)
    return f"unknown key {key!r}: " + (f"did you mean {close[0]}?" if close else f"choose from {', '.join(_READERS)}")


def _start(value: object) -> int:
    minute = _minute(value)
    if minute == _DAY:
        raise InputError('24:00 is valid only as an end: write "00:00"')
    return minute


def _minute(value: object) -> int:
    """Minutes from midnight of ``HH:MM``."""
    if isinstance(value, int | float) and not isinstance(value, bool) and value in range(_DAY + 1):
        clock = f"{int(value) // 60}:{int(value) % 60:02d}"
        raise InputError(f'{value:g} is how YAML reads {clock}: write "{clock}"')
    match = re.fullmatch(r"\s*([0-9]{1,2}):([0-5][0-9])\s*", value) if isinstance(value, str) else None
    minute = int(match[1]) * 60 + int(match[2]) if match else _DAY + 1
    if minute > _DAY:
        raise InputError(f'{value!r} is not a time from "00:00" to "24:00": write hours and minutes in quotes')
    return minute


def _timezone(value: object) -> ZoneInfo:
    try:
        return ZoneInfo(value if isinstance(value, str) else "")
    except (KeyError, ValueError, OSError) as error:
        known = sorted(available_timezones())
        if not known:
            raise InputError("this machine has no time zone data: install the package tzdata") from error
        close = difflib.get_close_matches(str(value), known, n=1)
        hint = f"did you mean {close[0]}?" if close else "write an IANA name such as Europe/Berlin or UTC"
        raise InputError(f"unknown time zone {value!r}: {hint}") from error


def _weekdays(value: object) -> frozenset[int]:
    given = value if isinstance(value, list | tuple) else [value]
    parts = [part for part in given if isinstance(part, str)]
    if not parts or len(parts) < len(given):
        raise InputError(f"{value!r} are not weekdays: write names or ranges such as mon-fri or [sat, sun]")
    days: set[int] = set()
    for part in ",".join(parts).split(","):
        first, _, last = part.partition("-")
        begin = _weekday(first)
        days |= {(begin + step) % 7 for step in range((_weekday(last or first) - begin) % 7 + 1)}
    return frozenset(days)


def _weekday(text: str) -> int:
    word = text.strip().lower()
    for day, full in enumerate(_WEEKDAYS):
        if len(word) >= 3 and full.startswith(word):
            return day
    raise InputError(f"{text.strip()!r} is not a weekday: choose from {', '.join(full[:3] for full in _WEEKDAYS)}")


_READERS: dict[str, Callable[[object], Any]] = {
    "start": _start,
    "end": _minute,
    "timezone": _timezone,
    "weekdays": _weekdays,
}


def _clock(minute: int) -> str:
    return f"{minute // 60:02d}:{minute % 60:02d}"


def _utc(moment: datetime) -> datetime:
    if moment.utcoffset() is None:
        raise ValueError(f"{moment} has no time zone")
    return moment.astimezone(UTC)
