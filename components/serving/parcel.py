"""What is sent of a hard frame: all of it, all of it but smaller, or the region of the uncertain boxes."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from enum import StrEnum

import cv2
import numpy as np

from components.core.detections import Detections
from components.core.runtimes.letterbox import ImageArray
from components.core.wire import JPEG, PNG, Limits, decode_image, encode_image

CERTAIN_SCORE = 0.7  # boxes that score less are what a crop is made around
_OWN = Limits(sys.maxsize, sys.maxsize)  # of an image that this worker packed itself
_CROP_MARGIN = 0.5  # of the region's size, on each side: a model needs to see around an object
_MAX_CROP = 0.7  # of the image; a larger crop saves too little


class Send(StrEnum):
    """What of a hard frame is sent: all of it, all of it but smaller, or the region of the uncertain boxes."""

    FULL = "full"
    RESIZED = "resized"
    CROP = "crop"


@dataclass(frozen=True)
class Parcel:
    """What is sent of a frame.

    Attributes:
        data: bytes of the image.
        kind: its Content-Type.
        width: in pixels.
        height: in pixels.
        left: where it begins in the frame, in pixels of the frame.
        top: the same.
        scale: pixels of the frame for one of the parcel, by (x, y).
        partly: it is a part of the frame.
    """

    data: bytes
    kind: str
    width: int
    height: int
    left: int = 0
    top: int = 0
    scale: tuple[float, float] = (1.0, 1.0)
    partly: bool = False

    def on_image(self, found: Detections) -> Detections:
        """Boxes in pixels of the parcel as boxes of the frame."""
        boxes = found.boxes * np.array([*self.scale, *self.scale]) + np.array([self.left, self.top] * 2)
        return Detections.of(boxes, found.classes, found.scores)

    def as_frame(self, width: int, height: int) -> ImageArray:
        """What was sent, in its place in a frame, which is black where nothing of it was sent.

        Args:
            width: of the frame, in pixels.
            height: of it.

        Returns:
            (H, W, 3) uint8 RGB.
        """
        image = decode_image(self.data, _OWN)
        if not self.partly:
            return np.asarray(cv2.resize(image, (width, height)), dtype=np.uint8)
        frame = np.zeros((height, width, 3), np.uint8)
        frame[self.top : self.top + self.height, self.left : self.left + self.width] = image
        return frame

    def merge(self, edge: Detections | None, cloud: Detections) -> Detections:
        """The cloud's boxes, and the edge's whose middle the cloud did not see."""
        if not self.partly or edge is None:
            return cloud
        x, y = (edge.boxes[:, :2] + edge.boxes[:, 2:]).T / 2
        seen = (x >= self.left) & (x <= self.left + self.width) & (y >= self.top) & (y <= self.top + self.height)
        kept = edge[~seen]
        joined = Detections.of(
            np.concatenate([kept.boxes, cloud.boxes]), np.concatenate([kept.classes, cloud.classes]),
            np.concatenate([kept.scores, cloud.scores]),
        )  # fmt: skip
        return joined[np.argsort(-joined.scores, kind="stable")]


def pack(
    image: ImageArray, edge: Detections | None, original: bytes | None, *, send: Send, max_side: int, quality: int
) -> Parcel:
    """What is sent of a frame.

    Args:
        image: (H, W, 3) uint8 RGB.
        edge: what the edge's model found in it; None before it is asked.
        original: bytes of the image's own file, where there is one; sent as they are where all of it is.
        send: how much of it.
        max_side: pixels of the longer side of a resized image.
        quality: of a JPEG that has to be made, 1 to 100.
    """
    height, width = image.shape[:2]
    if send is Send.CROP and edge is not None and (region := _uncertain(edge, width, height)):
        left, top, right, bottom = region
        data = encode_image(np.ascontiguousarray(image[top:bottom, left:right]), quality)
        return Parcel(data, JPEG, right - left, bottom - top, left, top, partly=True)
    factor = max_side / max(width, height)
    if send is Send.RESIZED and factor < 1:
        size = max(1, round(width * factor)), max(1, round(height * factor))
        small = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
        return Parcel(encode_image(small, quality), JPEG, *size, scale=(width / size[0], height / size[1]))
    if original is not None and original.startswith((b"\xff\xd8\xff", b"\x89PNG")):
        return Parcel(original, JPEG if original.startswith(b"\xff") else PNG, width, height)
    return Parcel(encode_image(image, quality), JPEG, width, height)


def _uncertain(edge: Detections, width: int, height: int) -> tuple[int, int, int, int] | None:
    """Left, top, right and bottom of the region of the uncertain boxes; None where a crop saves nothing."""
    boxes = edge.boxes[edge.scores < CERTAIN_SCORE]
    if not len(boxes):
        return None
    low, high = boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)
    margin = _CROP_MARGIN * (high - low)
    left, top = np.floor(np.clip(low - margin, 0, [width - 1, height - 1])).astype(int).tolist()
    right, bottom = np.ceil(np.clip(high + margin, [left + 1, top + 1], [width, height])).astype(int).tolist()
    if (right - left) * (bottom - top) > _MAX_CROP * width * height:
        return None
    return left, top, right, bottom
