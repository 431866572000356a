"""The stream of a benchmark: in which rounds the samples arrive, and what models are tested on.

========== =========================================================== ==========================================
stream     a round is                                                  a task, which may be forgotten, is
========== =========================================================== ==========================================
``order``  the next part of the samples in the order of their paths    the test samples of a round
``random`` a part drawn at random                                      the test samples of a round
``pattern`` all samples in whose path a pattern finds the same text    the test samples of a round
``class``  the samples of some classes, with labels of these alone,    those classes, on all test samples
           and a part of those that show nothing
========== =========================================================== ==========================================

Within each round a hash of the group and the seed decides what is for training, validation and testing; a group of
which an earlier round has images is for the same in all. Where there is a test set of its own, all other samples are
for training and validation.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import polars as pl

from components.benchmark.algorithms import names_in
from components.core.errors import InputError
from components.core.manifest import Manifest, truth
from components.core.miners.chance import draw
from components.core.parameters import BenchmarkSettings, SplitSettings


@dataclass(frozen=True)
class Round:
    """What arrives in one round.

    Attributes:
        name: of its task.
        train: what may be labelled and trained on.
        val: what candidates are judged by; labelled as ``train``.
        classes: numbers of the classes that its labels know.
    """

    name: str
    train: Manifest
    val: Manifest
    classes: frozenset[int]


@dataclass(frozen=True)
class Task:
    """What a model may learn and forget.

    Attributes:
        name: of the task.
        images: which images of the test set it is measured on, by place.
        classes: which classes it is measured on, by number.
        learned: the round, from 0, in which it is learned first.
    """

    name: str
    images: tuple[int, ...]
    classes: frozenset[int]
    learned: int


@dataclass(frozen=True)
class Stream:
    """Rounds in order, and the test set.

    Attributes:
        rounds: what arrives.
        everything: the samples of all rounds with all their labels, as only a full retraining has them.
        test: every test sample, with all its labels.
        tasks: parts of the test set.
    """

    rounds: tuple[Round, ...]
    everything: Manifest
    test: Manifest
    tasks: tuple[Task, ...]


def make_stream(
    samples: Manifest,
    test: Manifest | None,
    *,
    stream: str,
    rounds: int,
    stream_pattern: str,
    stream_order: str,
    train_ratio: float,
    val_ratio: float,
    seed: int,
) -> Stream:
    """Divide labelled samples into rounds and a test set.

    Args:
        samples: with boxes; others are left out.
        test: a test set of its own; None to take one from the samples.
        stream: ``order``, ``random``, ``pattern`` or ``class``.
        rounds: how many; of a ``pattern`` all that it finds.
        stream_pattern: regular expression with one group, over the path of a sample.
        stream_order: names of the rounds or classes in the order of arrival, by commas; the others follow sorted.
        train_ratio: fraction of groups to train on.
        val_ratio: fraction for validation; the rest is for testing, or for training if there is a test set.
        seed: of the splits, and of a ``random`` stream.

    Raises:
        InputError: there are too few samples or classes for the rounds, or nothing to test on.
    """
    everything = samples.where(pl.col("annotations").is_not_null())
    if test is not None:  # nothing is trained on that is tested on
        everything = everything.where(~pl.col("id").is_in(test.table["id"].to_list()))
    if not len(everything):
        raise InputError("the data set has no image with boxes: the benchmark compares detectors")
    named = _named_parts(everything, stream, rounds, stream_pattern, stream_order, seed)
    ratios = (train_ratio, val_ratio) if test is None else _without_test(train_ratio, val_ratio)
    groups = dict(everything.table.select("id", "group").iter_rows())
    sides: dict[str, str] = {}
    of_groups: dict[str, str] = {}
    for _, ids, _ in named:
        of_groups |= _sides(Counter(groups[id_] for id_ in ids), of_groups, *ratios, seed)
        sides |= {id_: of_groups[groups[id_]] for id_ in ids}
    everything = everything.where(pl.col("id").is_in(list(sides)))
    tested = everything.where(pl.col("id").is_in([i for i, side in sides.items() if side == "test"]))
    if test is not None:
        tested = _renumbered(test, everything.classes)
    tested = Manifest(tested.table.sort("id").with_columns(split=pl.lit("test")), everything.classes)
    if not any(map(len, tested.truths())):
        raise InputError(
            f"none of the {len(tested)} test samples has a box: use fewer rounds, lower train_ratio, or give a test_url"
        )
    made = []
    for name, ids, classes in named:
        part = everything.where(pl.col("id").is_in(ids))
        known = frozenset(range(len(everything.classes))) if classes is None else classes
        one = {
            side: _labelled_for(part, [i for i in ids if sides[i] == side], known, side) for side in ("train", "val")
        }
        for side, found in one.items():
            if not any(map(len, found.truths())):
                raise InputError(
                    f"{name} has {len(ids)} images and no box for {side}: use fewer rounds, or change the ratios"
                )
        made.append(Round(name, one["train"], one["val"], known))
    return Stream(tuple(made), everything, tested, _tasks(tested, named, stream, own_test=test is not None))


def open_stream(
    samples: Manifest, test: Manifest, chosen: BenchmarkSettings, splits: SplitSettings, seed: int
) -> Stream:
    """The stream that the parameters of a benchmark describe.

    Args:
        samples: of the data set.
        test: of the test set; without samples if there is none.
        chosen: how the samples arrive.
        splits: how they are split.
        seed: of splits, and of a random stream.
    """
    return make_stream(
        samples,
        test if len(test) else None,
        stream=chosen.stream,
        rounds=chosen.rounds,
        stream_pattern=chosen.stream_pattern,
        stream_order=chosen.stream_order,
        train_ratio=splits.train_ratio,
        val_ratio=splits.val_ratio,
        seed=seed,
    )


def digest_of(samples: Manifest) -> str:
    """A digest of samples, their paths and labels; wherever the images lie."""
    rows = samples.table.sort("id", "source").select("id", "source", "group", "annotations").iter_rows()
    text = json.dumps([list(samples.classes), list(rows)])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _named_parts(
    samples: Manifest, stream: str, rounds: int, pattern: str, order: str, seed: int
) -> list[tuple[str, list[str], frozenset[int] | None]]:
    """Each round's name, ids, and classes if it knows only some."""
    wanted = names_in(order)
    rows = samples.table.sort("source", "id").select("id", "source", "group")
    if stream == "pattern":
        return _parts_by_pattern(rows, pattern, wanted)
    if stream == "class":
        return _parts_by_class(samples, rounds, wanted, seed)
    if stream == "random":
        rows = rows.sort(pl.Series([draw(group, f"stream {seed}") for group in rows["group"]]))
    groups = list(dict.fromkeys(rows["group"]))
    if rounds > len(groups):
        raise InputError(f"rounds={rounds}, but there are only {len(groups)} groups of images")
    place = {group: number * rounds // len(groups) for number, group in enumerate(groups)}
    parts: list[list[str]] = [[] for _ in range(rounds)]
    for id_, _, group in rows.iter_rows():
        parts[place[group]].append(id_)
    return [(f"round {number}", ids, None) for number, ids in enumerate(parts, 1)]


def _parts_by_pattern(
    rows: pl.DataFrame, pattern: str, wanted: Sequence[str]
) -> list[tuple[str, list[str], frozenset[int] | None]]:
    compiled = re.compile(pattern)
    parts: dict[str, list[str]] = {}
    for id_, source, _ in rows.iter_rows():
        if found := compiled.search(source):
            parts.setdefault(found[1] or "", []).append(id_)
    if len(parts) < 2:
        raise InputError(
            f"stream_pattern={pattern!r} finds {len(parts)} different texts in the paths, such as "
            f"{rows['source'][0]!r}: it must find at least 2"
        )
    missing = [name for name in wanted if name not in parts]
    if missing:
        raise InputError(f"stream_order: no sample of {', '.join(missing)}: choose from {', '.join(sorted(parts))}")
    order = [*wanted, *(name for name in sorted(parts) if name not in wanted)]
    return [(name, parts[name], None) for name in order]


def _parts_by_class(
    samples: Manifest, rounds: int, wanted: Sequence[str], seed: int
) -> list[tuple[str, list[str], frozenset[int] | None]]:
    """Classes in as many parts as there are rounds, and each image in one of the rounds whose classes it shows.

    What shows nothing fits all rounds.
    """
    unknown = [name for name in wanted if name not in samples.classes]
    if unknown:
        raise InputError(f"stream_order: no class {', '.join(unknown)}: choose from {', '.join(samples.classes)}")
    order = [*wanted, *(name for name in samples.classes if name not in wanted)]
    if rounds > len(order):
        raise InputError(f"rounds={rounds}, but there are only {len(order)} classes: {', '.join(order)}")
    bounds = [number * len(order) // rounds for number in range(rounds + 1)]
    parts = [[samples.classes.index(name) for name in order[a:b]] for a, b in pairwise(bounds)]
    ids: list[list[str]] = [[] for _ in parts]
    for row in samples.table.sort("id").iter_rows(named=True):
        shown = {box["class_id"] for box in row["annotations"]}
        fitting = [number for number, part in enumerate(parts) if not shown or shown & set(part)]
        place = int.from_bytes(hashlib.sha256(f"{seed}:{row['group']}".encode()).digest()[8:12], "big")
        ids[fitting[place % len(fitting)]].append(row["id"])
    titles = ["+".join(samples.classes[number] for number in part) for part in parts]
    return [(title, own, frozenset(part)) for title, own, part in zip(titles, ids, parts, strict=True)]


def _without_test(train_ratio: float, val_ratio: float) -> tuple[float, float]:
    """The same fractions of what is not for testing."""
    return train_ratio / (train_ratio + val_ratio), val_ratio / (train_ratio + val_ratio)


def _sides(
    sizes: Mapping[str, int], before: Mapping[str, str], train_ratio: float, val_ratio: float, seed: int
) -> dict[str, str]:
    """What each group of a round is for, in the order of a hash.

    Args:
        sizes: samples of the groups.
        before: what groups of earlier rounds are for.
        train_ratio: fraction of the samples to train on.
        val_ratio: fraction for validation, of which there is at least one group.
        seed: of the hash.
    """
    order = sorted(sizes, key=lambda group: hashlib.sha256(f"{seed}:{group}".encode()).digest())
    total = sum(sizes.values())
    side_of: dict[str, str] = {}
    placed = 0.0
    for group in order:
        middle = (placed + sizes[group] / 2) / total
        side = "train" if middle < train_ratio else "val" if middle < train_ratio + val_ratio else "test"
        side_of[group] = before.get(group, side)
        placed += sizes[group]
    free = [group for group in order[1:] if group not in before]
    if "val" not in side_of.values() and free:
        side_of[max(free, key=lambda group: (side_of[group] == "train", -sizes[group]))] = "val"
    return side_of


def _labelled_for(part: Manifest, ids: Sequence[str], classes: frozenset[int], side: str) -> Manifest:
    """Samples with the boxes of some classes alone; the others were not labelled."""
    chosen = part.where(pl.col("id").is_in(ids)).table.with_columns(split=pl.lit(side)).sort("id")
    others = sorted(set(range(len(part.classes))) - classes)
    rows = [
        {
            **row,
            "annotations": [box for box in row["annotations"] if box["class_id"] in classes],
            "unlabelled_classes": others,
        }
        for row in chosen.iter_rows(named=True)
    ]
    return Manifest.of(rows, part.classes)


def _tasks(
    test: Manifest,
    named: Sequence[tuple[str, list[str], frozenset[int] | None]],
    stream: str,
    *,
    own_test: bool,
) -> tuple[Task, ...]:
    """The tasks of which the test set has a box; of others nothing can be said."""
    every = frozenset(range(len(test.classes)))
    if stream == "class":
        images, found = tuple(range(len(test))), frozenset(test.boxes()["class_id"])
        parts = [(name, classes or every) for name, _, classes in named]
        return tuple(Task(name, images, one, number) for number, (name, one) in enumerate(parts) if one & found)
    if own_test:
        return (Task("test", tuple(range(len(test))), every, 0),)
    place = {id_: number for number, id_ in enumerate(test.table["id"])}
    boxes = [len(truth(annotations)) for annotations in test.table["annotations"].to_list()]
    tasks = []
    for number, (name, ids, _) in enumerate(named):
        images = tuple(sorted(place[id_] for id_ in ids if id_ in place))
        if any(boxes[image] for image in images):
            tasks.append(Task(name, images, every, number))
    return tuple(tasks)


def _renumbered(test: Manifest, classes: tuple[str, ...]) -> Manifest:
    """A test set with the classes of the samples; boxes of other classes have no model that could find them."""
    lacking = [name for name in test.classes if name not in classes]
    if lacking:
        raise InputError(
            f"the test set has the class {', '.join(lacking)}, which the data set has not: name both in classes"
        )
    numbers = [classes.index(name) for name in test.classes]
    rows = [
        {**row, "annotations": [{**box, "class_id": numbers[box["class_id"]]} for box in row["annotations"]]}
        for row in test.where(pl.col("annotations").is_not_null()).rows()
    ]
    return Manifest.of(rows, classes)
