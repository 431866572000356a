"""The leaderboard of a benchmark: algorithms in order, as CSV and as a page, made of the rows of the cases alone."""

from __future__ import annotations

import csv
import io
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from components.benchmark.row import FIGURES, Row
from components.core.colours import colour_of
from components.core.errors import InputError
from components.core.parameters.check import unknown
from components.core.reports import page as reports
from components.core.tasks.base import listed

SHOWN = (
    "map50", "map50_95", "f1", "f1_ianvs", "samples_transfer_ratio", "labelled_images", "labelled_boxes",
    "sample_epochs",
)  # fmt: skip
SHOWN_OF_TASKS = ("retention", "forgetting", "backward_transfer")  # beside the score on each
DASHES = {"": "-", "frozen": ":", "random": "--", "full": "-."}
NO_SPREAD = "–"  # noqa: RUF001 - of a single seed
COUNTS = ("labelled_images", "labelled_boxes", "sample_epochs")
LEAST_SPAN = 0.1  # of the axis of scores: less would make much of nothing


@dataclass(frozen=True)
class Entry:
    """One algorithm over its seeds.

    Attributes:
        rank: from 1; algorithms without any figure come last and have none.
        rows: one for each seed.
        mean: of each figure, over the seeds that have it.
        spread: standard deviation (n - 1) of each figure that two or more seeds have.
    """

    rank: int | None
    rows: tuple[Row, ...]
    mean: Mapping[str, float]
    spread: Mapping[str, float]

    @property
    def name(self) -> str:
        """Of the algorithm."""
        return self.rows[0].algorithm

    @property
    def done(self) -> list[Row]:
        """The rows of seeds that did not fail."""
        return [row for row in self.rows if not row.error]


def check_sort(sort_by: Sequence[str]) -> None:
    """See that every name to sort by is a figure.

    Raises:
        InputError: one is not.
    """
    wrong = [name for name in sort_by if name not in FIGURES]
    if wrong:
        raise InputError(f"sort_by: {unknown(wrong[0], FIGURES, 'figure of the leaderboard')}")


def rank(rows: Sequence[Row], sort_by: Sequence[str]) -> list[Entry]:
    """Put algorithms in order.

    Args:
        rows: of all cases.
        sort_by: figures by which they are compared, the first one first; the best comes first. An algorithm that
            lacks a figure comes after those that have it.
    """
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.algorithm, []).append(row)
    entries = [_entry(sorted(group, key=lambda row: row.seed)) for group in groups.values()]

    def place(entry: Entry) -> tuple[Any, ...]:
        values = ((entry.mean.get(name), FIGURES[name]) for name in sort_by)
        keys = [(value is None, 0.0 if value is None else -value if more else value) for value, more in values]
        return (not entry.done, *keys, entry.name)

    ordered = sorted(entries, key=place)
    return [
        Entry(number if entry.done else None, entry.rows, entry.mean, entry.spread)
        for number, entry in enumerate(ordered, 1)
    ]


def as_csv(entries: Sequence[Entry]) -> str:
    """One line for each algorithm: mean and standard deviation of every figure, and where they come from."""
    names = _names(entries)
    head = ["rank", "algorithm", "baseline", "seeds", "failed"]
    head += [column for name in names for column in (name, f"{name}_std")]
    lines = []
    for entry in entries:
        values = [value for name in names for value in (entry.mean.get(name, ""), entry.spread.get(name, ""))]
        seeds = " ".join(str(row.seed) for row in entry.rows)
        failed = len(entry.rows) - len(entry.done)
        lines.append([entry.rank or "", entry.name, entry.rows[0].baseline, seeds, failed, *values, *_origin(entry)])
    return _written([*head, *_ORIGIN, "settings"], lines)


def cases_csv(rows: Sequence[Row]) -> str:
    """One line for each case, with its figures or the reason why it has none."""
    names = [name for name in FIGURES if any(name in row.figures for row in rows)]
    head = ["case", "algorithm", "baseline", "seed", "error", *names, "created", *_ORIGIN, "settings"]
    return _written(
        head,
        [
            [row.case, row.algorithm, row.baseline, row.seed, row.error, *(row.figures.get(name, "") for name in names),
             row.created, *_origin_of(row), json.dumps(row.settings, sort_keys=True)]
            for row in rows
        ],
    )  # fmt: skip


def sections(entries: Sequence[Entry]) -> list[reports.Section]:
    """The page: the table, curves by round and labels, the matrix of tasks, what failed, each round, and settings."""
    return [
        reports.Section("Leaderboard", _warning(entries) + _table(entries)),
        *([reports.Section("Curves", _curves(entries))] if any(entry.done for entry in entries) else []),
        *_class_sections(entries),
        *_failures(entries),
        reports.Section(
            "Rounds", reports.folded("What was labelled, trained and accepted in each round", _rounds(entries))
        ),
        reports.Section("Cases", _origins(entries)),
    ]


_ORIGIN = ("stream", "data", "code", "hardware")


def _entry(rows: Sequence[Row]) -> Entry:
    done = [row.figures for row in rows if not row.error]
    values = {name: [one[name] for one in done if name in one] for name in FIGURES}
    mean = {name: statistics.mean(found) for name, found in values.items() if found}
    spread = {name: statistics.stdev(found) for name, found in values.items() if len(found) > 1}
    return Entry(None, tuple(rows), mean, spread)


def _names(entries: Sequence[Entry]) -> list[str]:
    return [name for name in FIGURES if any(name in entry.mean for entry in entries)]


def _origin(entry: Entry) -> list[str]:
    """Where the figures of an algorithm come from; all that its seeds say, if they differ."""
    columns = zip(*(_origin_of(row) for row in entry.rows), strict=True)
    return [
        *(" | ".join(dict.fromkeys(column)) for column in columns), json.dumps(entry.rows[0].settings, sort_keys=True)
    ]  # fmt: skip


def _origin_of(row: Row) -> list[str]:
    stream = ", ".join(f"{name}={value}" for name, value in row.stream.items())
    code = ", ".join([row.code, *(f"{name} {digest}" for name, digest in row.content.items())])
    return [stream, row.data, code, "; ".join(f"{name}: {value}" for name, value in row.hardware.items())]


def _written(head: Sequence[str], lines: Sequence[Sequence[object]]) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(lines)
    return file.getvalue()


def _warning(entries: Sequence[Entry]) -> Markup:
    """How much failed, before anything is read from what did not."""
    rows = [row for entry in entries for row in entry.rows]
    failed = sum(bool(row.error) for row in rows)
    return reports.note(f"{failed} of {len(rows)} cases failed, see below.", "warn") if failed else Markup()


def _table(entries: Sequence[Entry]) -> Markup:
    names = [name for name in SHOWN if name in _names(entries)]
    lines = [
        [entry.rank or NO_SPREAD, entry.name, f"{len(entry.done)} of {len(entry.rows)}",
         *(_with_spread(entry, name) for name in names)]
        for entry in entries
    ]  # fmt: skip
    caption = (
        "Means over the seeds, and the standard deviation where there are two or more. f1_ianvs and "
        "samples_transfer_ratio are computed as KubeEdge ianvs does: missed objects in images without any detection "
        "of their class do not count there. precision, recall and f1 count every object, at IoU 0.5."
    )
    return reports.table(["rank", "algorithm", "seeds", *map(_title, names)], lines, caption)


def _title(name: str) -> str:
    return name.replace("_", " ")


def _with_spread(entry: Entry, name: str) -> str:
    if name not in entry.mean:
        return NO_SPREAD
    mean, spread = entry.mean[name], entry.spread.get(name)
    digits = (0 if mean.is_integer() or mean >= 100 else 1) if name in COUNTS else 3
    if spread is None or (name in COUNTS and not spread):
        return f"{mean:,.{digits}f}"
    return Markup("{} <small>± {}</small>").format(f"{mean:,.{digits}f}", f"{spread:,.{digits}f}")


def _curves(entries: Sequence[Entry]) -> Markup:
    """mAP50 after each round and by labels, and by task; the band is one standard deviation on either side."""
    from matplotlib.ticker import MaxNLocator

    figures = [reports.new_figure(5.4, 3.8) for _ in range(2)]
    by_round, by_labels = (figure.subplots() for figure in figures)
    done, ends = [entry for entry in entries if entry.done], list[float]()
    for number, entry in enumerate(done):
        rounds = list(zip(*(row.rounds for row in entry.done), strict=False))
        means = [statistics.mean(one.metrics["map50"] for one in found) for found in rounds]
        spreads = [statistics.stdev([one.metrics["map50"] for one in f]) if len(f) > 1 else 0.0 for f in rounds]
        boxes = [statistics.mean(one.labelled_boxes for one in found) for found in rounds]
        style: dict[str, Any] = {"color": colour_of(number), "linestyle": DASHES[entry.rows[0].baseline], "marker": "."}
        places = range(1, len(means) + 1)
        by_round.plot(places, means, **style)
        lows, highs = ([m + sign * s for m, s in zip(means, spreads, strict=True)] for sign in (-1, 1))
        by_round.fill_between(places, lows, highs, color=style["color"], alpha=0.12, linewidth=0)
        by_labels.plot(boxes, means, **style)
        ends += [*lows, *highs]
    middle, half = (max(ends) + min(ends)) / 2, max(max(ends) - min(ends), LEAST_SPAN) * 0.55
    for axes, label in ((by_round, "round"), (by_labels, "labelled boxes")):
        axes.set(
            xlabel=label, ylabel="mAP50 on the test set", ylim=(max(middle - half, -0.02), min(middle + half, 1.02))
        )
        axes.grid(alpha=0.25)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    captions = ("After each round; the band is one standard deviation.", "By what has been labelled; means.")
    drawn = [reports.figure(*pair) for pair in zip(figures, captions, strict=True)]
    return reports.legend([entry.name for entry in done]) + reports.side_by_side(drawn) + _tasks(entries)


def _tasks(entries: Sequence[Entry]) -> Markup:
    """mAP50 on each task after the last round, and folded away after each round."""
    tasks = list(dict.fromkeys(name for entry in entries for row in entry.done for name in row.rounds[-1].tasks))
    if len(tasks) < 2:
        return Markup()
    kept = [name for name in SHOWN_OF_TASKS if name in _names(entries)]
    lines, every = [], []
    for entry in entries:
        for number, found in enumerate(zip(*(row.rounds for row in entry.done), strict=False), 1):
            # With few samples a task may be in the test samples of some seeds alone.
            scores = [[one.tasks[name] for one in found if name in one.tasks] for name in tasks]
            means = [statistics.mean(each) if each else NO_SPREAD for each in scores]
            every.append([entry.name, found[0].name, *means])
            if number == len(entry.done[0].rounds):
                lines.append([entry.name, *means, *(_with_spread(entry, name) for name in kept)])
    head = ["algorithm", *tasks, *map(_title, kept)]
    shown = reports.table(head, lines, "mAP50 on each task after the last round, and what is left of what was learned.")
    matrix = reports.table(["algorithm", "after round", *tasks], every, "mAP50 on each task after each round.")
    return shown + reports.folded("After each round", matrix)


def _rounds(entries: Sequence[Entry]) -> Markup:
    """Each round of each case: the labels that it took, its training, and what became of the candidate."""
    lines = [
        [entry.name, row.seed, one.name, one.inferred, one.transferred, one.labelled_boxes, one.trained, one.replayed,
         one.accepted, NO_SPREAD if one.gain is None else f"{one.gain:+.3f}", one.metrics["map50"], one.metrics["f1"]]
        for entry in entries for row in entry.done for one in row.rounds
    ]  # fmt: skip
    head = ["algorithm", "seed", "round", "inferred", "sent for labels", "labelled boxes", "trained on", "replayed",
            "accepted", "gain", "mAP50", "F1"]  # fmt: skip
    return reports.table(head, lines, "Gain: of the candidate over the champion, in the metric of the gate.")


def _class_sections(entries: Sequence[Entry]) -> list[reports.Section]:
    """Samples without labels of a class, and pseudo-labels, where there were any."""
    lines = [
        [entry.name, row.seed, one.name, listed(one.lacking), row.settings["fill_unlabelled"], listed(one.filled)]
        for entry in entries for row in entry.done for one in row.rounds if one.lacking
    ]  # fmt: skip
    if not lines:
        return []
    caption = "Samples that were labelled without a class, and the champion's confident boxes of it."
    head = ["algorithm", "seed", "round", "samples without labels", "fill_unlabelled", "champion's boxes"]
    table = reports.table(head, lines, caption)
    folded = reports.folded("What was not labelled and what the champion found of it, in each round", table)
    return [reports.Section("Classes that were not labelled", folded)]


def _failures(entries: Sequence[Entry]) -> list[reports.Section]:
    failed = [row for entry in entries for row in entry.rows if row.error]
    if not failed:
        return []
    body = reports.note(f"{len(failed)} cases failed; run the benchmark again to repeat these alone.", "warn")
    table = reports.table(["algorithm", "seed", "reason"], [[row.algorithm, row.seed, row.error] for row in failed])
    return [reports.Section("Failed cases", body + table)]


def _origins(entries: Sequence[Entry]) -> Markup:
    lines = [
        [row.algorithm, row.seed, row.case, row.created, *_origin_of(row)] for entry in entries for row in entry.rows
    ]
    settings = [
        [entry.name, ", ".join(f"{name}={value}" for name, value in entry.rows[0].settings.items())]
        for entry in entries
    ]
    body = reports.table(["algorithm", "settings"], settings)
    return body + reports.folded(
        "Data, code and hardware of each case",
        reports.table(["algorithm", "seed", "case", "finished", *_ORIGIN], lines),
    )
