"""What a feed has shown so far: one fingerprint for every file, line or archive that was looked at.

It is a Parquet table in the job's store, in parts that are never changed: each holds what came since the part before,
and names all older ones, so the key of the newest is all that the job's state must keep. A part is written under a name
made of its content. If the round is never committed, the state goes on naming the older part, and nothing has happened.

======= ====== ==================================================================================
column  type   meaning
======= ====== ==================================================================================
key     uint64 hash of the name; unique, the newest part counts
version uint64 hash of what changes when the content does: size and time, etag, or the labels
pair    uint64 hash of what an image's name and its label's name have in common
image bool   named like an image
name    binary path inside the feed, in the bytes of the file system; empty for a line
======= ====== ==================================================================================

A poll reads two of the columns, 16 bytes for each file, and names only of what it needs.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TypeAlias

import numpy as np
import polars as pl
from numpy.typing import NDArray

from components.core.cache import local_file
from components.core.errors import InputError
from components.core.stores.open import Store
from components.ingest.dataset import IMAGE_SUFFIXES, suffix_of
from components.ingest.pairs import loose_key

Hashes: TypeAlias = NDArray[np.uint64]

SCHEMA = {"key": pl.UInt64, "version": pl.UInt64, "pair": pl.UInt64, "picture": pl.Boolean, "name": pl.Binary}
KINDS = ("key", "pair", "picture")
_PART = re.compile(r"feed/[0-9a-f]{32}\.parquet")
ABSORBED = 2  # a part takes up older ones of up to this many times its rows, so that there are never many


def hash_of(text: str) -> int:
    """A hash of 64 bits, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(_bytes(text), digest_size=8).digest(), "little")


def hashes_of(texts: Iterable[str]) -> Hashes:
    """The hash of each text (N,)."""
    digest = hashlib.blake2b
    joined = b"".join([digest(_bytes(text), digest_size=8).digest() for text in texts])
    return np.frombuffer(joined, dtype="<u8").astype(np.uint64)


@dataclass(frozen=True)
class Notes:
    """What a poll must know of the polls before it, besides the fingerprints.

    Attributes:
        reading: hash of the feed's address and of how it is read; another one begins anew.
        data_format: the format detected from the files; empty: none yet, or only images so far.
        last: the key that sorts last, of the whole feed (under the empty text) and of each folder that holds either
            images or labels only.
        landmarks: one image of each folder, by folder, for readers that must see that a folder has images.
        pending: how many entries came to nothing and are to be tried again though nothing about them changes.
    """

    reading: str = ""
    data_format: str = ""
    last: dict[str, str] = field(default_factory=dict)
    landmarks: dict[str, str] = field(default_factory=dict)
    pending: int = 0


@dataclass(frozen=True)
class _Part:
    key: str
    rows: int
    path: Path

    def read(self) -> pl.DataFrame:
        return pl.read_parquet(self.path)

    def fingerprints(self) -> tuple[Hashes, Hashes]:
        """Keys, sorted, and their versions."""
        table = pl.read_parquet(self.path, columns=["key", "version"])
        return table["key"].to_numpy(), table["version"].to_numpy()


class Fingerprints:
    """The fingerprints that a cursor stands for.

    Args:
        cursor: key of the newest part; empty: nothing has been seen.
        parts: oldest first.
        notes: of the newest part.
    """

    def __init__(self, cursor: str, parts: Sequence[_Part], notes: Notes) -> None:
        self.cursor = cursor
        self.notes = notes
        self._parts = tuple(parts)
        self._columns = [part.fingerprints() for part in reversed(self._parts) if part.rows]  # newest first

    @classmethod
    def read(cls, store: Store, cursor: str, folder: Path) -> Fingerprints:
        """Read what a cursor stands for.

        Args:
            store: the job's root.
            cursor: key of the newest part; empty: none.
            folder: where parts may be kept on this machine.

        Raises:
            NotFoundError: a part is not there.
            InputError: one cannot be read.
        """
        if not cursor:
            return cls("", (), Notes())
        path = local_file(store, cursor, folder)
        try:
            metadata = pl.read_parquet_metadata(path)
            notes = Notes(**json.loads(metadata["notes"]))
            listed = json.loads(metadata["parts"])
            parts = [_Part(key, rows, local_file(store, key, folder)) for key, rows in listed]
            return cls(cursor, [*parts, _Part(cursor, int(metadata["rows"]), path)], notes)
        except (pl.exceptions.PolarsError, KeyError, ValueError, TypeError, OSError) as error:
            raise InputError(f"{store.uri_of(cursor)} is not a valid table of feed fingerprints ({error})") from error

    def __bool__(self) -> bool:
        """Whether anything was seen."""
        return bool(self._parts)

    def lacks(self, keys: Hashes, versions: Hashes) -> NDArray[np.bool_]:
        """Which entries (N,) are new or changed."""
        lacking = np.ones(len(keys), dtype=bool)
        undecided = lacking.copy()
        for known_keys, known_versions in self._columns:
            places = np.minimum(np.searchsorted(known_keys, keys), len(known_keys) - 1)
            known = undecided & (known_keys[places] == keys)
            lacking[known & (known_versions[places] == versions)] = False
            undecided &= ~known
        return lacking

    def paired(self, pairs: Iterable[int]) -> dict[str, int]:
        """The files that belong to images or labels, by what their names have in common, each with its version."""
        wanted = pl.Series(list(pairs), dtype=pl.UInt64).implode()
        return self._files(pl.col("pair").is_in(wanted))

    def companions(self) -> dict[str, int]:
        """The files that belong to no single image, such as lists of classes, each with its version."""
        if not self:
            return {}
        tables = [pl.read_parquet(part.path, columns=list(KINDS)) for part in self._parts]
        keys, pairs, is_image = (np.concatenate([table[name].to_numpy() for table in tables]) for name in KINDS)
        of_images = np.append(np.sort(pairs[is_image]), np.uint64(0))  # lines, which are no files, have pair 0
        others = pairs[~is_image]
        alone = keys[~is_image][(others != 0) & (of_images[np.searchsorted(of_images[:-1], others)] != others)]
        return self._files(pl.col("key").is_in(pl.Series(alone).implode())) if len(alone) else {}

    def extended(self, store: Store, rows: pl.DataFrame, notes: Notes) -> str:
        """Write a part with more rows.

        Args:
            store: the job's root.
            rows: what has been seen now, with the columns of the table.
            notes: what to remember.

        Returns:
            The cursor that stands for the old and the new; the old one if there is nothing new.
        """
        rows = rows.filter(pl.Series(self.lacks(rows["key"].to_numpy(), rows["version"].to_numpy()), dtype=pl.Boolean))
        if rows.is_empty() and notes == self.notes:
            return self.cursor
        kept, absorbed, height = list(self._parts), [rows], rows.height
        while kept and kept[-1].rows <= ABSORBED * height:
            absorbed.append(kept.pop().read())
            height += absorbed[-1].height
        table = pl.concat(reversed(absorbed)).unique("key", keep="last").sort("key")
        metadata = {
            "rows": str(table.height),
            "parts": json.dumps([(part.key, part.rows) for part in kept]),
            "notes": json.dumps(asdict(notes), sort_keys=True),
        }
        content = io.BytesIO()
        table.write_parquet(content, metadata=metadata)
        key = f"feed/{hashlib.sha256(content.getvalue()).hexdigest()[:32]}.parquet"
        if store.stat(key) is None:
            store.write(key, content.getvalue())
        return key

    def _files(self, which: pl.Expr) -> dict[str, int]:
        found: dict[str, int] = {}
        for part in self._parts:
            rows = pl.scan_parquet(part.path).filter(which & (pl.col("pair") != 0)).select("name", "version").collect()
            found |= {os.fsdecode(name): version for name, version in rows.iter_rows()}
        return found


def remove_superseded(store: Store, cursor: str, before: datetime) -> list[str]:
    """Remove the parts that a job's cursor does not need: those of polls and of rounds that were never committed.

    Args:
        store: the job's root.
        cursor: that the job's state names.
        before: only parts that were written before this; a poll that goes on at the same time may need newer ones.

    Returns:
        Their keys.

    Raises:
        InputError: the part that the cursor names is not there, or is damaged.
    """
    if not cursor:
        return []
    metadata = pl.read_parquet_metadata(io.BytesIO(store.read(cursor)))
    needed = {cursor, *(key for key, _ in json.loads(metadata["parts"]))}
    spare = [
        info.key
        for info in store.list("feed/")
        if _PART.fullmatch(info.key) and info.key not in needed and info.modified < before
    ]
    for key in spare:
        store.delete(key)
    return spare


def file_rows(versions: dict[str, int]) -> pl.DataFrame:
    """Rows of the table for files.

    Args:
        versions: by name.
    """
    names = list(versions)
    return pl.DataFrame(
        {
            "key": hashes_of(names),
            "version": np.fromiter(versions.values(), np.uint64, len(names)),
            "pair": hashes_of(map(loose_key, names)),
            "picture": [suffix_of(name) in IMAGE_SUFFIXES for name in names],
            "name": list(map(os.fsencode, names)),
        },
        schema=SCHEMA,
    )


def line_rows(versions: dict[str, int]) -> pl.DataFrame:
    """Rows of the table for lines of an index, and other entries that are no files.

    Args:
        versions: by name.
    """
    rows = {"key": hashes_of(map(line_key, versions)), "version": np.fromiter(versions.values(), np.uint64)}
    return pl.DataFrame(
        {**rows, "pair": [0] * len(versions), "picture": [False] * len(versions), "name": [b""] * len(versions)},
        schema=SCHEMA,
    )


def line_key(name: str) -> str:
    """What is hashed for a line about an image, so that it is not taken for the image."""
    return f"{name}\0line"


def no_fingerprints(reading: str) -> Fingerprints:
    """The beginning of a feed that is read in one way."""
    return Fingerprints("", (), Notes(reading))


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
