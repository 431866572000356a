"""What people have answered in Label Studio: fetched into the job's store, and taken in like a feed of its own.

A fetch asks for the tasks that have changed since the last one, and for all of them once an hour; then it also renews
the addresses of images that end soon. Answers are known by
the image, whatever its task. A label that somebody changes counts as changed; of an annotation that somebody deletes
the image becomes unlabelled again. A task or a project that is deleted takes nothing back.

A round waits for nobody: it uses what was answered by then. A server that does not answer or refuses something is
reported, and what was fetched before counts.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import polars as pl

from components.core.bundle import sha256_of
from components.core.cache import MAX_BLOB_BYTES, MAX_PIXELS, local_file
from components.core.errors import ConflictError, InputError, NotFoundError, OutOfReachError, TooLargeError
from components.core.job.state import State
from components.core.label_studio.addresses import renew
from components.core.label_studio.answers import MASKS, Answer, Answers, read_answers, write_answers
from components.core.label_studio.client import PAGE, PAGE_OF_MASKS, LabelStudio
from components.core.label_studio.project import Place, Project, find_project
from components.core.manifest import Manifest
from components.core.masks import VOID, encode_mask, read_mask
from components.core.stores.open import Store, open_store, split
from components.ingest.dataset import Label, LabelError, Record, few
from components.ingest.formats.label_studio import Task, read_task
from components.ingest.images import Outcome, boxes_in_pixels
from components.ingest.masks import Values
from components.ingest.regions import paint

log = logging.getLogger(__name__)

FULL_LISTING = timedelta(hours=1)
_FIELDS = {"fields": "all"}  # with annotations and what is in them


def fetch_answers(
    store: Store, *, label_studio_url: str = "", label_studio_project: str = "", keep_annotators: bool = False
) -> Answers | None:
    """Fetch what has been answered since the last time, and keep it in the job's store.

    Args:
        store: the job's root.
        label_studio_url: address of the server or of a project; empty: there is none.
        label_studio_project: title of the project; empty: by the job's name.
        keep_annotators: whether to keep the numbers of the users who answered.

    Returns:
        All answers; None without a server, and while the job has no project.

    Raises:
        InputError: there is no token, or an address or title that cannot be. What the server refuses is only told: a
            round does not fail for it.
    """
    if not label_studio_url:
        return None
    place = Place.of(label_studio_url, label_studio_project, store.uri)
    studio = LabelStudio.from_environment(place.server)
    before, etag = read_answers(store)
    try:
        project = find_project(studio, place)
        if project is None:
            answers = _without_open(before)
        else:
            answers = _fetched(studio, project, _of_project(before, place, project), keep_annotators, store)
    except InputError as error:
        have = f"the answers to {len(before.images)} images that were fetched before count" if before else "no answers"
        log.warning("%s; %s", error, have)
        return before
    if answers is None:
        return None
    if answers != before:
        try:
            write_answers(store, answers, etag)
        except ConflictError:
            log.info("another run has fetched answers at the same time")
    states = Counter("withdrawn" if one.withdrawn else one.state for one in answers.images.values())
    log.info("Label Studio, project %d: %s", answers.project, ", ".join(f"{n} {s}" for s, n in sorted(states.items())))
    return answers


def _of_project(before: Answers | None, place: Place, project: Project) -> Answers:
    """The answers so far; those from an earlier project, which somebody has removed, still count."""
    if before is None:
        return Answers(server=place.server, project=project.number)
    if (before.server, before.project) == (place.server, project.number):
        return before
    # A new task may have the number of one that is gone.
    images = {id_: one.model_copy(update={"task": 0}) for id_, one in before.images.items()}
    place_and_project = {"server": place.server, "project": project.number}
    return before.model_copy(update={**place_and_project, "seen": "", "listed": None, "images": images})


def _without_open(before: Answers | None) -> Answers | None:
    """The answers of a project that is gone: what waited there may be asked for again."""
    if before is None:
        return None
    return before.model_copy(update={"images": _without_tasks(before.images)})


def _without_tasks(images: Mapping[str, Answer]) -> dict[str, Answer]:
    """What counts of answers whose tasks are gone: nobody will answer any more."""
    return {
        id_: one.model_copy(update={"task": 0}) if one.state == "open" else one
        for id_, one in images.items()
        if one.state != "open" or one.withdrawn
    }


def _fetched(studio: LabelStudio, project: Project, before: Answers, keep_annotators: bool, store: Store) -> Answers:
    now = datetime.now(UTC)
    full = before.listed is None or not before.seen or abs(now - before.listed) > FULL_LISTING
    changed = {"filter": "filter:tasks:updated_at", "operator": "greater_or_equal", "type": "Datetime"}
    filters = None if full else {"conjunction": "and", "items": [{**changed, "value": before.seen}]}
    found: dict[str, Answer] = {}
    seen = before.seen
    masks = _Masks(store, before.names, project)
    waiting = []
    page_size = PAGE_OF_MASKS if project.takes_masks else PAGE
    for item in studio.tasks(project.number, filters, page_size=page_size, **_FIELDS):
        seen = max(seen, str(item.get("updated_at") or ""))
        sample = (item.get("data") or {}).get("sample")
        if not isinstance(sample, str) or not _is_digest(sample):
            continue  # somebody else's task
        last = before.images.get(sample)
        is_same_task = last is not None and last.task == int(item["id"])
        before_it = last if is_same_task or (last is not None and last.withdrawn) else None
        answer = _answer(item, project, before_it, keep_annotators, masks)
        rival = found.get(sample) or (None if is_same_task else last)
        if rival is None or _counts_before(answer, rival):
            found[sample] = answer
        if full and answer.state == "open":
            waiting.append({name: item.get(name) for name in ("id", "data", "meta")})
    renew(studio, store, project, waiting)
    kept = _without_tasks(before.images) if full else before.images
    listed = now if full else before.listed
    return before.model_copy(
        update={"images": {**kept, **found}, "seen": seen, "listed": listed, "names": tuple(masks.numbers)}
    )


class _Masks:
    """Makes masks of what people have marked, and puts them into the job's store.

    Args:
        store: the job's root.
        names: of classes that have a number already.
        project: whose labels come next, in their order, which is that of the job's classes in a project made for it.
    """

    def __init__(self, store: Store, names: Sequence[str], project: Project) -> None:
        self._store = store
        ordered = dict.fromkeys((*names, *(project.labels if project.takes_masks else ())))
        self.numbers = {name: number for number, name in enumerate(ordered)}

    def put(self, task: Task) -> str:
        """The key of a task's mask.

        Raises:
            LabelError: a region is damaged, nothing is marked, or there are too many classes.
        """
        if task.size is None:
            raise LabelError(f"mask unreadable: {task.where} does not give the size of the image")
        width, height = task.size
        if width * height > MAX_PIXELS:
            raise LabelError(f"too large: {width}x{height}, over {MAX_PIXELS // 10**6} megapixels")
        for region in task.regions:
            self.numbers.setdefault(region.name, len(self.numbers))
        if len(self.numbers) > VOID:
            raise LabelError(f"mask unreadable: {len(self.numbers)} classes, but a mask has numbers for {VOID}")
        mask = paint(task.regions, self.numbers, width, height)
        if (mask == VOID).all():
            raise LabelError(f"empty mask: {task.where}: no pixel is marked")
        content = encode_mask(mask)
        key = f"{MASKS}{hashlib.sha256(content).hexdigest()}.png"
        if self._store.stat(key) is None:
            self._store.write(key, content)
        return key


def _answer(
    item: Mapping[str, Any], project: Project, before: Answer | None, keep_annotators: bool, masks: _Masks
) -> Answer:
    """What one task says."""
    data = {**item["data"], "image": str(item["data"].get(project.key, ""))}
    task = read_task("Label Studio", "task", {**item, "data": data}, Counter())
    given = [one for one in item.get("annotations") or [] if isinstance(one, dict)]
    labelled = any(not one.get("was_cancelled") for one in given)
    made: dict[str, Any] = {
        "task": int(item["id"]),
        "key": str((item.get("meta") or {}).get("key", "")),
        "state": "labelled" if labelled else "skipped" if given else "open",
        "changed": task.changed,
    }
    if labelled:
        made |= {
            "boxes": tuple((label.name, *label.box) for label in task.labels or ()),
            "size": task.size,
            **_mask(task, project, masks),
        }
    elif before is not None and (before.withdrawn or (before.state == "labelled" and not before.unusable)):
        made |= {"withdrawn": True, "boxes": before.boxes, "mask": before.mask, "size": before.size}
    if keep_annotators and given:
        last = max(given, key=lambda one: str(one.get("updated_at") or ""))
        made["annotator"] = last.get("completed_by") if isinstance(last.get("completed_by"), int) else None
    return Answer(**made)


def _mask(task: Task, project: Project, masks: _Masks) -> dict[str, str]:
    """The fields of an answer that say what its mask is, and whether it can be used."""
    if task.reason:
        return {"unusable": task.reason}
    try:
        if task.regions and not project.takes_masks:
            name = task.regions[0].name
            raise LabelError(f"no box: {task.where}: {name} is marked by its outline: draw a rectangle in its place")
        if task.regions:
            return {"mask": masks.put(task)}
        if not task.labels and project.takes_masks:
            raise LabelError(f"empty mask: {task.where}: nothing is marked: mark what is there, or skip the image")
    except LabelError as error:
        return {"unusable": str(error)}
    return {}


def _counts_before(one: Answer, other: Answer) -> bool:
    """Whether of two tasks of the same image the first counts: the labelled one, of these the one changed last.

    Of equals it is the one that is there, as when the server has another address: what becomes of it is followed.
    """
    rank = {"open": 0, "skipped": 1, "labelled": 2}
    return (rank[one.state], one.changed, one.task > 0) > (rank[other.state], other.changed, other.task > 0)


def _is_digest(text: str) -> bool:
    return len(text) == 64 and not set(text) - set("0123456789abcdef")


# --- taking in ---


@dataclass(frozen=True)
class AnswerNews:
    """Answers that are news to the job.

    Attributes:
        records: labels that the job does not have, without the paths of their images.
        images: answers by the records' ``sample``.
        groups: by id, what samples that the job has already share a split with.
        withdrawn: ids of samples whose labels have been removed.
        values: what the values of their masks mean.
        order: the classes whose numbers ``values`` has, in their order; empty where no answer has a mask.
    """

    records: list[Record] = field(default_factory=list)
    images: dict[str, Answer] = field(default_factory=dict)
    groups: dict[str, str] = field(default_factory=dict)
    withdrawn: list[str] = field(default_factory=list)
    values: Values | None = None
    order: tuple[str, ...] = ()

    def classes(self) -> set[str]:
        """Names of the boxes' classes, which are those of the job and need no renaming."""
        return {label.name for record in self.records for label in record.labels or ()}

    def named(self, record: Record, outcome: Outcome) -> Outcome:
        """An outcome whose reason names the task, by which people find the image in Label Studio."""
        if not record.sample:
            return outcome
        task = f"Label Studio task {self.images[record.sample].task}"
        is_named = not outcome.reason or task in outcome.reason
        return outcome if is_named else outcome._replace(reason=f"{outcome.reason} ({task})")

    def is_left_to_people(self, record: Record) -> bool:
        """Whether it is people who have to agree on an answer, or to correct it, before it can be used."""
        return bool(record.sample and self.images[record.sample].unusable)

    def brought(self, record: Record, store: Store, folder: Path) -> Record:
        """A record with the paths of its image and mask on this machine, or with the reason why there is none."""
        answer = self.images[record.sample]
        try:
            mask = str(_bring_mask(answer.mask, store, folder)) if answer.mask else ""
            return record._replace(path=bring_image(answer, record.sample, store, folder), mask=mask)
        except LabelError as error:
            return Record(record.source, reason=str(error), sample=record.sample)


def news_of(
    answers: Answers | None,
    store: Store,
    state: State,
    cache: Path,
    allowed: Iterable[str],
    declared: Iterable[str] = (),
    ignores: Callable[[str], bool] = lambda _: False,
) -> AnswerNews:
    """The answers that the job does not have yet.

    Args:
        answers: as fetched.
        store: the job's root.
        state: of the job.
        cache: where copies of objects may be kept.
        allowed: names of the classes that the job may have; empty: all.
        declared: names of the feed's classes, whose numbers come after those of the job's.
        ignores: whether the boxes of a class are left out, and its pixels void.

    Raises:
        InputError: the job's manifest cannot be read.
    """
    given = {} if answers is None else {id_: one for id_, one in answers.images.items() if _speaks(one)}
    images = {id_: _without(one, ignores) for id_, one in given.items()}
    known = _known(store, state, cache, sorted(images)) if images else Manifest.of([], ())
    rows = {row["id"]: row for row in known.rows()}
    names = dict.fromkeys(allowed)
    values, order = _values(answers, (*known.classes, *names, *declared), names, images.values(), ignores)
    news = AnswerNews(values=values, order=order)
    for id_, answer in sorted(images.items()):
        row = rows.get(id_)
        same = row is not None and _is_same(answer, row, known.classes, values, store, cache)
        if answer.withdrawn:
            if row is not None and same:
                news.withdrawn.append(id_)
        elif not same:
            source = answer.key if row is None else row["source"]
            left_out = len(given[id_].boxes) - len(answer.boxes)
            news.records.append(_record(source, answer, names)._replace(left_out=left_out, sample=id_))
            news.images[id_] = answer
            if row is not None:
                news.groups[id_] = row["group"]
    return news


def _values(
    answers: Answers | None,
    classes: Iterable[str],
    allowed: Collection[str],
    images: Iterable[Answer],
    ignores: Callable[[str], bool],
) -> tuple[Values | None, tuple[str, ...]]:
    """What the values of the masks in answers mean, and the order of the classes that this goes by."""
    if answers is None or not any(one.mask for one in images):
        return None, ()
    named = dict(enumerate(answers.names))
    void = {value: VOID for value, name in named.items() if ignores(name)}
    wanted = {value: name for value, name in named.items() if (not allowed or name in allowed) and value not in void}
    order = list(dict.fromkeys((*classes, *wanted.values())))
    if len(order) > VOID:
        raise InputError(f"{len(order)} classes: a mask has numbers for {VOID}")
    places = {value: order.index(name) for value, name in wanted.items()}
    return Values(named, {VOID: VOID, **void, **places}), tuple(order)


def bring_image(answer: Answer, id_: str, store: Store, folder: Path) -> str:
    """The path of an answer's image on this machine; its content is that of the id.

    Raises:
        LabelError: there is no such image in the job.
    """
    try:
        local = store.local_path(answer.key)
        if local is not None and local.is_file() and sha256_of(local) == id_:
            return str(local)
        file = folder / f"{id_}{Path(answer.key).suffix.lower()}"
        store.download(answer.key, file, sha256=id_, max_bytes=MAX_BLOB_BYTES)
    except (NotFoundError, TooLargeError, InputError) as error:
        if isinstance(error, OutOfReachError):
            raise
        raise LabelError(f"label without image: {error}") from error
    return str(file)


def _bring_mask(key: str, store: Store, folder: Path) -> Path:
    """The file of an answer's mask on this machine.

    Raises:
        LabelError: it is not there, or damaged.
    """
    name = PurePosixPath(key).name
    file = folder / name
    try:
        if not file.exists():
            store.download(key, file, sha256=PurePosixPath(name).stem, max_bytes=MAX_BLOB_BYTES)
    except (NotFoundError, TooLargeError, InputError) as error:
        if isinstance(error, OutOfReachError):
            raise
        raise LabelError(f"mask unreadable: {error}") from error
    return file


def _without(answer: Answer, ignores: Callable[[str], bool]) -> Answer:
    """An answer without the boxes that are left out."""
    kept = tuple(box for box in answer.boxes if not ignores(box[0]))
    return answer if kept == answer.boxes else answer.model_copy(update={"boxes": kept})


def _speaks(answer: Answer) -> bool:
    return answer.state == "labelled" or answer.withdrawn


def _record(source: str, answer: Answer, names: Collection[str]) -> Record:
    reason = answer.unusable
    strange = [name for name, *_ in answer.boxes if names and name not in names]
    if strange and not reason:
        reason = (
            f"unknown class: {strange[0]}: the parameter classes names {few(names)}: choose one of these labels, or "
            f"add {strange[0]} to classes or ignore_classes"
        )
    if reason:
        return Record(source, reason=reason)
    return Record(
        source,
        labels=None if answer.mask and not answer.boxes else _labels(answer),
        label_file=f"Label Studio task {answer.task}",
        size=answer.size,
        mask=answer.mask,
    )


def _known(store: Store, state: State, cache: Path, ids: list[str]) -> Manifest:
    """What the job has of some images."""
    if state.manifest is None:
        return Manifest.of([], ())
    return Manifest.read(local_file(store, state.manifest, cache)).where(pl.col("id").is_in(ids))


def _is_same(
    answer: Answer, row: Mapping[str, Any], classes: Sequence[str], values: Values | None, store: Store, cache: Path
) -> bool:
    """Whether a sample has the labels of an answer."""
    if answer.mask and not _is_same_mask(answer.mask, row["mask"], values, store, cache):
        return False
    if answer.mask and not answer.boxes:
        return True
    if row["annotations"] is None:
        return False
    try:
        boxes = boxes_in_pixels(_labels(answer), row["width"], row["height"])
    except LabelError:
        return False
    have = {(classes[one["class_id"]], one["x1"], one["y1"], one["x2"], one["y2"]) for one in row["annotations"]}
    return have == {(name, *map(float, np.array(sides, np.float32))) for name, *sides in boxes}


def _is_same_mask(key: str, uri: str | None, values: Values | None, store: Store, cache: Path) -> bool:
    """Whether an answer's mask is that of a sample: the same file, or else the same pixels."""
    if uri is None or values is None:
        return False
    have = PurePosixPath(uri).stem
    if have == PurePosixPath(key).stem and all(value == place for value, place in values.places.items()):
        return True
    folder = cache / "masks"
    folder.mkdir(parents=True, exist_ok=True)
    root, place = split(uri)
    try:
        ours = values.apply(read_mask(_bring_mask(key, store, folder)))
        theirs = folder / f"{have}.png"
        if not theirs.exists():
            open_store(root).download(place, theirs, sha256=have, max_bytes=MAX_BLOB_BYTES)
        return np.array_equal(ours, read_mask(theirs))
    except OutOfReachError:
        raise
    except (LabelError, InputError):
        return False


def _labels(answer: Answer) -> tuple[Label, ...]:
    return tuple(Label(name, (x1, y1, x2, y2), normalised=True) for name, x1, y1, x2, y2 in answer.boxes)
