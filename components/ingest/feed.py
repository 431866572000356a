"""Take in what is new in a feed: a folder, prefix, index file or archive that grows.

Every file is known by a fingerprint (name, and size with time or etag), every line of an index by its content; see
:mod:`components.ingest.fingerprints`. A poll compares fingerprints and reads only what is new or changed. No time is
ever compared with the clock of this machine, so clocks may be wrong and may jump. What a poll has seen counts only once
the job's state names the cursor that the poll gives back; until then the next poll finds the same again.

What is new, by the kind of feed:

========================== ============================================================================================
images and label files   an image or label file that appeared or changed, together with its other half. An image
(VOC, YOLO, images)      that comes before its label is unlabelled until then; to say that an image shows nothing,
                           give it an empty label file, also with YOLO. Another list of class names reads all again.
an index among the files   an entry that appeared, whose labels changed, or whose image changed
(COCO, Sedna, plug-ins)
images and masks         an image that appeared or changed, or whose mask did; before its mask it is unlabelled.
                           Give ``data_format`` if masks may come before any image: alone they look like images.
a text file as the feed    a line that appeared or changed; the image behind a line that stays is not looked at again
an archive                 all of it, whenever its size, time, etag or (from the web) content is another
========================== ============================================================================================

A file that is still being written is at worst quarantined, and taken when it has changed once more. Entries of an index
that came to nothing, such as those whose image is missing, are tried again at every poll. What is removed from the
feed stays in the job.

A prefix in a bucket is long to list (100,000 objects take some ten seconds), so a poll lists what sorts behind the keys
it has seen, in each folder of images or of labels, and everything only when ``full`` is asked for, or the last time
is an hour ago. Keys that begin with a date are found at once; others, and changed objects, by the full listing.

Beside the tables of what was seen the job's store holds two objects under ``feed/`` that only save work and may be
removed at any time: ``memory.json`` and ``pending.parquet``. The latter names blobs that no manifest names yet; whoever
removes such blobs removes it first.
"""

from __future__ import annotations

import itertools
import logging
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from components.core.cache import cache_folder
from components.core.errors import InputError
from components.core.job.hard_examples import scenes
from components.core.job.job import Job
from components.core.job.state import State
from components.core.label_studio.answers import Answers
from components.core.manifest import Manifest
from components.core.parameters import parse_classes
from components.core.stores.open import RESERVED, Store, open_store
from components.ingest import quarantine as lists
from components.ingest.answers import AnswerNews, news_of
from components.ingest.archive import Limits
from components.ingest.classes import Classes
from components.ingest.copies import Pair, joined
from components.ingest.dataset import LabelError, Record, formats
from components.ingest.fingerprints import Fingerprints, hash_of, no_fingerprints
from components.ingest.images import IngestedImage, Outcome, boxes_in_pixels, take_in
from components.ingest.ingest import (
    count_up,
    pixels_of,
    printable,
    row_of,
    watched,
    without_duplicates,
    workspace_of,
)
from components.ingest.known import Known
from components.ingest.masks import Values
from components.ingest.new_entries import NewEntries, new_entries
from components.ingest.poll_memory import PollMemory, read_pending, write_pending
from components.ingest.quarantine import Quarantined

logger = logging.getLogger(__name__)

# A poll may bring a single file. So few bad ones say nothing of the feed as a whole, and never fail a poll.
FEW_BAD = 10
PAIRING = 2  # goes up when names are paired in another way; what was seen before is then read again


@dataclass(frozen=True)
class Arrivals:
    """What a poll found.

    Attributes:
        manifest: samples that the job does not have, or has with other labels; sorted by source. Its classes begin with
            the job's own, in their order.
        quarantine: what did not come in, sorted by source.
        counts: as for ``ingest``, where ``images`` are those in the manifest; of these ``newly_labelled`` were known
            without labels and ``relabelled`` with others; ``known`` are left out because the job has them as they are;
            ``quarantined_before`` are those of ``quarantined`` that an earlier poll reported.
        cursor: key of the table of what has been seen, this poll included.
        quarantine_uri: where the list lies in the job's store; empty if nothing on it is new.
        complete: whether everything in the feed was listed.
        warnings: what to do about unknown classes.
        pixels: of the masks in the manifest; see :func:`components.ingest.ingest.pixels_of`.
        withdrawn: ids of samples whose labels people have removed in Label Studio.
    """

    manifest: Manifest
    quarantine: list[Quarantined]
    counts: dict[str, int]
    cursor: str
    quarantine_uri: str = ""
    complete: bool = True
    pixels: dict[str, int] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    withdrawn: tuple[str, ...] = ()


def take_new(
    feed_url: str,
    job_root: str,
    *,
    data_path: str = "",
    data_format: str = "auto",
    classes: str = "",
    ignore_classes: str = "",
    max_bad_fraction: float = 0.1,
    max_files: int = 1_000_000,
    max_unpacked_gb: float = 100.0,
    max_compression_ratio: float = 200.0,
    round_number: int | None = None,
    full: bool = False,
    state: State | None = None,
    answers: Answers | None = None,
) -> Arrivals:
    """Bring in what a feed has shown since the job's last round, and what people have answered in Label Studio.

    Of an image that both bring, the answer counts.

    Args:
        feed_url: archive, folder or index file; see :func:`components.ingest.download.opened`.
        job_root: address of the job's store.
        data_path: sub-folder or index file inside it.
        data_format: name of a registered format, or ``auto`` to tell it by the files.
        classes: names of the data set's classes in order, ``name`` or ``name-in-the-data:name``; empty: all. Give them,
            since names that are found come in the order in which the feed brings them.
        ignore_classes: classes whose boxes are left out and whose pixels are void; ``*``: all that ``classes`` does not
            name.
        max_bad_fraction: share of bad files among the new ones, 0 to 1, above which this fails, once; fewer than
            ``FEW_BAD`` never do, and what an earlier poll reported does not count, nor answers on which people have
            to agree or that they have to correct.
        max_files: most files in an archive.
        max_unpacked_gb: most gigabytes (10^9 bytes) that it unpacks to.
        max_compression_ratio: most bytes unpacked per byte packed.
        round_number: the round that brings the samples in; None: the one after the job's last.
        full: list everything, however long it takes.
        state: of the job, as read; None reads it.
        answers: of people, as fetched; None: there are none.

    Raises:
        InputError: the feed cannot be read, or too much of what is new is bad.
    """
    if data_format != "auto":
        formats.get(data_format)
    wanted = Classes(classes, ignore_classes)
    store = open_store(job_root)
    workspace_of(store)
    state = state or Job(store).read()[0]
    cache = cache_folder(job_root) / "feed"
    memory = PollMemory.read(store)
    reading = f"{hash_of(repr((PAIRING, store.uri, feed_url, data_path, data_format, classes, ignore_classes))):016x}"
    seen = Fingerprints.read(store, state.cursor, cache)
    seen = seen if seen.notes.reading == reading else no_fingerprints(reading)
    limits = Limits(max_files, max_unpacked_gb, max_compression_ratio)
    full = full or memory.listing_is_due()
    with new_entries(feed_url, data_path, seen, data_format, full, limits, cache, store) as entries:
        # Few of the wanted classes are in a single poll, so what the user names counts as declared.
        wanted.declare(tuple(parse_classes(classes)) or entries.classes)
        records = [wanted.apply(_unlabelled(record)) for record in entries.records]
        known_classes = () if entries.values is None else Known.of(store, state, cache, []).classes
        values = None if entries.values is None else wanted.values(entries.values, known_classes)
        declared = () if values is None else wanted.order(())
        news = news_of(answers, store, state, cache, parse_classes(classes).values(), declared, wanted.ignores)
        outcomes = _outcomes(entries, records, store, values, news)
        cursor = entries.seen.extended(store, *entries.remembered(outcomes))
    kept, quarantined = without_duplicates(outcomes)
    fresh_bad = memory.not_told(_bad_marks(entries, outcomes))
    uri = lists.write(quarantined, store) if fresh_bad else ""
    ids = [outcome.image.id for _, outcome in kept if outcome.image]
    # With nothing new, only the class names are needed, and a manifest may be large.
    is_remembered = not ids and memory.manifest == (state.manifest or "")
    known = Known(memory.classes, {}) if is_remembered else Known.of(store, state, cache, ids)
    memory.told(fresh_bad, entries.complete).knowing(state.manifest, known.classes).write(store, unless=memory)
    hints = wanted.warnings() if fresh_bad else []
    for hint in hints:
        logger.warning("%s", hint)
    _check_bad(outcomes, news, lambda pairs: memory.not_told(_bad_marks(entries, pairs)), max_bad_fraction, uri, hints)
    number = state.round + 1 if round_number is None else round_number
    groups = scenes(store, set(ids)) | news.groups
    found = {box[0] for _, outcome in kept for box in outcome.boxes or ()}
    names = known.classes_with((*news.order, *wanted.names(found), *sorted(found & news.classes())))
    rows = [row_of(record, outcome, names, store, number, groups) for record, outcome in kept]
    manifest = Manifest.of(rows, names)
    new, changes = known.compared(manifest)
    fresh_pairs = [pair for pair, is_new in zip(kept, new, strict=True) if is_new]
    counts = count_up(outcomes, fresh_pairs, quarantined)
    counts |= changes | {"quarantined_before": _bad(outcomes) - len(fresh_bad)}
    if answers is not None:
        answered = sum(bool(record.sample) for record, _ in fresh_pairs)
        counts |= {"answered": answered, "withdrawn": len(news.withdrawn)}
    logger.info("%s", ", ".join(f"{count} {what.replace('_', ' ')}" for what, count in counts.items()))
    fresh = Manifest(manifest.table.filter(pl.Series(new, dtype=pl.Boolean)), names)
    pixels = pixels_of(fresh_pairs, names)
    withdrawn = tuple(news.withdrawn)
    return Arrivals(fresh, quarantined, counts, cursor, uri, entries.complete, pixels, tuple(hints), withdrawn)


def take_nothing(job_root: str) -> Arrivals:
    """The arrivals of a round that leaves what is new in the feed to the next one.

    Raises:
        InputError: the job has not had a round yet.
    """
    store = open_store(job_root)
    job = Job(store)
    state, _ = job.read()
    known = job.manifest(state, cache_folder(job_root))
    if known is None:
        raise InputError(f"{store.uri}: there has been no round yet, so there is no candidate to evaluate again")
    counts = dict.fromkeys(("found", "images", "duplicates", "quarantined"), 0)
    return Arrivals(Manifest.of([], known.classes), [], counts, state.cursor)


def _unlabelled(record: Record) -> Record:
    """An image without a label file is an unlabelled one, also where the format says it is empty."""
    return record._replace(labels=None) if record.labels == () and not record.label_file else record


def _outcomes(
    entries: NewEntries, records: list[Record], store: Store, values: Values | None, news: AnswerNews
) -> list[Pair]:
    """What becomes of each record, sorted by source; images that an earlier poll checked are not opened again.

    Those with a mask are: of a mask no poll remembers what it found.
    """
    everything = [*records, *news.records]
    if not everything:
        return []
    pending = read_pending(store, entries.seen.cursor)
    checked = {
        id(record): pending[mark]
        for record in everything
        if not record.has_mask and (mark := entries.mark(record)) in pending
    }
    outcomes = [(record, _checked(record, checked[id(record)])) for record in everything if id(record) in checked]
    rest = [record for record in records if id(record) not in checked]
    missing = entries.place.bring(entries.wanted(rest))
    there = [
        record._replace(path="", reason="label without image: the image is not there")
        if not record.reason and entries.name(record) in missing
        else record
        for record in rest
    ]
    answered = [record for record in news.records if id(record) not in checked]
    with tempfile.TemporaryDirectory(prefix=f"{RESERVED}answers-") as folder:
        labelled = [record if record.reason else news.brought(record, store, Path(folder)) for record in answered]
        taken = itertools.chain(take_in(there, store, values=values), take_in(labelled, store, values=news.values))
        outcomes += watched(taken, len(there) + len(labelled))
    outcomes = [(record, news.named(record, outcome)) for record, outcome in _answers_first(outcomes)]
    outcomes = joined(sorted(outcomes, key=lambda pair: pair[0].source))
    good = {
        entries.mark(record): found for record, outcome in outcomes if (found := outcome.image) and not record.has_mask
    }
    write_pending(store, entries.seen.cursor, pending, good)
    return outcomes


def _answers_first(outcomes: list[Pair]) -> list[Pair]:
    """Without what the feed says of images for which people have an answer that can be used."""
    answered = {outcome.image.id for record, outcome in outcomes if record.sample and outcome.image}
    return [
        (record, outcome)
        for record, outcome in outcomes
        if record.sample or outcome.image is None or outcome.image.id not in answered
    ]


def _checked(record: Record, image: IngestedImage) -> Outcome:
    """The outcome for an image that is among the blobs already; its label may be a bad one."""
    if record.reason:
        return Outcome(reason=record.reason)
    try:
        if record.size and record.size != (image.width, image.height):
            raise LabelError(f"size contradicts the image: {record.size} in the label")
        boxes = None if record.labels is None else boxes_in_pixels(record.labels, image.width, image.height)
    except LabelError as error:
        return Outcome(reason=str(error))
    return Outcome(image, boxes, repeated=len(record.labels or ()) - len(boxes or ()))


def _bad(outcomes: Iterable[Pair]) -> int:
    return sum(bool(outcome.reason) for _, outcome in outcomes)


def _bad_marks(entries: NewEntries, outcomes: Iterable[Pair]) -> list[str]:
    return [f"{entries.mark(record, outcome.reason):016x}" for record, outcome in outcomes if outcome.reason]


def _check_bad(
    outcomes: list[Pair],
    news: AnswerNews,
    not_told: Callable[[list[Pair]], list[str]],
    max_bad_fraction: float,
    uri: str,
    hints: list[str],
) -> None:
    """Tell of new answers that people have to settle, and refuse a feed of which too much is bad.

    Raises:
        InputError: more is bad than ``max_bad_fraction`` of what is new and not up to people.
    """
    unsettled = [pair for pair in outcomes if news.is_left_to_people(pair[0])]
    if not_told(unsettled):
        logger.warning(
            "%d images that were labelled in Label Studio cannot be used before people change their labels: %s; full "
            "list: %s",
            len(unsettled), _faults(unsettled), uri,
        )  # fmt: skip
    others = [pair for pair in outcomes if not news.is_left_to_people(pair[0])]
    bad = len(not_told(others))
    found = len(others) - (_bad(others) - bad)
    if bad >= FEW_BAD and bad > max_bad_fraction * found:
        raise InputError(
            f"{bad} of {found} new files are bad, max_bad_fraction allows {max_bad_fraction:g}: "
            f"{'; '.join([*hints, _faults(others)])}; full list: {uri}; later polls skip them until they change"
        )


def _faults(pairs: list[Pair]) -> str:
    return lists.most_frequent(
        Quarantined(printable(record.source), printable(outcome.reason)) for record, outcome in pairs if outcome.reason
    )
