"""What people have answered in Label Studio, as it was fetched last: one object, ``labelling/answers.json``.

It is what the steps of a round read, so that they all see the same and none of them waits for the server. Masks lie
beside it, each under the SHA-256 of its file, ``labelling/masks/<digest>.png``.
"""

from __future__ import annotations

import logging
from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, ValidationError

from components.core.errors import one_line
from components.core.stores.open import Store

ANSWERS = "labelling/answers.json"
MASKS = "labelling/masks/"

log = logging.getLogger(__name__)

State = Literal["open", "labelled", "skipped"]


class Answer(BaseModel):
    """What became of one image.

    Attributes:
        task: its number in Label Studio; 0: it was in a project that is gone, or waited and is gone.
        key: of the image in the job's root.
        state: ``open``: nobody has answered; ``labelled``; ``skipped``: somebody has passed it over.
        withdrawn: it was labelled, and the label has been removed since.
        boxes: class name and ``x1, y1, x2, y2`` in 0..1 of the image; of a withdrawn one those from before.
        mask: key of its mask in the job's root, a PNG whose pixels are places in ``Answers.names``; empty: it has none.
        size: width and height in pixels that the image had there; None: not known.
        changed: when it was answered last, ISO 8601, by the server's clock; empty: never.
        unusable: why the label cannot be used, in a few words; empty if it can.
        annotator: number of the user who answered; None where that is not asked for.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    task: NonNegativeInt
    key: str
    state: State
    withdrawn: bool = False
    boxes: tuple[tuple[str, float, float, float, float], ...] = ()
    mask: Annotated[str, Field(pattern=rf"^({MASKS}[0-9a-f]{{64}}\.png)?$")] = ""
    size: tuple[PositiveInt, PositiveInt] | None = None
    changed: str = ""
    unusable: str = ""
    annotator: int | None = None


class Answers(BaseModel):
    """What became of all that was sent.

    Attributes:
        format: of this description.
        server: address of Label Studio.
        project: number of the project.
        seen: the latest change of a task, ISO 8601, by the server's clock; what changes from then on is fetched next.
        listed: when all tasks were listed last, by this machine's clock.
        names: of the classes in masks; more may come, but none goes or moves.
        images: answers by SHA-256 of the image. A task that was removed keeps the answer that it had.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    server: str
    project: PositiveInt
    seen: str = ""
    listed: datetime | None = None
    names: tuple[str, ...] = ()
    images: dict[Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")], Answer] = {}

    def labelled(self) -> set[str]:
        """The images that have a label."""
        return {image for image, answer in self.images.items() if answer.state == "labelled"}

    def answered(self) -> set[str]:
        """The images that somebody has labelled or skipped."""
        return {image for image, answer in self.images.items() if answer.state != "open"}

    def with_people(self) -> set[str]:
        """The images that need not be asked for: they wait for an answer, or somebody has labelled or skipped them."""
        return {image for image, answer in self.images.items() if answer.state != "open" or answer.task}


def read_answers(store: Store) -> tuple[Answers | None, str | None]:
    """The answers as fetched last and the etag that ``write_answers`` takes; what cannot be read counts as none.

    Raises:
        InputError: the store is out of reach.
    """
    found = store.read_versioned(ANSWERS)
    if found is None:
        return None, None
    try:
        return Answers.model_validate_json(found[0]), found[1]
    except ValidationError as error:
        log.warning("%s cannot be read (%s): all answers are fetched again", store.uri_of(ANSWERS), one_line(error))
        return None, found[1]


def write_answers(store: Store, answers: Answers, etag: str | None) -> None:
    """Put answers into the store, in place of those that were read.

    Raises:
        ConflictError: another run has written meanwhile; nothing was written.
    """
    data = answers.model_dump_json(indent=1).encode()
    if etag is None:
        store.write(ANSWERS, data, if_absent=True)
    else:
        store.write(ANSWERS, data, if_match=etag)
