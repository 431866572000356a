"""A job at a glance: its rounds and releases, what its workers run, what waits, and what failed."""

from __future__ import annotations

import re
from collections.abc import Container, Iterator, Sequence
from datetime import UTC, datetime
from typing import Literal

from pydantic import BaseModel

from components.core.job.failures import read_failures
from components.core.job.fleet import WorkerStatus
from components.core.job.hard_examples import FOLDER as HARD_EXAMPLES
from components.core.job.job import Job
from components.core.job.label_requests import read_lists
from components.core.job.state import Canary, Change, State
from components.core.stores.open import Store
from components.deploy.workers import read_reports
from components.report.report import read_kept
from pipelines.metrics import FIGURES, NO_MODEL

SHOWN_FIGURES = ("map50", "map50_95", "miou", "pixel_accuracy", "accuracy", "map50_delta", "miou_delta")
_ROUND_OF_REPORT = re.compile(r"reports/[^/]*-round-(\d+)\.json")
_ROUND_OF_VERSION = re.compile(r"r(\d+)-")

Outcome = Literal["champion", "canary", "pending", "deployed before", "not deployed"]


class Version(BaseModel):
    """One version that a round made.

    Attributes:
        version: its name.
        round: that made it; None for one that no round made.
        outcome: what became of it.
        stored: whether its bundle is still kept, so that the job can be rolled back to it.
        deployed: when it last became the champion, UTC; None: never.
        why: the reason of its last deployment, or why it was not deployed; empty where that is not known.
        figures: what its round's report says of it, by metric.
    """

    version: str
    round: int | None
    outcome: Outcome
    stored: bool
    deployed: datetime | None = None
    why: str = ""
    figures: dict[str, float] = {}


class Worker(BaseModel):
    """What one worker last reported.

    Attributes:
        node: the worker.
        status: its report; None where it cannot be read.
    """

    node: str
    status: WorkerStatus | None


class Failure(BaseModel):
    """A round that fails.

    Attributes:
        description: how often it has failed, where and why.
        rests_until: when it is tried again, UTC; None: at the next poll.
    """

    description: str
    rests_until: datetime | None


class Overview(BaseModel):
    """What is known of a job.

    Attributes:
        job_root: its address.
        round: the last one committed.
        champion: the deployed version; None before the first.
        generation: counts the changes of what the workers should run.
        pending: a candidate that waits for its deploy window.
        canary: a candidate that runs on some of the workers first.
        versions: those that the job remembers, the newest round last.
        history: the changes of the champion, oldest first.
        workers: those that reported within a day.
        label_requests: the number of images that the last round asks for.
        hard_examples: how many the workers have sent, in all.
        failure: what is known of the next round, if it failed.
    """

    job_root: str
    round: int
    champion: str | None
    generation: int
    pending: str | None
    canary: Canary | None
    versions: list[Version]
    history: list[Change]
    workers: list[Worker]
    label_requests: int
    hard_examples: int
    failure: Failure | None

    @classmethod
    def read(cls, job_root: str, now: datetime) -> Overview:
        """Look at a job.

        Args:
            job_root: its address.
            now: the time, with its zone.

        Raises:
            InputError: no job lies there, or its state or a list of label requests is damaged.
        """
        job = Job.open(job_root)
        state = job.read_existing()
        failures = read_failures(job.store)
        failed = failures if failures and failures.round == state.round + 1 else None
        requests = list(read_lists(job.store))
        return cls(
            job_root=job.store.uri,
            round=state.round,
            champion=state.champion,
            generation=state.generation,
            pending=state.pending,
            canary=state.canary,
            versions=_versions(state, job.versions_to_choose(state), _figures(job.store, state)),
            history=list(state.history),
            workers=[Worker(node=node, status=status) for node, status in sorted(read_reports(job).items())],
            label_requests=len(requests[-1].images) if requests else 0,
            hard_examples=sum(info.key.endswith(".json") for info in job.store.list(HARD_EXAMPLES)),
            failure=Failure(description=failed.describe(), rests_until=failed.rests_until(now)) if failed else None,
        )

    def lines(self) -> Iterator[str]:
        """The same for people to read."""
        yield f"{self.job_root}: {self.round} rounds, the champion is {self.champion or 'none yet'}"
        metrics = [name for name in SHOWN_FIGURES if any(name in one.figures for one in self.versions)]
        rows = [["version", "outcome", *metrics, "deployed", "why"]]
        for one in self.versions:
            figures = [f"{one.figures[name]:.3f}" if name in one.figures else "-" for name in metrics]
            rows.append(
                [
                    one.version,
                    one.outcome if one.stored else f"{one.outcome}, removed",
                    *figures,
                    _time(one.deployed),
                    one.why or "-",
                ]
            )
        yield from _table("releases", rows)
        rows = [["worker", "runs", "state", "frames", "reported", "error"]]
        for worker in self.workers:
            status = worker.status
            rows.append(
                [worker.node, status.version, status.state, str(status.frames), _time(status.time), status.error or "-"]
                if status
                else [worker.node, "?", "report cannot be read", "-", "-", "-"]
            )
        yield from _table("workers, as reported within a day", rows)
        yield ""
        yield from self._waiting()

    def _waiting(self) -> Iterator[str]:
        if self.pending:
            yield f"{self.pending} waits for the deployment window"
        if self.canary:
            nodes = ", ".join(self.canary.nodes)
            yield (
                f"{self.canary.version} is a canary on {nodes} until {_time(self.canary.until)}, "
                f"{self.canary.frames} images each"
            )
        yield f"{self.label_requests} images to label (to-label/), {self.hard_examples} hard examples from workers"
        if self.failure:
            again = (
                f"it will be retried after {_time(self.failure.rests_until)}"
                if self.failure.rests_until
                else "it will be retried at the next poll"
            )
            yield f"{self.failure.description}; {again}"


def _versions(state: State, stored: Container[str], figures: dict[int, dict[str, float]]) -> list[Version]:
    changes = {change.version: change for change in state.history}
    names = sorted({*state.vouched, *changes}, key=lambda version: (_round_of(version) or 0, version))
    canary = state.canary.version if state.canary else None
    found = []
    for version in names:
        outcome: Outcome = "not deployed"
        if version == state.champion:
            outcome = "champion"
        elif version == canary:
            outcome = "canary"
        elif version == state.pending:
            outcome = "pending"
        elif version in changes:
            outcome = "deployed before"
        change, number = changes.get(version), _round_of(version)
        found.append(
            Version(
                version=version, round=number, outcome=outcome, stored=version in stored,
                deployed=change.at if change else None, why=change.why if change else state.judged.get(version, ""),
                figures=figures.get(number or 0, {}),
            )
        )  # fmt: skip
    return found


def _round_of(version: str) -> int | None:
    found = _ROUND_OF_VERSION.match(version)
    return int(found[1]) if found else None


def _figures(store: Store, state: State) -> dict[int, dict[str, float]]:
    """The figures of each round's last report; a store may list them in any order."""
    listed = sorted(info.key for info in store.list("reports/") if FIGURES.fullmatch(info.key))
    keys = {int(found[1]): key for key in listed if (found := _ROUND_OF_REPORT.fullmatch(key))}
    figures = {number: _read_figures(store, key)[1] for number, key in keys.items()}
    # The report of a single run, as of helmet-detection, says which run it is of, and the job which run its round.
    rounds = {run: number for number in range(1, state.round + 1) if (run := state.run_of(number))}
    for key in listed:
        if not _ROUND_OF_REPORT.fullmatch(key) and NO_MODEL not in key:
            run, values = _read_figures(store, key)
            if run in rounds:
                figures[rounds[run]] = values
    return figures


def _read_figures(store: Store, key: str) -> tuple[str, dict[str, float]]:
    """Run and figures of one file; none where it is damaged, since the report beside it is what counts."""
    try:
        return read_kept(store, key)
    except (ValueError, RecursionError):
        return "", {}


def _time(at: datetime | None) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M} UTC" if at else "-"


def _table(title: str, rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Rows under a title, with columns that line up; nothing if there are none but the headers."""
    if len(rows) == 1:
        return
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    yield f"\n{title}"
    for row in rows:
        yield "  " + "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
