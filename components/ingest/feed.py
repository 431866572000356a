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

import hashlib
import io
import itertools
import json
import logging
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import polars as pl

from components.core.cache import cache_folder, local_file
from components.core.errors import InputError
from components.core.job.hard_examples import scenes
from components.core.job.job import Job
from components.core.job.state import State
from components.core.manifest import Manifest, with_masks
from components.core.parameters import parse_classes
from components.core.stores.open import Store, open_store, split
from components.ingest import quarantine as lists
from components.ingest.accounting import UNLABELLED_FORMAT, UNUSABLE, Accounting
from components.ingest.archive import Limits, is_plain
from components.ingest.classes import Classes
from components.ingest.copies import Pair, joined
from components.ingest.dataset import (
    IMAGE_SUFFIXES,
    Folder,
    LabelError,
    Record,
    formats,
    suffix_of,
)
from components.ingest.download import local_path, open_dataset
from components.ingest.fingerprints import (
    Fingerprints,
    Notes,
    file_rows,
    hash_of,
    hashes_of,
    line_key,
    line_rows,
    no_fingerprints,
)
from components.ingest.formats.data_yaml import NAMES_FILES
from components.ingest.images import IngestedImage, Outcome, boxes_in_pixels, take_in
from components.ingest.ingest import (
    choose,
    count_up,
    pixels_of,
    row_of,
    watched,
    without_duplicates,
    workspace_of,
)
from components.ingest.locations import BucketLocation, FeedLocation, FolderLocation, latest, location_of
from components.ingest.masks import Values
from components.ingest.pairs import loose_key
from components.ingest.quarantine import Quarantined

logger = logging.getLogger(__name__)

# A poll may bring a single file. So few bad ones say nothing of the feed as a whole, and never fail a poll.
FEW_BAD = 10
FULL_LISTING = timedelta(hours=1)
MEMORY, PENDING = "feed/memory.json", "feed/pending.parquet"

# Formats with a label file for each image. In the others, and in those of plug-ins, any file may label any image.
FORMATS_BY_FILE = {"voc", "yolo", UNLABELLED_FORMAT}
MASKS_FORMAT = "masks"
LINES_FORMAT, LINES_SUFFIX, LINES_NAMES = "sedna", ".txt", "classes.txt"

PAIRING = 2  # goes up when names are paired in another way; what was seen before is then read again

_ALL = 2**64 - 1


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
    """

    manifest: Manifest
    quarantine: list[Quarantined]
    counts: dict[str, int]
    cursor: str
    quarantine_uri: str = ""
    complete: bool = True
    pixels: dict[str, int] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


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
) -> Arrivals:
    """Bring in what a feed has shown since the job's last round.

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
            ``FEW_BAD`` never do, and what an earlier poll reported does not count.
        max_files: most files in an archive.
        max_unpacked_gb: most gigabytes (10^9 bytes) that it unpacks to.
        max_compression_ratio: most bytes unpacked per byte packed.
        round_number: the round that brings the samples in; None: the one after the job's last.
        full: list everything, however long it takes.
        state: of the job, as read; None reads it.

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
    memory = _Memory.read(store)
    reading = f"{hash_of(repr((PAIRING, store.uri, feed_url, data_path, data_format, classes, ignore_classes))):016x}"
    seen = Fingerprints.read(store, state.cursor, cache)
    seen = seen if seen.notes.reading == reading else no_fingerprints(reading)
    limits = Limits(max_files, max_unpacked_gb, max_compression_ratio)
    with _hauled(feed_url, data_path, seen, data_format, full or memory.listing_is_due(), limits, cache) as haul:
        # Few of the wanted classes are in a single poll, so what the user names counts as declared.
        wanted.declare(tuple(parse_classes(classes)) or haul.classes)
        records = [wanted.apply(_unlabelled(record)) for record in haul.records]
        before = _Known.of(store, state, cache, []).classes
        values = None if haul.values is None else wanted.values(haul.values, before)
        outcomes = _outcomes(haul, records, store, values)
        cursor = haul.seen.extended(store, *haul.remembered(outcomes))
    kept, quarantined = without_duplicates(outcomes)
    fresh_bad = memory.not_told(_bad_marks(haul, outcomes))
    uri = lists.write(quarantined, store) if fresh_bad else ""
    memory.told(fresh_bad, haul.complete).write(store, unless=memory)
    hints = wanted.warnings() if fresh_bad else []
    for hint in hints:
        logger.warning("%s", hint)
    _check_share(
        len(fresh_bad), len(outcomes) - (_bad(outcomes) - len(fresh_bad)), max_bad_fraction, quarantined, uri, hints
    )
    number = state.round + 1 if round_number is None else round_number
    ids = [outcome.image.id for _, outcome in kept if outcome.image]
    known = _Known.of(store, state, cache, ids)
    groups = scenes(store, set(ids))
    names = known.classes_with(wanted.names({box[0] for _, outcome in kept for box in outcome.boxes or ()}))
    rows = [row_of(record, outcome, names, store, number, groups) for record, outcome in kept]
    manifest = Manifest.of(rows, names)
    new, changes = known.compared(manifest)
    news = [pair for pair, is_new in zip(kept, new, strict=True) if is_new]
    counts = count_up(outcomes, news, quarantined)
    counts |= changes | {"quarantined_before": _bad(outcomes) - len(fresh_bad)}
    logger.info("%s", ", ".join(f"{count} {what.replace('_', ' ')}" for what, count in counts.items()))
    fresh = Manifest(manifest.table.filter(pl.Series(new, dtype=pl.Boolean)), names)
    return Arrivals(fresh, quarantined, counts, cursor, uri, haul.complete, pixels_of(news, names), tuple(hints))


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
        raise InputError(f"{store.uri}: there has been no round yet, so there is no candidate to judge again")
    counts = dict.fromkeys(("found", "images", "duplicates", "quarantined"), 0)
    return Arrivals(Manifest.of([], known.classes), [], counts, state.cursor)


@dataclass(frozen=True)
class NewEntries:
    """What is new in a feed, before any image is opened.

    Attributes:
        place: where the files are.
        seen: what was seen before.
        data_format: name of the format; empty: not known yet.
        classes: the names that the data set declares.
        values: the names of its masks' values; None: it has no masks.
        records: the new ones.
        stamps: of each source, what changes when anything about it does.
        files: versions of the new files, by name.
        versions: versions of these and of others that belong to them, by name.
        lines: versions of the new entries of an index, by name; those that come to nothing are tried again.
        complete: whether everything was listed.
    """

    place: FeedLocation
    seen: Fingerprints
    data_format: str = ""
    classes: tuple[str, ...] | None = ()
    values: Mapping[int, str] | None = None
    records: list[Record] = field(default_factory=list)
    stamps: Mapping[str, int] = field(default_factory=dict)
    files: Mapping[str, int] = field(default_factory=dict)
    versions: Mapping[str, int] = field(default_factory=dict)
    lines: Mapping[str, int] = field(default_factory=dict)
    complete: bool = True

    def mark(self, record: Record, *more: object) -> int:
        """A hash that stands for a record in the state in which it is."""
        return hash_of(repr((record.source, self.stamps.get(record.source, 0), *more)))

    def name(self, record: Record) -> str:
        """The file of a record's image, as a path inside the feed."""
        return record.path.removeprefix(f"{self.place.root}/")

    def mask(self, record: Record) -> str:
        """The file of a record's mask, as a path inside the feed; empty: it has none."""
        return record.mask.removeprefix(f"{self.place.root}/")

    def wanted(self, records: Iterable[Record]) -> dict[str, int]:
        """The files that must be there to take records in, by name, each with its version."""
        good = [record for record in records if not record.reason]
        names = [*map(self.name, good), *filter(None, map(self.mask, good))]
        return {name: self.versions.get(name, 0) for name in names}

    def remembered(self, outcomes: Iterable[Pair]) -> tuple[pl.DataFrame, Notes]:
        """What is to be remembered as seen."""
        if not self.files and not self.lines:
            return file_rows({}), self.seen.notes
        failed = {record.source for record, outcome in outcomes if outcome.reason or _waits_for_mask(record)}
        lines = {name: version for name, version in self.lines.items() if name not in failed}
        landmarks = dict(self.seen.notes.landmarks)
        if self.data_format in FORMATS_BY_FILE:
            for name in self.files:
                if suffix_of(name) in IMAGE_SUFFIXES and len(landmarks) < 256:
                    landmarks.setdefault(name.rpartition("/")[0], name)
        notes = replace(
            self.seen.notes,
            data_format="" if self.data_format == UNLABELLED_FORMAT else self.data_format,
            last={} if self.place.always_whole else latest(self.seen.notes.last, self.files),
            landmarks=landmarks,
            pending=len(self.lines) - len(lines),
        )
        return pl.concat([file_rows(dict(self.files)), line_rows(lines)]), notes


@contextmanager
def _hauled(
    feed_url: str, data_path: str, seen: Fingerprints, data_format: str, full: bool, limits: Limits, cache: Path
) -> Iterator[NewEntries]:
    """What is new in a feed; its files can be read while this is open."""
    data_format = seen.notes.data_format or data_format
    with location_of(feed_url, data_path, cache / "objects" / seen.notes.reading) as place:
        if place is None:
            with _archive(feed_url, data_path, seen, data_format, limits) as haul:
                yield haul
        elif place.index.lower().endswith(LINES_SUFFIX):
            yield _by_line(place, seen, data_format)
        else:
            yield _by_listing(place, seen, data_format, full)
        if isinstance(place, BucketLocation):
            place.forget_others()


# --- folders and prefixes ---


def _by_listing(place: FeedLocation, seen: Fingerprints, data_format: str, full: bool) -> NewEntries:
    last = {} if full or place.always_whole else seen.notes.last
    fresh = _fresh(place, seen, last)
    odd = {name: fresh.pop(name) for name in [*fresh] if not is_plain(name)}
    if odd:
        return _with_odd_names(_by_plain_names(place, seen, data_format, full, last, fresh), odd)
    return _by_plain_names(place, seen, data_format, full, last, fresh)


def _with_odd_names(haul: NewEntries, odd: Mapping[str, int]) -> NewEntries:
    """Also what can be no file here, to be told of once."""
    odd = {name: version for name, version in odd.items() if name not in haul.files}
    return replace(
        haul,
        records=[*haul.records, *(Record(name, reason=UNUSABLE) for name in odd)],
        stamps={**haul.stamps, **odd},
        files={**haul.files, **odd},
    )


def _by_plain_names(
    place: FeedLocation,
    seen: Fingerprints,
    data_format: str,
    full: bool,
    last: Mapping[str, str],
    fresh: dict[str, int],
) -> NewEntries:
    companions = seen.companions() if fresh or last else {}
    if last:
        fresh |= {name: v for name, v in place.versions(companions).items() if v != companions[name]}
    if not fresh:
        return NewEntries(place, seen, seen.notes.data_format, complete=not last)
    if seen and any(map(_names_classes, fresh)):
        seen = no_fingerprints(seen.notes.reading)
        return _by_listing(place, seen, data_format, full=True)
    name = data_format
    if name == "auto" or name in FORMATS_BY_FILE:
        haul = _by_file(place, seen, data_format, fresh, companions)
        if haul is not None:
            return replace(haul, complete=not last)
        name = _format(place, seen, data_format, {**companions, **fresh})
    return _by_entry(place, seen, name, fresh)


def _fresh(place: FeedLocation, seen: Fingerprints, last: Mapping[str, str]) -> dict[str, int]:
    """Versions of the files that are new or changed, by name."""
    fresh: dict[str, int] = {}
    for names, versions in place.listing(last):
        for row in np.flatnonzero(seen.lacks(hashes_of(names), versions)):
            fresh[names[row]] = int(versions[row])
    return fresh


def _by_file(
    place: FeedLocation, seen: Fingerprints, data_format: str, fresh: dict[str, int], companions: dict[str, int]
) -> NewEntries | None:
    """The images whose file or label file is new; None if the format does not have a label file for each image."""
    pairs = {hash_of(loose_key(name)) for name in fresh}
    versions = companions | seen.paired(pairs) | fresh
    haul = NewEntries(place, seen, seen.notes.data_format, files=fresh, versions=versions)
    name = _format(place, seen, data_format, versions)
    if not name:
        return haul
    if name not in FORMATS_BY_FILE:
        return None
    stamps: dict[int, int] = {}
    for file, version in versions.items():
        pair = hash_of(loose_key(file))
        stamps[pair] = (stamps.get(pair, 0) + (version ^ hash_of(file))) & _ALL
    folder = _folder(place, seen, versions)
    found = formats.get(name).read(folder)
    records = Accounting(folder, found, name).records()
    keyed = ((hash_of(loose_key(record.source)), record) for record in records)
    taken = [(pair, record) for pair, record in keyed if pair in pairs]
    return replace(
        haul,
        data_format=name,
        classes=found.classes,
        records=[record for _, record in taken],
        stamps={record.source: stamps.get(pair, 0) for pair, record in taken},
    )


def _format(place: FeedLocation, seen: Fingerprints, data_format: str, versions: Mapping[str, int]) -> str:
    """The format's name; empty if there is no image yet to tell it by."""
    place.bring(_labels(versions))
    folder = _folder(place, seen, versions)
    if not folder.images and not folder.index:
        return ""
    return choose(folder, data_format)


def _folder(place: FeedLocation, seen: Fingerprints, versions: Iterable[str]) -> Folder:
    return Folder(place.root, tuple(sorted({*versions, *seen.notes.landmarks.values()})), place.index)


def _labels(versions: Mapping[str, int]) -> dict[str, int]:
    """Those of some files that are no images."""
    return {name: version for name, version in versions.items() if suffix_of(name) not in IMAGE_SUFFIXES}


def _names_classes(name: str) -> bool:
    path = PurePosixPath(name)
    return path.name.lower() in NAMES_FILES or path.suffix.lower() in (".yaml", ".yml")


# --- entries of an index ---


def _by_entry(place: FeedLocation, seen: Fingerprints, data_format: str, fresh: dict[str, int]) -> NewEntries:
    """The entries of an index that lies among the files, where any file may matter to any entry."""
    everything: dict[str, int] = {}
    for names, versions in place.listing({}):
        listed = zip(names, map(int, versions), strict=True)
        everything |= {name: version for name, version in listed if is_plain(name)}
    place.bring(_labels(everything))
    folder = Folder(place.root, tuple(sorted(everything)), place.index)
    found = formats.get(data_format).read(folder)
    haul = NewEntries(
        place, seen, data_format, found.classes, found.values, files=everything | fresh, versions=everything
    )
    return _with_entries(haul, Accounting(folder, found, data_format).records())


def _by_line(place: FeedLocation, seen: Fingerprints, data_format: str) -> NewEntries:
    """The lines of a text file. Which images are there is asked only for new lines."""
    files = place.versions([place.index, LINES_NAMES])
    unchanged = not seen.lacks(hashes_of(files), np.fromiter(files.values(), np.uint64)).any()
    if unchanged and not seen.notes.pending:
        return NewEntries(place, seen, data_format)
    place.bring(files)
    folder = _Promised(place.root, tuple(files), place.index)
    if data_format == "auto":
        data_format = choose(folder, "auto") if formats.get(MASKS_FORMAT).detect(folder) else LINES_FORMAT
    reader = formats.get(data_format)
    found = reader.read(folder)
    told = data_format if reader.detect(folder) else ""  # the first lines may have no labels yet
    haul = _with_entries(NewEntries(place, seen, told, found.classes, found.values, files=files), found.records)
    if isinstance(place, BucketLocation):
        return replace(haul, versions=place.versions(haul.wanted(haul.records)))
    return haul


class _Promised(Folder):
    """A folder in which every image that anybody names is taken to be there."""

    def __contains__(self, name: object) -> bool:
        path = PurePosixPath(str(name))
        promised = suffix_of(path.name) in IMAGE_SUFFIXES and not path.is_absolute() and ".." not in path.parts
        return promised or super().__contains__(name)


def _with_entries(haul: NewEntries, records_found: Iterable[Record]) -> NewEntries:
    """The entries that are new or changed. Several of one image count as one."""
    records: dict[str, list[Record]] = {}
    stamps: dict[str, int] = {}
    for record in records_found:
        content = repr((record.labels, record.split, record.size, record.left_out, record.reason))
        if record.mask:
            content += repr((haul.mask(record), haul.versions.get(haul.mask(record), 0)))
        version = hash_of(content) + haul.versions.get(record.source, 0)
        stamps[record.source] = (stamps.get(record.source, 0) + version) & _ALL
        records.setdefault(record.source, []).append(record)
    versions = np.fromiter(stamps.values(), np.uint64, len(stamps))
    fresh = haul.seen.lacks(hashes_of(map(line_key, stamps)), versions)
    lines = {source: stamps[source] for source in itertools.compress(stamps, fresh)}
    return replace(haul, records=[r for source in lines for r in records[source]], stamps=lines, lines=lines)


# --- archives ---


@contextmanager
def _archive(url: str, data_path: str, seen: Fingerprints, data_format: str, limits: Limits) -> Iterator[NewEntries]:
    """Everything in an archive that has changed."""
    with tempfile.TemporaryDirectory(prefix="edge-feed-") as temporary:
        path, version = _archive_version(url, Path(temporary), limits)
        place = FolderLocation(Path(temporary))
        if not seen.lacks(hashes_of([line_key("")]), np.array([version], np.uint64)).any():
            yield NewEntries(place, seen, data_format)
            return
        with open_dataset(path, data_path, Path(temporary), limits) as folder:
            name = choose(folder, data_format)
            found = formats.get(name).read(folder)
            records = list(Accounting(folder, found, name).records())
            haul = NewEntries(
                FolderLocation(folder.root), seen, name, found.classes, found.values, records, lines={"": version}
            )
            yield replace(haul, stamps={record.source: version for record in haul.records})


def _archive_version(url: str, folder: Path, limits: Limits) -> tuple[str, int]:
    """Where the archive can be read, and its version."""
    if url.startswith("s3://"):
        root, key = split(url)
        info = open_store(root).stat(key)
        return url, hash_of(f"{info.size} {info.etag}") if info else 0
    path = folder / "download" if "://" in url and not url.startswith("file:") else local_path(url)
    if path.parent == folder:
        limits.fetch(url, path)
        with path.open("rb") as file:
            return str(path), hash_of(hashlib.file_digest(file, "sha256").hexdigest())
    status = path.stat()
    return url, hash_of(f"{status.st_size} {status.st_mtime_ns}")


# --- images ---


def _unlabelled(record: Record) -> Record:
    """An image without a label file is an unlabelled one, also where the format says it is empty."""
    return record._replace(labels=None) if record.labels == () and not record.label_file else record


def _waits_for_mask(record: Record) -> bool:
    """Whether an index names a mask that is not there yet."""
    return bool(record.mask) and not Path(record.mask).is_file()


def _outcomes(haul: NewEntries, records: list[Record], store: Store, values: Values | None) -> list[Pair]:
    """What becomes of each record, sorted by source; images that an earlier poll checked are not opened again.

    Those with a mask are: of a mask no poll remembers what it found.
    """
    if not records:
        return []
    pending = _read_pending(store, haul.seen.cursor)
    checked = {
        id(record): pending[mark] for record in records if not record.mask and (mark := haul.mark(record)) in pending
    }
    outcomes = [(record, _checked(record, checked[id(record)])) for record in records if id(record) in checked]
    rest = [record for record in records if id(record) not in checked]
    missing = haul.place.bring(haul.wanted(rest))
    there = [
        record._replace(path="", reason="label without image: the image is not there")
        if not record.reason and haul.name(record) in missing
        else record
        for record in rest
    ]
    outcomes += watched(take_in(there, store, values=values), len(there))
    outcomes = joined(sorted(outcomes, key=lambda pair: pair[0].source))
    good = {haul.mark(record): found for record, outcome in outcomes if (found := outcome.image) and not record.mask}
    _write_pending(store, haul.seen.cursor, pending, good)
    return outcomes


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


def _bad_marks(haul: NewEntries, outcomes: Iterable[Pair]) -> list[str]:
    return [f"{haul.mark(record, outcome.reason):016x}" for record, outcome in outcomes if outcome.reason]


def _check_share(
    bad: int, found: int, max_bad_fraction: float, quarantined: list[Quarantined], uri: str, hints: list[str]
) -> None:
    if bad >= FEW_BAD and bad > max_bad_fraction * found:
        raise InputError(
            f"{bad} of {found} new files are bad, max_bad_fraction allows {max_bad_fraction:g}: "
            f"{'; '.join([*hints, lists.most_frequent(quarantined)])}; the whole list: {uri}; the next poll passes "
            "over them until they change"
        )


# --- what the job has ---


@dataclass(frozen=True)
class _Known:
    """What the job has of the images of a poll.

    Attributes:
        classes: the job's class names.
        labels: boxes and mask by image id.
    """

    classes: tuple[str, ...]
    labels: dict[str, tuple[list[dict[str, Any]] | None, str | None]]

    @classmethod
    def of(cls, store: Store, state: State, folder: Path, ids: list[str]) -> _Known:
        if state.manifest is None:
            return cls((), {})
        path = local_file(store, state.manifest, folder)
        try:
            classes = tuple(json.loads(pl.read_parquet_metadata(path).get("classes", "[]")))
            if not ids:
                return cls(classes, {})
            rows = with_masks(pl.scan_parquet(path).filter(pl.col("id").is_in(ids)).collect())
        except (pl.exceptions.PolarsError, ValueError, OSError) as error:
            raise InputError(f"manifest {store.uri_of(state.manifest)}: cannot be read ({error})") from error
        labels = rows.select("id", "annotations", "mask").iter_rows()
        return cls(classes, {sample: (boxes, mask) for sample, boxes, mask in labels})

    def classes_with(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """The job's classes, whose ids stay as they are, and then those that are new."""
        return tuple(dict.fromkeys((*self.classes, *names)))

    def compared(self, manifest: Manifest) -> tuple[list[bool], dict[str, int]]:
        """Which samples are news to the job, and how many are not, or are news about a sample that it has."""
        new = []
        counts = {"known": 0, "newly_labelled": 0, "relabelled": 0}
        for sample, boxes, mask in manifest.table.select("id", "annotations", "mask").iter_rows():
            boxes_before, mask_before = self.labels.get(sample, (None, None))
            same = (boxes is None or _same(boxes, boxes_before)) and mask in (None, mask_before)
            if sample in self.labels:
                labelled_before = boxes_before is not None or mask_before is not None
                counts["known" if same else "relabelled" if labelled_before else "newly_labelled"] += 1
            new.append(sample not in self.labels or not same)
        return new, counts


def _same(these: list[dict[str, Any]], those: list[dict[str, Any]] | None) -> bool:
    return those is not None and sorted(tuple(a.values()) for a in these) == sorted(tuple(a.values()) for a in those)


# --- what only saves work ---


@dataclass(frozen=True)
class _Memory:
    """What polls tell each other without a round being committed.

    Attributes:
        bad: marks of the bad entries that were reported.
        listed: when everything was listed last.
    """

    bad: frozenset[str] = frozenset()
    listed: datetime | None = None

    @classmethod
    def read(cls, store: Store) -> _Memory:
        found = store.read_versioned(MEMORY)
        try:
            data = json.loads(found[0]) if found else {}
            listed = data.get("listed")
            bad = frozenset(map(str, data.get("bad", ())))
            return cls(bad, datetime.fromisoformat(listed).astimezone(UTC) if listed else None)
        except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
            return cls()

    def write(self, store: Store, unless: _Memory) -> None:
        if self != unless:
            listed = self.listed.isoformat() if self.listed else None
            store.write(MEMORY, json.dumps({"bad": sorted(self.bad), "listed": listed}).encode())

    def listing_is_due(self) -> bool:
        """Whether the last full listing is long ago; or in the future, because a clock was put back."""
        return self.listed is None or abs(datetime.now(UTC) - self.listed) > FULL_LISTING

    def not_told(self, marks: Iterable[str]) -> list[str]:
        return [mark for mark in marks if mark not in self.bad]

    def told(self, marks: Iterable[str], complete: bool) -> _Memory:
        due = complete and self.listing_is_due()
        return _Memory(self.bad | set(marks), datetime.now(UTC) if due else self.listed)


def _read_pending(store: Store, cursor: str) -> dict[int, IngestedImage]:
    """Images among the blobs that came after a cursor, by mark; once another is committed, they are no longer new."""
    found = store.read_versioned(PENDING)
    try:
        if found is None or pl.read_parquet_metadata(io.BytesIO(found[0])).get("cursor") != cursor:
            return {}
        return {mark: IngestedImage(*rest) for mark, *rest in pl.read_parquet(found[0]).iter_rows()}
    except (pl.exceptions.PolarsError, TypeError):
        return {}


def _write_pending(store: Store, cursor: str, before: dict[int, IngestedImage], now: dict[int, IngestedImage]) -> None:
    if now == before:
        return
    rows = [(mark, *image) for mark, image in now.items()]
    schema = {"mark": pl.UInt64, "id": pl.String, "suffix": pl.String, "width": pl.Int32, "height": pl.Int32}
    content = io.BytesIO()
    pl.DataFrame(rows, schema=schema, orient="row").write_parquet(content, metadata={"cursor": cursor})
    store.write(PENDING, content.getvalue())
