"""What people are asked to label next: one short list for each round, in the job's root.

``to-label/r0003.json`` names the images that were asked for after round 3, the most wanted first, with the boxes or the
mask that a model found, so that they need only be corrected. Where several lists follow one round, it is the last; what
only an earlier one asked for stays in ``to-label/r0003-20261128T080000.000000Z.json``, by the time at which it was
replaced, so that its labels still say how good the ranking and the proposals were. Masks lie beside the lists, each
under the SHA-256 of its file, ``to-label/masks/<digest>.png``. Whoever labels them brings the images and their labels
into the job's feed. An image is known by the SHA-256 of its bytes, so its file may be renamed but not written anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
    model_validator,
)

from components.core.bundle import Version
from components.core.detections import Detections
from components.core.errors import InputError, one_line
from components.core.stores.open import Store, shown

FOLDER = "to-label/"
MASKS = f"{FOLDER}masks/"

Share = Literal["hardest", "empty", "random"]
_Pixels = Annotated[float, AfterValidator(lambda value: round(value, 2))]
_Fraction = Annotated[float, Field(ge=0, le=1), AfterValidator(lambda value: round(value, 6))]


class FoundMask(BaseModel):
    """The class that a model gives each pixel of an image.

    Attributes:
        key: of the PNG in the job's root, as large as the image is displayed; its pixels are class ids, or void.
        scores: mean probability of the pixels of each class that is there, 0..1, by class id.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    key: Annotated[str, Field(pattern=rf"^{MASKS}[0-9a-f]{{64}}\.png$")]
    scores: dict[NonNegativeInt, _Fraction]


class Found(BaseModel):
    """What a model found in one image.

    Attributes:
        boxes: (N, 4) as in :class:`Detections`, to a hundredth of a pixel.
        scores: (N,) in 0..1.
        class_ids: (N,) index into the list's ``classes``.
        mask: of a model that gives masks instead of boxes.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    boxes: tuple[tuple[_Pixels, _Pixels, _Pixels, _Pixels], ...] = ()
    scores: tuple[_Fraction, ...] = ()
    class_ids: tuple[NonNegativeInt, ...] = ()
    mask: FoundMask | None = None

    @model_validator(mode="after")
    def _check_lengths(self) -> Self:
        if not len(self.boxes) == len(self.scores) == len(self.class_ids):
            raise ValueError(
                f"{len(self.boxes)} boxes, {len(self.scores)} scores, {len(self.class_ids)} class_ids: lengths differ"
            )
        return self

    @staticmethod
    def fields_of(found: Detections) -> dict[str, Any]:
        """What a model found, as values of these fields."""
        return {
            "boxes": tuple(map(tuple, found.boxes.tolist())),
            "scores": tuple(found.scores.tolist()),
            "class_ids": tuple(found.classes.tolist()),
        }

    def detections(self) -> Detections:
        """The same for whoever computes with it."""
        return Detections.of(self.boxes, self.class_ids, self.scores)


class LabelRequest(Found):
    """One image that is to be labelled, with what the champion found in it, by which it was chosen.

    Attributes:
        id: SHA-256 of the image's bytes, 64 hex digits.
        uri: where they lie.
        width: pixels, as displayed (EXIF orientation applied).
        height: pixels.
        source: where the image came from: the worker and its camera, or the path in an archive.
        share: of the budget, which the image was chosen for: ``hardest`` by the miner, ``empty``, since nothing was
            found in it, or ``random``.
        score: 0..1, the larger the harder.
        reason: why it was chosen, in one short line.
        prelabels: what another model found, for people to correct instead; None where none was asked.
    """

    id: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    uri: Annotated[str, Field(min_length=1)]
    width: PositiveInt
    height: PositiveInt
    source: Annotated[str, AfterValidator(shown)]
    share: Share
    score: _Fraction
    reason: str
    prelabels: Found | None = None

    @property
    def to_correct(self) -> Found:
        """The boxes or the mask that people are shown."""
        return self if self.prelabels is None else self.prelabels


class LabelRequests(BaseModel):
    """What one round asks for.

    Attributes:
        format: of this description.
        round: after which the list was made; 0 before the first.
        model: version of the champion, who found the boxes; None where there was none.
        prelabelled_by: address of the bundle that made the ``prelabels``; empty where there are none.
        miner: the rule that ranked them.
        labels: what people are to make: ``boxes`` or ``masks``.
        classes: class names in the order of ``class_ids``.
        images: the most wanted first; every beginning of the list has about the same mixture of shares.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    round: NonNegativeInt
    model: Version | None
    prelabelled_by: str = ""
    miner: str
    labels: Literal["boxes", "masks"] = "boxes"
    classes: tuple[str, ...]
    images: tuple[LabelRequest, ...]

    @model_validator(mode="after")
    def _check_classes(self) -> Self:
        found = [*self.images, *(image.prelabels for image in self.images if image.prelabels)]
        highest = max(
            (index for one in found for index in (*one.class_ids, *(one.mask.scores if one.mask else ()))), default=-1
        )
        if highest >= len(self.classes):
            raise ValueError(f"class {highest} has no name; the classes are {list(self.classes)}")
        return self


def list_key(round_number: int) -> str:
    """Where the list of a round lies in the job's root."""
    return f"{FOLDER}r{round_number:04d}.json"


def write_list(store: Store, wanted: LabelRequests) -> str:
    """Put a list into the job's root as the last one of its round; returns its address.

    What an earlier one of the round asked for, and this one does not, is kept in a list of its own.
    """
    key = list_key(wanted.round)
    found = store.read_versioned(key)
    if found is not None:
        _keep_rest(store, found[0], wanted)
    store.write(key, wanted.model_dump_json(indent=1).encode())
    return store.uri_of(key)


def _keep_rest(store: Store, earlier: bytes, wanted: LabelRequests) -> None:
    """Keep what an earlier list of the same round asked for and a new one does not."""
    try:
        before = LabelRequests.model_validate_json(earlier)
    except ValidationError:
        return
    asked = {image.id for image in wanted.images}
    rest = tuple(image for image in before.images if image.id not in asked)
    if rest:
        content = before.model_copy(update={"images": rest}).model_dump_json(indent=1)
        stem = list_key(wanted.round).removesuffix(".json")  # with a "-" behind it, it sorts before the round's last
        store.write(f"{stem}-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}.json", content.encode())


def read_lists(store: Store) -> Iterator[LabelRequests]:
    """The lists in a job's root, the oldest round first, and of each round the last list last.

    Raises:
        InputError: one of them is not such a list.
    """
    for key in sorted(found.key for found in store.list(FOLDER) if found.key.endswith(".json")):
        try:
            yield LabelRequests.model_validate_json(store.read(key))
        except ValidationError as error:
            raise InputError(
                f"{store.uri_of(key)} is not a valid list of label requests ({one_line(error)}): remove it"
            ) from error
