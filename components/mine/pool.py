"""The pool: every image that waits for a label, from the workers' hard examples and the job's unlabelled samples."""

from __future__ import annotations

from collections.abc import Collection, Container
from dataclasses import dataclass
from pathlib import PurePosixPath

from components.core.job.hard_examples import FOLDER, image_key, read_sidecars, scene_of
from components.core.manifest import LABELLED, Manifest
from components.core.stores.open import Store


@dataclass(frozen=True)
class Candidate:
    """One unlabelled image.

    Attributes:
        id: SHA-256 of its bytes, 64 hex digits.
        uri: where they lie.
        source: where it came from.
        group: samples that must share a split with it.
        kind: ``hard``, ``audit`` or ``unseen``, as its worker says, or ``unlabelled``, a sample of the job.
    """

    id: str
    uri: str
    source: str
    group: str
    kind: str


@dataclass(frozen=True)
class Pool:
    """What can be asked for.

    Attributes:
        candidates: each image once, the oldest first.
        labelled: how many hard examples were left out since they have their labels.
        with_people: how many images were left out since people have been asked for them, or have answered.
        beyond: how many older images were left out since the limit was reached.
    """

    candidates: tuple[Candidate, ...]
    labelled: int
    with_people: int
    beyond: int


def gather(store: Store, known: Manifest | None, limit: int, with_people: Collection[str] = ()) -> Pool:
    """Find the latest images that wait for a label.

    What the workers set aside goes before unlabelled samples, and of each the latest: hard examples by the hour in
    which they were taken, samples by the round that brought them in.

    Args:
        store: the job's root.
        known: every sample taken in so far.
        limit: how many images at most.
        with_people: ids of images that people have been asked for, whether they have answered or not; left out.

    Raises:
        InputError: the store cannot be read.
    """
    done = set(known.labelled().table["id"]) if known else set()
    keys = sorted(found.key for found in store.list(FOLDER) if found.key.endswith(".json"))
    without = done | set(with_people)
    waiting = [key for key in keys if PurePosixPath(key).stem not in without]
    examples = _examples(store, waiting[-limit:], without)
    samples = _samples(known, {*examples, *with_people})
    room = limit - len(examples)
    taken = samples[-room:] if room > 0 else []
    beyond = max(0, len(waiting) - limit) + len(samples) - len(taken)
    labelled = sum(PurePosixPath(key).stem in done for key in keys)
    return Pool((*taken, *examples.values()), labelled, len(set(with_people) - done), beyond)


def _examples(store: Store, keys: list[str], done: Container[str]) -> dict[str, Candidate]:
    """Hard examples by id, in the order of their keys; of two with the same image the later one."""
    found: dict[str, Candidate] = {}
    if not keys:
        return found
    just_before = keys[0][:-1]
    for sidecar in read_sidecars(store, since=just_before):
        if sidecar.image not in done:
            found.pop(sidecar.image, None)
            found[sidecar.image] = Candidate(
                id=sidecar.image,
                uri=store.uri_of(image_key(sidecar)),
                source=f"{sidecar.node}: {sidecar.source}, frame {sidecar.frame}",
                group=scene_of(sidecar),
                kind=sidecar.kind,
            )
    return found


def _samples(known: Manifest | None, examples: Container[str]) -> list[Candidate]:
    """The unlabelled samples of the job by round and id, without those that are hard examples too."""
    if known is None:
        return []
    unlabelled = known.table.filter(~LABELLED).sort("round", "id")
    return [
        Candidate(row["id"], row["uri"], row["source"], row["group"], "unlabelled")
        for row in unlabelled.select("id", "uri", "source", "group").iter_rows(named=True)
        if row["id"] not in examples
    ]
