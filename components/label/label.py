"""Label: hand a round's list of images to the people who label them, in the format of their tool.

What a hand-off holds, and why its images are named as they are, says :mod:`components.label.handoff`. It lies in the
job's root, as the folder ``labelling/r0003.label-studio`` or as ``labelling/r0003.coco.zip``, and is a data set by
itself: with people's labels in it instead of the model's it can be taken in like any other. Taken in as it is, COCO,
YOLO and VOC make labels of what the model guessed; of Label Studio's only what was submitted counts.
"""

from __future__ import annotations

import functools
import logging
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from components.core.bundle import sha256_of
from components.core.cache import MAX_BLOB_BYTES
from components.core.errors import InputError, NotFoundError, TooLargeError
from components.core.job.label_requests import FOLDER, LabelRequest, LabelRequests, read_lists
from components.core.parameters import parse_classes
from components.core.stores.open import RESERVED, Store, open_store, split
from components.label.handoff import Masks, Writer, file_name, masks_in, prelabels, writers

log = logging.getLogger(__name__)

HAND_OFFS = "labelling/"
LATEST = -1  # instead of a round's number
DOWNLOADS = 8  # at the same time


@dataclass(frozen=True)
class HandOff:
    """What was handed over.

    Attributes:
        uri: the folder, zip file or project; empty where the list asks for nothing.
        counts: ``images`` and ``boxes`` in it; ``left_out`` are the images of the list that are not. Of a project also
            ``known``, which were sent before, and ``waiting``, which have no answer yet.
    """

    uri: str
    counts: dict[str, int]


def label(
    job_root: str, *, label_format: str = "label-studio", round_number: int = LATEST, classes: str = ""
) -> HandOff:
    """Write what a round asks for in the format of a labelling tool; the same list gives the same files.

    Args:
        job_root: the job's store.
        label_format: name of a registered format.
        round_number: whose list; ``LATEST`` for the newest.
        classes: class names to offer besides those of the list, which has none before the job's first round; in the
            same form as for ``ingest``, of which the new names count.

    Raises:
        NotFoundError: there is not such a list.
        InputError: no such format, no class names, or the store is out of reach.
    """
    writer = writers.get(label_format)
    store = open_store(job_root)
    wanted = list_of(store, round_number)
    if not wanted.images:
        log.info("the label request of round %d is empty: nothing to export", wanted.round)
        return HandOff("", {"images": 0, "boxes": 0, "left_out": 0})
    wanted = with_classes(wanted, classes)
    with tempfile.TemporaryDirectory(prefix=f"{RESERVED}label-") as temporary:
        found = _bring(wanted.images, Path(temporary))
        there = wanted.model_copy(update={"images": tuple(p for p in wanted.images if p.id in found)})
        if not there.images:
            raise InputError(
                f"{store.uri}: none of the {len(wanted.images)} images of round {wanted.round} can be read"
            )
        if wanted.labels == "masks" and label_format != "label-studio":
            log.warning("label_format=%s has no masks: the images go out without proposals", label_format)
        hand_over = _as_zip if writer.packed else _as_folder
        masks = masks_in(store, len(wanted.classes))
        uri = hand_over(store, f"{HAND_OFFS}r{wanted.round:04d}.{label_format}", writer, there, found, masks)
    boxes = sum(len(list(prelabels(image))) for image in there.images)
    left_out = len(wanted.images) - len(there.images)
    log.info("exported %d images with %d boxes for %s, skipped %d: %s", len(found), boxes, label_format, left_out, uri)
    return HandOff(uri, {"images": len(found), "boxes": boxes, "left_out": left_out})


def list_of(store: Store, round_number: int) -> LabelRequests:
    """The list of a round; ``LATEST`` for the newest.

    Raises:
        NotFoundError: there is none.
    """
    lists = {wanted.round: wanted for wanted in read_lists(store)}
    number = max(lists, default=LATEST) if round_number == LATEST else round_number
    if number not in lists:
        there = ", ".join(map(str, lists)) or "none"
        wanted = "no label request" if number == LATEST else f"no label request of round {number}"
        raise NotFoundError(
            f"{store.uri_of(FOLDER.rstrip('/'))}: {wanted} found (rounds available: {there}): run mine first"
        )
    return lists[number]


def with_classes(wanted: LabelRequests, classes: str) -> LabelRequests:
    """A list that offers more classes, in the form that ``ingest`` takes.

    Raises:
        InputError: there are no class names at all.
    """
    names = tuple(dict.fromkeys((*wanted.classes, *parse_classes(classes).values())))
    if not names:
        raise InputError(f"the label request of round {wanted.round} has no class names: set classes")
    return wanted.model_copy(update={"classes": names})


def _bring(images: tuple[LabelRequest, ...], folder: Path) -> dict[str, Path]:
    """The files of the images that are there and whole, by id."""
    opened = functools.cache(open_store)
    with ThreadPoolExecutor(DOWNLOADS) as pool:
        files = pool.map(lambda image: _file(image, folder, opened), images)
        return {image.id: file for image, file in zip(images, files, strict=True) if file}


def _file(image: LabelRequest, folder: Path, opened: Callable[[str], Store]) -> Path | None:
    root, key = split(image.uri)
    file = folder / file_name(image)
    try:
        opened(root).download(key, file, max_bytes=MAX_BLOB_BYTES)
    except NotFoundError:
        log.warning("skipped %s: no longer in the store", image.uri)
        return None
    except TooLargeError as error:
        log.warning("skipped: %s", error)
        return None
    if sha256_of(file) == image.id:
        return file
    log.warning("skipped %s: its content does not match its digest", image.uri)
    return None


def _as_folder(
    store: Store, name: str, writer: Writer, wanted: LabelRequests, images: Mapping[str, Path], masks: Masks
) -> str:
    """Write a folder, the images first."""
    keys = {image.id: f"{name}/{writer.images}/{file_name(image)}" for image in wanted.images}
    for image_id, file in images.items():
        store.upload(file, keys[image_id])
    for path, content in writer.files(wanted, lambda image: _address(store, keys[image.id]), masks).items():
        store.write(f"{name}/{path}", content)
    return store.uri_of(name)


def _address(store: Store, key: str) -> str:
    """Where Label Studio finds an image: in a bucket, or among the local files it serves, below the job's folder."""
    return store.uri_of(key) if store.local_path(key) is None else f"/data/local-files/?d={quote(key)}"


def _as_zip(
    store: Store, name: str, writer: Writer, wanted: LabelRequests, images: Mapping[str, Path], masks: Masks
) -> str:
    """Write one zip file; images are packed already, so they are stored as they are."""
    with tempfile.NamedTemporaryFile(prefix=f"{RESERVED}label-", suffix=".zip") as file:
        with zipfile.ZipFile(file, "w") as archive:
            for path, content in writer.files(wanted, file_name, masks).items():
                archive.writestr(_member(path), content, zipfile.ZIP_DEFLATED)
            for image in wanted.images:
                path = f"{writer.images}/{file_name(image)}"
                archive.writestr(_member(path), images[image.id].read_bytes(), zipfile.ZIP_STORED)
        file.flush()
        store.upload(Path(file.name), f"{name}.zip")
    return store.uri_of(f"{name}.zip")


def _member(path: str) -> zipfile.ZipInfo:
    """A member without the time of its writing, so that the same list gives the same file."""
    return zipfile.ZipInfo(path)  # of 1980
