"""Read each image once: check it, measure it, name it by its content, and put it among the job's blobs; and its mask.

Several processes share the work. Each is started afresh (``spawn``), because forking a process that has threads can
lock up, and because a decoder that crashes on a hostile file must not take the step with it.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import math
import multiprocessing
import os
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import NamedTuple

import numpy as np
import simplejpeg  # type: ignore[import-untyped]
from PIL import Image, UnidentifiedImageError

from components.core.cache import MAX_PIXELS
from components.core.errors import InputError
from components.core.masks import VOID, encode_mask
from components.core.processes import end_with_parent
from components.core.stores.open import Store
from components.core.stores.transfer import landing, os_reason
from components.ingest.dataset import LFS_POINTER, Label, LabelError, Record
from components.ingest.masks import Values, decode
from components.ingest.regions import paint

SUFFIXES = {"JPEG": ".jpg", "MPO": ".jpg", "PNG": ".png", "BMP": ".bmp", "WEBP": ".webp", "TIFF": ".tif"}
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF")  # MPO is a JPEG with more images behind the first
UNCOMMON = ("lzma", "zstd", "webp")  # compressions of TIFF that Pillow knows and OpenCV, which training reads with, not
MAX_IMAGE_BYTES = 500_000_000
MIN_HIGHEST = 1 << 12  # of 16 bits; what has no more is below 16 of 255 in 8 bits
_PNG_BITS_AT = 24
MIN_SIDE = 10  # pixels; Ultralytics drops smaller images from training
OUTSIDE_TOLERANCE = 1.0  # pixels; tools round, and some count from 1

CHUNK = 64  # images that a process is given at once
MOST_PROCESSES = 5  # each takes some 60 MB
UPLOADS = 8  # at the same time, in each process

Box = tuple[str, float, float, float, float]  # class name, x1, y1, x2, y2

_ORIENTATION = 0x0112  # the EXIF tag; 5 to 8 are turned by a quarter
# What libjpeg complains of without any part of the image being lost.
_HARMLESS = ("Unknown Adobe", "Inconsistent progression", "unknown JFIF", "Invalid SOS", "ICC marker", "subsampling")


class IngestedImage(NamedTuple):
    """What one image file is.

    Attributes:
        id: SHA-256 of its bytes, 64 hex digits.
        suffix: by its content, not by its name.
        width: pixels, as displayed.
        height: pixels, as displayed.
    """

    id: str
    suffix: str
    width: int
    height: int

    @property
    def key(self) -> str:
        """Its place among a job's blobs."""
        return f"blobs/{self.id[:2]}/{self.id}{self.suffix}"


class Mask(NamedTuple):
    """A mask among the blobs.

    Attributes:
        key: its place there.
        pixels: how many pixels each class has, and ``VOID``, by number; those that have any.
    """

    key: str
    pixels: tuple[tuple[int, int], ...]


class Outcome(NamedTuple):
    """What became of one record: an image whose boxes are in pixels, or a reason.

    Attributes:
        image: the image, which is among the blobs; None if there is a reason.
        boxes: its boxes, class name and ``x1, y1, x2, y2``, inside the image; None: it is unlabelled.
        bytes: size of the file.
        reason: why it cannot be used, ``kind: details``.
        mask: its mask, with the numbers of the manifest's classes; None: there is none.
        repeated: how many boxes were there again and are left out.
    """

    image: IngestedImage | None = None
    boxes: tuple[Box, ...] | None = None
    bytes: int = 0
    reason: str = ""
    mask: Mask | None = None
    repeated: int = 0

    @property
    def labelled(self) -> bool:
        """Whether somebody has drawn boxes or a mask, or has said that there is nothing to draw."""
        return self.boxes is not None or self.mask is not None

    @property
    def mask_key(self) -> str:
        """The mask's place among the blobs; empty if there is none."""
        return self.mask.key if self.mask else ""


class ImageError(Exception):
    """An image cannot be used; the message is the reason, ``kind: details``."""


def take_in(
    records: Iterable[Record], store: Store, processes: int | None = None, values: Values | None = None
) -> Iterator[tuple[Record, Outcome]]:
    """Check each record's image and labels and put the good images and their masks among the blobs.

    Args:
        records: what to take in; read ahead only a little.
        store: the job's root.
        processes: how many; None: as many as there are processors, 2 to 5.
        values: what the values of masks mean; None: there are no masks.

    Yields:
        Each record with what became of it, in the order of the records.

    Raises:
        InputError: a process was killed, or the store does not take an image.
    """
    chunks = _chunks(records)
    first = next(chunks, [])
    if len(first) < CHUNK:  # starting processes takes longer than this
        yield from zip(first, _take_in_chunk(first, store, values), strict=True)
        return
    count = processes or max(2, min(MOST_PROCESSES, os.cpu_count() or 2))
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(count, context, initializer=_start_process, initargs=(store, values))
    waiting: deque[tuple[list[Record], Future[list[Outcome]]]] = deque()
    try:
        for chunk in itertools.chain([first], chunks):
            waiting.append((chunk, pool.submit(_take_in_chunk_here, chunk)))
            if len(waiting) > 3 * count:
                yield from _finished(waiting)
        while waiting:
            yield from _finished(waiting)
    except BrokenProcessPool as error:
        advice = f"give the step more memory (it runs {count} such processes)"
        main = sys.modules["__main__"]
        if hasattr(main, "__file__") and main.__spec__ is None:  # a script, which each process imports once more
            advice += '; a script of your own must call ingest under if __name__ == "__main__":'
        raise InputError(f"a process that checks images was killed, probably out of memory: {advice}") from error
    finally:
        pool.shutdown(cancel_futures=True)


def _chunks(records: Iterable[Record]) -> Iterator[list[Record]]:
    remaining = iter(records)
    while chunk := list(itertools.islice(remaining, CHUNK)):
        yield chunk


def _finished(waiting: deque[tuple[list[Record], Future[list[Outcome]]]]) -> Iterator[tuple[Record, Outcome]]:
    chunk, outcomes = waiting.popleft()
    yield from zip(chunk, outcomes.result(), strict=True)


def inspect(data: bytes) -> IngestedImage:
    """Decode an image as far as it takes to know that all of it is there.

    JPEG goes through libjpeg-turbo at an eighth of the size, which reads every coefficient and leaves most arithmetic
    out, and with warnings as errors. Pillow and OpenCV find a file that stops early, but not a hole in the middle or a
    cut file that was closed with an end mark: of 150 files damaged like that they took all, this takes none.

    Raises:
        ImageError: empty, not an image of a known kind, too large, cut short or damaged.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as opened_image:
            if opened_image.width * opened_image.height > MAX_PIXELS:
                raise ImageError(
                    f"too large: {opened_image.width}x{opened_image.height}, over {MAX_PIXELS // 10**6} megapixels"
                )
            suffix = SUFFIXES[opened_image.format or ""]
            compression = opened_image.info.get("compression") if suffix == ".tif" else None
            if compression in UNCOMMON:
                raise ImageError(f"undecodable: a TIFF with {compression} compression: save it with LZW, or as PNG")
            if suffix != ".jpg" or not _is_whole_jpeg(data):
                opened_image.load()
            if opened_image.mode in ("I", "F"):
                raise ImageError("undecodable: 32 bits per value, which is not an ordinary image")
            _check_range(opened_image, data)
            width, height = _displayed_size(opened_image)
        if min(width, height) < MIN_SIDE:
            raise ImageError(f"too small: {width}x{height}, a side under {MIN_SIDE} pixels")
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError(_unidentified(data)) from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"too large: over {MAX_PIXELS // 10**6} megapixels") from error
    except Exception as error:  # a decoder may raise anything at all on a hostile file
        text = " ".join(str(error).split())[:200]
        kind = "truncated" if "truncated" in text.lower() or "premature" in text.lower() else "undecodable"
        raise ImageError(f"{kind}: {text}") from error
    return IngestedImage(hashlib.sha256(data).hexdigest(), suffix, width, height)


def _check_range(image: Image.Image, data: bytes) -> None:
    """Refuse an image of 16 bits per value that uses the lowest of them alone, as cameras of 10 or 12 bits write it.

    Training and inference see the highest 8 bits, so nothing but black.

    Raises:
        ImageError: it does.
    """
    if image.mode.startswith("I;16"):
        highest = int(np.max(np.asarray(image)))
    elif image.format == "PNG" and data[_PNG_BITS_AT] == 16:  # of which Pillow has kept the highest 8
        highest = int(np.max(np.asarray(image.convert("RGB")))) << 8
    else:
        return
    if highest < MIN_HIGHEST:
        raise ImageError(f"black: 16 bits per value, but none above {highest}: scale the values to 8 bits")


def boxes_in_pixels(labels: Iterable[Label], width: int, height: int) -> tuple[Box, ...]:
    """Bring labels into pixels of an image, each once, cutting off what reaches out of it by no more than rounding.

    Raises:
        LabelError: a box that is not finite, inverted or without area, outside the image, or in 0..1 where pixels are
            meant.
    """
    boxes: dict[tuple[str | float, ...], Box] = {}
    for label in labels:
        box = _box_in_pixels(label, width, height)
        boxes.setdefault((label.name, *(round(side, 2) for side in box)), (label.name, *box))
    return tuple(boxes.values())


def _box_in_pixels(label: Label, width: int, height: int) -> tuple[float, float, float, float]:
    across, down = (width, height) if label.normalised else (1, 1)
    x1, y1, x2, y2 = label.box[0] * across, label.box[1] * down, label.box[2] * across, label.box[3] * down
    shown = f"{label.name} {x1:g},{y1:g},{x2:g},{y2:g}"
    if not all(map(math.isfinite, (x1, y1, x2, y2))):
        raise LabelError(f"NaN or infinite: {shown}")
    if x2 <= x1 or y2 <= y1:
        raise LabelError(f"inverted or zero-area box: {shown}")
    if not label.normalised and max(x2, y2) <= 1:
        raise LabelError(f"box in 0..1 instead of pixels: {shown}: multiply by width and height")
    if min(x1, y1) < -OUTSIDE_TOLERANCE or x2 > width + OUTSIDE_TOLERANCE or y2 > height + OUTSIDE_TOLERANCE:
        raise LabelError(f"box outside the image: {shown} in {width}x{height}")
    x1, y1, x2, y2 = max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height))
    if x2 <= x1 or y2 <= y1:
        raise LabelError(f"inverted or zero-area box: {shown}, at the edge of {width}x{height}")
    return x1, y1, x2, y2


_of_process: tuple[Store, Values | None] | None = None


def _start_process(store: Store, values: Values | None) -> None:
    end_with_parent()
    global _of_process  # noqa: PLW0603 (a connection cannot be sent along with every chunk)
    _of_process = store, values


def _take_in_chunk_here(records: list[Record]) -> list[Outcome]:
    assert _of_process is not None
    return _take_in_chunk(records, *_of_process)


def _take_in_chunk(records: list[Record], store: Store, values: Values | None) -> list[Outcome]:
    if store.local_path("blobs") is not None:
        return [_take_in(record, store, values) for record in records]
    with ThreadPoolExecutor(UPLOADS) as pool:
        return list(pool.map(_take_in, records, itertools.repeat(store), itertools.repeat(values)))


def _take_in(record: Record, store: Store, values: Values | None) -> Outcome:
    if record.reason:
        return Outcome(reason=record.reason)
    try:
        data = _read(record.path)
        image = inspect(data)
        if record.size and record.size != (image.width, image.height):
            claimed = "x".join(map(str, record.size))
            raise LabelError(f"size contradicts the image: {claimed} in the label, {image.width}x{image.height}")
        boxes = None if record.labels is None else boxes_in_pixels(record.labels, image.width, image.height)
        mask = _mask(record, image, values)
    except (ImageError, LabelError) as error:
        return Outcome(reason=str(error))
    _put(store, image.key, data)
    repeated = len(record.labels or ()) - len(boxes or ())
    if mask is None:
        return Outcome(image, boxes, len(data), repeated=repeated)
    found, content = mask
    _put(store, found.key, content)
    return Outcome(image, boxes, len(data), mask=found, repeated=repeated)


def _mask(record: Record, image: IngestedImage, values: Values | None) -> tuple[Mask, bytes] | None:
    """A record's mask and its bytes among the blobs; None if there is none, or one that says nothing of any pixel."""
    if not record.regions and not (record.mask and Path(record.mask).is_file()):
        return None
    if values is None:
        raise InputError(f"{record.mask or record.source}: its data format does not define the mask values")
    if record.regions:
        numbers = {name: value for value, name in values.names.items()}
        mask = values.apply(paint(record.regions, numbers, image.width, image.height))
    else:
        mask = values.apply(decode(_read(record.mask), Path(record.mask).name, (image.width, image.height)))
    if (mask == VOID).all():
        return None
    content = encode_mask(mask)
    digest = hashlib.sha256(content).hexdigest()
    pixels = tuple((number, count) for number, count in enumerate(np.bincount(mask.ravel()).tolist()) if count)
    return Mask(f"blobs/{digest[:2]}/{digest}.png", pixels), content


def _read(path: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_IMAGE_BYTES + 1)
    except OSError as error:
        raise ImageError(f"undecodable: cannot be read ({error.strerror})") from error
    if len(data) > MAX_IMAGE_BYTES:
        raise ImageError(f"too large: over {MAX_IMAGE_BYTES // 10**6} MB")
    return data


def _put(store: Store, key: str, data: bytes) -> None:
    """Write a blob unless it is there. Its name is its content's hash, so it needs no lock and no second look."""
    path = store.local_path(key)
    if path is None:
        there = store.stat(key)
        if there is None or there.size != len(data):
            store.write(key, data)
        return
    try:
        if not path.exists() or path.stat().st_size != len(data):
            with landing(path) as file:
                file.write(data)
    except OSError as error:
        raise InputError(f"{path}: the image cannot be stored: {os_reason(error)}") from error


def _is_whole_jpeg(data: bytes) -> bool:
    """Say that nothing of a JPEG is missing; False: this decoder cannot tell, another must look.

    Raises:
        ValueError: something is missing; the message is libjpeg's.
    """
    try:
        simplejpeg.decode_jpeg(
            data, "GRAY", fastdct=True, fastupsample=True, min_height=1, min_width=1, min_factor=8, strict=True
        )
    except ValueError as error:
        if not any(part in str(error) for part in _HARMLESS):
            raise
        return False
    return True


def _displayed_size(image: Image.Image) -> tuple[int, int]:
    """Width and height with the EXIF orientation applied."""
    if "exif" not in image.info or image.format == "TIFF":  # Pillow turns a TIFF itself
        return image.size
    exif = Image.Exif()
    try:
        exif.load(image.info["exif"])
        turned = exif.get(_ORIENTATION, 1) in (5, 6, 7, 8)
    except Exception:  # damaged metadata turn nothing, whatever they make the reader raise
        turned = False
    return (image.height, image.width) if turned else image.size


def _unidentified(data: bytes) -> str:
    if not data:
        return "not an image: the file is empty"
    if data.startswith((b"\xff\xd8\xff", b"\x89PNG", b"BM", b"II*\0", b"MM\0*")) or data[8:12] == b"WEBP":
        return "undecodable: the header is damaged or cut short"
    if data.startswith(LFS_POINTER):
        return "not an image: a Git LFS pointer: bring the file itself with git lfs pull"
    return f"not an image: neither JPEG, PNG, BMP, WebP nor TIFF (starts with {data[:8]!r})"
