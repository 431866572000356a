"""COCO, for CVAT and others: one JSON file for all pictures, with the scores of the boxes."""

from __future__ import annotations

import json
from collections.abc import Callable

from components.core.to_label import ToLabel, Wanted
from components.label.handoff import file_name, prelabels, writers


@writers.register("coco")
class Coco:
    """The writer of COCO."""

    pictures = "images"
    packed = True

    @staticmethod
    def files(wanted: ToLabel, address: Callable[[Wanted], str]) -> dict[str, bytes]:
        """``annotations/instances_default.json``, the name that CVAT expects; ids count from 1."""
        images = [
            {"id": number, "file_name": file_name(picture), "width": picture.width, "height": picture.height}
            for number, picture in enumerate(wanted.pictures, 1)
        ]
        boxes = [(number, box) for number, picture in enumerate(wanted.pictures, 1) for box in prelabels(picture)]
        annotations = [
            {
                "id": number,
                "image_id": image,
                "category_id": box.class_id + 1,
                "bbox": [box.x1, box.y1, round(box.x2 - box.x1, 2), round(box.y2 - box.y1, 2)],
                "area": round((box.x2 - box.x1) * (box.y2 - box.y1), 2),
                "iscrowd": 0,
                "score": box.score,
            }
            for number, (image, box) in enumerate(boxes, 1)
        ]
        categories = [{"id": number, "name": name} for number, name in enumerate(wanted.classes, 1)]
        content = {"images": images, "annotations": annotations, "categories": categories}
        return {"annotations/instances_default.json": json.dumps(content, ensure_ascii=False, indent=1).encode()}
