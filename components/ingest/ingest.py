"""Ingest: verify every image and label of a data set, store the images as blobs, list them in a manifest.

One bad file never stops the rest and never vanishes: it goes on the quarantine list with its reason. Too many of them
stop everything, since then the data set, or what was said about it, is wrong.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from components.core.errors import InputError
from components.core.job.hard_examples import scenes
from components.core.manifest import Manifest
from components.core.masks import VOID
from components.core.progress import Progress
from components.core.stores.open import Store, open_store
from components.ingest import quarantine as lists
from components.ingest.accounting import UNLABELLED_FORMAT, Accounting
from components.ingest.archive import Limits
from components.ingest.classes import Classes
from components.ingest.copies import Pair, joined
from components.ingest.dataset import IMAGE_SUFFIXES, Folder, Record, few, formats, suffix_of
from components.ingest.download import open_dataset
from components.ingest.images import Box, Outcome, take_in
from components.ingest.label_files import TEXTS, foreign, lossy
from components.ingest.quarantine import BAD, DUPLICATE, EXAMPLES, Quarantined
from components.ingest.review import Review, review
from components.ingest.unread_masks import unread_masks

logger = logging.getLogger(__name__)

PROGRESS_SECONDS = 5.0
MASKS_FORMAT = "masks"
VOID_NAME = f"void ({VOID})"

# Roboflow names the augmented copies of one image alike up to ".rf."; they must not be spread over splits.
_ROBOFLOW = re.compile(r"^(?P<image>.+)\.rf\.[0-9A-Za-z]{8,}$")
_LABEL_SUFFIXES = (*TEXTS, ".yaml", ".yml")


@dataclass(frozen=True)
class Ingested:
    """What came in and what did not.

    Attributes:
        manifest: one row per image, sorted by source.
        quarantine: what did not come in, sorted by source.
        counts: ``found`` files (images, and labels that are no image's); of these ``images`` that came in,
            ``duplicates``, and ``quarantined``; of the images ``negatives`` (nothing to see), ``without_label_file``
            (the negatives among them that no label file says are), ``unlabelled``; ``boxes``, ``ignored_boxes``,
            ``repeated_boxes`` (the same box of an image again), ``masks``; ``unlisted``, the images that lie in the
            data without belonging to the data set; and ``warnings``.
        format: name of the data format.
        warnings: what stands out when one looks at the whole; see :mod:`components.ingest.review`.
        quarantine_uri: where the list lies in the job's store; empty if it is empty.
        pixels: see :func:`pixels_of`.
    """

    manifest: Manifest
    quarantine: list[Quarantined]
    counts: dict[str, int]
    format: str
    quarantine_uri: str = ""
    pixels: dict[str, int] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


Row = dict[str, Any]


def ingest(
    data_url: str,
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
    round_number: int = 0,
) -> Ingested:
    """Bring a data set in.

    The same input gives the same manifest, byte for byte.

    Args:
        data_url: archive, folder or index file; see :func:`components.ingest.download.opened`.
        job_root: address of the job's store.
        data_path: sub-folder or index file inside it.
        data_format: name of a registered format, or ``auto`` to tell it by the files.
        classes: names of the data set's classes in order, ``name`` or ``name-in-the-data:name``; empty: all.
        ignore_classes: classes whose boxes are left out and whose pixels are void; ``*``: all that ``classes`` does not
            name.
        max_bad_fraction: fraction of quarantined files, 0 to 1, above which this fails.
        max_files: most files in an archive.
        max_unpacked_gb: most gigabytes (10^9 bytes) that it unpacks to.
        max_compression_ratio: most bytes unpacked per byte packed.
        round_number: the round that brings the samples in.

    Raises:
        InputError: the data set cannot be read, too much of it is bad, or no image of it can be used.
    """
    if data_format != "auto":
        formats.get(data_format)  # an unknown name should not cost a download
    wanted = Classes(classes, ignore_classes)
    store = open_store(job_root)
    with open_dataset(
        data_url, data_path, workspace_of(store), Limits(max_files, max_unpacked_gb, max_compression_ratio), store
    ) as data:
        name = choose(data, data_format)
        found = formats.get(name).read(data)
        wanted.declare(found.classes)
        logger.info("reading %s: %d images", name, len(data.images))
        values = None if found.values is None else wanted.values(found.values)
        accounting = Accounting(data, found, name)
        records = map(wanted.apply, accounting.records())
        pairs = watched(take_in(records, store, values=values), len(data.images))
        outcomes = joined(sorted(pairs, key=lambda pair: pair[0].source))
        bare = {record.source for record, outcome in outcomes if not record.label_file and not outcome.boxes}
        unread = unread_masks(data, bare)
        left_out = accounting.left_out()
        misplaced = _misplaced(data, data_url, data_path)
    kept, quarantined = without_duplicates(outcomes)
    quarantined = sorted([*quarantined, *left_out], key=lambda entry: entry.source)
    quarantine_uri = lists.write(quarantined, store)
    names = wanted.names({box[0] for _, outcome in kept for box in outcome.boxes or ()})
    pixels = pixels_of(kept, names)
    seen = review(kept, names, pixels, name)
    warnings = (*seen.warnings, *wanted.warnings(), *_left_labels(left_out), *lossy(data, name))
    warnings += (f"{unread}; they came in as images",) if unread else ()
    for warning in warnings:
        logger.warning("%s", warning)
    _check_share(quarantined, len(outcomes), len(kept), max_bad_fraction, quarantine_uri, seen, wanted, misplaced)
    if not ignore_classes:  # whose pixels are void, too
        _check_masks(pixels)
    groups = scenes(store, {outcome.image.id for _, outcome in kept if outcome.image})
    rows = [row_of(record, outcome, names, store, round_number, groups) for record, outcome in kept]
    counts = count_up(outcomes, kept, quarantined)
    counts |= {"unlisted": len(accounting.unlisted()), "warnings": len(warnings)}
    logger.info("%s", ", ".join(f"{count} {what}" for what, count in counts.items()))
    return Ingested(Manifest.of(rows, names), quarantined, counts, name, quarantine_uri, pixels, warnings)


def choose(data: Folder, data_format: str) -> str:
    """The format that was named, or the one that fits.

    Raises:
        InputError: none fits, or several do.
    """
    if data_format != "auto":
        return data_format
    fitting = [name for name, reader in formats.items() if name != UNLABELLED_FORMAT and reader.detect(data)]
    if fitting in ([], [MASKS_FORMAT]) and (advice := foreign(data)):
        raise InputError(advice)
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise InputError(f"the data could be {' or '.join(fitting)}: choose one with data_format")
    if unread := unread_masks(data):
        raise InputError(f"{unread}, or set data_format={UNLABELLED_FORMAT} to take every file as an unlabelled image")
    only_images = not any(
        not PurePosixPath(name).stem.lower().startswith(("readme", "license")) for name in data.named(*_LABEL_SUFFIXES)
    )
    if only_images and formats.get(UNLABELLED_FORMAT).detect(data):
        return UNLABELLED_FORMAT
    suffixes = Counter(suffix_of(name) or "without suffix" for name in data.files)
    there = few(f"{count} {suffix}" for suffix, count in suffixes.most_common())
    raise InputError(
        f"unknown data format ({data.index or there}): choose from {', '.join(formats.names())} for "
        "data_format, or set data_path to the sub-folder or index file of the data set"
    )


def printable(path: str) -> str:
    """A path fit for one line of UTF-8, whatever bytes the file's name is made of."""
    if path.isprintable():
        return path
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in path)


def group_of(source: str, image_id: str) -> str:
    """What an image must share a split with: copies of one image by Roboflow's naming, else itself alone."""
    match = _ROBOFLOW.match(PurePosixPath(source).stem)
    return match["image"] if match else image_id


def workspace_of(store: Store) -> Path | None:
    """The folder of a job that lies on this machine, made if need be; None for one that lies elsewhere.

    Raises:
        InputError: it cannot be made.
    """
    blobs = store.local_path("blobs")
    if blobs is None:
        return None
    try:
        blobs.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"job_root {store.uri}: cannot be created ({error.strerror}): give a writable folder"
        ) from error
    return blobs.parent


def watched(pairs: Iterable[Pair], total: int) -> Iterator[Pair]:
    """Pass the pairs on and say now and then how far they are."""
    progress = Progress(logger, "{done} of {total} images", total, seconds=PROGRESS_SECONDS)
    taken = bad = 0
    for pair in pairs:
        yield pair
        taken += pair[1].bytes
        bad += bool(pair[1].reason)
        progress.advance(f"{taken / 1e6:.0f} MB, {bad} bad so far")


def without_duplicates(outcomes: list[Pair]) -> tuple[list[Pair], list[Quarantined]]:
    """Keep the first of images with the same bytes; list the others, and the bad ones."""
    kept: dict[str, Pair] = {}
    quarantined: list[Quarantined] = []
    for record, outcome in outcomes:
        source = printable(record.source)
        if outcome.image is None:
            quarantined.append(Quarantined(source, printable(outcome.reason), BAD))
            continue
        first, _ = kept.setdefault(outcome.image.id, (record, outcome))
        if first is not record:
            quarantined.append(Quarantined(source, f"same image as {printable(first.source)}", DUPLICATE))
    return sorted(kept.values(), key=lambda pair: pair[0].source), quarantined


def _left_labels(left_out: list[Quarantined]) -> list[str]:
    labels = [entry for entry in left_out if suffix_of(entry.source) not in IMAGE_SUFFIXES or "mask" in entry.reason]
    if not labels:
        return []
    names = few((entry.source for entry in labels), EXAMPLES)
    return [f"{len(labels)} files with labels are ignored ({names}); {labels[0].source}: {labels[0].reason}"]


def _misplaced(data: Folder, data_url: str, data_path: str) -> str:
    """What to do about an index as the address, in whose folder there is no image; empty where that is not so."""
    if not data.index or data.images or data_path:
        return ""
    inside = f"{PurePosixPath(data_url).parent.name}/{data.index}"
    return f"no image lies in the folder of the index: give the folder above as data_url, and data_path={inside}; "


def _check_share(
    quarantined: list[Quarantined],
    found: int,
    kept: int,
    max_bad_fraction: float,
    quarantine_uri: str,
    seen: Review,
    wanted: Classes,
    misplaced: str,
) -> None:
    bad = sum(entry.kind == BAD for entry in quarantined)
    if not found:
        raise InputError("no images in the data: check data_url, data_path and data_format")
    hints = [*(seen.warnings if seen.unlabelled else ()), *wanted.warnings()]
    listed = [lists.most_frequent(quarantined), f"full list: {quarantine_uri}"] if bad else []
    faults = "; ".join([*hints, *listed])
    if not kept:
        raise InputError(f"no usable image, {bad} of {found} files are bad: {misplaced}{faults}")
    if bad + seen.unlabelled > max_bad_fraction * found:
        raise InputError(
            f"{bad + seen.unlabelled} of {found} files are bad, max_bad_fraction allows {max_bad_fraction:g}: {faults}"
        )


def _check_masks(pixels: dict[str, int]) -> None:
    """Refuse masks of 0 and 255 alone, which most tools write for background and object: 255 is void here.

    Raises:
        InputError: they are.
    """
    shown = [name for name, count in pixels.items() if count]
    if len(pixels) > 2 and len(shown) == 2 and pixels[VOID_NAME]:
        raise InputError(
            f"the masks contain only class {shown[0]} and 255 (void): write the "
            "object as 1, or set 'label_mapping: {255: 1}' in a data.yaml that names both classes"
        )


def row_of(
    record: Record,
    outcome: Outcome,
    names: tuple[str, ...],
    store: Store,
    round_number: int,
    groups: Mapping[str, str],
) -> Row:
    """One image's row of the manifest.

    Args:
        record: as the data set has it.
        outcome: the image among the blobs.
        names: class names in the order of their ids.
        store: the job's root.
        round_number: the round that brings it in.
        groups: the groups of images that have one for another reason than their name.
    """
    image = outcome.image
    assert image is not None
    return {
        "id": image.id,
        "uri": store.uri_of(image.key),
        "width": image.width,
        "height": image.height,
        "split": record.split,
        "group": groups.get(image.id) or group_of(record.source, image.id),
        "source": printable(record.source),
        "round": round_number,
        "annotations": None if outcome.boxes is None else [_annotation(box, names) for box in outcome.boxes],
        "mask": store.uri_of(outcome.mask.key) if outcome.mask else None,
    }


def _annotation(box: Box, names: tuple[str, ...]) -> dict[str, float]:
    name, x1, y1, x2, y2 = box
    return {"class_id": names.index(name), "x1": x1, "y1": y1, "x2": x2, "y2": y2}


def count_up(outcomes: list[Pair], kept: list[Pair], quarantined: list[Quarantined]) -> dict[str, int]:
    """What ``Ingested.counts`` holds, but for ``unlisted``.

    Args:
        outcomes: everything that was looked at.
        kept: what came in.
        quarantined: what did not.
    """
    negatives = [record for record, outcome in kept if outcome.boxes == ()]
    kinds = Counter(entry.kind for entry in quarantined)
    return {
        "found": len(outcomes),
        "images": len(kept),
        "duplicates": kinds[DUPLICATE],
        "quarantined": kinds[BAD],
        "negatives": len(negatives),
        "without_label_file": sum(not record.label_file for record in negatives),
        "unlabelled": sum(not outcome.labelled for _, outcome in kept),
        "boxes": sum(len(outcome.boxes or ()) for _, outcome in kept),
        "ignored_boxes": sum(record.left_out for record, _ in kept),
        "repeated_boxes": sum(outcome.repeated for _, outcome in kept),
        "masks": sum(outcome.mask is not None for _, outcome in kept),
    }


def pixels_of(kept: list[Pair], names: tuple[str, ...]) -> dict[str, int]:
    """How many pixels of the masks each class has, in the order of ``names``, and how many are void; empty: no mask."""
    counts = Counter[int]()
    for _, outcome in kept:
        for number, count in outcome.mask.pixels if outcome.mask else ():
            counts[number] += count
    return {**{name: counts[number] for number, name in enumerate(names)}, VOID_NAME: counts[VOID]} if counts else {}
