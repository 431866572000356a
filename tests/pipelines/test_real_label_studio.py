"""A real Label Studio: the hand-off of ``tests/unit/test_label_studio.py``, a person's view of it, and the demo.

It runs where Label Studio is installed: in ``.venv-label-studio``, as ``make demo-labelling`` does it, or wherever the
environment variable ``LABEL_STUDIO_PROGRAM`` says.
"""

import base64
import hashlib
import io
import os
import re
import signal
import subprocess
import sys
import urllib.request
import zipfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import urllib3
from minio import Minio

from components.core.job.job import Job
from components.core.label_studio import brush
from components.core.label_studio.addresses import EXPIRES
from components.core.label_studio.answers import read_answers
from components.core.label_studio.client import LabelStudio
from components.core.masks import decode_mask
from components.core.processes import module_environment
from components.core.stores.open import open_store
from components.ingest.answers import fetch_answers
from components.ingest.feed import take_new
from components.label.send import send
from pipelines.demo.label_studio import USER, label_studio
from tests.browser import PROGRAM, browser, log_in
from tests.conftest import ACCESS_KEY, SECRET_KEY
from tests.radosgw import DEBIAN_PACKAGES, missing_programs, radosgw
from tests.unit.test_label_studio import box, request_labels
from tests.unit.test_mask_labelling import CLASSES, request_masks, street

REPOSITORY = Path(__file__).resolve().parents[2]
SERVER = Path(os.environ.get("LABEL_STUDIO_PROGRAM", REPOSITORY / ".venv-label-studio" / "bin" / "label-studio"))

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not SERVER.is_file(), reason=f"no Label Studio at {SERVER}: make demo-labelling installs it"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("label-studio")


@pytest.fixture
def root(folder, request):
    """A job, whose folder lies below the one from which the server shows images."""
    return str(folder / "jobs" / request.node.name)


@pytest.fixture(scope="module")
def server(folder):
    with label_studio(SERVER, folder / "server", folder / "jobs") as running:
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


# A step that is killed a moment after it has asked the server for something.
KILLED = """
import os, signal, sys, threading
from components.core.label_studio.client import LabelStudio
from components.core.stores.open import open_store
from components.ingest.answers import fetch_answers
from components.label.send import send

step, root, url, number, seconds = sys.argv[1:]
asked, ask = [], LabelStudio._once

def killed_soon(*arguments):
    asked.append(arguments)
    if len(asked) == int(number):
        threading.Timer(float(seconds), os.kill, (os.getpid(), signal.SIGKILL)).start()
    return ask(*arguments)

LabelStudio._once = killed_soon
if step == "send":
    send(root, label_studio_url=url, label_queue=4)
else:
    fetch_answers(open_store(root), label_studio_url=url)
"""


def is_killed(step, root, url, number, seconds):
    """Whether a step was killed before its end; the server goes on with what it was asked for."""
    command = [sys.executable, "-c", KILLED, step, root, url, str(number), str(seconds)]
    code = subprocess.run(command, env=module_environment(), capture_output=True, check=False).returncode
    assert code in (0, -signal.SIGKILL)
    return code != 0


def test_a_hand_off_that_is_killed_anywhere_is_finished_by_the_next(studio, server, root):
    moments = np.random.default_rng(0)
    killed = 0
    for number in range(1, 13):
        job = str(Path(root).with_name(f"killed-{number}"))
        ids = request_labels(job)
        killed += is_killed("send", job, server.address, number, moments.uniform(0, 0.1))
        place = {"label_studio_url": server.address, "label_queue": 4}
        send(job, **place)
        sent = send(job, **place)  # which removes what the server did late
        assert [sent.counts[name] for name in ("images", "known", "waiting", "left_out")] == [0, 4, 4, 2]
        projects = studio.get("/api/projects", title=f"Edge learning: {Path(job).name}")["results"]
        tasks = [one for project in projects for one in studio.tasks(project["id"], include="id,data")]
        assert [one["data"]["sample"] for one in tasks] == ids[:4]
    assert killed >= 8


def test_a_fetch_that_is_killed_anywhere_is_finished_by_the_next(studio, server, root, tmp_path):
    ids = request_labels(root, range(1, 13))
    place = {"label_studio_url": server.address}
    project = int(send(root, **place).uri.split("/")[-2])
    tasks = {one["data"]["sample"]: one["id"] for one in studio.tasks(project, include="id,data")}
    store, states = open_store(root), dict.fromkeys(ids, "open")
    moments = np.random.default_rng(0)
    killed = 0
    for number, id_ in enumerate(ids):
        studio.send("POST", f"/api/tasks/{tasks[id_]}/annotations", {"result": [box("hat")]})
        before, _ = read_answers(store)
        killed += is_killed("fetch", root, server.address, 1 + number % 2, moments.uniform(0, 0.1))
        states[id_] = "labelled"
        there, _ = read_answers(store)
        assert there == before or {key: one.state for key, one in there.images.items()} == states
        found = fetch_answers(store, **place)
        assert {key: one.state for key, one in found.images.items()} == states
        assert read_answers(store)[0] == found
    assert killed >= 6
    (tmp_path / "feed").mkdir()
    arrived = take_new(str(tmp_path / "feed"), root, answers=found)
    assert sorted(row["id"] for row in arrived.manifest.rows()) == sorted(ids)


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


def shown(page, sent, task, server):
    """What a person sees of a task: its regions, and the heights of the images as large as those of these tests."""
    page.open(f"{sent.uri}?task={task['id']}", log_in(server.address, USER, server.password))
    regions = page.until("[...document.querySelectorAll('[class*=tree__node_type]')].map(e => e.innerText)")
    sizes = page.until(
        "[...document.querySelectorAll('img')].filter(i => i.naturalWidth == 96).map(i => i.naturalHeight)"
    )
    return regions, set(sizes)


@pytest.mark.skipif(PROGRAM is None, reason="no chromium: install Debian's package chromium")
def test_a_person_sees_masks_draws_with_the_brush_and_submits_them(studio, server, root):
    request_masks(root, [street()])
    sent = send(root, label_studio_url=server.address, label_studio_project="With a brush")
    project = int(sent.uri.split("/")[-2])
    (task,) = studio.tasks(project, fields="all")
    with browser() as page:
        regions, sizes = shown(page, sent, task, server)
        assert (len(regions), sizes) == (3, {64})
        left, top, width, height = page.settled(
            "(() => {const r = document.querySelector('.konvajs-content').getBoundingClientRect();"
            "return r.width > 300 && [r.x, r.y, r.width, r.height]})()"
        )
        page.press("2")  # the brush of a car
        page.until("(document.querySelector('.lsf-label_selected') || {}).innerText")
        page.drag((left + 0.6 * width, top + 0.2 * height), (left + 0.9 * width, top + 0.7 * height))
        page.until("document.querySelectorAll('[class*=tree__node_type]').length == 4")
        page.value("[...document.querySelectorAll('button')].filter(b => b.innerText == 'Submit').map(b => b.click())")
        page.until("[...document.querySelectorAll('button')].some(b => b.innerText == 'Update')")
    answers = fetch_answers(open_store(root), label_studio_url=server.address, label_studio_project="With a brush")
    (answer,) = answers.images.values()
    mask = decode_mask(open_store(root).read(answer.mask), answer.mask)
    assert answers.names == CLASSES
    assert (mask[26:32, 69:76] == 1).any() and (mask[42:46, 83:88] == 1).any()  # along the stroke, in sky and in road
    changed = mask != street()
    assert 50 < changed.sum() < 400 and (mask[changed] == 1).all()
    with urllib.request.urlopen(
        urllib.request.Request(
            f"{server.address}/api/projects/{project}/export?exportType=BRUSH_TO_NUMPY",
            headers={"Authorization": f"Token {server.token}"},
        )
    ) as said:
        exported = zipfile.ZipFile(io.BytesIO(said.read()))
    (task,) = studio.tasks(project, fields="all")
    ours = [brush.decode(one["value"]["rle"], 64, 96) for one in task["annotations"][0]["result"]]
    theirs = [np.load(io.BytesIO(exported.read(name))) > 0 for name in exported.namelist()]
    assert sorted(one.tobytes() for one in ours) == sorted(one.tobytes() for one in theirs)


@pytest.mark.skipif(PROGRAM is None, reason="no chromium: install Debian's package chromium")
@pytest.mark.skipif(bool(missing_programs()), reason=f"install Debian's packages {DEBIAN_PACKAGES}")
def test_a_person_sees_images_of_a_bucket_if_it_lets_browsers_show_them(studio, server, tmp_path, monkeypatch, caplog):
    (tmp_path / "ceph").mkdir()
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    with radosgw(tmp_path / "ceph", ACCESS_KEY, SECRET_KEY) as address, browser() as page:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        buckets = Minio(urlsplit(address).netloc, ACCESS_KEY, SECRET_KEY, secure=False)
        buckets.make_bucket("jobs")
        ids = request_labels("s3://jobs/helmet")
        place = {"label_studio_url": server.address, "label_studio_project": "In a bucket"}
        sent = send("s3://jobs/helmet", **place)
        assert f"does not allow pages of {server.address} to show its images (CORS)" in caplog.text
        tasks = {one["data"]["sample"]: one for one in studio.tasks(int(sent.uri.split("/")[-2]), fields="all")}
        task = tasks[ids[2]]
        page.open(f"{sent.uri}?task={task['id']}", log_in(server.address, USER, server.password))
        page.until("document.body.innerText.includes('There was an issue loading URL')")
        allow_browsers(buckets, "jobs", server.address)
        caplog.clear()
        request_labels("s3://jobs/helmet", range(7, 8), round_number=2)
        send("s3://jobs/helmet", **place)
        assert "CORS" not in caplog.text
        regions, sizes = shown(page, sent, task, server)
        assert (len(regions), sizes) == (3, {64})
        # A week later: the address has ended, and the next poll gives the task another.
        ended = {**task["data"], "image": task["data"]["image"].replace("X-Amz-Signature=", "X-Amz-Signature=0")}
        soon = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
        studio.send("PATCH", f"/api/tasks/{task['id']}/", {"data": ended, "meta": {**task["meta"], EXPIRES: soon}})
        assert urllib3.request("GET", ended["image"]).status == 403
        fetch_answers(open_store("s3://jobs/helmet"), **place)
        regions, sizes = shown(page, sent, task, server)
        assert (len(regions), sizes) == (3, {64})
        renewed = studio.get(f"/api/tasks/{task['id']}/")
        assert urllib3.request("GET", renewed["data"]["image"]).status == 200


def allow_browsers(buckets, bucket, origin):
    """Let pages of an origin show what lies in a bucket, as docs/labelling.md says."""
    rule = f"<AllowedOrigin>{origin}</AllowedOrigin><AllowedMethod>GET</AllowedMethod><AllowedHeader>*</AllowedHeader>"
    body = f"<CORSConfiguration><CORSRule>{rule}</CORSRule></CORSConfiguration>".encode()
    digest = base64.b64encode(hashlib.md5(body).digest()).decode()
    buckets._execute("PUT", bucket, body=body, headers={"Content-MD5": digest}, query_params={"cors": ""})


def test_the_demo_learns_from_what_was_labelled(tmp_path, monkeypatch, capsys):
    from pipelines.demo.labelling import Size, play

    monkeypatch.setenv("EDGE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "")  # which the demo sets
    small = Size(
        scenes=130, frames=40, examples=10, budget=8, first_epochs=1, epochs=1, image_size=64, min_map50=0.0,
        tests=4,
    )  # fmt: skip
    report = play(tmp_path / "demo", SERVER, seed=0, port=0, by_api=True, size=small)
    page = report.read_text(encoding="utf-8")
    assert "What the labels are worth" in page and "Proposed boxes and what people made of them" in page
    told = capsys.readouterr().out
    assert re.search(
        r"mAP50 by day: [01]\.\d+ before, [01]\.\d+ with the labels\nmAP50 by night: [01]\.\d+ before", told
    )
    job = Job.open(str(tmp_path / "demo" / "job"))
    table = job.manifest(job.read()[0], tmp_path / "cache").table
    assert table.filter(table["round"] == 2)["group"].n_unique() == 8  # in one group, chance would decide on a round
