"""Which split a group of samples is on: decided by a hash of the group and the seed, so that it never changes sides."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from components.core.manifest import Manifest

MAX_TEST_FRACTION = 0.4  # of the new samples that may be tested on, for the test set to be large enough for the gate
LABELS = ("annotations", "mask")  # columns that are null without a label


def assign(group: str, train_ratio: float, val_ratio: float, seed: int) -> str:
    """The split of one group: a number in 0..1 made from its hash, compared with the ratios."""
    place = place_of(group, seed)
    if place < train_ratio:
        return "train"
    return "val" if place < train_ratio + val_ratio else "test"


def place_of(group: str, seed: int) -> float:
    """A number in 0..1 made from the hash of a group."""
    digest = hashlib.sha256(f"{seed}:{group}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def is_labelled(row: Mapping[str, Any]) -> bool:
    """Whether a row of a manifest has boxes or a mask, if only to say that there is nothing."""
    return any(row[name] is not None for name in LABELS)


class Splits:
    """The splits of a job's groups: where each has been, or else where its hash puts it.

    While the job has fewer test samples than the gate needs, new groups are tested on from a lower place on than the
    ratios say, up to ``MAX_TEST_FRACTION`` of the new samples; where that is not enough either, the ratios hold.

    Args:
        known: every sample of earlier rounds.
        new: the new ones, of which those that are known count as known.
        train_ratio: fraction of new groups for training.
        val_ratio: fraction for choosing the best epoch; the rest is for testing.
        seed: changes every decision.
        min_test_samples: how many test samples the gate needs.
    """

    def __init__(
        self,
        known: Manifest,
        new: Iterable[Mapping[str, Any]],
        *,
        train_ratio: float,
        val_ratio: float,
        seed: int,
        min_test_samples: int,
    ) -> None:
        self._found: dict[str, str] = dict(known.labelled().table.select("group", "split").iter_rows())
        self._seed = seed
        self._tested = set(known.split("test").labelled().table["id"])
        labelled = set(known.labelled().table["id"])
        self._arrived = [row for row in new if is_labelled(row)]
        self._new = [row for row in self._arrived if row["id"] not in labelled]
        usual = train_ratio + val_ratio
        self._end = min(usual, self._end_for(min_test_samples, usual))
        self._train_end = train_ratio * self._end / usual

    def of(self, row: Mapping[str, Any]) -> str:
        """The split of a sample; empty for one without labels."""
        if not is_labelled(row):
            return ""
        return self._found.get(row["group"]) or self._assigned(row["group"])

    def count_tests(self) -> int:
        """How many test samples there are with the new ones."""
        return len(self._tested) + sum(self.of(row) == "test" for row in self._new)

    def lacks_training(self) -> str:
        """What a message says where none of what has arrived, be it labelled anew, is for training; else empty."""
        if not self._arrived or any(self.of(row) == "train" for row in self._arrived):
            return ""
        groups = {row["group"] for row in self._arrived}
        return (
            f"training images: have 0 among {len(self._arrived)} new labelled images in {len(groups)} "
            f"{'group' if len(groups) == 1 else 'groups'}, need >= 1: a group, such as the frames of one scene, goes "
            "to one split as a whole; the next groups bring some"
        )

    def _assigned(self, group: str) -> str:
        place = place_of(group, self._seed)
        if place >= self._end:
            return "test"
        return "train" if place < self._train_end else "val"

    def _end_for(self, needed: int, usual: float) -> float:
        """The place from which on groups are tested on, for there to be enough of them."""
        sizes: dict[str, int] = {}
        tested = len(self._tested)
        for row in self._new:
            if row["group"] in self._found:
                tested += self._found[row["group"]] == "test"
            else:
                sizes[row["group"]] = sizes.get(row["group"], 0) + 1
        taken = 0
        for place, size in sorted(((place_of(group, self._seed), size) for group, size in sizes.items()), reverse=True):
            if tested + taken >= needed:
                return usual
            taken += size
            if taken > MAX_TEST_FRACTION * len(self._new):
                return usual
            if tested + taken >= needed:
                return place
        return usual


def what_lacks(
    new: Manifest,
    known: Manifest | None,
    fetch_known: Callable[[], Manifest | None],
    *,
    gate_needs_tests: bool,
    min_test_samples: int,
    **ratios: Any,
) -> str:
    """What a message says where a round would fail for the splits that what has arrived goes to; empty where not.

    Args:
        new: what has arrived.
        known: every sample of earlier rounds; None where they have not been fetched.
        fetch_known: called only where it matters in which split the known groups are.
        gate_needs_tests: whether the round ends for want of test samples.
        min_test_samples: how many the gate needs.
        ratios: ``train_ratio``, ``val_ratio`` and ``seed``.
    """

    def splits(before: Manifest | None) -> Splits:
        return Splits(before or Manifest.of([], ()), new.rows(), min_test_samples=min_test_samples, **ratios)

    lacks = splits(known).lacks_training()
    if lacks and known is None:
        lacks = splits(known := fetch_known()).lacks_training()
    have = splits(known).count_tests() if gate_needs_tests else min_test_samples
    return too_few_tests(have, min_test_samples) if have < min_test_samples else lacks


def too_few_tests(have: int, need: int) -> str:
    """What a message says of a test set that is too small for the gate."""
    return (
        f"test images: have {have}, need >= {need}, or the gate would reject the candidate: add more labelled "
        "images, lower min_samples, or train_ratio and val_ratio"
    )
