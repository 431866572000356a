"""COCO, for CVAT and others: one JSON file for all images, with the scores of the boxes."""

from __future__ import annotations

import json
from collections.abc import Callable

from components.core.job.label_requests import LabelRequest, LabelRequests
from components.label.handoff import Masks, file_name, prelabels, writers


@writers.register("coco")
class Coco:
    """The writer of COCO."""

    images = "images"
    packed = True

    @staticmethod
    def files(wanted: LabelRequests, address: Callable[[LabelRequest], str], masks: Masks) -> dict[str, bytes]:
        """``annotations/instances_default.json``, the name that CVAT expects; ids count from 1."""
        images = [
            {"id": number, "file_name": file_name(image), "width": image.width, "height": image.height}
            for number, image in enumerate(wanted.images, 1)
        ]
        boxes = [(image_id, box) for image_id, image in enumerate(wanted.images, 1) for box in prelabels(image)]
        annotations = [
            {
                "id": number,
                "image_id": image_id,
                "category_id": box.class_id + 1,
                "bbox": [box.x1, box.y1, round(box.x2 - box.x1, 2), round(box.y2 - box.y1, 2)],
                "area": round((box.x2 - box.x1) * (box.y2 - box.y1), 2),
                "iscrowd": 0,
                "score": box.score,
            }
            for number, (image_id, box) in enumerate(boxes, 1)
        ]
        categories = [{"id": number, "name": name} for number, name in enumerate(wanted.classes, 1)]
        content = {"images": images, "annotations": annotations, "categories": categories}
        return {"annotations/instances_default.json": json.dumps(content, ensure_ascii=False, indent=1).encode()}
