"""YOLO: one text file per picture, ``classes.txt`` for labelling tools and ``data.yaml`` for Ultralytics."""

from __future__ import annotations

from collections.abc import Callable

import yaml

from components.core.to_label import ToLabel, Wanted
from components.label.handoff import names_file, prelabels, writers


@writers.register("yolo")
class Yolo:
    """The writer of YOLO."""

    pictures = "images"
    packed = True

    @staticmethod
    def files(wanted: ToLabel, address: Callable[[Wanted], str]) -> dict[str, bytes]:
        """A text file for every picture, empty where nothing was found; no folder is named as one split's."""
        described = yaml.safe_dump({"path": ".", "names": dict(enumerate(wanted.classes))}, allow_unicode=True)
        labels = {f"labels/{picture.id}.txt": _lines(picture).encode() for picture in wanted.pictures}
        return {**labels, "classes.txt": names_file(wanted), "data.yaml": described.encode()}


def _lines(picture: Wanted) -> str:
    width, height = picture.width, picture.height
    return "".join(
        f"{box.class_id} {(box.x1 + box.x2) / 2 / width:.7f} {(box.y1 + box.y2) / 2 / height:.7f} "
        f"{(box.x2 - box.x1) / width:.7f} {(box.y2 - box.y1) / height:.7f}\n"
        for box in prelabels(picture)
    )
