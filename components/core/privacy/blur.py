"""Blurs what the worker's own model finds of some classes, such as ``face``."""

from __future__ import annotations

from typing import Annotated

import cv2
import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator

from components.core.errors import InputError
from components.core.privacy.base import Look, Protected, privacy_filters
from components.core.runtimes.letterbox import ImageArray

_CELLS = 4  # of a side of the box; what is left of it


@privacy_filters.register("blur")
class Blur(BaseModel):
    """Blurs the boxes of some classes beyond recognition: of each box 4 x 4 mean colours are left.

    A model that trains on the images learns these classes from blurred examples, so name none that it has to tell from
    others by its looks.

    Attributes:
        classes: their names, separated by commas.
        confidence: least score of a box to blur, 0 to 1. The default is far below what models are deployed with: a box
            too many costs little here.
        margin: how far beyond each side of a box to blur, as part of the box, 0 to 1.
        drop: whether to drop such an image instead.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    classes: Annotated[tuple[str, ...], Field(min_length=1)]
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.05
    margin: Annotated[float, Field(ge=0, le=1)] = 0.1
    drop: bool = False

    @field_validator("classes", mode="before")
    @classmethod
    def _from_text(cls, given: object) -> object:
        return tuple(filter(None, map(str.strip, given.split(",")))) if isinstance(given, str) else given

    def protect(self, image: ImageArray, look: Look) -> Protected:
        """See :class:`components.core.privacy.base.PrivacyFilter`.

        Raises:
            InputError: the model does not know all of the classes, or gives no boxes.
        """
        numbers = [number for number, name in enumerate(look.classes) if name in self.classes]
        unknown = [name for name in self.classes if name not in look.classes]
        if unknown:
            raise InputError(
                f"privacy filter 'blur': the model knows {', '.join(look.classes)}, but not {', '.join(unknown)}"
            )
        found = look.boxes(self.confidence)
        found = found[np.isin(found.classes, numbers)]
        if not len(found):
            return Protected(image, "")
        counts = ", ".join(
            f"{count} {look.classes[number]}" for number in numbers if (count := int((found.classes == number).sum()))
        )
        if self.drop:
            return Protected(None, f"dropped for {counts}")
        changed = image.copy()
        for box in found.boxes:
            self._blur(changed, box)
        return Protected(changed, f"blurred {counts}")

    def _blur(self, image: ImageArray, box: np.ndarray) -> None:
        height, width = image.shape[:2]
        x1, y1, x2, y2 = box
        across, down = self.margin * (x2 - x1), self.margin * (y2 - y1)
        left, right = max(0, int(np.floor(x1 - across))), min(width, int(np.ceil(x2 + across)))
        top, bottom = max(0, int(np.floor(y1 - down))), min(height, int(np.ceil(y2 + down)))
        if left >= right or top >= bottom:
            return
        part = np.ascontiguousarray(image[top:bottom, left:right])
        small = cv2.resize(part, (_CELLS, _CELLS), interpolation=cv2.INTER_AREA)
        image[top:bottom, left:right] = cv2.resize(small, (right - left, bottom - top), interpolation=cv2.INTER_LINEAR)
