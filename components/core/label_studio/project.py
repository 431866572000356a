"""The project of a job in Label Studio: which one it is, and what its labelling interface calls things."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from components.core.errors import InputError, NotFoundError
from components.core.label_studio.client import LabelStudio

MAX_TITLE, MIN_TITLE = 50, 3  # characters; the server refuses others
RECTANGLES, BRUSHES = "RectangleLabels", "BrushLabels"  # the controls that proposals are made with
_ADDRESS = re.compile(r"(?P<server>.*?)/projects/(?P<project>[0-9]{1,9})(/.*)?")
_DESCRIPTION = "Label requests of {}"


@dataclass(frozen=True)
class Place:
    """Where the tasks of a job are, as its parameters say.

    Attributes:
        server: address of Label Studio.
        project: number of the project; 0: the one with the title.
        title: of the project.
        job: root of the job.
    """

    server: str
    project: int
    title: str
    job: str

    @classmethod
    def of(cls, url: str, title: str, job_root: str) -> Place:
        """Read the parameters.

        Args:
            url: of the server, ``http://host:8080``, or of a project, ``http://host:8080/projects/7``.
            title: of the project; empty: made from the job's name.
            job_root: the job's address, as its store has it.

        Raises:
            InputError: a title that Label Studio does not take.
        """
        named = _ADDRESS.fullmatch(url.rstrip("/"))
        server, project = (named["server"], int(named["project"])) if named else (url.rstrip("/"), 0)
        title = title or f"Edge learning: {job_root.rstrip('/').rpartition('/')[2]}"[:MAX_TITLE]
        if not MIN_TITLE <= len(title) <= MAX_TITLE:
            raise InputError(
                f"label_studio_project={title!r} must have {MIN_TITLE} to {MAX_TITLE} characters, or be empty"
            )
        return cls(server, project, title, job_root)

    @property
    def description(self) -> str:
        """By which the project that was made for a job is known."""
        return _DESCRIPTION.format(self.job)


@dataclass(frozen=True)
class Project:
    """A project as the server has it.

    Attributes:
        number: of the project.
        is_own: whether it was made for the job.
        takes_masks: whether people mark pixels with a brush; otherwise they draw boxes.
        control: what the boxes or brushes are called.
        image: what the image is called.
        key: under which a task's data has the image.
        labels: the class names.
    """

    number: int
    is_own: bool
    takes_masks: bool
    control: str
    image: str
    key: str
    labels: tuple[str, ...]


def find_project(studio: LabelStudio, place: Place) -> Project | None:
    """The project of a job; None where there is none yet.

    Of several that were made for the job, by two runs at the same time, it is the first.

    Raises:
        InputError: the server refuses it, there is no project of that number, the one with that title is another job's,
            or it has no boxes to draw and no pixels to mark.
    """
    if place.project:
        try:
            return read_project(studio.get(f"/api/projects/{place.project}"), place)
        except NotFoundError:
            raise InputError(
                f"{place.server}: no project {place.project} that the user of the token may see: check label_studio_url"
            ) from None
    found = [one for one in _projects(studio, place.title) if one.get("title") == place.title]
    own = [one for one in found if one.get("description") == place.description]
    if found and not own:
        raise InputError(
            f"{place.server}: project {found[0].get('id')}, {place.title!r}, was not made for {place.job}: give "
            "another label_studio_project, or the address of the project itself as label_studio_url"
        )
    return read_project(min(own, key=lambda one: int(one["id"])), place) if own else None


def read_project(said: Any, place: Place) -> Project:
    """A project as the server describes it.

    Raises:
        InputError: it has neither rectangles nor brushes over an image, or more than one kind.
    """
    controls = {
        name: one
        for name, one in (said.get("parsed_label_config") or {}).items()
        if one.get("type") in (RECTANGLES, BRUSHES) and any(source.get("type") == "Image" for source in one["inputs"])
    }
    if len(controls) != 1:
        raise InputError(
            f"{place.server}: project {said.get('id')} has {len(controls)} controls of type {RECTANGLES} or {BRUSHES} "
            "over an image, but one is needed: change its labelling interface"
        )
    ((control, one),) = controls.items()
    return Project(
        number=int(said["id"]),
        is_own=said.get("description") == place.description,
        takes_masks=one["type"] == BRUSHES,
        control=control,
        image=str(one["to_name"][0]),
        key=str(one["inputs"][0]["value"]),
        labels=tuple(map(str, one.get("labels", ()))),
    )


def _projects(studio: LabelStudio, title: str) -> list[Any]:
    found: list[Any] = []
    page = 1
    while True:
        said = studio.get("/api/projects", title=title, page=page, page_size=100)
        found += said.get("results", [])
        if not said.get("next"):
            return found
        page += 1
