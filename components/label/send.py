"""Send what a round asks for to Label Studio, as tasks with a model's boxes or masks to correct.

The server is what says which images it has: before anything is sent, all tasks of the project are listed, and what is
among them is not sent again, also when a run ended between sending and whatever it would have noted. If two runs send
at the same time, or the server does late what a run has given up on, the second task of an image is removed, unless
somebody has worked on it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit
from xml.etree import ElementTree

from components.core.colours import PALETTE
from components.core.errors import InputError, OutOfReachError
from components.core.job.label_requests import LabelRequest, LabelRequests
from components.core.label_studio import brush
from components.core.label_studio.addresses import Images, found_below, renew, shown_by_browsers
from components.core.label_studio.answers import read_answers
from components.core.label_studio.client import LabelStudio
from components.core.label_studio.project import Place, Project, find_project, read_project
from components.core.stores.open import Store, open_store
from components.label.formats.label_studio import config, task
from components.label.handoff import Masks, masks_in
from components.label.label import LATEST, HandOff, list_of, with_classes

log = logging.getLogger(__name__)

SAMPLE = "sample"  # in a task's data: the SHA-256 of the image
_BATCH, _BATCH_BYTES = 250, 16 << 20  # in one request
_CONTROLS = ("RectangleLabels", "BrushLabels", "PolygonLabels")  # that have the classes
_FOLDERS = ("hard-examples", "blobs")  # of a job that has its images


def send(
    job_root: str,
    *,
    label_studio_url: str,
    label_studio_project: str = "",
    label_queue: int = 200,
    round_number: int = LATEST,
    classes: str = "",
) -> HandOff:
    """Send a round's list, the most wanted images first.

    Args:
        job_root: the job's store.
        label_studio_url: address of the server or of a project.
        label_studio_project: title of the project, which is made if need be; empty: by the job's name.
        label_queue: how many images may wait for an answer in the project.
        round_number: whose list; ``LATEST`` for the newest.
        classes: class names to offer besides those of the list, as for ``label``.

    Raises:
        NotFoundError: there is no such list.
        InputError: the server cannot be reached or refuses it, the project cannot be used, or there are no class names.
    """
    store = open_store(job_root)
    wanted = list_of(store, round_number)
    place = Place.of(label_studio_url, label_studio_project, store.uri)
    studio = LabelStudio.from_environment(place.server)
    if not wanted.images:
        log.info("the label request of round %d is empty: nothing to send", wanted.round)
        return HandOff("", dict.fromkeys(("images", "boxes", "known", "waiting", "left_out"), 0))
    wanted = with_classes(wanted, classes)
    project = _ready(studio, place, wanted)
    there = _without_doubles(studio, _tasks(studio, project))
    renew(studio, store, project, [one.fields for one in there if not one.answered])
    waiting = sum(not one.answered for one in there)
    answers, _ = read_answers(store)  # those from a project that somebody has removed since are not asked for again
    known = {one.sample for one in there} | (answers.answered() if answers else set())
    new = [image for image in wanted.images if image.id not in known]
    chosen = new[: max(0, label_queue - waiting)]
    boxes = _import(studio, store, project, wanted, chosen)
    if chosen:
        _without_doubles(studio, _tasks(studio, project))
    counts = {
        "images": len(chosen),
        "boxes": boxes,
        "known": len(wanted.images) - len(new),
        "waiting": waiting + len(chosen),
        "left_out": len(new) - len(chosen),
    }
    uri = f"{place.server}/projects/{project.number}/data"
    log.info(
        "Label Studio: sent %d images with %d boxes, %d were there before; %d wait for an answer, and there was no "
        "room for %d (label_queue=%d): %s",
        *(counts[name] for name in ("images", "boxes", "known", "waiting", "left_out")), label_queue, uri,
    )  # fmt: skip
    return HandOff(uri, counts)


# --- the project ---


def _ready(studio: LabelStudio, place: Place, wanted: LabelRequests) -> Project:
    """The project of the job, which knows all the classes.

    Raises:
        InputError: somebody else's project lacks a class, or it is for boxes and masks are wanted, or the other way.
    """
    classes = wanted.classes
    project = find_project(studio, place)
    if project is None:
        made = {
            "title": place.title,
            "description": place.description,
            "label_config": config(classes, wanted.labels).decode(),
        }
        studio.send("POST", "/api/projects", made)
        project = find_project(studio, place)
        if project is None:
            raise InputError(f"{place.server}: the project {place.title!r} was made, but cannot be found")
    if project.takes_masks != (wanted.labels == "masks"):
        takes = "masks" if project.takes_masks else "boxes"
        raise InputError(
            f"{place.server}: project {project.number} is for {takes}, but this job needs {wanted.labels}: give "
            "another label_studio_project"
        )
    missing = [name for name in classes if name not in project.labels]
    if not missing:
        return project
    if not project.is_own:
        raise InputError(
            f"{place.server}: project {project.number} has no label {', '.join(missing)}; it has "
            f"{', '.join(project.labels)}: add it to the labelling interface"
        )
    said = studio.get(f"/api/projects/{project.number}")
    wider = _with_labels(str(said["label_config"]), project, missing)
    return read_project(studio.send("PATCH", f"/api/projects/{project.number}", {"label_config": wider}), place)


def _with_labels(label_config: str, project: Project, names: Iterable[str]) -> str:
    """A labelling interface with more labels; what people changed in it stays."""
    view = ElementTree.fromstring(label_config)
    controls = [one for tag in _CONTROLS for one in view.iter(tag) if one.get("toName") == project.image]
    for control in controls:
        there = {label.get("value") for label in control.iter("Label")}
        for number, name in enumerate(names, len(project.labels)):
            if name not in there:
                ElementTree.SubElement(control, "Label", value=name, background=PALETTE[number % len(PALETTE)])
    return ElementTree.tostring(view, encoding="unicode")


# --- tasks ---


@dataclass(frozen=True)
class _Task:
    """A task that is there.

    Attributes:
        number: of the task.
        sample: SHA-256 of its image.
        answered: whether somebody has labelled or skipped it.
        touched: whether somebody has worked on it, be it a draft.
        fields: ``id``, ``data`` and ``meta``, and others.
    """

    number: int
    sample: str
    answered: bool
    touched: bool
    fields: Mapping[str, Any]


def _tasks(studio: LabelStudio, project: Project) -> list[_Task]:
    """The tasks of a project that are ours, by number."""
    fields = "id,data,meta,total_annotations,cancelled_annotations,drafts"
    return [
        _Task(
            int(one["id"]),
            str(one["data"][SAMPLE]),
            answered := bool(one.get("total_annotations") or one.get("cancelled_annotations")),
            answered or bool(one.get("drafts")),
            one,
        )
        for one in studio.tasks(project.number, include=fields)
        if SAMPLE in one.get("data", {})
    ]


def _import(
    studio: LabelStudio, store: Store, project: Project, wanted: LabelRequests, images: list[LabelRequest]
) -> int:
    """Send images as tasks; returns how many boxes or masks they have."""
    is_local = images and store.local_path("blobs") is not None
    below = _serve_files(studio, store, project, images) if is_local else ""
    addresses = Images(store, below, urlsplit(studio.url).path)
    if images and not is_local:
        _check_browsers(studio, addresses, images[0])
    masks = masks_in(store, len(wanted.classes))
    count = 0
    for batch in _batches(_task_of(image, wanted, addresses, project, masks) for image in images):
        check_predictions(batch, project)
        studio.send("POST", f"/api/projects/{project.number}/import?return_task_ids=true", batch)
        count += sum(len(prediction["result"]) for one in batch for prediction in one.get("predictions", ()))
    return count


def _batches(tasks: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Tasks in their order, as many at a time as one request takes; those with masks are large."""
    batch: list[dict[str, Any]] = []
    size = 0
    for one in tasks:
        own = len(json.dumps(one))
        if batch and (len(batch) == _BATCH or size + own > _BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(one)
        size += own
    if batch:
        yield batch


def _task_of(
    image: LabelRequest, wanted: LabelRequests, addresses: Images, project: Project, masks: Masks
) -> dict[str, Any]:
    root = addresses.store.uri
    key = image.uri.removeprefix(f"{root}/")
    if key == image.uri:
        raise InputError(f"{image.uri}: the image is not in {root}, so Label Studio cannot be given its address")
    address, meta = addresses.fields(key)
    made = task(
        image, wanted, address, masks(image), control=project.control, image_name=project.image, key=project.key
    )
    return {**made, "data": {**made["data"], SAMPLE: image.id}, "meta": meta}


def check_predictions(tasks: Iterable[Mapping[str, Any]], project: Project) -> None:
    """Refuse predictions that Label Studio would take and not show: it checks neither names nor labels nor values.

    Raises:
        InputError: one has another control, image or label than the project, lies outside the image, or is a mask of
            another size.
    """
    kind = "brushlabels" if project.takes_masks else "rectanglelabels"
    for one in tasks:
        for result in (result for prediction in one.get("predictions", ()) for result in prediction["result"]):
            value, sample = result["value"], one["data"].get(SAMPLE)
            if result["type"] != kind:
                raise InputError(f"project {project.number} takes {kind}, not {result['type']}")
            wrong = [name for name in value[kind] if name not in project.labels]
            if wrong:
                raise InputError(f"project {project.number} has no label {wrong[0]!r}: it has {list(project.labels)}")
            if (result["from_name"], result["to_name"]) != (project.control, project.image):
                raise InputError(f"project {project.number} has no control {result['from_name']!r}")
            if project.takes_masks:
                try:
                    brush.decode(value["rle"], result["original_height"], result["original_width"])
                except ValueError as error:
                    raise InputError(f"a mask of task {sample} is damaged: {error}") from error
            elif not all(0 <= value[low] <= value[low] + value[side] <= 100.001 for low, side in _SIDES):
                raise InputError(f"a box of task {sample} lies outside its image: {value}")


_SIDES = (("x", "width"), ("y", "height"))


def _without_doubles(studio: LabelStudio, tasks: list[_Task]) -> list[_Task]:
    """Remove the later tasks of the same image that nobody has worked on.

    Another run has sent them meanwhile, or an earlier one whose import the server did only after it had given up.
    """
    first: set[str] = set()
    doubles = []
    for one in sorted(tasks, key=lambda one: (not one.touched, one.number)):
        if one.sample in first and not one.touched:
            doubles.append(one)
        first.add(one.sample)
    for one in doubles:
        studio.delete(f"/api/tasks/{one.number}/")
    if doubles:
        log.warning(
            "Label Studio: removed %d tasks of images that have another: two runs have sent them at the same time, or "
            "one that had no answer in time",
            len(doubles),
        )
    return [one for one in tasks if one not in doubles]


# --- images ---


def _check_browsers(studio: LabelStudio, addresses: Images, image: LabelRequest) -> None:
    """Tell if browsers will not show the images of a bucket."""
    parts = urlsplit(studio.url)
    origin = f"{parts.scheme}://{parts.netloc}"
    address, _ = addresses.address(image.uri.removeprefix(f"{addresses.store.uri}/"))
    if shown_by_browsers(address, origin) is False:
        log.warning(
            "the bucket of %s does not allow pages of %s to show its images (CORS): let it allow GET from the address "
            "under which browsers open Label Studio, or the tasks are without images",
            addresses.store.uri, origin,
        )  # fmt: skip


def _serve_files(studio: LabelStudio, store: Store, project: Project, images: list[LabelRequest]) -> str:
    """Let the server show the job's images, which lie in a folder that it must have, too.

    Returns:
        Where the job's folder lies below the server's document root; see :class:`Images`.

    Raises:
        InputError: it cannot.
    """
    there = {one.get("path") for one in studio.get("/api/storages/localfiles", project=project.number)}
    keys = [image.uri.removeprefix(f"{store.uri}/") for image in images]
    needed = {key.partition("/")[0]: key for key in reversed(keys) if key.partition("/")[0] in _FOLDERS}
    root = store.local_path("blobs").parent  # type: ignore[union-attr]
    below = None
    for folder, key in sorted(needed.items()):
        path = str(root / folder)
        try:
            if path not in there:
                made = {"project": project.number, "path": path, "title": folder, "use_blob_urls": True}
                studio.send("POST", "/api/storages/localfiles", made)
            below = found_below(studio, store, key)
            if below is None:
                raise InputError("it does not find them below its document root")
        except InputError as error:
            if isinstance(error, OutOfReachError):
                raise
            raise InputError(
                f"Label Studio cannot show the images in {path}: start it with LOCAL_FILES_SERVING_ENABLED=true and "
                f"LOCAL_FILES_DOCUMENT_ROOT={root}, or keep the job in a bucket ({error})"
            ) from error
    return below or ""
