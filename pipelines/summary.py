"""What the command line prints of a run: few figures, where model and report are, the outcome and its reason last."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from components.core.job.job import Job
from components.core.job.state import State
from components.core.stores.addresses import shown

DECIDING = ("promote", "judge", "calibrate", "evaluate_tasks")  # steps whose words say what becomes of a model
_OF_CLASS = re.compile(r"(.+)\[(.+)\]")


@dataclass
class Outcome:
    """What became of a model, as the step that decided said.

    Attributes:
        line: its words; empty where none decided.
    """

    line: str = ""

    def hear(self, step: str, words: str) -> None:
        """Take note of a line that a step says."""
        if step in DECIDING and re.match(r"(promoted|pending|rejected|error|not deployed): ", words):
            self.line = words


def figures(values: Mapping[str, float]) -> Iterator[str]:
    """The lines of the figures over all test images: those of the whole, then a table of those per class.

    Args:
        values: by name; those of single test sets (``core.map50``) are left to the report.
    """
    over_all = {name: value for name, value in values.items() if "." not in name.partition("[")[0]}
    whole = {name: value for name, value in over_all.items() if "[" not in name}
    for name, value in whole.items():
        yield f"  {name:{max(map(len, whole))}}  {value:.4g}"
    split = [found for name in over_all if (found := _OF_CLASS.fullmatch(name))]
    metrics = list(dict.fromkeys(found[1] for found in split if not found[1].endswith("_rel")))
    rows = [["class", *metrics]]
    for name in dict.fromkeys(found[2] for found in split):
        cells = (over_all.get(f"{metric}[{name}]") for metric in metrics)
        rows.append([name, *("-" if value is None else f"{value:.4g}" for value in cells)])
    if len(rows) > 1:
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        yield ""
        yield from ("  " + "  ".join(f"{c:>{w}}" for c, w in zip(row, widths, strict=True)) for row in rows)


def models(runs: Path) -> set[Path]:
    """The models that runs have made, below the folder where they keep their artifacts."""
    return set(runs.glob("*/convert/converted"))


def places(job: Job, before: State, made: Collection[Path], reports: Sequence[str]) -> Iterator[str]:
    """Where the model of a run is, and its reports.

    Args:
        job: that the run belongs to.
        before: its state before the run.
        made: the models that the run has made.
        reports: addresses of the new reports.
    """
    after, _ = job.read()
    if after.round > before.round and after.candidate:
        yield f"model: {shown(job.store.uri_of(f'bundles/{after.candidate}'))}"
    elif reports:
        yield from (f"model: {path}" for path in sorted(made))
    yield from (f"report: {shown(report)}" for report in reports)
    if after.champion != before.champion:
        yield f"champion: {after.champion}, before: {before.champion or 'none'}"
