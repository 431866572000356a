"""A real Label Studio: the hand-off of ``tests/unit/test_label_studio.py``, a person's view of it, and the demo.

It runs where Label Studio is installed: in ``.venv-label-studio``, as ``make demo-labelling`` does it, or wherever the
environment variable ``LABEL_STUDIO_PROGRAM`` says.
"""

import os
from pathlib import Path

import pytest

from components.core.label_studio.client import LabelStudio
from components.core.stores.open import open_store
from components.ingest.answers import fetch_answers
from components.ingest.feed import take_new
from components.label.send import send
from pipelines.demo.label_studio import USER, label_studio
from tests.browser import PROGRAM, browser, log_in
from tests.unit.test_label_studio import box, request_labels

REPOSITORY = Path(__file__).resolve().parents[2]
SERVER = Path(os.environ.get("LABEL_STUDIO_PROGRAM", REPOSITORY / ".venv-label-studio" / "bin" / "label-studio"))

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not SERVER.is_file(), reason=f"no Label Studio at {SERVER}: make demo-labelling installs it"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("label-studio")


@pytest.fixture(scope="module")
def root(folder):
    """The job, from whose folder the server shows images."""
    return str(folder / "job")


@pytest.fixture(scope="module")
def server(folder):
    with label_studio(SERVER, folder / "server", folder / "job") as running:
        yield running


@pytest.fixture
def studio(server, monkeypatch, tmp_path):
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", server.token)
    monkeypatch.setenv("EDGE_CACHE_DIR", str(tmp_path / "cache"))
    return LabelStudio.from_environment(server.address)


def test_images_go_out_once_and_labels_come_back(studio, server, root, tmp_path):
    ids = request_labels(root)
    place = {"label_studio_url": server.address, "label_studio_project": "There and back"}
    assert send(root, **place, label_queue=4).counts["images"] == 4
    sent = send(root, **place)
    assert (sent.counts["images"], sent.counts["known"]) == (2, 4)
    project = int(sent.uri.split("/")[-2])
    tasks = {one["data"]["sample"]: one["id"] for one in studio.tasks(project, include="id,data")}
    assert list(tasks) == ids

    def annotate(id_, **body):
        return studio.send("POST", f"/api/tasks/{tasks[id_]}/annotations", {"result": [], **body})["id"]

    def fetched():
        found = fetch_answers(open_store(root), **place)
        return found, {id_: one.state for id_, one in found.images.items()}

    first = annotate(ids[0], result=[box("hat")])
    annotate(ids[1], was_cancelled=True)
    annotate(ids[2])
    found, states = fetched()
    assert states == dict(zip(ids, ["labelled", "skipped", "labelled", "open", "open", "open"], strict=True))
    (tmp_path / "feed").mkdir()
    arrived = take_new(str(tmp_path / "feed"), root, answers=found)
    assert {row["id"]: len(row["annotations"]) for row in arrived.manifest.rows()} == {ids[0]: 1, ids[2]: 0}
    studio.send("PATCH", f"/api/annotations/{first}", {"result": [box("hat"), box(x=60.0)]})
    assert len(fetched()[0].images[ids[0]].boxes) == 2
    studio.delete(f"/api/annotations/{first}")
    found, states = fetched()
    assert (states[ids[0]], found.images[ids[0]].withdrawn) == ("open", True)
    assert fetched()[0] == found


def test_a_personal_access_token_is_taken(studio, server, root, monkeypatch):
    token = studio.send("POST", "/api/token/", {})["token"]
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", token)
    assert "count" in LabelStudio.from_environment(server.address).get("/api/projects")


@pytest.mark.skipif(PROGRAM is None, reason="no chromium: install Debian's package chromium")
def test_a_person_sees_the_image_and_the_boxes(studio, server, root):
    request_labels(root)
    sent = send(root, label_studio_url=server.address, label_studio_project="For the eye")
    tasks = studio.tasks(int(sent.uri.split("/")[-2]), fields="all")
    task = next(one for one in tasks if len(one["predictions"][0]["result"]) == 3)
    with browser() as page:
        page.open(f"{sent.uri}?task={task['id']}", log_in(server.address, USER, server.password))
        regions = page.until(
            "[...document.querySelectorAll('.lsf-tree__node_type_rectangleregion')].map(e => e.innerText)"
        )
        sizes = page.until(
            "[...document.querySelectorAll('img')].filter(i => i.naturalWidth == 96).map(i => i.naturalHeight)"
        )
    assert len(regions) == 3
    labels = [result["value"]["rectanglelabels"][0] for result in task["predictions"][0]["result"]]
    assert all(any(label in text for text in regions) for label in labels)
    assert set(sizes) == {64}


def test_the_demo_learns_from_what_was_labelled(tmp_path, monkeypatch):
    from pipelines.demo.labelling import Size, play

    monkeypatch.setenv("EDGE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "")  # which the demo sets
    small = Size(scenes=130, frames=40, examples=10, budget=8, first_epochs=1, epochs=1, image_size=64)
    report = play(tmp_path / "demo", SERVER, seed=0, port=0, by_api=True, size=small)
    assert "Proposed boxes and what people made of them" in report.read_text(encoding="utf-8")
