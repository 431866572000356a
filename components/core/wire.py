"""The wire between an edge worker and the cloud server: an image goes up as JPEG or PNG, boxes come down as JSON.

Both ends use this module alone, so that they cannot differ. The path and the outer form are those of KServe's protocol
v1: ``POST /v1/models/NAME:predict`` with the bytes of the image as its body, answered by ``{"predictions": [...]}``.
A client of KubeEdge Sedna sends the pixels as nested lists; :func:`read_sedna` takes these, too.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Self

import cv2
import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PositiveInt, TypeAdapter, ValidationError

from components.core.detections import Detections
from components.core.errors import InputError, one_line
from components.core.runtimes.letterbox import ImageArray

JPEG, PNG, JSON = "image/jpeg", "image/png", "application/json"
TIMEOUT_HEADER = "X-Timeout-Ms"  # how long the client waits; a span, so that the two clocks need not agree
MAX_ANSWER_BYTES = 1 << 20  # 300 boxes take about 20 kB

_JPEG_START, _JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
_PNG_START, _PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"
_NO_FRAME = {0xC4, 0xC8, 0xCC}  # between the codes of frame headers, but tables of JPEG's
_BESIDE = 1.0  # pixels by which rounding may put a box beside its image


@dataclass(frozen=True)
class Limits:
    """What is read of somebody else.

    Attributes:
        max_bytes: of a body.
        max_pixels: of an image, width times height.
    """

    max_bytes: int = 16 << 20
    max_pixels: int = 50_000_000


class TooLargeError(InputError):
    """A body or an image beyond the limits."""


def predict_path(model: str) -> str:
    """The path that answers for a model, after KServe's protocol v1."""
    return f"/v1/models/{model}:predict"


def encode_image(image: ImageArray, quality: int) -> bytes:
    """An image as JPEG.

    Args:
        image: (H, W, 3) uint8 RGB.
        quality: 1 to 100.

    Raises:
        InputError: a side is longer than the 65535 pixels that JPEG can hold.
    """
    done, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise InputError(f"an image of {image.shape[1]}x{image.shape[0]} pixels cannot be written as JPEG")
    return np.asarray(data).tobytes()


def decode_image(data: bytes, limits: Limits) -> ImageArray:
    """An image from the bytes of a JPEG or PNG file, as displayed (EXIF orientation applied).

    Args:
        data: of the file.
        limits: for its bytes and pixels; the pixels are counted before any is decoded.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        TooLargeError: it is beyond the limits.
        InputError: it is no JPEG or PNG, or its end is missing.
    """
    if len(data) > limits.max_bytes:
        raise TooLargeError(
            f"the body has {len(data)} bytes, but at most {limits.max_bytes} are allowed: send a smaller image"
        )
    size = image_size(data)
    if size is None:
        raise InputError(f"the body is not a JPEG or PNG: it begins with {data[:8]!r}")
    width, height = size
    if width * height > limits.max_pixels:
        raise TooLargeError(
            f"the image has {width}x{height} pixels, but at most {limits.max_pixels} are allowed: send a smaller one"
        )
    end = _JPEG_END if data.startswith(_JPEG_START) else _PNG_END
    frame = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if end in data[-64:] else None
    if frame is None:
        raise InputError(f"the image of {width}x{height} pixels is damaged or truncated: send it again")
    return np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def image_size(data: bytes) -> tuple[int, int] | None:
    """Width and height in pixels that the header of a JPEG or PNG gives; None where there is no such header."""
    try:
        if data.startswith(_PNG_START):
            width, height = struct.unpack_from(">II", data, 16)
        elif data.startswith(_JPEG_START):
            height, width = struct.unpack_from(">HH", data, _frame_header(data) + 5)
        else:
            return None
    except (struct.error, IndexError):
        return None
    return (width, height) if width and height else None


def _frame_header(data: bytes) -> int:
    """Where the frame header of a JPEG begins (ITU-T T.81, B.1.1: 0xFF, a code, and the length of what follows)."""
    place = 2
    while data[place] == 0xFF:
        code = data[place + 1]
        if code == 0xFF:  # a fill byte
            place += 1
        elif 0xC0 <= code <= 0xCF and code not in _NO_FRAME:
            return place
        else:
            place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    raise IndexError


def _rounded(digits: int) -> AfterValidator:
    return AfterValidator(lambda value: round(value, digits))


_Pixels = Annotated[float, _rounded(2)]
_Score = Annotated[float, Field(ge=0, le=1), _rounded(4)]


class Answer(BaseModel):
    """What the cloud's model finds in one image.

    Attributes:
        model: version of the model.
        digest: SHA-256 of its description, 64 hex digits.
        classes: class names in the order of ``class_ids``.
        width: pixels of the image, as displayed.
        height: pixels.
        boxes: (N, 4), as in :class:`Detections`, to a hundredth of a pixel.
        scores: (N,) in 0..1.
        class_ids: (N,) index into ``classes``.
    """

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)  # a newer server may say more

    model: Annotated[str, Field(min_length=1)]
    digest: str
    classes: tuple[str, ...]
    width: PositiveInt
    height: PositiveInt
    boxes: tuple[tuple[_Pixels, _Pixels, _Pixels, _Pixels], ...]
    scores: tuple[_Score, ...]
    class_ids: tuple[Annotated[int, Field(ge=0)], ...]

    @classmethod
    def of(cls, found: Detections, image: ImageArray, model: str, digest: str, classes: Sequence[str]) -> Self:
        """An answer; arguments as the attributes."""
        height, width = image.shape[:2]
        return cls(
            model=model, digest=digest, classes=tuple(classes), width=width, height=height, boxes=found.boxes.tolist(),
            scores=found.scores.tolist(), class_ids=found.classes.tolist(),
        )  # fmt: skip

    def encode(self) -> bytes:
        """The body of an answer."""
        return json.dumps({"predictions": [self.model_dump(mode="json")]}, separators=(",", ":")).encode()

    @classmethod
    def decode(cls, data: bytes, width: int, height: int) -> Self:
        """Read an answer, and check that it can be one for the image that was sent.

        Args:
            data: the body.
            width: of the image that was sent, in pixels.
            height: of it.

        Raises:
            InputError: it is something else, such as a login page, or boxes that cannot be in this image.
        """
        try:
            answer = cls.model_validate(_PREDICTIONS.validate_json(data).predictions[0])
        except ValidationError as error:
            what = "a web page, such as a login page" if data.lstrip().startswith(b"<") else one_line(error)
            raise InputError(
                f"this is not an answer of a cloud server ({what}); it begins with {data[:40]!r}"
            ) from None
        wrong = answer._problem(width, height)
        if wrong:
            raise InputError(f"the cloud server's answer is invalid: {wrong}")
        return answer

    def _problem(self, width: int, height: int) -> str:
        if (self.width, self.height) != (width, height):
            return f"it is for an image of {self.width}x{self.height} pixels, but one of {width}x{height} was sent"
        if not len(self.boxes) == len(self.scores) == len(self.class_ids):
            return f"{len(self.boxes)} boxes, {len(self.scores)} scores and {len(self.class_ids)} class_ids"
        if any(index >= len(self.classes) for index in self.class_ids):
            return f"class {max(self.class_ids)} has no name; the classes are {', '.join(self.classes)}"
        low, right, bottom = -_BESIDE, width + _BESIDE, height + _BESIDE
        for x1, y1, x2, y2 in self.boxes:
            if not (low <= x1 <= x2 <= right and low <= y1 <= y2 <= bottom):
                return f"box {[x1, y1, x2, y2]} is not within the image of {width}x{height} pixels"
        return ""

    def detections(self, classes: Sequence[str]) -> Detections:
        """The boxes, in the class numbers of another model.

        Args:
            classes: of that model; the same names, in any order.

        Raises:
            InputError: the names differ.
        """
        if set(classes) != set(self.classes):
            raise InputError(
                f"the cloud's model {self.model} has classes {', '.join(self.classes)}, but the local model has "
                f"{', '.join(classes)}: deploy two models with the same classes"
            )
        table = [list(classes).index(name) for name in self.classes]
        return Detections.of(self.boxes, [table[index] for index in self.class_ids], self.scores)

    def for_sedna(self) -> bytes:
        """The body that a client of Sedna reads: ``{"result": [[xmin, ymin, xmax, ymax, score, label], ...]}``."""
        rows = [
            [*box, score, self.classes[index]]
            for box, score, index in zip(self.boxes, self.scores, self.class_ids, strict=True)
        ]
        return json.dumps({"result": rows}, separators=(",", ":")).encode()


class _Predictions(BaseModel):
    predictions: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=1)]


_PREDICTIONS = TypeAdapter(_Predictions)


class _SednaBody(BaseModel):
    """Sedna's client sends ``post_process``, its server reads ``callback``; neither ever did anything there."""

    model_config = ConfigDict(extra="forbid")

    data: list[Any]
    post_process: None = None
    callback: None = None


def read_sedna(body: bytes, limits: Limits) -> ImageArray:
    """The image in the JSON of a client of Sedna: ``{"data": [[[red, green, blue], ...], ...]}``.

    Args:
        body: of the request.
        limits: for its bytes and pixels.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        TooLargeError: it is beyond the limits.
        InputError: it is something else, or has a field that nothing here answers to.
    """
    if len(body) > limits.max_bytes:
        raise TooLargeError(f"the body has {len(body)} bytes, but at most {limits.max_bytes} are allowed: send JPEG")
    try:
        pixels = np.asarray(_SednaBody.model_validate_json(body).data)
    except ValidationError as error:
        raise InputError(f"not the body of a Sedna client: {one_line(error)}; send {{'data': pixels}}") from None
    except ValueError:
        raise InputError("data has rows of different lengths: send an image as (height, width, 3)") from None
    if pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise InputError(f"data has the shape {pixels.shape}: send an image as (height, width, 3)")
    height, width = pixels.shape[:2]
    if width * height > limits.max_pixels:
        raise TooLargeError(
            f"the image has {pixels.shape[1]}x{pixels.shape[0]} pixels, but at most {limits.max_pixels} are allowed"
        )
    if pixels.dtype.kind not in "if" or (pixels != np.rint(pixels)).any() or pixels.min() < 0 or pixels.max() > 255:
        raise InputError("data must hold pixels: send whole numbers from 0 to 255")
    return pixels.astype(np.uint8)
