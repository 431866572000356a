"""Label Studio: ``tasks.json`` to import, with the model's boxes or masks as predictions, and ``config.xml``.

The labelling interface of the project is what ``config.xml`` says; then ``tasks.json`` is imported, the most wanted
image first. Rectangles cannot be turned there, since no detector learns turned boxes. Masks are marked with a brush,
one region for each class, or with polygons.

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

import numpy as np

from components.core.colours import PALETTE
from components.core.job.label_requests import LabelRequest, LabelRequests
from components.core.label_studio import brush
from components.core.masks import VOID, ClassMap
from components.label.handoff import Masks, Prelabel, prelabels, writers

CONTROL, IMAGE = "label", "image"  # what the boxes or brushes and the image are called in the project
_CONTROLS = {
    "boxes": {"RectangleLabels": {"name": CONTROL, "canRotate": "false"}},
    "masks": {"BrushLabels": {"name": CONTROL}, "PolygonLabels": {"name": "polygon"}},
}


@writers.register("label-studio")
class LabelStudio:
    """The writer of Label Studio's tasks."""

    images = "images"
    packed = False

    @staticmethod
    def files(wanted: LabelRequests, address: Callable[[LabelRequest], str], masks: Masks) -> dict[str, bytes]:
        """The project's configuration, and the tasks last: where they are, the hand-off is whole."""
        tasks = [task(image, wanted, address(image), masks(image)) for image in wanted.images]
        return {
            "config.xml": config(wanted.classes, wanted.labels),
            "tasks.json": json.dumps(tasks, ensure_ascii=False, indent=1).encode(),
        }


def config(classes: tuple[str, ...], labels: str) -> bytes:
    """The labelling interface of a project: rectangles over an image, which cannot be turned, or brush and polygons.

    Args:
        classes: class names.
        labels: ``boxes`` or ``masks``.
    """
    view = ElementTree.Element("View")
    ElementTree.SubElement(view, "Header", value="$reason", size="5")
    ElementTree.SubElement(view, "Image", name=IMAGE, value="$image", zoom="true")
    for tag, attributes in _CONTROLS[labels].items():
        if labels == "masks":  # both have the same labels
            ElementTree.SubElement(view, "Header", value=tag.removesuffix("Labels"), size="6")
        control = ElementTree.SubElement(view, tag, {**attributes, "toName": IMAGE})
        for number, name in enumerate(classes):
            ElementTree.SubElement(control, "Label", value=name, background=PALETTE[number % len(PALETTE)])
    ElementTree.indent(view)
    return bytes(ElementTree.tostring(view, encoding="utf-8"))


def task(
    image: LabelRequest,
    wanted: LabelRequests,
    address: str,
    mask: ClassMap | None,
    *,
    control: str = CONTROL,
    image_name: str = IMAGE,
    key: str = IMAGE,
) -> dict[str, Any]:
    """One image as a task, with a model's boxes or mask as its prediction.

    Args:
        image: that is asked for.
        wanted: the list that asks for it.
        address: where Label Studio finds the image.
        mask: (height, width), what the model gives each pixel; None where it gives boxes.
        control: what the boxes or brushes are called in the project.
        image_name: what the image is called there.
        key: under which the task has its address.
    """
    data = {
        "reason": image.reason,
        "share": image.share,
        "score": image.score,
        "source": image.source,
        "round": wanted.round,
        key: address,  # last, since a project may show the image by one of these names
    }
    results = _boxes(image, wanted.classes) if mask is None else _brushes(image, mask, wanted.classes)
    if not results:
        return {"data": data}
    shown = {"from_name": control, "to_name": image_name}
    prediction = {
        "model_version": wanted.prelabelled_by or wanted.model,
        "score": round(sum(one["score"] for one in results) / len(results), 6),
        "result": [{**one, **shown} for one in results],
    }
    return {"data": data, "predictions": [prediction]}


def _boxes(image: LabelRequest, classes: tuple[str, ...]) -> list[dict[str, Any]]:
    return [_box(number, box, image, classes) for number, box in enumerate(prelabels(image))]


def _brushes(image: LabelRequest, mask: ClassMap, classes: tuple[str, ...]) -> list[dict[str, Any]]:
    """One region for each class that is there."""
    found = image.to_correct.mask
    scores = found.scores if found else {}
    return [
        {
            "id": f"mask{number}",
            "type": "brushlabels",
            "original_width": image.width,
            "original_height": image.height,
            "image_rotation": 0,
            "score": scores.get(number, 0.0),
            "value": {"format": "rle", "rle": brush.encode(mask == number), "brushlabels": [classes[number]]},
        }
        for number in np.unique(mask[mask != VOID]).tolist()
    ]


def _box(number: int, box: Prelabel, image: LabelRequest, classes: tuple[str, ...]) -> dict[str, Any]:
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
