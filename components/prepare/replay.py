"""The data of one round: what is new, what is replayed so that nothing is forgotten, and what is measured on.

Four rules hold over all rounds:

- A sample that has once been given a split keeps it, whatever the ratios and the seed are later; a new sample goes
  where its group went. So no image is ever trained on in one round and measured on in another.
- The round of a sample is the one that brought its first label. A label that comes again with other boxes, or another
  mask, replaces the old ones and nothing else; the sample is trained on as a new one.
- The core set is frozen: the test samples of the first rounds. Later rounds add nothing to it and take nothing away.
  Corrected labels are corrected there too, since candidate and champion are both measured on it anew in each round.
- A class that comes later was not labelled in older samples, see :mod:`components.prepare.label_sets`.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import polars as pl

from components.core.errors import InputError
from components.core.manifest import SCHEMA, Manifest
from components.core.reports import page as reports
from components.prepare import label_sets
from components.prepare.balance import class_warnings
from components.prepare.splits import LABELS, Splits, is_labelled, too_few_tests

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RoundData:
    """What a round works on.

    Attributes:
        manifest: every sample taken in so far, this round's among them, with round and split; the unlabelled have no
            split. It becomes the job's when the round commits.
        training: the samples to train on (split ``train``) and those that choose the best epoch (``val``).
        core: the frozen test samples of the first rounds.
        recent: the test samples of the last rounds; early in a job it shares samples with ``core``.
        counts: samples by what they are: ``new_labels`` of this round, ``relabelled`` and ``new_train`` among them,
            ``replayed``, ``train``, ``val``, ``core``, ``recent``, ``unlabelled`` and ``all``.
    """

    manifest: Manifest
    training: Manifest
    core: Manifest
    recent: Manifest
    counts: dict[str, int]

    @property
    def warnings(self) -> list[str]:
        """What may go wrong for want of boxes of a class in training or in the test sets, a line each."""
        tests = pl.concat([self.core.table, self.recent.table]).unique("id", maintain_order=True)
        return class_warnings(Manifest(pl.concat([self.training.table, tests]), self.manifest.classes))

    def budget(self, epochs: int) -> dict[str, int]:
        """What the round costs: labels drawn by people, samples replayed, and samples times epochs of training."""
        return {
            "new_labels": self.counts["new_labels"],
            "replayed": self.counts["replayed"],
            "sample_epochs": self.counts["train"] * epochs,
        }


def round_manifest(
    known: Manifest | None,
    new: Manifest,
    *,
    round_number: int,
    train_ratio: float = 0.8,
    val_ratio: float = 0.1,
    seed: int = 0,
    replay_ratio: float = 1.0,
    replay_limit: int = 5000,
    val_limit: int = 2000,
    core_rounds: int = 1,
    recent_rounds: int = 3,
    min_test_samples: int = 20,
    purpose: Literal["learn", "train", "evaluate"] = "learn",
) -> RoundData:
    """Take the new samples in and choose what the round trains and is measured on.

    Args:
        known: every sample taken in by earlier rounds; None in the first.
        new: what has arrived, with its groups; classes are joined by name.
        round_number: of this round; above that of every known sample.
        train_ratio: share of new groups for training.
        val_ratio: share for choosing the best epoch; the rest is for testing.
        seed: of splits and draws.
        replay_ratio: samples of earlier rounds trained on again, for each new one.
        replay_limit: most samples to replay.
        val_limit: most samples to choose the epoch by, out of those of all rounds.
        core_rounds: how many of the first rounds give the core set.
        recent_rounds: how many of the last rounds give the recent set.
        min_test_samples: while either set has fewer, it takes in the next round too.
        purpose: ``learn`` from what is new; ``train`` even if nothing is, on a replay of ``replay_limit`` samples; or
            ``evaluate`` alone.

    Raises:
        InputError: nothing to train on, to choose the epoch by or to test on; a setting out of range; or a round that
            does not follow the known ones.
    """
    _check(replay_ratio, replay_limit, val_limit, core_rounds, recent_rounds)
    before = known or Manifest.of([], new.classes)
    last = before.table["round"].max()
    if isinstance(last, int) and round_number <= last:
        raise InputError(
            f"round_number={round_number} must be greater than {last}, the last round that took in samples"
        )
    renamed = _join_classes(before, new)
    fresh, relabelled = _sort_out(before, renamed, round_number)
    splits = Splits(
        before, fresh, train_ratio=train_ratio, val_ratio=val_ratio, seed=seed, min_test_samples=min_test_samples
    )
    arrived = [*({**row, "split": splits.of(row)} for row in fresh), *relabelled]
    everything = _merge(before, arrived, renamed.classes)

    labelled = [row["id"] for row in arrived if is_labelled(row)]
    is_new = pl.col("id").is_in(labelled)
    train, val = everything.split("train"), everything.split("val")
    new_train = train.where(is_new)
    wanted = replay_limit if purpose == "train" and not len(new_train) else round(replay_ratio * len(new_train))
    replayed = draw(train.where(~is_new), min(wanted, replay_limit), f"{seed}:{round_number}")
    validation = draw(val, val_limit, f"{seed}")
    core, recent = _test_sets(everything, round_number, core_rounds, recent_rounds, min_test_samples)

    counts = {
        "new_labels": len(labelled),
        "relabelled": len(relabelled),
        "new_train": len(new_train),
        "replayed": len(replayed),
        "train": len(new_train) + len(replayed),
        "val": len(validation),
        "core": len(core),
        "recent": len(recent),
        "unlabelled": len(everything) - len(everything.labelled()),
        "all": len(everything),
    }
    _check_enough(counts, purpose)
    training = pl.concat([new_train.table, replayed.table, validation.table]).sort("id")
    data = RoundData(everything, Manifest(training, everything.classes), core, recent, counts)
    for warning in data.warnings if purpose != "evaluate" else ():
        logger.warning("%s", warning)
    return data


def check_test_set(data: RoundData, min_samples: int) -> None:
    """Make sure, before anything is trained, that the gate will have enough samples.

    Args:
        data: of the round.
        min_samples: how many labelled test images the gate needs.

    Raises:
        InputError: there are fewer.
    """
    have = len({*data.core.table["id"], *data.recent.table["id"]})
    if have < min_samples:
        raise InputError(f"{too_few_tests(have, min_samples)}; training was not started")


def with_run(known: Manifest | None, run: Manifest, round_number: int) -> Manifest:
    """Every sample of a job, with those of a single run among them.

    Args:
        known: every sample taken in by earlier rounds; None in the first.
        run: the samples of the run, with their splits; known ones keep theirs.
        round_number: that the run counts as.

    Raises:
        InputError: the run numbers the classes of its masks in another way than the job.
    """
    before = known or Manifest.of([], run.classes)
    renamed = _join_classes(before, run)
    fresh, relabelled = _sort_out(before, renamed, round_number)
    return _merge(before, [*fresh, *relabelled], renamed.classes)


def draw(pool: Manifest, size: int, key: str) -> Manifest:
    """Draw labelled samples, rare classes more often than common ones.

    A sample weighs the sum, over the classes in it, of one divided by the number of samples with that class. Those
    without any box keep their share of the pool and weigh the same, with a mask or without one. What is drawn depends
    on the ids, the labels and the key, not on the order of the rows.

    Args:
        pool: labelled samples.
        size: how many; all where there are no more.
        key: another key, another draw.

    Returns:
        The samples, sorted by id.
    """
    if size >= len(pool):
        return Manifest(pool.table.sort("id"), pool.classes)
    weights = _weights(pool)
    negatives = {id_: 1.0 for id_ in pool.table["id"] if id_ not in weights}
    share = round(size * len(negatives) / len(pool))
    chosen = [*_heaviest(negatives, share, key), *_heaviest(weights, size - share, key)]
    return Manifest(pool.table.filter(pl.col("id").is_in(chosen)).sort("id"), pool.classes)


def section(data: RoundData, epochs: int) -> reports.Section:
    """The counts of a round and what it costs, for its report."""
    shown = data.counts | data.budget(epochs)
    body = reports.facts({k.replace("_", " "): v for k, v in shown.items()})
    for warning in data.warnings:
        body += reports.note(warning, "warn")
    return reports.Section("Samples of the round", body)


def _join_classes(known: Manifest, new: Manifest) -> Manifest:
    """The new samples with the classes of the known ones, followed by those that are new.

    Raises:
        InputError: that would change the numbers of classes, and the new samples have masks, which are blobs.
    """
    classes = (*known.classes, *(name for name in new.classes if name not in known.classes))
    places = [classes.index(name) for name in new.classes]
    if places == list(range(len(places))):
        return Manifest(new.table, classes)
    if new.has_masks:
        raise InputError(
            f"the new masks have the classes {list(new.classes)}, but the job has {list(known.classes)}: ingest them "
            "again through the job's feed, which assigns the job's class ids"
        )
    rows = [
        {
            **row,
            "annotations": _renumbered(row["annotations"], places),
            "unlabelled_classes": row["unlabelled_classes"] and [places[one] for one in row["unlabelled_classes"]],
        }
        for row in new.rows()
    ]
    return Manifest.of(rows, classes)


def _renumbered(annotations: Sequence[Mapping[str, Any]] | None, places: Sequence[int]) -> list[dict[str, Any]] | None:
    if annotations is None:
        return None
    return [{**box, "class_id": places[box["class_id"]]} for box in annotations]


def _sort_out(known: Manifest, new: Manifest, number: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The rows that are new or labelled for the first time, and those whose boxes or mask have changed."""
    before = {row["id"]: row for row in known.where(pl.col("id").is_in(new.table["id"].to_list())).rows()}
    fresh, relabelled = [], []
    for row in new.rows():
        old = before.get(row["id"])
        if old is None or (not is_labelled(old) and is_labelled(row)):
            fresh.append({**row, "round": number})
            continue
        changed = {label: row[label] for label in LABELS if row[label] is not None and row[label] != old[label]}
        if changed:
            relabelled.append(
                {**row, **{label: old[label] for label in (*LABELS, "split", "group", "round")}, **changed}
            )
    return fresh, relabelled


def _merge(known: Manifest, arrived: Sequence[Mapping[str, Any]], classes: tuple[str, ...]) -> Manifest:
    kept = label_sets.of_known(known, classes).table.filter(~pl.col("id").is_in([row["id"] for row in arrived]))
    had = range(len(known.classes)) if len(known.labelled()) else ()
    added = pl.DataFrame(label_sets.of_arrivals(arrived, had), schema=SCHEMA)
    return Manifest(pl.concat([kept, added]).sort("round", "id"), classes)


def _weights(pool: Manifest) -> dict[str, float]:
    """How much each sample with boxes weighs."""
    present = pool.boxes().select("id", "class_id").unique().sort("id", "class_id")
    each = present.with_columns(weight=1 / pl.len().over("class_id"))
    return dict(each.group_by("id", maintain_order=True).agg(pl.col("weight").sum()).iter_rows())


def _heaviest(weights: Mapping[str, float], size: int, key: str) -> list[str]:
    """A weighted draw without replacement: each sample waits for a time that is the shorter the more it weighs.

    The times are exponential (Efraimidis and Spirakis, 2006), made from a hash, so that no sample's depends on another.
    """

    def time(id_: str) -> float:
        digest = hashlib.sha256(f"{key}:{id_}".encode()).digest()
        return -math.log((int.from_bytes(digest[:8], "big") + 0.5) / 2**64) / weights[id_]

    return sorted(weights, key=lambda id_: (time(id_), id_))[:size]


def _test_sets(
    everything: Manifest, number: int, core_rounds: int, recent_rounds: int, least: int
) -> tuple[Manifest, Manifest]:
    tests = everything.split("test")
    counts = dict(tests.table.group_by("round").len().iter_rows())
    first = everything.labelled().table["round"].min()
    start = first if isinstance(first, int) else number
    core = _rounds(range(start, number + 1), counts, core_rounds, least)
    recent = _rounds(range(number, start - 1, -1), counts, recent_rounds, least)
    return tests.where(pl.col("round").is_in(core)), tests.where(pl.col("round").is_in(recent))


def _rounds(numbers: Iterable[int], counts: Mapping[int, int], wanted: int, least: int) -> list[int]:
    """The first of some rounds, and more while they have too few samples.

    Whether a round is in depends on the rounds before it alone, which is what freezes the core set.
    """
    chosen: list[int] = []
    samples = 0
    for number in numbers:
        if len(chosen) >= wanted and samples >= least:
            break
        if number in counts:  # a round may have brought nothing
            chosen.append(number)
            samples += counts[number]
    return chosen


def _check(replay_ratio: float, replay_limit: int, val_limit: int, core: int, recent: int) -> None:
    if not (math.isfinite(replay_ratio) and replay_ratio >= 0):
        raise InputError(f"replay_ratio={replay_ratio} must be a number >= 0")
    bounds = {"replay_limit": (replay_limit, 0), "val_limit": (val_limit, 1)}
    bounds |= {"core_rounds": (core, 1), "recent_rounds": (recent, 1)}
    for name, (value, least) in bounds.items():
        if value < least:
            raise InputError(f"{name}={value} must be >= {least}")


def _check_enough(counts: Mapping[str, int], purpose: str) -> None:
    needs = {
        "new_train": "new training sample",
        "train": "training sample",
        "val": "validation sample",
        "recent": "test sample",
    }
    needed = {"learn": ("new_train", "val", "recent"), "train": ("train", "val", "recent"), "evaluate": ("recent",)}
    lacking = [needs[name] for name in needed[purpose] if not counts[name]]
    if lacking:
        raise InputError(
            f"no {' and no '.join(lacking)} among {counts['new_labels']} new labelled samples and "
            f"{counts['all']} in total: wait for more samples, or change the split ratios"
        )
