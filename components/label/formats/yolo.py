"""YOLO: one text file per image, ``classes.txt`` for labelling tools and ``data.yaml`` for Ultralytics."""

from __future__ import annotations

from collections.abc import Callable

import yaml

from components.core.job.label_requests import LabelRequest, LabelRequests
from components.label.handoff import Masks, names_file, prelabels, writers


@writers.register("yolo")
class Yolo:
    """The writer of YOLO."""

    images = "images"
    packed = True

    @staticmethod
    def files(wanted: LabelRequests, address: Callable[[LabelRequest], str], masks: Masks) -> dict[str, bytes]:
        """A text file for every image, empty where nothing was found; no folder is named as one split's."""
        described = yaml.safe_dump({"path": ".", "names": dict(enumerate(wanted.classes))}, allow_unicode=True)
        labels = {f"labels/{image.id}.txt": _lines(image).encode() for image in wanted.images}
        return {**labels, "classes.txt": names_file(wanted), "data.yaml": described.encode()}


def _lines(image: LabelRequest) -> str:
    width, height = image.width, image.height
    return "".join(
        f"{box.class_id} {(box.x1 + box.x2) / 2 / width:.7f} {(box.y1 + box.y2) / 2 / height:.7f} "
        f"{(box.x2 - box.x1) / width:.7f} {(box.y2 - box.y1) / height:.7f}\n"
        for box in prelabels(image)
    )
