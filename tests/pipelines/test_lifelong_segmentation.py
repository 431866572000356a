"""Rounds of lifelong learning on drawn streets, as in Sedna's tutorial: simulated ones first, then a real city's."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from components.core.bundle import Bundle
from components.core.job.job import Job
from components.core.job.label_requests import read_lists
from components.core.lifelong.knowledge_base import KnowledgeBase
from components.core.manifest import Manifest
from components.core.masks import encode_mask
from components.core.reports.figures import read_figures
from components.core.reports.page import read_sections
from pipelines.demo.streets import CLASSES, draw_street
from tests.sites import learn

SETTINGS = {
    "plugins": "tests.origin_definition,pipelines.demo.small_segmenter", "estimator": "small-segmenter",
    "initial_model": "untrained", "epochs": 6, "batch": 4, "image_size": "64,96", "min_map50": 0,
    "classes": ",".join([*CLASSES, *(f"class-{n}" for n in range(24 - len(CLASSES)))]),  # as many as the tutorial has
    "task_definition": "tutorial-origin", "task_parameters": {"attribute": "real, sim", "city": "berlin"},
    "max_forgetting": 0.2, "estimator_options": {"lr": 0.02},
}  # fmt: skip


def arrive(feed: Path, origin: str, light: str, numbers: range, *, labelled: bool = True) -> None:
    """Let streets arrive, as lines ``image depth mask`` of an index; those without labels only as an image.

    Simulated streets have no people.
    """
    (feed / origin).mkdir(parents=True, exist_ok=True)
    with (feed / "index.txt").open("a") as index:
        for number in numbers:
            image, mask = draw_street(np.random.default_rng(number), light=light, size=(64, 96))
            if origin == "synthia":
                mask[mask == CLASSES.index("person")] = CLASSES.index("pavement")
            stem = f"{origin}/{number:03}"
            cv2.imwrite(str(feed / f"{stem}.png"), image[:, :, ::-1])
            if labelled:
                (feed / f"{stem}_labelIds.png").write_bytes(encode_mask(mask))
                cv2.imwrite(str(feed / f"{stem}_disparity.png"), np.zeros((64, 96), np.uint8))
                index.write(f"{stem}.png {stem}_disparity.png {stem}_labelIds.png\n")
            else:
                index.write(f"{stem}.png\n")


@pytest.fixture(scope="module")
def rounds(tmp_path_factory):
    """Three rounds: simulated streets; a city's, first a few without labels; then more of both."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # of so small a network, threads only wait for each other
    folder = tmp_path_factory.mktemp("streets")
    feed, found = folder / "feed", []

    def learned(run_id: str) -> None:
        made = learn(feed / "index.txt", folder, run_id, **SETTINGS)
        job = Job.open(str(folder / "job"))
        state, _ = job.read()
        release = job.registry.release(state.champion, state.vouched[state.champion])
        found.append((made, state, release, KnowledgeBase.of(release, state.champion)))

    arrive(feed, "synthia", "day", range(24))
    learned("run-1")
    arrive(feed, "synthia", "day", range(30, 42))
    arrive(feed, "aachen/berlin", "night", range(50, 56), labelled=False)
    learned("run-2")
    arrive(feed, "aachen/berlin", "night", range(60, 84))
    learned("run-3")
    yield folder, found
    torch.set_num_threads(threads)


def test_segmentation_learns_a_task_after_the_other(rounds):
    folder, ((first, *_), (second, *_), (third, state, release, base)) = rounds
    assert (first["names"], second["names"]) == (["shared", "sim"], ["shared", "sim"])
    assert set(third["names"]) == {"shared", "real"}
    assert state.round == 3 and set(base.tasks) == {"real", "sim"}
    assert [row.round for row in base.rounds] == [1, 2, 3]
    assert base.rounds[2].scores["real"] > base.rounds[2].before["real"]  # which did not know it yet
    metrics = third["metrics"].metadata
    assert {"miou", "average_accuracy", "backward_transfer", "forgetting", "retention", "unseen"} <= metrics.keys()
    assert metrics["forgetting"] <= SETTINGS["max_forgetting"]
    assert metrics["recognition_auroc"] > 0.9  # the knowledge base of round 2 saw that the night is something else
    member = release.members[base.tasks["real"].member]
    assert len(Bundle.read(folder / "job" / "bundles" / member.version).classes) == 24
    (page,) = [part for part in read_sections(third["pages"]["page"].path) if part.title == "Knowledge base"]
    assert "AUROC" in page.body
    assert "iou[person]" not in read_figures(first["figures"].path)  # a class that one task lacks
    assert "iou[person]" in read_figures(third["figures"].path)


def test_streets_of_an_unseen_task_are_known_again_once_it_is_learned(rounds):
    folder, (_, (second, *_), (third, *_)) = rounds
    at_night = [json.loads(line) for line in Path(second["results"].path).read_text().splitlines()]
    assert len(at_night) == 6
    assert {line["unseen"] for line in at_night} == {"task real is not known"}
    assert all(wanted.labels == "masks" for wanted in read_lists(Job.open(str(folder / "job")).store))
    assert all(0.99 < sum(line["found"].values()) <= 1.01 for line in at_night if "classes" not in line["found"])
    again = [json.loads(line) for line in Path(third["results"].path).read_text().splitlines()]
    arrived = Manifest.read(third["arrivals"].path)
    assert all(row["mask"] for row in arrived.rows())  # nothing unlabelled came; these are those of round 2
    assert again and {line["id"] for line in again} <= {line["id"] for line in at_night}
    assert {(line["task"], line["unseen"], line["unseen_in_round"]) for line in again} == {("real", "", 2)}
    (page,) = read_sections(third["pages"]["infer"].path)
    assert "unseen in earlier rounds" in page.body and "of which known now" in page.body
