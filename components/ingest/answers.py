"""What people have answered in Label Studio: fetched into the job's store, and taken in like a feed of its own.

A fetch asks for the tasks that have changed since the last one, and for all of them once an hour. Answers are known by
the image, whatever its task. A label that somebody changes counts as changed; of an annotation that somebody deletes
the image becomes unlabelled again. A task or a project that is deleted takes nothing back.

A round waits for nobody: it uses what was answered by then. A server that does not answer is reported, and what was
fetched before counts.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from components.core.bundle import sha256_of
from components.core.cache import MAX_BLOB_BYTES, local_file
from components.core.errors import ConflictError, InputError, NotFoundError, OutOfReachError, TooLargeError
from components.core.job.state import State
from components.core.label_studio.answers import Answer, Answers, read_answers, write_answers
from components.core.label_studio.client import LabelStudio
from components.core.label_studio.project import Place, Project, find_project
from components.core.manifest import Manifest
from components.core.stores.open import Store
from components.ingest.dataset import Label, LabelError, Record
from components.ingest.formats.label_studio import read_task
from components.ingest.images import boxes_in_pixels

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
        InputError: the server refuses the token, or is not Label Studio, or the project cannot be used.
    """
    if not label_studio_url:
        return None
    place = Place.of(label_studio_url, label_studio_project, store.uri)
    before, etag = read_answers(store)
    if before is not None and before.server != place.server:
        before = None
    try:
        studio = LabelStudio.from_environment(place.server)
        project = find_project(studio, place)
        if project is None:
            return before
        if before is None or before.project != project.number:
            before = Answers(server=place.server, project=project.number)
        answers = _fetched(studio, project, before, keep_annotators)
    except OutOfReachError as error:
        have = f"the answers to {len(before.images)} images that were fetched before count" if before else "no answers"
        log.warning("%s; %s", error, have)
        return before
    if answers != before:
        try:
            write_answers(store, answers, etag)
        except ConflictError:
            log.info("another run has fetched answers at the same time")
    states = Counter("withdrawn" if one.withdrawn else one.state for one in answers.images.values())
    log.info("Label Studio, project %d: %s", project.number, ", ".join(f"{n} {s}" for s, n in sorted(states.items())))
    return answers


def _fetched(studio: LabelStudio, project: Project, before: Answers, keep_annotators: bool) -> Answers:
    now = datetime.now(UTC)
    full = before.listed is None or not before.seen or abs(now - before.listed) > FULL_LISTING
    changed = {"filter": "filter:tasks:updated_at", "operator": "greater_or_equal", "type": "Datetime"}
    filters = None if full else {"conjunction": "and", "items": [{**changed, "value": before.seen}]}
    found: dict[str, Answer] = {}
    seen = before.seen
    for item in studio.tasks(project.number, filters, **_FIELDS):
        seen = max(seen, str(item.get("updated_at") or ""))
        sample = (item.get("data") or {}).get("sample")
        if not isinstance(sample, str) or not _is_digest(sample):
            continue  # somebody else's task
        last = before.images.get(sample)
        is_same_task = last is not None and last.task == int(item["id"])
        answer = _answer(item, project, last if is_same_task else None, keep_annotators)
        rival = found.get(sample) or (None if is_same_task else last)
        if rival is None or _counts_before(answer, rival):
            found[sample] = answer
    kept = {id_: one for id_, one in before.images.items() if not full or id_ in found or not _only_waits(one)}
    listed = now if full else before.listed
    return before.model_copy(update={"images": {**kept, **found}, "seen": seen, "listed": listed})


def _only_waits(answer: Answer) -> bool:
    """Whether nobody has ever answered; when its task is removed, nobody will."""
    return answer.state == "open" and not answer.withdrawn


def _answer(item: Mapping[str, Any], project: Project, before: Answer | None, keep_annotators: bool) -> Answer:
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
            "unusable": task.reason,
        }
    elif before is not None and (before.withdrawn or (before.state == "labelled" and not before.unusable)):
        made |= {"withdrawn": True, "boxes": before.boxes, "size": before.size}
    if keep_annotators and given:
        last = max(given, key=lambda one: str(one.get("updated_at") or ""))
        made["annotator"] = last.get("completed_by") if isinstance(last.get("completed_by"), int) else None
    return Answer(**made)


def _counts_before(one: Answer, other: Answer) -> bool:
    """Whether of two tasks of the same image the first counts: the labelled one, of these the one changed last."""
    rank = {"open": 0, "skipped": 1, "labelled": 2}
    return (rank[one.state], one.changed) > (rank[other.state], other.changed)


def _is_digest(text: str) -> bool:
    return len(text) == 64 and not set(text) - set("0123456789abcdef")


# --- taking in ---


@dataclass(frozen=True)
class AnswerNews:
    """Answers that are news to the job.

    Attributes:
        records: labels that the job does not have, without the paths of their images.
        images: id and answer by the records' source.
        groups: by id, what samples that the job has already share a split with.
        withdrawn: ids of samples whose labels have been removed.
    """

    records: list[Record] = field(default_factory=list)
    images: dict[str, tuple[str, Answer]] = field(default_factory=dict)
    groups: dict[str, str] = field(default_factory=dict)
    withdrawn: list[str] = field(default_factory=list)

    def ids(self) -> set[str]:
        """Of the images."""
        return {id_ for id_, _ in self.images.values()}

    def classes(self) -> set[str]:
        """Names of the boxes' classes, which are those of the job and need no renaming."""
        return {label.name for record in self.records for label in record.labels or ()}

    def brought(self, record: Record, store: Store, folder: Path) -> Record:
        """A record with the path of its image on this machine, or with the reason why there is none."""
        id_, answer = self.images[record.source]
        try:
            return record._replace(path=bring_image(answer, id_, store, folder))
        except LabelError as error:
            return Record(record.source, reason=str(error))


def news_of(answers: Answers | None, store: Store, state: State, cache: Path, allowed: Iterable[str]) -> AnswerNews:
    """The answers that the job does not have yet.

    Args:
        answers: as fetched.
        store: the job's root.
        state: of the job.
        cache: where copies of objects may be kept.
        allowed: names of the classes that the job may have; empty: all.

    Raises:
        InputError: the job's manifest cannot be read.
    """
    images = {} if answers is None else {id_: one for id_, one in answers.images.items() if _speaks(one)}
    known = _known(store, state, cache, sorted(images)) if images else Manifest.of([], ())
    rows = {row["id"]: row for row in known.rows()}
    news = AnswerNews()
    names = frozenset(allowed)
    for id_, answer in sorted(images.items()):
        row = rows.get(id_)
        same = row is not None and _is_same(answer, row, known.classes)
        if answer.withdrawn:
            if row is not None and same:
                news.withdrawn.append(id_)
        elif not same:
            source = answer.key if row is None else row["source"]
            news.records.append(_record(source, answer, names))
            news.images[source] = (id_, answer)
            if row is not None:
                news.groups[id_] = row["group"]
    return news


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


def _speaks(answer: Answer) -> bool:
    return answer.state == "labelled" or answer.withdrawn


def _record(source: str, answer: Answer, names: frozenset[str]) -> Record:
    reason = answer.unusable
    strange = [name for name, *_ in answer.boxes if names and name not in names]
    if strange and not reason:
        reason = f"unknown class: {strange[0]}: Label Studio has a label that the parameter classes does not name"
    if reason:
        return Record(source, reason=reason)
    return Record(source, labels=_labels(answer), label_file=f"Label Studio task {answer.task}", size=answer.size)


def _known(store: Store, state: State, cache: Path, ids: list[str]) -> Manifest:
    """What the job has of some images."""
    if state.manifest is None:
        return Manifest.of([], ())
    return Manifest.read(local_file(store, state.manifest, cache)).where(pl.col("id").is_in(ids))


def _is_same(answer: Answer, row: Mapping[str, Any], classes: Sequence[str]) -> bool:
    """Whether a sample has the labels of an answer."""
    if row["annotations"] is None:
        return False
    try:
        boxes = boxes_in_pixels(_labels(answer), row["width"], row["height"])
    except LabelError:
        return False
    have = {(classes[one["class_id"]], one["x1"], one["y1"], one["x2"], one["y2"]) for one in row["annotations"]}
    return have == {(name, *map(float, np.array(sides, np.float32))) for name, *sides in boxes}


def _labels(answer: Answer) -> tuple[Label, ...]:
    return tuple(Label(name, (x1, y1, x2, y2), normalised=True) for name, x1, y1, x2, y2 in answer.boxes)
