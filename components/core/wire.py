"""The wire between an edge worker and the cloud server: an image goes up as JPEG or PNG, boxes come down as JSON.

Both ends use this module alone, so that they cannot differ. The path and the outer form are those of KServe's protocol
v1: ``POST /v1/models/NAME:predict`` with the bytes of the image as its body, answered by ``{"predictions": [...]}``.
A client of KubeEdge Sedna sends the pixels as nested lists; :func:`read_sedna` takes these, too, and :func:`unzipped`
what was compressed on the way.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Self

import cv2
import numpy as np
from numpy.typing import NDArray
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
_NUMBERS = b"0123456789+-.eE \t\r\n"  # what numbers and the space between them are made of
_PIECE = 1 << 18  # bytes of numbers that are read at a time
_NO_PIXELS = "data must hold pixels: send whole numbers from 0 to 255"
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
    """Without the pixels. Sedna's client sends ``post_process``, its server reads ``callback``; neither ever worked."""

    model_config = ConfigDict(extra="forbid")

    data: Annotated[list[Any], Field(max_length=0)]
    post_process: None = None
    callback: None = None


def unzipped(body: bytes, limits: Limits) -> bytes:
    """A body that was compressed with gzip (RFC 1952).

    Args:
        body: of the request.
        limits: for the bytes that come out; no more than these are ever unpacked.

    Raises:
        TooLargeError: more would come out.
        InputError: it is not gzip, or not whole.
    """
    unpacking = zlib.decompressobj(zlib.MAX_WBITS | 16)  # which is gzip's form
    try:
        data = unpacking.decompress(body, limits.max_bytes + 1)
    except zlib.error as error:
        raise InputError(f"the body is not gzip, as Content-Encoding says ({error})") from None
    if len(data) > limits.max_bytes:
        raise TooLargeError(f"the unpacked body exceeds the limit of {limits.max_bytes} bytes: send JPEG")
    if not unpacking.eof or unpacking.unused_data:
        raise InputError("the gzip body is truncated, or has more behind its end: send it again")
    return data


def read_sedna(body: bytes, limits: Limits) -> ImageArray:
    """The image in the JSON of a client of Sedna: ``{"data": [[[red, green, blue], ...], ...]}``.

    The pixels are read as text. As lists of Python they would take forty times the memory of the body.

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
    start, end = body.find(b"["), body.rfind(b"]") + 1
    try:
        _SednaBody.model_validate_json(body[:start] + b"[]" + body[end:] if 0 <= start < end else body)
    except ValidationError as error:
        raise InputError(f"not the body of a Sedna client: {one_line(error)}; send {{'data': pixels}}") from None
    height, width = _sides(body[start:end])
    if width * height > limits.max_pixels:
        raise TooLargeError(
            f"the image has {width}x{height} pixels, but at most {limits.max_pixels} are allowed: send a smaller one"
        )
    try:
        values = np.concatenate([np.empty(0, np.float32), *_numbers(body[start:end].translate(None, b"[]"))])
    except (ValueError, OverflowError):
        raise InputError(_NO_PIXELS) from None
    if values.size != 3 * width * height or (values != np.rint(values)).any() or values.min() < 0 or values.max() > 255:
        raise InputError(_NO_PIXELS)
    return values.reshape(height, width, 3).astype(np.uint8)


def _numbers(text: bytes) -> Iterator[NDArray[np.float32]]:
    """The numbers of a list without its brackets, by pieces, between which other threads get their turn.

    Raises:
        ValueError: something is no number.
        OverflowError: a number is far too large.
    """
    at = 0
    while at < len(text):
        end = text.find(b",", at + _PIECE)
        end = len(text) if end < 0 else end
        yield np.array(json.loads(b"[" + text[at:end] + b"]"), np.float32)
        at = end + 1


def _sides(text: bytes) -> tuple[int, int]:
    """Height and width of an image that is written as nested lists.

    Raises:
        InputError: it is none.
    """
    outline = text.translate(None, _NUMBERS)  # brackets and commas
    row = outline[1 : outline.find(b"]]") + 2]
    width, height = row.count(b"[") - 1, (len(outline) - 1) // (len(row) + 1)
    if not _lists(row, b"[,,]", width) or not _lists(outline, row, height):
        raise InputError("data must be an image: send it as nested lists, (height, width, 3)")
    return height, width


def _lists(text: bytes, item: bytes, count: int) -> bool:
    """Whether a text is a list of one item so many times, and at least once."""
    return len(text) == count * (len(item) + 1) + 1 > 1 and text == b"[" + ((item + b",") * count)[:-1] + b"]"
