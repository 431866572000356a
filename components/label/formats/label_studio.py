"""Label Studio: ``tasks.json`` to import, with the model's boxes as predictions, and ``config.xml`` for the project.

The labelling interface of the project is what ``config.xml`` says; then ``tasks.json`` is imported, the most wanted
image first. Rectangles cannot be turned there, since no detector learns turned boxes.

Label Studio fetches the images itself. Those of a job in a bucket have ``s3://`` addresses, for which the project
needs the bucket as a source storage; an S3 server with a private address must be named to Label Studio itself, in
``S3_ENDPOINT``. Those of a job in a folder have the addresses of Label Studio's local files: it
must run with ``LOCAL_FILES_SERVING_ENABLED=true`` and the job's folder as ``LOCAL_FILES_DOCUMENT_ROOT``, and the
project needs the hand-off's ``images`` as a local source storage.

Labels come back as the export ``JSON`` of the project. Put beside the images, in the hand-off's own folder or in a
feed, it is read by the data format ``label-studio``.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

from components.core.colours import PALETTE
from components.core.job.label_requests import LabelRequest, LabelRequests
from components.label.handoff import Prelabel, prelabels, writers

CONTROL, IMAGE = "label", "image"  # what the boxes and the image are called in the project


@writers.register("label-studio")
class LabelStudio:
    """The writer of Label Studio's tasks."""

    images = "images"
    packed = False

    @staticmethod
    def files(wanted: LabelRequests, address: Callable[[LabelRequest], str]) -> dict[str, bytes]:
        """The project's configuration, and the tasks last: where they are, the hand-off is whole."""
        tasks = [task(image, wanted, address(image)) for image in wanted.images]
        return {
            "config.xml": config(wanted.classes),
            "tasks.json": json.dumps(tasks, ensure_ascii=False, indent=1).encode(),
        }


def config(classes: tuple[str, ...]) -> bytes:
    """The labelling interface of a project: rectangles over an image, which cannot be turned."""
    view = ElementTree.Element("View")
    ElementTree.SubElement(view, "Header", value="$reason", size="5")
    ElementTree.SubElement(view, "Image", name=IMAGE, value="$image", zoom="true")
    control = ElementTree.SubElement(view, "RectangleLabels", name=CONTROL, toName=IMAGE, canRotate="false")
    for number, name in enumerate(classes):
        ElementTree.SubElement(control, "Label", value=name, background=PALETTE[number % len(PALETTE)])
    ElementTree.indent(view)
    return bytes(ElementTree.tostring(view, encoding="utf-8"))


def task(
    image: LabelRequest,
    wanted: LabelRequests,
    address: str,
    *,
    control: str = CONTROL,
    image_name: str = IMAGE,
    key: str = IMAGE,
) -> dict[str, Any]:
    """One image as a task, with a model's boxes as its prediction.

    Args:
        image: that is asked for.
        wanted: the list that asks for it.
        address: where Label Studio finds the image.
        control: what the boxes are called in the project.
        image_name: what the image is called there.
        key: under which the task has its address.
    """
    boxes = list(prelabels(image))
    data = {
        key: address,
        "reason": image.reason,
        "share": image.share,
        "score": image.score,
        "source": image.source,
        "round": wanted.round,
    }
    if not boxes:
        return {"data": data}
    prediction = {
        "model_version": wanted.prelabelled_by or wanted.model,
        "score": round(sum(box.score for box in boxes) / len(boxes), 6),
        "result": [
            {**_result(number, box, image, wanted.classes), "from_name": control, "to_name": image_name}
            for number, box in enumerate(boxes)
        ],
    }
    return {"data": data, "predictions": [prediction]}


def _result(number: int, box: Prelabel, image: LabelRequest, classes: tuple[str, ...]) -> dict[str, Any]:
    return {
        "id": f"box{number}",
        "type": "rectanglelabels",
        "original_width": image.width,
        "original_height": image.height,
        "image_rotation": 0,
        "score": box.score,
        "value": {
            "x": round(100 * box.x1 / image.width, 6),
            "y": round(100 * box.y1 / image.height, 6),
            "width": round(100 * (box.x2 - box.x1) / image.width, 6),
            "height": round(100 * (box.y2 - box.y1) / image.height, 6),
            "rotation": 0,
            "rectanglelabels": [classes[box.class_id]],
        },
    }
