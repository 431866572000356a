"""The demo of labelling: hard examples of a camera go to a real Label Studio, and its labels make the next model.

1. A first model is trained from nothing on scenes by day.
2. Night falls. An edge worker sends what it finds hard; the ranking chooses images, which become tasks in Label Studio
   with the model's boxes to correct.
3. Somebody labels some of them: you, in a browser, or a stand-in through Label Studio's API.
4. The trigger counts the labels, and a round trains on them. Nearly all test images of the job are by day, and a few
   labels by night cannot make its models better there; so the gate lets any model pass. What the labels are worth is
   measured on held-out scenes by day and by night.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.core.errors import InputError
from components.core.job.hard_examples import read_sidecars
from components.core.job.job import Job
from components.core.label_studio.client import TOKEN_VARIABLE, LabelStudio
from components.core.label_studio.project import Place, Project, find_project
from components.core.processes import direct_on_this_machine
from components.core.reports import page as reports
from pipelines import local
from pipelines.arguments import face_of
from pipelines.demo.held_out import HeldOut
from pipelines.demo.label_studio import USER, Server, check_program, free_port, label_studio
from pipelines.demo.loop import DAY, NIGHT, NODE, SETTINGS, cleared
from pipelines.demo.scenes import Box
from pipelines.demo.stage import FRAME_SIZE, Camera, Feed, edge_worker, part_scenes
from pipelines.hard_example_mining import hard_example_mining
from pipelines.incremental_learning import incremental_learning


@dataclass(frozen=True)
class Size:
    """How large the demo is.

    Attributes:
        scenes: that the first model is trained and tested on.
        frames: of the video.
        examples: hard ones to wait for.
        budget: how many of them are sent.
        first_epochs: of the training from nothing.
        epochs: of the round.
        image_size: pixels.
        min_map50: of the first model, which has to propose something.
        tests: held-out scenes by day, and as many by night.
    """

    scenes: int = 480
    frames: int = 100
    examples: int = 40
    budget: int = 30
    first_epochs: int = 18
    epochs: int = 6
    image_size: int = 160
    min_map50: float = 0.05
    tests: int = 100


def play(folder: Path, program: Path, *, seed: int, port: int, by_api: bool, size: Size | None = None) -> Path:
    """Play it.

    Args:
        folder: new, or of an earlier demo, which is thrown away.
        program: the command ``label-studio``.
        seed: of everything.
        port: of the server; 0: any.
        by_api: whether the stand-in labels, instead of whoever sits there.
        size: how large it is.

    Returns:
        The report: what the labels are worth, and that of the round that learned from them.

    Raises:
        InputError: there is something else in the folder, no terminal for a person who labels, or no server.
        KeyboardInterrupt: the person has ended it, with Ctrl-C or Ctrl-D.
    """
    if not by_api and not sys.stdin.isatty():
        raise InputError(
            "there is no terminal to press Enter in: let the demo label by itself, with --by-api, which is "
            "make demo-labelling ARGS=--by-api"
        )
    check_program(program)  # before anything is thrown away
    free_port(port)
    with cleared(folder):
        print("\nLabel Studio starts; the first time it makes its database, which takes a minute or more", flush=True)
        with label_studio(program, folder / "label-studio", folder / "job", port) as server:
            # For the steps, which are processes of their own, and the client here.
            os.environ.update(direct_on_this_machine(), **{TOKEN_VARIABLE: server.token})
            return Story(folder, server, seed, size or Size()).play(by_api)


class Story:
    """The demo as it goes on."""

    def __init__(self, folder: Path, server: Server, seed: int, size: Size) -> None:
        self._folder, self._server, self._seed, self._size = folder, server, seed, size
        self._root = folder / "job"
        self._job = Job.open(str(self._root))
        self._feed = Feed(folder / "feed")

    def play(self, by_api: bool) -> Path:
        """See :func:`play`."""
        print("\n1. First model, trained from scratch on daytime scenes", flush=True)
        self._feed.add_scenes(DAY, self._size.scenes, self._seed)
        self._turn(self._size.first_epochs, min_map50=self._size.min_map50)
        first = self._job.champion()
        print("\n2. Night falls: hard examples go to Label Studio", flush=True)
        truths = self._mine()
        self.label(truths, by_api)
        print(
            "\n4. A round learns from the labels (most test images are by day, so any model passes the gate)",
            flush=True,
        )
        self.learn(by_api)
        second = self._job.read()[0].candidate
        assert second is not None, "the round has made it"
        return self._report(first, second)

    def _mine(self) -> dict[str, list[Box]]:
        """Let an edge worker find hard examples, and send some; returns what there is to see in each, by its id."""
        camera = Camera(self._folder / "camera.avi", NIGHT, self._size.frames, self._seed + 100)
        with edge_worker(NODE, self._root, camera, self._folder / "edge") as worker:
            worker.await_model(self._job.champion())
            worker.await_examples(self._size.examples)
        self._run(hard_example_mining, label_budget=self._size.budget, label_studio_url=self._server.address)
        truths = {sidecar.image: camera.truth[sidecar.frame] for sidecar in read_sidecars(self._job.store)}
        part_scenes(self._job.store, truths)
        return truths

    def label(self, truths: Mapping[str, Sequence[Box]], by_api: bool) -> None:
        """Have the images labelled."""
        studio, project = self._project()
        print(f"\n3. Label: {self._server.address}/projects/{project.number}/data", flush=True)
        if by_api:
            print(f"labelled {stand_in(studio, project, truths)} images by API", flush=True)
            return
        print(f"log in as {USER} with the password {self._server.password}, and label some of the images;")
        self._await_enter("then press Enter here to train on them: ")

    def learn(self, by_api: bool) -> None:
        """Run a round on the labels; while there are too few, a person is asked for more."""
        while not self._learned():
            if by_api:
                raise InputError("no round ran: the trigger says above what it waits for")
            self._await_enter("the trigger waits, as it says above: label more images, then press Enter here: ")

    def _learned(self) -> bool:
        """Whether there were labels enough for a round."""
        before = self._job.read()[0].round
        self._turn(self._size.epochs, gate_conditions=["recent.map50_delta > -1"])
        return self._job.read()[0].round > before

    def _report(self, first: str, second: str) -> Path:
        """Measure the model from before the labels and the one from after, and write the page."""
        tests = HeldOut(self._folder / "tests", {"day": DAY, "night": NIGHT}, self._size.tests, self._seed)
        before, after = (tests.map50(self._root / "bundles" / version) for version in (first, second))
        for light in before:
            print(f"mAP50 by {light}: {before[light]:.3f} before, {after[light]:.3f} with the labels", flush=True)
        rows = [
            [f"by {light}", before[light], after[light], f"{after[light] - before[light]:+.3f}"] for light in before
        ]
        headers = ["held-out scenes", f"before ({first})", f"with the labels ({second})", "change"]
        caption = (
            f"mAP50 on {self._size.tests} scenes each, which neither model has seen. The labels are of images by night."
        )
        worth = reports.Section("What the labels are worth", reports.table(headers, rows, caption))
        path = self._folder / "demo.html"
        of_round = sorted((self._root / "reports").glob("*round-*.html"))[-1]
        reports.write_page(path, "A model that learns from labels", [worth, *reports.read_sections(of_round)])
        return path

    def _turn(self, epochs: int, **settings: Any) -> None:
        settings |= {
            "feed_url": str(self._feed.index), "seed": self._seed, "epochs": epochs,
            "image_size": str(self._size.image_size), "label_studio_url": self._server.address,
            "trigger_conditions": ["num_of_samples >= 1"], "rollout_timeout": 0.0,  # the worker has ended by then
        }  # fmt: skip
        self._run(incremental_learning, **SETTINGS | settings)

    def _run(self, pipeline: Any, **arguments: Any) -> None:
        taken = face_of(pipeline).names
        given = {name: value for name, value in arguments.items() if name in taken}
        local.run(pipeline, given | {"job_root": str(self._root)}, local.folder_of_runs(str(self._root)))

    def _project(self) -> tuple[LabelStudio, Project]:
        studio = LabelStudio(self._server.address, self._server.token)
        project = find_project(studio, Place.of(self._server.address, "", self._job.store.uri))
        if project is None:
            raise InputError(f"{self._server.address}: the project of the demo is gone")
        return studio, project

    def _await_enter(self, prompt: str) -> None:
        """Wait for a person, after whom the server must still be there."""
        try:
            input(prompt)
        except (EOFError, KeyboardInterrupt) as error:
            with suppress(OSError):  # the terminal may be gone
                print(flush=True)  # what is said next is a line of its own
            raise error if isinstance(error, KeyboardInterrupt) else KeyboardInterrupt() from None
        self._project()


def stand_in(studio: LabelStudio, project: Project, truths: Mapping[str, Sequence[Box]]) -> int:
    """Label every task as somebody would who sees all that was drawn.

    Args:
        studio: the server.
        project: whose tasks.
        truths: what there is to see in each image, by its id.

    Returns:
        How many tasks.
    """
    tasks = list(studio.tasks(project.number, include="id,data"))
    for task in tasks:
        result = [_mark(box, project) for box in truths[task["data"]["sample"]]]
        studio.send("POST", f"/api/tasks/{task['id']}/annotations", {"result": result})
    return len(tasks)


def _mark(box: Box, project: Project) -> dict[str, Any]:
    name, x1, y1, x2, y2 = box
    height, width = FRAME_SIZE
    value = {"x": 100 * x1 / width, "y": 100 * y1 / height, "width": 100 * (x2 - x1) / width,
             "height": 100 * (y2 - y1) / height, "rotation": 0, "rectanglelabels": [name]}  # fmt: skip
    return {"type": "rectanglelabels", "from_name": project.control, "to_name": project.image, "value": value,
            "original_width": width, "original_height": height, "image_rotation": 0}  # fmt: skip
