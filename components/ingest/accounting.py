"""The accounting of a data set: every label that lies in it is used, or stands on the quarantine list with a reason.

A reader takes what it knows by its own rules and says in its records which files it took; what it reads as a whole,
such as an index, is known to have been opened. Whatever is left and could be a label belongs to some image, which would
come in as one that shows nothing without it. So each such file becomes one more record, with a reason. Only a
label that nothing depends on is left out without counting as bad: of an image that has its label from another file, or
that the data set does not list.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath

from components.ingest.dataset import IMAGE_SUFFIXES, DataSet, Folder, Record, few, suffix_of
from components.ingest.label_files import ADVICE, CONTAINERS, INDEXES, TEXTS, is_note, kind_of
from components.ingest.pairs import Pairs, has_masks, loose_key, masks_in, plain
from components.ingest.quarantine import LEFT_OUT, Quarantined

UNLABELLED_FORMAT = "folder"
UNUSABLE = "name unusable: an empty part, '.', '..', a backslash, a drive letter, or too long: rename the object"
LABEL_SUFFIX = {"yolo": ".txt", "voc": ".xml"}  # of the formats with a label file for each image


class Accounting:
    """Passes on what a reader found, and then what it left.

    Args:
        data: the files.
        found: what the reader made of them.
        data_format: the name of its format.
    """

    def __init__(self, data: Folder, found: DataSet, data_format: str) -> None:
        self._data = data
        self._found = found
        self._format = data_format
        self._used: set[str] = set()
        self._labelled: set[str] = set()
        self._left_out = dict(found.left_out)

    def records(self) -> Iterator[Record]:
        """The reader's records, then one with a reason for each label that an image may miss."""
        yield from (Record(name, reason=UNUSABLE) for name in self._data.unusable)
        for record in self._found.records:
            mask = record.mask.removeprefix(f"{self._data.root}/")
            self._used.update((record.source, record.label_file, mask))
            if record.label_file or mask or record.reason:
                self._labelled.add(record.source)
            yield record
        if not self._data.index:  # whoever names an index wants what it lists, and nothing else
            yield from self._left()

    def unlisted(self) -> list[str]:
        """The images that lie in the data without belonging to the data set; after ``records``."""
        return [name for name in self._data.images if name not in self._used and name not in self._left_out]

    def left_out(self) -> list[Quarantined]:
        """What was left out without being bad; after ``records``."""
        reasons = dict.fromkeys(self.unlisted(), "not listed: the data set does not name this image")
        return [Quarantined(name, reason, LEFT_OUT) for name, reason in sorted({**reasons, **self._left_out}.items())]

    def _left(self) -> Iterator[Record]:
        known = self._used | self._data.opened | self._left_out.keys()
        left = [name for name in self._data.named(*TEXTS, *CONTAINERS) if name not in known]
        if not left and not self._has_unread_masks():
            return
        unlisted = Pairs.of(self.unlisted(), left)
        by_stem: dict[str, list[str]] = {}
        for image in self._data.images:
            by_stem.setdefault(_stem(image), []).append(image)
        suffix = LABEL_SUFFIX.get(self._format, "")
        places = {loose_key(name).rpartition("/")[0] for name in self._used if name} if suffix else set()
        for name in left:
            images = by_stem.get(_stem(name), [])
            by_place = suffix_of(name) == suffix and (images or loose_key(name).rpartition("/")[0] in places)
            kind = kind_of(self._data, name) or ("a label file by its place" if by_place and not is_note(name) else "")
            if not kind:
                continue
            reason = self._reason(kind, images)
            if name in unlisted.images:
                self._left_out[name] = f"not listed: the data set does not name its image {few(unlisted.images[name])}"
            elif self._is_spare(kind, images):
                self._left_out[name] = reason
            else:
                yield Record(name, reason=reason)
        if self._has_unread_masks():
            masks = [name for name in masks_in(self._data) if name not in known]
            self._left_out |= dict.fromkeys(masks, f"label not read: a mask; data_format {self._format} reads none")

    def _has_unread_masks(self) -> bool:
        return self._found.values is None and has_masks(self._data)

    def _is_spare(self, kind: str, images: list[str]) -> bool:
        """Whether no image lacks a label for want of this one."""
        if self._format == UNLABELLED_FORMAT:
            return True
        if not images and kind in INDEXES:
            images = [name for name in self._data.images if name in self._used]
        return bool(images) and self._labelled.issuperset(images)

    def _reason(self, kind: str, images: list[str]) -> str:
        advice = f"; {ADVICE[kind]}" if kind in ADVICE else ""
        if kind in INDEXES:
            return f"label not read: {kind}, which data_format {self._format} does not read{advice}"
        if not images:
            return f"label without image: {kind}; no image in the data has this name{advice}"
        shown = few(images, 2)
        return f"label not read: {kind}; {self._format} does not look there for the label of {shown}{advice}"


def _stem(name: str) -> str:
    """The name that a label file and its image share, wherever they lie."""
    stem = PurePosixPath(plain(name)).stem
    return PurePosixPath(stem).stem if suffix_of(stem) in IMAGE_SUFFIXES else stem
