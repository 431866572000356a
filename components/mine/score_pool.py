"""Looking at the pool: what the champion finds in each image, how hard a miner calls that, and what it looks like."""

from __future__ import annotations

import functools
import hashlib
import io
import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np
from PIL import Image

from components.core.cache import MAX_BLOB_BYTES, MAX_PIXELS
from components.core.detections import Detections
from components.core.duplicates import fingerprint
from components.core.errors import InputError, NotFoundError, TooLargeError
from components.core.miners.base import Frame, Judgement, Miner
from components.core.progress import Progress
from components.core.runtimes.base import Model
from components.core.runtimes.letterbox import ImageArray
from components.core.stores.open import Store, open_store, split
from components.core.stores.transfer import os_errors
from components.mine.pool import Candidate
from components.mine.ranker import Ranker, ranker_of

_READERS = 8
_AHEAD = 4 * _READERS  # images that are decoded before the model gets to them

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Inference:
    """A candidate that was looked at.

    Attributes:
        candidate: the image.
        width: pixels, as displayed.
        height: pixels.
        detections: what the champion found at the score it is deployed with; nothing where there is none.
        judgement: of the miner, who saw boxes of lower scores too.
        has_mask: whether the champion gives a mask, by whose entropy the image is judged, and no boxes.
        fingerprint: what the image looks like; see :func:`components.core.duplicates.fingerprint`.
    """

    candidate: Candidate
    width: int
    height: int
    detections: Detections
    judgement: Judgement
    fingerprint: int
    has_mask: bool = False

    @property
    def is_empty(self) -> bool:
        """Whether the champion found nothing, so that nothing tells how hard the image is."""
        return not len(self.detections) and not self.has_mask


@dataclass(frozen=True)
class View:
    """What came of looking.

    Attributes:
        seen: in the order of the candidates.
        unreadable: how many are missing, damaged or no image; each is logged.
    """

    seen: tuple[Inference, ...]
    unreadable: int


def score_pool(
    candidates: Sequence[Candidate],
    champion: Model[Any] | None,
    miner: Miner,
    min_score: float,
    cache_folder: Path,
) -> View:
    """Look at each image once.

    Args:
        candidates: the pool; a miner that remembers what it saw sees them in this order.
        champion: the deployed model; None before the first. It finds nothing where it gives neither boxes nor masks.
        miner: the rule that ranks by boxes; images with masks are ranked by the entropy of their pixels.
        min_score: of the boxes that the miner sees.
        cache_folder: where images that lie elsewhere are brought to.

    Raises:
        InputError: the store is out of reach, or the champion or miner cannot be used.
    """
    ranker = ranker_of(champion) if champion is not None else None
    seen: list[Inference] = []
    progress = Progress(log, "scored {done} of {total} images", len(candidates), to_the_end=True)
    for candidate, image in read_images(candidates, cache_folder):
        if image is not None:
            seen.append(_score(candidate, image, ranker, miner, min_score))
        progress.advance()
    return View(tuple(seen), len(candidates) - len(seen))


def _score(candidate: Candidate, image: ImageArray, ranker: Ranker | None, miner: Miner, min_score: float) -> Inference:
    if ranker is None:
        found, judgement = Detections.none(), miner.judge(Frame(Detections.none(), image, candidate.id))
    else:
        found, judgement = ranker.judge(image, candidate.id, miner, min_score)
    if not 0 <= judgement.score <= 1:
        raise InputError(f"miner {miner.name!r} gave {candidate.uri} the score {judgement.score}: return 0 to 1")
    height, width = image.shape[:2]
    has_mask = ranker is not None and ranker.labels == "masks"
    return Inference(candidate, width, height, found, judgement, fingerprint(image), has_mask)


def read_candidate(
    candidate: Candidate, cache_folder: Path, opened: Callable[[str], Store] = open_store
) -> ImageArray | None:
    """Read an image, (H, W, 3) uint8 RGB, EXIF orientation applied; None, with a line in the log, where there is none.

    Args:
        candidate: the image.
        cache_folder: where it is brought to if it lies elsewhere, as ``<id[:2]>/<id><suffix>``.
        opened: opens the store that has it.

    Raises:
        InputError: the store is out of reach.
    """
    root, key = split(candidate.uri)
    store = opened(root)
    try:
        data = _content(store, key, cache_folder / candidate.id[:2], candidate.id)
    except NotFoundError:
        log.warning("skipped %s: not found", candidate.uri)
        return None
    except TooLargeError as error:
        log.warning("skipped: %s", error)
        return None
    image = _decoded(data)
    if image is None:
        log.warning("skipped %s: damaged, too large or not an image", candidate.uri)
    return image


def _decoded(data: bytes) -> ImageArray | None:
    """The image of a file; None where it is damaged, too large, or none."""
    try:
        with Image.open(io.BytesIO(data)) as header:
            if header.width * header.height > MAX_PIXELS:
                return None
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    except Exception:  # a decoder may raise anything at all on a hostile file
        return None
    return None if image is None else np.asarray(image, dtype=np.uint8)


def read_images(candidates: Sequence[Candidate], cache_folder: Path) -> Iterator[tuple[Candidate, ImageArray | None]]:
    """Each candidate with its image, see ``read_candidate``; a few next ones are read meanwhile."""
    read = functools.partial(read_candidate, cache_folder=cache_folder, opened=functools.cache(open_store))
    waiting = iter(candidates)
    with ThreadPoolExecutor(_READERS) as pool:
        while batch := list(islice(waiting, _AHEAD)):
            yield from zip(batch, pool.map(read, batch), strict=True)


def _content(store: Store, key: str, folder: Path, digest: str) -> bytes:
    """The bytes of an image; none where they are not those of its id."""
    copy = folder / f"{digest}{PurePosixPath(key).suffix.lower()}"
    file = store.local_path(key)
    if file is None:
        file = copy
        if not _holds(copy, digest):
            store.download(key, copy, max_bytes=MAX_BLOB_BYTES)
    elif not file.is_file():
        raise NotFoundError(f"{store.uri_of(key)}: image not found")
    with os_errors(str(file)):
        data = file.read_bytes()
    return data if hashlib.sha256(data).hexdigest() == digest else b""


def _holds(file: Path, digest: str) -> bool:
    return file.is_file() and hashlib.sha256(file.read_bytes()).hexdigest() == digest
