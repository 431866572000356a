"""Hard examples on their way from an edge worker to the people who label them.

Each is two objects in the job's root, named by the image's content and lying in the folder of the hour in which the
image was taken, so that the same image brought twice is there once::

    hard-examples/2026/11/20/13/<sha256>.jpg     the image, nothing drawn into it
    hard-examples/2026/11/20/13/<sha256>.json    its sidecar: what the model saw in it, and why that was hard

The sidecar is written last. An image without one is not there.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from itertools import islice
from pathlib import PurePosixPath
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
    model_validator,
)

from components.core.detections import Detections
from components.core.errors import TooLargeError, one_line
from components.core.stores.open import Store, shown

FOLDER = "hard-examples/"
MAX_SIDECAR_BYTES = 4 << 20
_READERS = 16

log = logging.getLogger(__name__)


def _in_utc(time: datetime) -> datetime:
    return time.astimezone(UTC)


def _rounded(digits: int) -> AfterValidator:
    """More digits than this say nothing, and every one of them costs bytes on the wire."""
    return AfterValidator(lambda value: round(value, digits))


_Pixels = Annotated[float, _rounded(2)]
_Fraction = Annotated[float, Field(ge=0, le=1), _rounded(6)]


class Sidecar(BaseModel):
    """What is known of one image that a worker has set aside.

    Attributes:
        format: of this description.
        image: SHA-256 of the image's bytes, 64 hex digits.
        suffix: of the image's file, with its dot.
        width: pixels, as displayed (EXIF orientation applied).
        height: pixels.
        captured: when the image was taken, UTC, by the worker's clock; it names the folder, nothing else.
        clock: what ``captured`` goes by: ``worker``, its clock when the image was taken; ``upload``, its clock when
            the image was uploaded, since the first one was wrong.
        node: the worker.
        source: the camera, video or folder; user and password in an address are left out.
        frame: number of the image in its source.
        kind: ``hard``; ``audit``, an easy one, picked by chance, that shows what the miner overlooks; or ``unseen``,
            one of no task that a knowledge base knows.
        miner: the rule that judged it; of an unseen one the unseen detection.
        score: 0..1, the larger the harder.
        reason: why, in one short line.
        privacy: what the worker's privacy filter did to the image, such as ``blurred 2 face``; empty: nothing.
        model: version of the model that saw it.
        classes: class names in the order of ``class_ids``.
        boxes: (N, 4), as in :class:`Detections`, to a hundredth of a pixel.
        scores: (N,) in 0..1.
        class_ids: (N,) index into ``classes``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    format: Literal[1] = 1
    image: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    suffix: Literal[".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"] = ".jpg"
    width: PositiveInt
    height: PositiveInt
    captured: Annotated[AwareDatetime, AfterValidator(_in_utc)]
    clock: Literal["worker", "upload"] = "worker"
    node: Annotated[str, Field(min_length=1)]
    source: Annotated[str, AfterValidator(shown)]
    frame: NonNegativeInt
    kind: Literal["hard", "audit", "unseen"]
    miner: str
    score: _Fraction
    reason: str
    privacy: str = ""
    model: Annotated[str, Field(min_length=1)]
    classes: tuple[str, ...]
    boxes: tuple[tuple[_Pixels, _Pixels, _Pixels, _Pixels], ...] = ()
    scores: tuple[_Fraction, ...] = ()
    class_ids: tuple[NonNegativeInt, ...] = ()

    @model_validator(mode="after")
    def _check_lengths(self) -> Self:
        if not len(self.boxes) == len(self.scores) == len(self.class_ids):
            raise ValueError(
                f"{len(self.boxes)} boxes, {len(self.scores)} scores, {len(self.class_ids)} class_ids: lengths differ"
            )
        if any(index >= len(self.classes) for index in self.class_ids):
            raise ValueError(f"class {max(self.class_ids)} has no name; the classes are {list(self.classes)}")
        return self

    def detections(self) -> Detections:
        """What the model saw."""
        return Detections.of(self.boxes, self.class_ids, self.scores)


def image_key(sidecar: Sidecar) -> str:
    """Where the image lies in the job's root."""
    return _stem(sidecar) + sidecar.suffix


def sidecar_key(sidecar: Sidecar) -> str:
    """Where its sidecar lies in the job's root."""
    return f"{_stem(sidecar)}.json"


def read_sidecars(store: Store, since: str = "") -> Iterator[Sidecar]:
    """The hard examples in a job's root, in the order of their keys: by hour, within the hour by name.

    A worker that was without network brings examples of hours long past. Whoever goes on from a key misses those, and
    should begin some days earlier and pass over what is known.

    Args:
        store: the job's root.
        since: only sidecars whose keys sort after this one, such as ``hard-examples/2026/11/20``; empty: all.

    Raises:
        InputError: the store cannot be read. An object that is no sidecar is passed over, with a line in the log.
    """
    listed = store.list(FOLDER, start_after=since)
    keys = iter(sorted(found.key for found in listed if found.key.endswith(".json")))  # not every store lists in order
    with ThreadPoolExecutor(_READERS) as pool:
        while batch := list(islice(keys, 8 * _READERS)):
            for sidecar in pool.map(lambda key: _read(store, key), batch):
                if sidecar is not None:
                    yield sidecar


def scene_of(sidecar: Sidecar) -> str:
    """What images that look alike have in common: the worker, its source, and the hour in which they were taken."""
    return f"{sidecar.node}: {sidecar.source}, {sidecar.captured:%Y-%m-%d %H}h"


def scenes(store: Store, images: Collection[str]) -> dict[str, str]:
    """The scenes of those among some images that are hard examples.

    Args:
        store: the job's root.
        images: SHA-256 of their bytes.

    Returns:
        Scenes by image, such as samples that must be in the same split share.
    """
    if not images:
        return {}
    keys = (found.key for found in store.list(FOLDER) if found.key.endswith(".json"))
    wanted = {stem: key for key in keys if (stem := PurePosixPath(key).stem) in images}
    with ThreadPoolExecutor(_READERS) as pool:
        found = pool.map(lambda key: _read(store, key), wanted.values())
        return {sidecar.image: scene_of(sidecar) for sidecar in found if sidecar is not None}


def _stem(sidecar: Sidecar) -> str:
    return f"{FOLDER}{sidecar.captured:%Y/%m/%d/%H}/{sidecar.image}"


def _read(store: Store, key: str) -> Sidecar | None:
    try:
        found = store.read_versioned(key, max_bytes=MAX_SIDECAR_BYTES)
    except TooLargeError as error:
        log.warning("%s: skipped", error)
        return None
    if found is None:  # removed since the listing
        return None
    try:
        return Sidecar.model_validate_json(found[0])
    except ValidationError as error:
        log.warning("%s is not a valid sidecar of a hard example (%s): skipped", store.uri_of(key), one_line(error))
        return None
