"""What is new in a feed, by comparing fingerprints; no image is opened for it."""

from __future__ import annotations

import hashlib
import itertools
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

import numpy as np
import polars as pl

from components.core.stores.open import Store, open_store, split
from components.ingest.accounting import UNLABELLED_FORMAT, UNUSABLE, Accounting
from components.ingest.archive import Limits, is_plain
from components.ingest.copies import Pair
from components.ingest.dataset import IMAGE_SUFFIXES, Folder, Record, formats, suffix_of
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
from components.ingest.ingest import MASKS_FORMAT, choose
from components.ingest.locations import BucketLocation, FeedLocation, FolderLocation, latest, location_of
from components.ingest.pairs import loose_key

# Formats with a label file for each image. In the others, and in those of plug-ins, any file may label any image.
FORMATS_BY_FILE = {"voc", "yolo", UNLABELLED_FORMAT}
LINES_FORMAT, LINES_SUFFIX, LINES_NAMES = "sedna", ".txt", "classes.txt"

_ALL = 2**64 - 1


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
        """A hash that stands for a record in the state in which it is; those of another feed have others."""
        state = record.sample or (self.seen.notes.reading, self.stamps.get(record.source, 0))
        return hash_of(repr((record.source, state, *more)))

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
        own = [(record, outcome) for record, outcome in outcomes if not record.sample]
        failed = {record.source for record, outcome in own if outcome.reason or _waits_for_mask(record)}
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
def new_entries(
    feed_url: str,
    data_path: str,
    seen: Fingerprints,
    data_format: str,
    full: bool,
    limits: Limits,
    cache: Path,
    job: Store,
) -> Iterator[NewEntries]:
    """What is new in a feed; its files can be read while this is open."""
    data_format = seen.notes.data_format or data_format
    objects = cache / "objects" / seen.notes.reading
    with location_of(feed_url, data_path, objects, job, is_prefix=bool(seen.notes.last) and not full) as place:
        if place is None:
            with _archive(feed_url, data_path, seen, data_format, limits) as entries:
                yield entries
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


def _with_odd_names(entries: NewEntries, odd: Mapping[str, int]) -> NewEntries:
    """Also what can be no file here, to be told of once."""
    odd = {name: version for name, version in odd.items() if name not in entries.files}
    return replace(
        entries,
        records=[*entries.records, *(Record(name, reason=UNUSABLE) for name in odd)],
        stamps={**entries.stamps, **odd},
        files={**entries.files, **odd},
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
        entries = _by_file(place, seen, data_format, fresh, companions)
        if entries is not None:
            return replace(entries, complete=not last)
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
    entries = NewEntries(place, seen, seen.notes.data_format, files=fresh, versions=versions)
    name = _format(place, seen, data_format, versions)
    if not name:
        return entries
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
        entries,
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
    entries = NewEntries(
        place, seen, data_format, found.classes, found.values, files=everything | fresh, versions=everything
    )
    return _with_entries(entries, Accounting(folder, found, data_format).records())


def _by_line(place: FeedLocation, seen: Fingerprints, data_format: str) -> NewEntries:
    """The lines of a text file. Which images are there is asked only for new lines."""
    files = place.versions([place.index, PurePosixPath(place.index).with_name(LINES_NAMES).as_posix()])
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
    entries = _with_entries(NewEntries(place, seen, told, found.classes, found.values, files=files), found.records)
    if isinstance(place, BucketLocation):
        return replace(entries, versions=place.versions(entries.wanted(entries.records)))
    return entries


class _Promised(Folder):
    """A folder in which every image that anybody names is taken to be there."""

    def __contains__(self, name: object) -> bool:
        path = PurePosixPath(str(name))
        promised = suffix_of(path.name) in IMAGE_SUFFIXES and not path.is_absolute() and ".." not in path.parts
        return promised or super().__contains__(name)


def _with_entries(entries: NewEntries, records_found: Iterable[Record]) -> NewEntries:
    """The entries that are new or changed. Several of one image count as one."""
    records: dict[str, list[Record]] = {}
    stamps: dict[str, int] = {}
    for record in records_found:
        content = repr((record.labels, record.split, record.size, record.left_out, record.reason, *record.regions))
        if record.mask:
            content += repr((entries.mask(record), entries.versions.get(entries.mask(record), 0)))
        version = hash_of(content) + entries.versions.get(record.source, 0)
        stamps[record.source] = (stamps.get(record.source, 0) + version) & _ALL
        records.setdefault(record.source, []).append(record)
    versions = np.fromiter(stamps.values(), np.uint64, len(stamps))
    fresh = entries.seen.lacks(hashes_of(map(line_key, stamps)), versions)
    lines = {source: stamps[source] for source in itertools.compress(stamps, fresh)}
    return replace(entries, records=[r for source in lines for r in records[source]], stamps=lines, lines=lines)


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
            entries = NewEntries(
                FolderLocation(folder.root), seen, name, found.classes, found.values, records, lines={"": version}
            )
            yield replace(entries, stamps={record.source: version for record in entries.records})


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


def _waits_for_mask(record: Record) -> bool:
    """Whether an index names a mask that is not there yet."""
    return bool(record.mask) and not Path(record.mask).is_file()
