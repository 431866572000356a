"""Recurring runs: what triggers a pipeline on a cluster.

    cluster = connect(Server("http://localhost:8080"))
    schedule(cluster, "incremental-learning", {"job_root": "s3://jobs/helmet"}, Timing.of(every="5m"))

The server cannot change a recurring run, and deleting one kills its runs in progress. So the same name again makes a
new one, in this order:

1. make the new one, disabled: if the server refuses it, the old one goes on;
2. disable the old one, which leaves its run in progress alone;
3. enable the new one;
4. delete the old one at a later call, when it is certain that none of its runs is in progress.

A call never has two enabled at a time. Of several with one name the newest counts; a call that was killed anywhere in
between is completed by the next one, whatever it asks for. The new one counts its interval from the old one's last
run, so that replacing it often does not keep it from running. Only recurring runs that were made here are ever
touched; they carry a mark in their description.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from itertools import groupby, islice, pairwise
from typing import Any

from kfp_server_api import ApiException

from components.core import parameters
from components.core.errors import InputError
from pipelines.arguments import sort_into_place
from pipelines.client import (
    Cluster,
    Package,
    Run,
    Tell,
    check_arguments,
    equals,
    follow,
    read_package,
)
from pipelines.cron import parse_cron, span

SHORTEST = timedelta(seconds=30)  # the server's controller looks this often

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_MARK = re.compile(r"made by python -m pipelines schedule, number (\d+), ([0-9a-f]{64})$")
_LONGEST_NAME = 128  # characters
_RUNS_SHOWN = 5
_RUNS_CHECKED = 20  # with one run at a time, only the newest can be in progress
_ATTEMPTS = 5

# What the controller starts is known to the API a little later.
_REPORTING = timedelta(seconds=15)
_CERTAIN = timedelta(minutes=2)

_ZONES = timedelta(hours=14)  # the server's time zone, which cron is read in, is at most this far from UTC


@dataclass(frozen=True)
class Timing:
    """When a pipeline runs. Made by ``Timing.of``.

    Attributes:
        interval: seconds between two runs; 0 with ``cron``. The first run comes one interval after the start, or else
            after the schedule is made.
        cron: six fields, seconds first, in the server's time zone; empty with ``interval``.
        start: RFC 3339 time before which nothing runs, or empty.
        end: RFC 3339 time after which nothing runs, or empty.
    """

    interval: int = 0
    cron: str = ""
    start: str = ""
    end: str = ""

    @classmethod
    def of(cls, every: str = "", cron: str = "", start: str = "", end: str = "") -> Timing:
        """Read how often something is to run.

        Args:
            every: ``30s``, ``5m``, ``2h`` or ``1d``.
            cron: such as ``0 */5 * * * *``; instead of ``every``.
            start: ISO 8601 time with its zone, such as ``2026-01-31T08:00:00Z`` or ``...+01:00``.
            end: the same.

        Raises:
            InputError: one of them cannot be, or together they would never run anything.
        """
        if bool(every) == bool(cron):
            raise InputError("a schedule has either --every, such as 5m, or --cron, such as '0 */5 * * * *'")
        try:
            timing = cls(_seconds(every) if every else 0, _frequent(cron) if cron else "", _utc(start), _utc(end))
            timing._check_ever(_now())
        except OverflowError:
            raise InputError("the interval, start or end is beyond the year 9999, or before the year 1") from None
        return timing

    def __str__(self) -> str:
        often = f"every {span(timedelta(seconds=self.interval))}" if self.interval else f"at cron '{self.cron}'"
        return often + (f" from {self.start}" if self.start else "") + (f" until {self.end}" if self.end else "")

    def _check_ever(self, now: datetime) -> None:
        start = datetime.fromisoformat(self.start) if self.start else now
        end = datetime.fromisoformat(self.end) if self.end else None
        if end and self.start and end <= start:
            raise InputError(f"the end {self.end} is not after the start {self.start}")
        if end and end <= now:
            raise InputError(f"the end {self.end} has passed")
        first = start + timedelta(seconds=self.interval)
        if self.cron:
            fires = next(parse_cron(self.cron).after(max(start, now)), None)
            if fires is None:
                raise InputError(f"nothing would run {self}: the server looks no further than five years ahead")
            first = fires - _ZONES
        if end and end < first:
            raise InputError(f"nothing would run {self}: the first run would come after the end")


@dataclass(frozen=True)
class Schedule:
    """A recurring run that was made here.

    Attributes:
        id: of the recurring run.
        name: what it is called; the newest of a name counts.
        url: its page.
        enabled: whether it starts runs.
        timing: when.
        parameters: what its runs are given, by name.
        created: when it was made.
        counts_from: the time that its first interval begins at.
        number: of its name, counted up.
        fingerprint: SHA-256 of all that it was made from.
        runs: the newest, newest first; empty unless they were asked for.
    """

    id: str
    name: str
    url: str
    enabled: bool
    timing: Timing
    parameters: Mapping[str, Any]
    created: datetime
    counts_from: datetime
    number: int
    fingerprint: str
    runs: tuple[Run, ...] = ()


@dataclass(frozen=True)
class _Order:
    """All that makes two schedules the same."""

    name: str
    package: Package
    parameters: Mapping[str, Any]
    timing: Timing
    experiment: str
    service_account: str
    pipeline_root: str

    @property
    def fingerprint(self) -> str:
        parts = asdict(self) | {"package": self.package.digest}
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def description(self, number: int) -> str:
        mark = f"made by python -m pipelines schedule, number {number}, {self.fingerprint}"
        return f"{self.package.name} {self.timing}; {mark}"


def schedule(
    cluster: Cluster,
    pipeline: str,
    arguments: Mapping[str, Any],
    timing: Timing,
    *,
    name: str = "",
    experiment: str = "",
    service_account: str = "",
    pipeline_root: str = "",
    wait: bool = False,
    tell: Tell = print,
) -> Schedule:
    """Run a compiled pipeline again and again: one run at a time, and no run for what was missed.

    The same call again changes nothing; with other values it replaces the schedule of that name, and a run in progress
    goes on. Either way the schedule is enabled afterwards, also if it was paused.

    Args:
        cluster: from ``client.connect``.
        pipeline: name or path, see ``client.read_package``.
        arguments: parameters by name.
        timing: when it runs.
        name: of the schedule; by default the pipeline's.
        experiment: group of its runs, made if it is not there; by default named like the pipeline.
        service_account: that its pods run as; empty for the server's default.
        pipeline_root: where KFP keeps artifacts; empty for the server's default.
        wait: let a run in progress of the schedule it replaces end before the new one may start any.
        tell: takes a line that says what was done.

    Returns:
        The schedule.

    Raises:
        InputError: the package, the arguments, the name or the server forbid it. What was there goes on as it was.
    """
    package = read_package(pipeline)
    check_arguments(package, arguments)
    parameters.check_repeated(arguments)
    order = _Order(
        name=_checked_name(name or package.name),
        package=package,
        parameters=sort_into_place(package.face, arguments),
        timing=timing,
        experiment=experiment or package.name,
        service_account=service_account,
        pipeline_root=pipeline_root,
    )
    with cluster.explained():
        _refuse_strangers(cluster, order.name)
        before = _named(cluster, order.name)
        if not before or before[0].fingerprint != order.fingerprint:
            _make(cluster, order, before[0] if before else None)
        made = _settle(cluster, order, wait, tell)
        _tidy(cluster, before)
    tell(f"{order.name} {_change(before, made)}: {timing}: {made.url}")
    return made


def pause(cluster: Cluster, name: str, *, tell: Tell = print) -> None:
    """Start no more runs; one in progress goes on.

    Raises:
        InputError: there is no such schedule, or the server forbids it.
    """
    with cluster.explained():
        disabled = _disable(cluster, _known(cluster, name))
    tell(f"{name} is paused" if disabled else f"{name} was already paused")


def resume(cluster: Cluster, name: str, *, tell: Tell = print) -> None:
    """Start runs again; for all that was missed meanwhile there is at most one, and at once.

    Raises:
        InputError: there is no such schedule, or the server forbids it.
    """
    with cluster.explained():
        newest, *older = _known(cluster, name)
        _disable(cluster, older)
        if not newest.enabled:
            _switch(cluster, newest, "enable")
    tell(f"{name} was already enabled" if newest.enabled else f"{name} is enabled: {newest.timing}")


def remove(cluster: Cluster, name: str, *, tell: Tell = print) -> bool:
    """Delete a schedule, unless a run of it is in progress, which that would kill: then it is only disabled.

    Returns:
        Whether it is gone. If not, call again when its run has finished.

    Raises:
        InputError: there is no such schedule, or the server forbids it.
    """
    with cluster.explained():
        found = _known(cluster, name)
        if _disable(cluster, found):
            time.sleep(_REPORTING.total_seconds())  # a run may have started that is not listed yet
        kept = [(one, run) for one in found if (run := _in_progress(cluster, one))]
        for one in found:
            if one not in [busy for busy, _ in kept]:
                _delete(cluster, one)
    for _, run in kept:
        tell(f"{name} is disabled; run remove again when its run in progress has finished: {run.url}")
    if not kept:
        tell(f"{name} is removed")
    return not kept


def status(cluster: Cluster, name: str = "") -> list[Schedule]:
    """The schedules that were made here, by name, each with its newest runs.

    Args:
        cluster: from ``client.connect``.
        name: of one; empty for all.

    Raises:
        InputError: there is none of that name, or the server forbids it.
    """
    with cluster.explained():
        found = _known(cluster, name) if name else _listed(cluster)
        newest = [next(group) for _, group in groupby(found, key=lambda one: one.name)]
        return [Schedule(**{**vars(one), "runs": tuple(_runs(cluster, one, _RUNS_SHOWN))}) for one in newest]


def warnings_of_others(cluster: Cluster) -> Iterator[str]:
    """A line for each recurring run made in the form of the web pages that makes up for what it missed, or overlaps.

    Args:
        cluster: from ``client.connect``.

    Raises:
        InputError: the server forbids it.
    """
    with cluster.explained():
        others = [one for one in _recurring_runs(cluster) if not _MARK.search(one.description or "")]
    for one in others:
        faults = []
        if int(one.max_concurrency or 1) > 1:
            faults.append(f"up to {one.max_concurrency} runs at once")
        if not one.no_catchup:
            faults.append("catch-up of runs that were missed")
        if faults and one.status == "ENABLED":
            yield (
                f"warning: the recurring run {one.display_name!r} has {' and '.join(faults)}; "
                f"set 1 run and no catch-up, or use `schedule`: {cluster.schedule_url(one.recurring_run_id)}"
            )


def _now() -> datetime:
    return datetime.now(UTC)


def _seconds(every: str) -> int:
    match = re.fullmatch(r"(\d+)([smhd])", every.strip())
    if not match:
        raise InputError(f"every={every!r} is not an interval: write 30s, 5m, 2h or 1d")
    seconds = int(match[1]) * _UNITS[match[2]]
    if seconds < SHORTEST.total_seconds():
        raise InputError(f"every={every!r} is too often: {_TOO_OFTEN}")
    return seconds


def _frequent(cron: str) -> str:
    gap = parse_cron(cron).shortest_gap()
    if gap is not None and gap < SHORTEST:
        raise InputError(f"cron {cron!r} would run every {span(gap)}: {_TOO_OFTEN}")
    return " ".join(cron.split())


_TOO_OFTEN = f"the server checks every {span(SHORTEST)}, which is the minimum"


def _utc(text: str) -> str:
    if not text:
        return ""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InputError(f"{text!r} is not a time: write 2026-01-31T08:00:00Z or 2026-01-31T08:00:00+01:00") from None
    if moment.tzinfo is None:
        raise InputError(f"{text!r} has no time zone: append Z for UTC, or an offset such as +01:00")
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _checked_name(name: str) -> str:
    if name != name.strip() or not 0 < len(name) <= _LONGEST_NAME or not name.isprintable():
        raise InputError(f"name {name!r}: must have 1 to {_LONGEST_NAME} characters and no surrounding spaces")
    return name


def _refuse_strangers(cluster: Cluster, name: str) -> None:
    for one in _recurring_runs(cluster, filter=equals("display_name", name)):
        if not _MARK.search(one.description or ""):
            raise InputError(
                f"a recurring run {name!r} was not created with this command and is left unchanged: "
                f"give another --name, or delete it: {cluster.schedule_url(one.recurring_run_id)}"
            )


def _recurring_runs(cluster: Cluster, **query: Any) -> Iterator[Any]:
    request = cluster.client.recurring_runs.recurring_run_service_list_recurring_runs
    return cluster.pages(request, "recurring_runs", namespace=cluster.namespace or "", **query)


def _listed(cluster: Cluster, **query: Any) -> list[Schedule]:
    """What was made here, by name and, of one name, newest first."""
    found = _recurring_runs(cluster, **query)
    made_here = [_schedule(cluster, one, mark) for one in found if (mark := _MARK.search(one.description or ""))]
    return sorted(made_here, key=lambda one: (one.name, -one.number, one.created, one.id))


def _named(cluster: Cluster, name: str) -> list[Schedule]:
    return _listed(cluster, filter=equals("display_name", name))


def _known(cluster: Cluster, name: str) -> list[Schedule]:
    found = _named(cluster, name)
    if not found:
        names = dict.fromkeys(one.name for one in _listed(cluster))
        raise InputError(
            f"unknown schedule {name!r}: {'choose from ' + ', '.join(names) if names else 'there are none'}"
        )
    return found


def _schedule(cluster: Cluster, found: Any, mark: re.Match[str]) -> Schedule:
    cron, periodic = found.trigger.cron_schedule, found.trigger.periodic_schedule
    when = cron or periodic
    begun = when.start_time is not None and when.start_time <= found.created_at
    timing = Timing(
        interval=int(periodic.interval_second) if periodic else 0,
        cron=cron.cron if cron else "",
        start="" if begun else _rfc3339(when.start_time),
        end=_rfc3339(when.end_time),
    )
    return Schedule(
        id=found.recurring_run_id,
        name=found.display_name,
        url=cluster.schedule_url(found.recurring_run_id),
        enabled=found.status == "ENABLED",
        timing=timing,
        parameters=parameters.flat((found.runtime_config.parameters if found.runtime_config else None) or {}),
        created=found.created_at,
        counts_from=when.start_time if begun else found.created_at,
        number=int(mark[1]),
        fingerprint=mark[2],
    )


def _rfc3339(moment: datetime | None) -> str:
    return _utc(moment.isoformat()) if moment else ""


def _make(cluster: Cluster, order: _Order, previous: Schedule | None) -> None:
    start = order.timing.start
    if previous and order.timing.interval and not start:
        last = next(iter(_runs(cluster, previous, 1)), None)
        start = _rfc3339(last.created if last else previous.counts_from)
    version = cluster.version(order.package)
    cluster.client.create_recurring_run(
        cluster.experiment(order.experiment),
        order.name,
        description=order.description(previous.number + 1 if previous else 1),
        start_time=start or None,
        end_time=order.timing.end or None,
        interval_second=order.timing.interval or None,
        cron_expression=order.timing.cron or None,
        max_concurrency=1,
        no_catchup=True,
        params=dict(order.parameters),
        pipeline_id=version.pipeline,
        version_id=version.id,
        enabled=False,
        pipeline_root=order.pipeline_root or None,
        service_account=order.service_account or None,
    )


def _settle(cluster: Cluster, order: _Order, wait: bool, tell: Tell) -> Schedule:
    """Leave the newest alone enabled, and see that it stayed so: somebody else may be at it, too."""
    for _ in range(_ATTEMPTS):
        newest, *older = _known(cluster, order.name)
        changed = _disable(cluster, older)
        if newest.fingerprint != order.fingerprint:
            raise InputError(f"{order.name} was replaced by another user at the same time: check its status")
        if newest.enabled:
            return newest
        if wait:
            _let_finish(cluster, older, changed, tell)
        _switch(cluster, newest, "enable")
    raise InputError(f"{order.name} is being changed by another user: try again")


def _let_finish(cluster: Cluster, older: Iterable[Schedule], just_disabled: bool, tell: Tell) -> None:
    if just_disabled:
        time.sleep(_REPORTING.total_seconds())
    for one in older:
        if run := _in_progress(cluster, one):
            tell(f"waiting for the run in progress: {run.url}")
            follow(cluster, run.id, tell=tell)


def _tidy(cluster: Cluster, before: list[Schedule]) -> None:
    """Delete what earlier calls replaced. What was replaced only now may have a run that is not listed yet."""
    for successor, one in pairwise(before):
        certain = not one.enabled and _now() - successor.created >= _CERTAIN
        if certain and not _in_progress(cluster, one):
            _delete(cluster, one)


def _disable(cluster: Cluster, schedules: Iterable[Schedule]) -> bool:
    enabled = [one for one in schedules if one.enabled]
    for one in enabled:
        _switch(cluster, one, "disable")
    return bool(enabled)


def _switch(cluster: Cluster, one: Schedule, way: str) -> None:
    request = getattr(cluster.client.recurring_runs, f"recurring_run_service_{way}_recurring_run")
    request(one.id)


def _delete(cluster: Cluster, one: Schedule) -> None:
    try:
        cluster.client.recurring_runs.recurring_run_service_delete_recurring_run(
            one.id,
            propagation_policy="ORPHAN",  # spares its runs, from version 2.16 of the server
        )
    except ApiException as error:
        if error.status != 404:
            raise


def _in_progress(cluster: Cluster, one: Schedule) -> Run | None:
    return next((run for run in _runs(cluster, one, _RUNS_CHECKED) if not run.finished), None)


def _runs(cluster: Cluster, one: Schedule, count: int) -> list[Run]:
    """The newest runs, newest first."""
    query = {"filter": equals("recurring_run_id", one.id), "sort_by": "created_at desc"}
    found = cluster.pages(cluster.client.runs.run_service_list_runs, "runs", namespace=cluster.namespace or "", **query)
    return [
        Run(run.run_id, cluster.run_url(run.run_id), run.state or "", run.created_at) for run in islice(found, count)
    ]


def _change(before: list[Schedule], made: Schedule) -> str:
    if not before:
        return "is scheduled"
    if before[0].id != made.id:
        return "is replaced; a run in progress continues"
    return "is unchanged" if before[0].enabled else "is enabled again"
