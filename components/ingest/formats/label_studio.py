"""Label Studio: its export ``JSON`` (a list of tasks), beside the images.

The boxes are rectangles with labels, upright, in percent of the image. Brushes and polygons with labels make a mask;
see :mod:`components.ingest.regions`. A task that was skipped, or that has not been submitted, is an image without
labels, whatever a model predicted for it; a submitted one without any mark shows nothing (a negative). Several exports
in one folder are one data set: of the same task the one changed last counts. No other export will do, as Label Studio
1.23 writes them: in YOLO a skipped image looks like a negative, in VOC a negative has no file, and COCO names the
images by folders of its server.

Images have other addresses in Label Studio than here. One that is named by its content, with the 64 hex digits of its
SHA-256 anywhere in the file name, is found by them, so by whatever address it was labelled. Any other is found by its
file name, of several by the folders before it, and by the name that Label Studio gives to files that are uploaded to
it. An image that a tool has written anew is another image: its label comes in with it,
but not to the sample that it was made from.
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

from components.core.cache import MAX_PIXELS
from components.core.errors import InputError
from components.ingest.dataset import (
    IMAGE_SUFFIXES,
    MAX_INDEX_BYTES,
    DataSet,
    Folder,
    Label,
    LabelError,
    Record,
    Region,
    few,
    formats,
    suffix_of,
)
from components.ingest.references import Images, only, path_in

logger = logging.getLogger(__name__)

RECTANGLE, BRUSH, POLYGON = "rectanglelabels", "brushlabels", "polygonlabels"
MAX_POINTS = 100_000  # of a polygon
FARTHEST = 1e6  # of a polygon's corner, in widths or heights of the image
# What is said of the image as a whole, or beside a box, and marks nothing in it.
REMARKS = frozenset({"choices", "datetime", "number", "rating", "relation", "taxonomy", "textarea"})

_LIST = re.compile(rb"(\xef\xbb\xbf)?\s*\[\s*\{")
_KEYS = re.compile(rb'"(data|was_cancelled|rectanglelabels|brushlabels|polygonlabels|total_annotations)"\s*:')
_DIGEST = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")


class Task(NamedTuple):
    """What one task of an export says of its image.

    Attributes:
        export: path of the export.
        where: names the task in messages.
        address: of the image in Label Studio; empty where the task has none.
        labels: the boxes; empty: nothing to see; None: it is unlabelled, or has a mask and no boxes.
        regions: what makes its mask, in the order in which it was drawn.
        size: width and height in pixels that the image had there; None: not known.
        changed: when it was labelled last, ISO 8601; empty: never.
        reason: why it cannot be used, ``kind: details``; empty if it can.
    """

    export: str
    where: str
    address: str
    labels: tuple[Label, ...] | None = None
    size: tuple[int, int] | None = None
    changed: str = ""
    reason: str = ""
    regions: tuple[Region, ...] = ()

    @property
    def content(self) -> tuple[object, ...]:
        """What it says, by which two tasks are compared."""
        return self.labels, self.regions, self.reason

    @property
    def is_labelled(self) -> bool:
        """Whether it has boxes or a mask, or says that there is nothing to see."""
        return self.labels is not None or bool(self.regions)


@formats.register("label-studio")
class LabelStudio:
    """The reader of Label Studio's exports."""

    @staticmethod
    def detect(folder: Folder) -> bool:
        """A JSON file is a list of tasks."""
        return bool(_exports(folder))

    @staticmethod
    def read(folder: Folder) -> DataSet:
        """Read the named export, or every one in the folder."""
        exports = _exports(folder)
        if not exports:
            raise InputError(
                f"no export of Label Studio in the data (JSON files are {few(folder.named('.json'))}): export as JSON, "
                "not JSON-MIN, and put the file next to the images"
            )
        tasks = [task for name in exports for task in _tasks(folder, name)]
        covered = sorted({region.name for task in tasks for region in task.regions})
        if not covered:
            return DataSet(None, _records(folder, tasks))
        names = tuple(sorted({*covered, *(label.name for task in tasks for label in task.labels or ())}))
        return DataSet(names, _records(folder, tasks), dict(enumerate(names)))


def _exports(folder: Folder) -> list[str]:
    names = [folder.index] if folder.index else folder.named(".json")
    heads = ((name, folder.head(name)) for name in names)
    return [name for name, head in heads if _LIST.match(head) and _KEYS.search(head)]


def _tasks(folder: Folder, export: str) -> list[Task]:
    try:
        content = json.loads(folder.text(export, MAX_INDEX_BYTES))
    except LabelError as error:
        raise InputError(f"Label Studio: {error}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"Label Studio: {export} cannot be read: {' '.join(str(error).split())[:200]}") from error
    if not any(isinstance(item, dict) and isinstance(item.get("data"), dict) for item in content):
        raise InputError(f"Label Studio: {export} has no task with 'data': export as JSON, not JSON-MIN")
    proposed = sum(isinstance(item, dict) and _is_only_proposed(item) for item in content)
    if proposed:
        logger.warning(
            "%s: %d tasks have predictions and no annotation: their images are unlabelled; submit them first",
            export,
            proposed,
        )
    remarks: Counter[str] = Counter()
    tasks = [read_task(export, f"{export}#{place}", item, remarks) for place, item in enumerate(content)]
    if remarks:
        passed_over = few(f"{count} {kind}" for kind, count in remarks.most_common())
        logger.warning("%s: ignoring everything that is neither box nor mask: %s", export, passed_over)
    return tasks


def _is_only_proposed(item: dict[str, Any]) -> bool:
    return bool(item.get("predictions")) and not item.get("annotations")


def read_task(export: str, place: str, item: Any, remarks: Counter[str]) -> Task:
    """One task as Label Studio describes it.

    Args:
        export: what it is from.
        place: names it in messages where it has no number.
        item: the task.
        remarks: counts what is said beside the boxes.
    """
    task = Task(export, place, "")
    try:
        if not isinstance(item, dict):
            raise LabelError(f"annotation unreadable: {task.where} is not a task")
        task = task._replace(where=f"{export} task {item['id']}" if "id" in item else place)
        task = task._replace(address=_address(task.where, item))
        annotations = _annotations(task.where, item)
        times = (str(one.get("updated_at") or one.get("created_at") or "") for one in annotations)
        task = task._replace(changed=max(times, default=""))
        contents = [_content(task.where, annotation, remarks) for annotation in _submitted(annotations)]
        if len(set(contents)) > 1:
            raise LabelError(f"ambiguous: {task.where}: {len(contents)} annotations differ: mark one as ground truth")
        labels, regions, size = contents[0] if contents else (None, (), None)
        return task._replace(labels=labels, regions=regions, size=size)
    except LabelError as error:
        return task._replace(reason=str(error))


def _address(where: str, item: dict[str, Any]) -> str:
    """The image's address: ``image`` in the task's data, or else the only value that names an image."""
    data = item.get("data")
    texts = {key: value for key, value in data.items() if isinstance(value, str)} if isinstance(data, dict) else {}
    if "image" in texts:
        return texts["image"]
    named = [text for text in texts.values() if suffix_of(_path(text)) in IMAGE_SUFFIXES]
    if len(named) != 1:
        raise LabelError(f"annotation unreadable: {where} names {len(named)} images in its data, not one")
    return named[0]


def _annotations(where: str, item: dict[str, Any]) -> list[dict[str, Any]]:
    annotations = item.get("annotations") or []
    if not isinstance(annotations, list) or not all(isinstance(one, dict) for one in annotations):
        raise LabelError(f"annotation unreadable: {where}: annotations is not a list of objects")
    return annotations


def _submitted(annotations: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The annotations that count: those that are not cancelled, of these the ground truth where one is marked."""
    given = [one for one in annotations if not one.get("was_cancelled")]
    return [one for one in given if one.get("ground_truth")] or given


Content = tuple[tuple[Label, ...] | None, tuple[Region, ...], tuple[int, int] | None]


def _content(where: str, annotation: dict[str, Any], remarks: Counter[str]) -> Content:
    """The boxes of one annotation in order of their places, its regions, and the size of the image."""
    results = annotation.get("result") or []
    if not isinstance(results, list) or not all(isinstance(one, dict) for one in results):
        raise LabelError(f"annotation unreadable: {where}: result is not a list of objects")
    kinds = [(str(one.get("type")), one) for one in results]
    remarks.update(kind for kind, _ in kinds if kind in REMARKS)
    marks = [(_mark(where, kind, one), _size(where, one)) for kind, one in kinds if kind not in REMARKS]
    sizes = {size for _, size in marks if size}
    if len(sizes) > 1:
        raise LabelError(f"ambiguous: {where} gives the image different sizes")
    labels = tuple(sorted(mark for mark, _ in marks if isinstance(mark, Label)))
    regions = tuple(mark for mark, _ in marks if isinstance(mark, Region))
    return labels if labels or not regions else None, regions, sizes.pop() if sizes else None


def _mark(where: str, kind: str, result: dict[str, Any]) -> Label | Region:
    if kind not in _READERS:
        raise LabelError(
            f"annotation unreadable: {where}: a mark of type {kind[:40]!r}; {RECTANGLE} are boxes, "
            f"{BRUSH} and {POLYGON} masks"
        )
    what, read = _READERS[kind]
    try:
        value = result["value"]
        (name,) = value[kind]
        image_turned = float(result.get("image_rotation") or 0)
        mark = read(where, name, value, result)
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise LabelError(f"annotation unreadable: {where}: not {what} with one label") from error
    if not isinstance(name, str) or not name.strip():
        raise LabelError(f"annotation unreadable: {where}: the label is not text")
    if image_turned:
        raise LabelError(f"turned image: {where}: labelled when rotated by {image_turned:g} degrees: rotate it back")
    return mark


def _size(where: str, result: dict[str, Any]) -> tuple[int, int] | None:
    """Width and height of the image that was labelled; None: not known."""
    try:
        size = int(result.get("original_width") or 0), int(result.get("original_height") or 0)
    except (TypeError, ValueError, OverflowError) as error:
        raise LabelError(f"annotation unreadable: {where}: the size of the image is no number") from error
    return size if min(size) > 0 else None


def _box(where: str, name: str, value: dict[str, Any], _: dict[str, Any]) -> Label:
    x, y, width, height = (float(value[key]) / 100 for key in ("x", "y", "width", "height"))
    turned = float(value.get("rotation") or 0)
    if not all(map(math.isfinite, (x, y, width, height, turned))):
        raise LabelError(f"NaN or infinite: {where}: {name}")
    if turned:
        raise LabelError(f"turned box: {where}: {name} is rotated by {turned:g} degrees: draw it upright")
    return Label(name, (x, y, x + width, y + height), normalised=True)


def _brush(where: str, name: str, value: dict[str, Any], result: dict[str, Any]) -> Region:
    size = _size(where, result)
    if value.get("format") != "rle" or size is None or size[0] * size[1] > MAX_PIXELS:
        raise ValueError("not in Label Studio's run-length code")
    return Region(name, _is_drawn(result), code=bytes(list(value["rle"])))  # of a number it would be so many zeros


def _polygon(where: str, name: str, value: dict[str, Any], result: dict[str, Any]) -> Region:
    points = tuple((float(x) / 100, float(y) / 100) for x, y in value["points"])
    if not 3 <= len(points) <= MAX_POINTS:
        raise ValueError("too few points or too many")
    if not all(math.isfinite(side) for point in points for side in point):
        raise LabelError(f"NaN or infinite: {where}: {name}")
    if any(abs(side) > FARTHEST for point in points for side in point):
        raise ValueError("far outside the image")
    return Region(name, _is_drawn(result), points=points)


def _is_drawn(result: dict[str, Any]) -> bool:
    return result.get("origin") != "prediction"


_READERS: dict[str, tuple[str, Callable[[str, str, dict[str, Any], dict[str, Any]], Label | Region]]] = {
    RECTANGLE: ("a box in percent", _box),
    BRUSH: ("a brush in run-length code", _brush),
    POLYGON: ("a polygon in percent", _polygon),
}


# --- tasks and images ---


def _records(folder: Folder, tasks: list[Task]) -> Iterator[Record]:
    images = _Named(folder)
    by_image: dict[str, list[Task]] = {}
    for task in tasks:
        if not task.address:
            yield Record(task.where, reason=task.reason or f"annotation unreadable: {task.where} names no image")
            continue
        try:
            by_image.setdefault(images.find(task), []).append(task)
        except LabelError as error:
            yield Record(_path(task.address), reason=task.reason or str(error))
    for image, own in by_image.items():
        try:
            task = _latest(own)
        except LabelError as error:
            yield Record(image, reason=str(error))
        else:
            label_file = task.export if task.is_labelled else ""
            yield Record(image, folder.path(image), task.labels, label_file, size=task.size, regions=task.regions)


def _latest(tasks: Iterable[Task]) -> Task:
    """The task that counts for an image.

    Raises:
        LabelError: it cannot be used, or it is ambiguous.
    """
    last: dict[str, Task] = {}
    for task in tasks:
        known = last.setdefault(task.address, task)
        if task.changed == known.changed and task.content != known.content:
            raise LabelError(f"ambiguous: {known.where} and {task.where} label it differently")
        if task.changed > known.changed:
            last[task.address] = task
    found = [task for task in last.values() if task.reason or task.is_labelled] or list(last.values())
    if len({task.content for task in found}) > 1:
        raise LabelError(f"ambiguous: {found[0].where} and {found[1].where} label it differently")
    if found[0].reason:
        raise LabelError(found[0].reason)
    return found[0]


class _Named:
    """The images of a folder by their content, where their names tell it, and by name."""

    def __init__(self, folder: Folder) -> None:
        self._images = Images(folder)
        self._by_digest: dict[str, list[str]] = {}
        for image in folder.images:
            for digest in _DIGEST.findall(image.rpartition("/")[2]):
                self._by_digest.setdefault(digest, []).append(image)

    def find(self, task: Task) -> str:
        """The image of a task.

        Raises:
            LabelError: there is none, or more than one.
        """
        path = PurePosixPath(_path(task.address))
        digest = _DIGEST.search(path.name)
        if digest:
            return only(self._by_digest.get(digest[0], []), task.export)
        found = self._images.named(path.name)
        if not found:
            raise LabelError(
                f"label without image: {task.where} labels {path_in(task.address)[:200]!r}: no image is called "
                f"{path.name!r}, or would be by Label Studio when it is uploaded"
            )
        return only(_closest(found, path), task.export)


def _closest(images: list[str], path: PurePosixPath) -> list[str]:
    """Of images with the same file name those that share the most folders before it with a path."""
    shared = {image: _shared(image.split("/")[::-1], path.parts[::-1]) for image in images}
    return [image for image, count in shared.items() if count == max(shared.values())]


def _shared(these: Iterable[str], those: Iterable[str]) -> int:
    count = 0
    for this, that in zip(these, those, strict=False):
        if this != that:
            break
        count += 1
    return count


def _path(address: str) -> str:
    """The path in an address; of local files, which Label Studio serves as ``/data/local-files/?d=path``, that one."""
    address = address.replace("\\", "/")
    if "://" not in address and not address.startswith("/data/") and "/data/local-files/?" not in address:
        return address
    try:
        parts = urlsplit(address)
    except ValueError:
        return address
    local = parse_qs(parts.query).get("d")
    return (local[0] if local else unquote(parts.path)).replace("\\", "/")
