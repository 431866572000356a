"""Pascal VOC, for LabelImg and others: one XML file per image, coordinates as they stand, to a hundredth."""

from __future__ import annotations

from collections.abc import Callable
from xml.etree import ElementTree

from components.core.job.label_requests import LabelRequest, LabelRequests
from components.label.handoff import Masks, Prelabel, file_name, names_file, prelabels, writers


@writers.register("voc")
class Voc:
    """The writer of Pascal VOC."""

    images = "JPEGImages"
    packed = True

    @classmethod
    def files(cls, wanted: LabelRequests, address: Callable[[LabelRequest], str], masks: Masks) -> dict[str, bytes]:
        """An XML file for every image, without objects where nothing was found, and the class names."""
        labels = {f"Annotations/{image.id}.xml": cls._annotation(image, wanted.classes) for image in wanted.images}
        return {**labels, "classes.txt": names_file(wanted)}

    @classmethod
    def _annotation(cls, image: LabelRequest, classes: tuple[str, ...]) -> bytes:
        root = ElementTree.Element("annotation")
        _add(root, "folder", cls.images)
        _add(root, "filename", file_name(image))
        size = ElementTree.SubElement(root, "size")
        for name, pixels in (("width", image.width), ("height", image.height), ("depth", 3)):
            _add(size, name, pixels)
        for box in prelabels(image):
            _add_object(root, box, classes[box.class_id])
        ElementTree.indent(root)
        return bytes(ElementTree.tostring(root, encoding="utf-8"))


def _add_object(root: ElementTree.Element, prelabel: Prelabel, name: str) -> None:
    item = ElementTree.SubElement(root, "object")
    _add(item, "name", name)
    _add(item, "difficult", 0)
    box = ElementTree.SubElement(item, "bndbox")
    corners = {"xmin": prelabel.x1, "ymin": prelabel.y1, "xmax": prelabel.x2, "ymax": prelabel.y2}
    for corner, value in corners.items():
        _add(box, corner, value)


def _add(parent: ElementTree.Element, name: str, value: object) -> None:
    ElementTree.SubElement(parent, name).text = str(value)
