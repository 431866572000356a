"""The hand-off to Label Studio and back, against a server that answers as the real one did."""

import hashlib
import json
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import polars as pl
import pytest
import urllib3
from kfp import dsl

from components.core.cache import cache_folder
from components.core.errors import InputError, NotFoundError, OutOfReachError
from components.core.job.job import Job
from components.core.job.label_requests import Found, LabelRequest, LabelRequests, write_list
from components.core.label_studio.addresses import EXPIRES, LIFETIME
from components.core.label_studio.answers import ANSWERS, read_answers, write_answers
from components.core.label_studio.client import LabelStudio
from components.core.label_studio.project import Place, find_project
from components.core.manifest import ANNOTATION, Manifest
from components.core.stores.open import open_store
from components.ingest.answers import fetch_answers
from components.ingest.component import collect
from components.ingest.feed import take_new
from components.ingest.label_agreement import label_agreement
from components.label import send as label_send
from components.label.component import label as label_step
from components.label.component import send as send_step
from components.label.formats.label_studio import config
from components.label.send import check_predictions, send
from components.mine.pool import gather
from components.prepare.component import plan
from tests.fake_label_studio import LEGACY, PERSONAL
from tests.images import jpeg, squares
from tests.unit.test_label import CLASSES, asked


def request_labels(root, seeds=range(1, 7), round_number=1, classes=CLASSES):
    """A job that asks for labels of some images; their ids, the most wanted first."""
    images = tuple(asked(root, seed) for seed in seeds)
    store = open_store(root)
    write_list(store, LabelRequests(round=round_number, model="r0001-89abcdef", miner="entropy", classes=classes,
                                    images=images))  # fmt: skip
    return [image.id for image in images]


def hand_over(studio, root, **more):
    return send(root, **{"label_studio_url": studio.address, **more})


def answers(studio, root, **more):
    return fetch_answers(open_store(root), label_studio_url=studio.address, **more)


def samples(studio):
    return [task["data"]["sample"] for task in studio.tasks()]


def box(name="head", x=10.0, y=20.0, width=30.0, height=40.0):
    value = {"x": x, "y": y, "width": width, "height": height, "rotation": 0, "rectanglelabels": [name]}
    return {"type": "rectanglelabels", "from_name": "label", "to_name": "image", "original_width": 96,
            "original_height": 64, "image_rotation": 0, "value": value}  # fmt: skip


# --- sending ---


def test_requests_become_tasks_with_the_models_boxes_the_most_wanted_first(studio, root):
    ids = request_labels(root)
    sent = hand_over(studio, root)
    assert samples(studio) == ids
    assert sent.counts == {"images": 6, "boxes": 9, "known": 0, "waiting": 6, "left_out": 0}
    assert sent.uri == f"{studio.address}/projects/1/data"
    (project,) = studio.projects.values()
    assert project["title"] == "Edge learning: job"
    assert project["description"] == f"Label requests of {open_store(root).uri}"
    task = studio.task(ids[1])
    (prediction,) = task["predictions"]
    assert prediction["model_version"] == "r0001-89abcdef"
    assert [one["value"]["rectanglelabels"][0] in CLASSES for one in prediction["result"]] == [True, True]
    assert 0 < prediction["result"][0]["score"] < 1
    key = f"blobs/{ids[1][:2]}/{ids[1]}.jpg"
    assert (task["data"]["image"], task["meta"]) == (f"/data/local-files/?d={key}", {"key": key})
    assert [one["path"] for one in studio.storages] == [f"{root}/blobs"]


def test_nothing_is_sent_twice(studio, root):
    ids = request_labels(root)
    hand_over(studio, root)
    request_labels(root, range(4, 9), round_number=2)
    sent = hand_over(studio, root)
    assert (sent.counts["known"], sent.counts["images"]) == (3, 2)
    assert len(set(samples(studio))) == len(studio.tasks()) == 8
    assert samples(studio)[:6] == ids
    assert len(studio.projects) == len(studio.storages) == 1


def test_nothing_is_sent_twice_by_a_run_that_follows_one_that_never_had_its_answer(studio, root):
    request_labels(root)
    studio.drops = 1
    with pytest.raises(OutOfReachError, match="Label Studio does not answer"):
        hand_over(studio, root)
    assert len(studio.tasks()) == 6
    assert hand_over(studio, root).counts["known"] == 6
    assert len(studio.tasks()) == 6


def test_two_runs_at_once_leave_one_task_of_each_image(studio, root, caplog, monkeypatch):
    ids = request_labels(root)
    hand_over(studio, root, label_queue=3)

    def another_runs_first(*arguments):  # between our listing and our import
        for task in studio.tasks():
            number = studio.number()
            studio.stored[number] = task | {"id": number, "annotations": [], "drafts": []}
        studio.stored[max(studio.stored)]["drafts"] = [{"id": 1}]
        return real(*arguments)

    real = label_send._import
    monkeypatch.setattr(label_send, "_import", another_runs_first)
    hand_over(studio, root)
    assert sorted(samples(studio)) == sorted(ids)
    assert studio.task(ids[2])["drafts"]  # the one on which somebody works stays
    assert "removed 3 tasks of images that have another" in caplog.text


def test_what_the_server_did_late_leaves_one_task_of_each_image_with_the_next_hand_off(studio, root, caplog):
    ids = request_labels(root)
    hand_over(studio, root)
    for task in studio.tasks():  # a run gave up on its import, which was done after the next run had ended
        number = studio.number()
        studio.stored[number] = task | {"id": number, "annotations": []}
    studio.annotate(ids[3], None)
    sent = hand_over(studio, root)
    assert sent.counts == {"images": 0, "boxes": 0, "known": 6, "waiting": 5, "left_out": 0}
    assert samples(studio) == ids
    assert caplog.text.count("removed 6 tasks") == 1


def test_no_more_images_wait_than_the_queue_has_room_for(studio, root):
    ids = request_labels(root)
    assert hand_over(studio, root, label_queue=4).counts["left_out"] == 2
    assert samples(studio) == ids[:4]
    assert hand_over(studio, root, label_queue=4).counts["images"] == 0
    studio.annotate(ids[0], None)
    studio.skip(ids[1])
    sent = hand_over(studio, root, label_queue=4)
    assert samples(studio) == ids
    assert sent.counts == {"images": 2, "boxes": 3, "known": 4, "waiting": 4, "left_out": 0}


def test_boxes_of_a_larger_model_are_what_is_corrected(studio, root):
    better = Found(boxes=((1, 2, 30, 40),), scores=(0.9,), class_ids=(1,))
    images = (asked(root, 2, prelabels=better),)
    write_list(open_store(root), LabelRequests(round=1, model="r0001-89abcdef", prelabelled_by="s3://big/bundles/r7",
                                               miner="entropy", classes=CLASSES, images=images))  # fmt: skip
    hand_over(studio, root)
    (prediction,) = studio.task(images[0].id)["predictions"]
    assert prediction["model_version"] == "s3://big/bundles/r7"
    assert [one["value"]["rectanglelabels"] for one in prediction["result"]] == [["head"]]


def test_a_project_gets_the_labels_that_it_lacks_and_keeps_what_people_changed(studio, root):
    request_labels(root)
    hand_over(studio, root)
    (project,) = studio.projects.values()
    project["label_config"] = project["label_config"].replace('size="5"', 'size="3"')
    request_labels(root, range(10, 12), round_number=2, classes=(*CLASSES, "vest"))
    hand_over(studio, root)
    place = Place.of(studio.address, "", open_store(root).uri)
    assert find_project(LabelStudio.from_environment(studio.address), place).labels == (*CLASSES, "vest")
    assert 'size="3"' in project["label_config"]


OWN = """<View><Text name="note" value="$reason"/><Image name="photo" value="$picture"/>
<RectangleLabels name="things" toName="photo"><Label value="hat"/><Label value="head"/>{more}</RectangleLabels>
</View>"""


def own_project(studio, more=""):
    number = studio.number()
    studio.projects[number] = {"id": number, "title": "Yard", "description": "", "label_config": OWN.format(more=more)}
    return f"{studio.address}/projects/{number}/data?tab=3"


def test_a_project_of_ones_own_is_used_by_its_address_with_its_names(studio, root):
    ids = request_labels(root, classes=("hat", "head", "vest"))
    send(root, label_studio_url=own_project(studio, '<Label value="vest"/>'))
    task = studio.task(ids[0])
    assert task["data"]["picture"].startswith("/data/local-files/")
    assert {(one["from_name"], one["to_name"]) for one in task["predictions"][0]["result"]} == {("things", "photo")}
    assert len(studio.projects) == 1


def test_a_project_of_ones_own_shows_the_image_whatever_it_calls_it(studio, root):
    (id_,) = request_labels(root, range(1, 2), classes=("hat", "head", "vest"))
    address = own_project(studio, '<Label value="vest"/>')
    studio.projects[1]["label_config"] = studio.projects[1]["label_config"].replace("$picture", "$source")
    send(root, label_studio_url=address)
    assert studio.task(id_)["data"]["source"].endswith(f"{id_}.jpg")


def test_a_project_of_ones_own_is_not_changed(studio, root):
    request_labels(root, classes=("hat", "head", "vest"))
    with pytest.raises(InputError, match="project 1 has no label vest; it has hat, head: add it"):
        send(root, label_studio_url=own_project(studio))


def test_a_title_that_another_job_uses_is_refused(studio, root, tmp_path):
    request_labels(root)
    request_labels(str(tmp_path / "other" / "job"))
    hand_over(studio, root)
    with pytest.raises(InputError, match="'Edge learning: job', was not made for .*other/job: give another"):
        hand_over(studio, str(tmp_path / "other" / "job"))


def test_predictions_that_the_server_would_take_and_not_show_are_refused(studio, root):
    request_labels(root)
    hand_over(studio, root)
    project = find_project(
        LabelStudio.from_environment(studio.address), Place.of(studio.address, "", open_store(root).uri)
    )
    for wrong, words in (
        (box("car"), "no label 'car'"),
        ({**box(), "from_name": "nope"}, "no control 'nope'"),
        (box(x=90.0), "outside its image"),
    ):
        with pytest.raises(InputError, match=words):
            check_predictions([{"data": {}, "predictions": [{"result": [wrong]}]}], project)
    check_predictions([{"data": {}, "predictions": [{"result": [box()]}]}], project)


def test_images_in_a_bucket_get_presigned_addresses_which_are_renewed(studio, s3):
    ids = request_labels(s3)
    hand_over(studio, s3)
    task = studio.task(ids[0])
    address = task["data"]["image"]
    assert "X-Amz-Signature" in address and urlsplit(address).scheme == "http"
    assert urllib3.request("GET", address).status == 200
    assert studio.storages == []
    hand_over(studio, s3)
    assert studio.task(ids[0])["data"]["image"] == address
    for one in studio.tasks()[:2]:
        one["meta"][EXPIRES] = (datetime.now(UTC) + LIFETIME / 3).isoformat()
    studio.annotate(ids[1], None)
    labelled = studio.task(ids[1])["meta"][EXPIRES]
    hand_over(studio, s3)
    renewed = datetime.fromisoformat(studio.task(ids[0])["meta"][EXPIRES])
    assert renewed > datetime.now(UTC) + LIFETIME - timedelta(hours=1)
    assert studio.task(ids[0])["data"]["sample"] == ids[0]
    assert studio.task(ids[1])["meta"][EXPIRES] == labelled  # nobody needs it any more


def test_addresses_are_renewed_by_polls_too(studio, s3):
    ids = request_labels(s3)
    hand_over(studio, s3)
    ends = (datetime.now(UTC) + LIFETIME / 3).isoformat()
    for id_ in ids[:2]:
        studio.task(id_)["meta"][EXPIRES] = ends
    studio.task(ids[2])["meta"][EXPIRES] = "soon"  # somebody has changed it
    studio.skip(ids[1])
    answers(studio, s3)
    renewed = [studio.task(id_)["meta"][EXPIRES] for id_ in ids]
    assert renewed[1] == ends  # nobody needs it any more
    assert all(datetime.fromisoformat(one) > datetime.now(UTC) + LIFETIME / 2 for one in (renewed[0], *renewed[2:]))
    changes = studio.requests.count(("PATCH", f"/api/tasks/{studio.task(ids[0])['id']}/"))
    answers(studio, s3)
    assert studio.requests.count(("PATCH", f"/api/tasks/{studio.task(ids[0])['id']}/")) == changes == 1


def test_addresses_of_a_session_are_renewed_every_time(studio, s3, monkeypatch):
    ids = request_labels(s3)
    monkeypatch.setenv("AWS_SESSION_TOKEN", "session")
    hand_over(studio, s3)
    task = studio.task(ids[0])
    assert "X-Amz-Security-Token" in task["data"]["image"]
    assert datetime.fromisoformat(task["meta"][EXPIRES]) < datetime.now(UTC) + timedelta(hours=1)
    monkeypatch.delenv("AWS_SESSION_TOKEN")  # of which the server in this test knows nothing
    answers(studio, s3)
    assert ("PATCH", f"/api/tasks/{task['id']}/") in studio.requests


def test_the_document_root_of_the_server_may_lie_above_the_job(studio, tmp_path):
    root = str(tmp_path / "jobs" / "north gate")
    ids = request_labels(root)
    studio.document_root = str(tmp_path)
    hand_over(studio, root)
    address = f"/data/local-files/?d=jobs/north%20gate/blobs/{ids[0][:2]}/{ids[0]}.jpg"
    assert studio.task(ids[0])["data"]["image"] == address


def test_a_server_below_a_path_shows_images_below_it(studio, root, tmp_path):
    studio.path, studio.document_root = "/label-studio", str(tmp_path)
    ids = request_labels(root)
    sent = hand_over(studio, root, label_studio_url=f"{studio.address}/label-studio/")
    assert sent.uri == f"{studio.address}/label-studio/projects/1/data"
    key = f"job/blobs/{ids[0][:2]}/{ids[0]}.jpg"
    assert studio.task(ids[0])["data"]["image"] == f"/label-studio/data/local-files/?d={key}"


def test_a_server_that_has_another_folder_of_that_name_is_reported(studio, root):
    request_labels(root)
    studio._local_file = lambda query, body: (404, "")
    with pytest.raises(InputError, match=f"cannot show the images in {root}/blobs: .*does not find them below"):
        hand_over(studio, root)


def test_a_server_that_does_not_have_the_folder_is_reported(studio, root):
    request_labels(root)
    studio.document_root = "/elsewhere"
    with pytest.raises(InputError, match=f"cannot show the images in {root}/blobs: .*LOCAL_FILES_DOCUMENT_ROOT={root}"):
        hand_over(studio, root)
    assert studio.tasks() == []


def test_without_a_list_there_is_nothing_to_send(studio, root):
    with pytest.raises(NotFoundError, match="run mine first"):
        hand_over(studio, root)


# --- the server ---


def test_a_personal_access_token_is_exchanged_and_again_when_it_ends(studio, monkeypatch, root):
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", PERSONAL)
    client = LabelStudio.from_environment(studio.address)
    assert client.get("/api/projects")["count"] == 0
    studio.access = "another.access.token"  # ours has ended
    assert client.get("/api/projects")["count"] == 0
    assert [path for _, path in studio.requests].count("/api/token/refresh") == 2
    request_labels(root)
    hand_over(studio, root)
    assert len(studio.tasks()) == 6


@pytest.mark.parametrize(
    ("token", "words"),
    [
        ("", "LABEL_STUDIO_API_KEY is not set: create a token"),
        ("wrong", r"the token in LABEL_STUDIO_API_KEY is refused \(Invalid token\.\)"),
        ("a.b.c", r"the token in LABEL_STUDIO_API_KEY is refused \(Token is invalid\)"),
    ],
)
def test_a_wrong_token_is_reported_and_not_shown(studio, root, monkeypatch, token, words, caplog):
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", token)
    request_labels(root)
    with pytest.raises(InputError, match=words) as told:
        hand_over(studio, root)
    if token:  # which was right once, so no round fails for it
        assert answers(studio, root) is None
        assert re.search(f"{words}.*; no answers", caplog.text)
    else:
        with pytest.raises(InputError, match=words):
            answers(studio, root)
    assert not token or token not in f"{told.value}{caplog.text}".replace("wrong-", "")


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (500, "does not answer \\(HTTP 500 Internal Server Error\\): see its log: its disk may be full"),
        (403, "may not do this \\(no space left on device\\)"),
    ],
)
def test_a_server_in_trouble_costs_no_round(studio, root, feed, caplog, status, words):
    ids = request_labels(root)
    hand_over(studio, root)
    studio.annotate(ids[0], None)
    answers(studio, root)
    studio.trouble = (status, "no space left on device")
    arrived = arrive(studio, root, feed)
    assert list(arrived.manifest.table["id"]) == [ids[0]]
    assert re.search(f"{words}.*; the answers to 6 images that were fetched before count", caplog.text)
    with pytest.raises(InputError, match=words):
        hand_over(studio, root)


def test_a_server_that_limits_requests_is_asked_again_after_the_time_that_it_names(studio, root, monkeypatch):
    request_labels(root)
    pauses = []
    monkeypatch.setattr("components.core.label_studio.client.time.sleep", pauses.append)
    client = LabelStudio.from_environment(studio.address)
    studio.limits = 1
    assert client.get("/api/projects")["results"] == []
    studio.limits = 1
    made = {"title": "Once", "description": "", "label_config": config(CLASSES, "boxes").decode()}
    client.send("POST", "/api/projects", made)  # refused, so not done twice
    assert (len(studio.projects), pauses) == (1, [7.0, 7.0])
    studio.limits = 2
    with pytest.raises(OutOfReachError, match="HTTP 429.*: it, or a proxy before it, limits requests"):
        hand_over(studio, root)


def test_a_project_that_is_deleted_takes_no_answer_with_it_and_what_waited_is_asked_for_again(studio, root, feed):
    ids = request_labels(root)
    hand_over(studio, root)
    studio.annotate(ids[0], None)
    studio.skip(ids[1])
    answers(studio, root)
    studio.projects.clear()
    studio.stored.clear()
    studio._numbers = 1  # numbers come again, but for that of the project
    found = answers(studio, root)
    assert (found.labelled(), found.with_people()) == ({ids[0]}, set(ids[:2]))
    sent = hand_over(studio, root)
    assert (sent.counts["images"], sent.counts["known"]) == (4, 2)
    found = answers(studio, root)
    assert (found.project, found.labelled()) == (max(studio.projects), {ids[0]})
    assert found.with_people() == set(ids)
    assert list(arrive(studio, root, feed).manifest.table["id"]) == [ids[0]]


def test_a_server_that_takes_no_legacy_tokens_is_reported(studio, root):
    studio.legacy_disabled = True
    request_labels(root)
    with pytest.raises(InputError, match="legacy token authentication has been disabled"):
        hand_over(studio, root)


def test_a_login_page_is_reported(studio, root):
    studio.wall = True
    request_labels(root)
    with pytest.raises(InputError, match="is not the address of Label Studio's API .*login page of a proxy"):
        hand_over(studio, root)


def test_an_address_below_the_server_is_reported(studio, root):
    request_labels(root)
    with pytest.raises(InputError, match=r"/help is not the address of Label Studio's API \(.*HTTP 404 and no JSON\)"):
        send(root, label_studio_url=f"{studio.address}/help")


def test_a_project_that_is_not_there_is_reported(studio, root):
    request_labels(root)
    with pytest.raises(InputError, match="no project 99 that the user of the token may see"):
        send(root, label_studio_url=f"{studio.address}/projects/99")


@pytest.mark.parametrize("url", ["label-studio:8080", "ftp://host", "http://"])
def test_an_address_that_cannot_be_is_reported(url, root, monkeypatch):
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", LEGACY)
    request_labels(root)
    with pytest.raises(InputError, match="must be an address such as http://label-studio:8080"):
        send(root, label_studio_url=url)


@pytest.mark.parametrize("title", ["ab", "x" * 51])
def test_a_title_that_the_server_would_refuse_is_reported(studio, root, title):
    request_labels(root)
    with pytest.raises(InputError, match="must have 3 to 50 characters"):
        hand_over(studio, root, label_studio_project=title)


def test_a_project_without_rectangles_is_reported(studio, root):
    request_labels(root)
    address = own_project(studio)
    studio.projects[1]["label_config"] = '<View><Image name="i" value="$image"/></View>'
    with pytest.raises(InputError, match="project 1 has 0 controls of type RectangleLabels"):
        send(root, label_studio_url=address)


# --- fetching ---


def arrive(studio, root, feed):
    return take_new(feed, root, answers=answers(studio, root))


def test_labels_come_back_by_sample_as_arrivals(studio, root, feed):
    ids = request_labels(root)
    hand_over(studio, root)
    studio.annotate(ids[0], None)
    studio.annotate(ids[1], [box("hat"), box(x=50.0)])
    studio.annotate(ids[3], [])
    arrived = arrive(studio, root, feed)
    assert arrived.counts["answered"] == len(arrived.manifest.labelled()) == 3
    rows = {row["id"]: row for row in arrived.manifest.rows()}
    assert set(rows) == {ids[0], ids[1], ids[3]}
    boxes = [[one[side] for side in ("x1", "y1", "x2", "y2")] for one in rows[ids[1]]["annotations"]]
    assert boxes == [pytest.approx([9.6, 12.8, 38.4, 38.4]), pytest.approx([48, 12.8, 76.8, 38.4])]
    assert [arrived.manifest.classes[one["class_id"]] for one in rows[ids[1]]["annotations"]] == ["hat", "head"]
    assert rows[ids[3]]["annotations"] == []
    assert open_store(root).stat(f"blobs/{ids[0][:2]}/{ids[0]}.jpg") is not None


def test_a_round_waits_for_nobody(studio, root, feed):
    assert answers(studio, root) is None  # not even for the project
    request_labels(root)
    hand_over(studio, root)
    arrived = arrive(studio, root, feed)
    assert (len(arrived.manifest), arrived.counts["answered"]) == (0, 0)


def test_what_was_answered_stays_when_the_server_is_down(studio, root, feed, caplog):
    ids = request_labels(root)
    hand_over(studio, root)
    studio.annotate(ids[0], None)
    answers(studio, root)
    studio.down = True
    assert len(arrive(studio, root, feed).manifest) == 1
    assert "does not answer (HTTP 503" in caplog.text
    assert "the answers to 6 images that were fetched before count" in caplog.text


def test_the_next_fetch_asks_for_what_has_changed(studio, root, monkeypatch):
    ids = request_labels(root)
    hand_over(studio, root)
    answers(studio, root)
    asked_for = []
    listed = studio._list_tasks

    def counted(query, body):
        status, content = listed(query, body)
        asked_for.append(len(content["tasks"]))
        return status, content

    monkeypatch.setattr(studio, "_list_tasks", counted)
    studio.annotate(ids[2], None)
    found = answers(studio, root)
    assert asked_for[0] <= 2  # the one that changed, and the one that had changed last
    assert {id_ for id_, one in found.images.items() if one.state == "labelled"} == {ids[2]}
    assert len(found.images) == 6


def commit(root, arrived):
    """What a round does with arrivals: what was withdrawn loses its labels, and a later row counts."""
    job = Job.open(root)
    state, etag = job.read()
    folder = cache_folder(root)
    before = job.manifest(state, folder) or Manifest.of([], arrived.manifest.classes)
    table = pl.concat([before.without_labels(arrived.withdrawn).table, arrived.manifest.table])
    key = f"manifests/{state.round + 1}.parquet"
    Manifest(table.unique("id", keep="last"), arrived.manifest.classes).write(folder / "scratch.parquet")
    job.store.upload(folder / "scratch.parquet", key)
    made = state.model_copy(update={"round": state.round + 1, "cursor": arrived.cursor, "manifest": key})
    job.commit(made, etag)
    return job.manifest(made, folder)


def test_what_the_job_has_is_no_news_and_edits_are(studio, root, feed):
    ids = request_labels(root)
    hand_over(studio, root)
    studio.annotate(ids[0], None)
    studio.annotate(ids[1], [box("hat")])
    commit(root, arrive(studio, root, feed))
    again = arrive(studio, root, feed)
    assert (len(again.manifest), again.counts["answered"]) == (0, 0)
    studio.edit(ids[1], [box("head"), box("hat", x=60.0)])
    edited = arrive(studio, root, feed)
    assert edited.counts["relabelled"] == edited.counts["answered"] == 1
    (row,) = edited.manifest.rows()
    assert [edited.manifest.classes[one["class_id"]] for one in row["annotations"]] == ["hat", "head"]
    assert len(commit(root, edited).labelled()) == 2


def test_a_deleted_annotation_takes_the_label_back_until_there_is_another(studio, root, feed):
    ids = request_labels(root)
    hand_over(studio, root)
    studio.annotate(ids[0], None)
    studio.annotate(ids[1], None)
    commit(root, arrive(studio, root, feed))
    studio.delete_annotations(ids[0])
    gone = arrive(studio, root, feed)
    assert (gone.withdrawn, gone.counts["withdrawn"], len(gone.manifest)) == ((ids[0],), 1, 0)
    assert set(commit(root, gone).labelled().table["id"]) == {ids[1]}
    assert arrive(studio, root, feed).withdrawn == ()
    studio.annotate(ids[0], [box()])
    back = arrive(studio, root, feed)
    assert (back.counts["newly_labelled"], back.withdrawn) == (1, ())


def test_a_label_that_was_deleted_before_a_round_never_was(studio, root, feed):
    ids = request_labels(root)
    hand_over(studio, root)
    studio.annotate(ids[0], None)
    assert len(arrive(studio, root, feed).manifest) == 1
    studio.delete_annotations(ids[0])
    gone = arrive(studio, root, feed)
    assert (len(gone.manifest), gone.withdrawn) == (0, ())


def test_a_label_that_is_withdrawn_leaves_one_from_elsewhere(studio, root, feed):
    ids = request_labels(root)
    hand_over(studio, root)
    studio.annotate(ids[0], [box()])
    arrived = arrive(studio, root, feed)
    other = arrived.manifest.table.with_columns(annotations=pl.lit([], pl.List(ANNOTATION)))
    commit(root, replace(arrived, manifest=Manifest(other, arrived.manifest.classes)))
    studio.delete_annotations(ids[0])
    assert arrive(studio, root, feed).withdrawn == ()


def test_of_two_tasks_of_an_image_the_labelled_one_counts(studio, root, feed):
    ids = request_labels(root)
    hand_over(studio, root)
    studio.annotate(ids[0], [box()])
    commit(root, arrive(studio, root, feed))
    first = studio.task(ids[0])
    number = studio.number()
    studio.stored[number] = first | {"id": number, "annotations": [], "updated_at": studio.now()}
    again = arrive(studio, root, feed)
    assert (len(again.manifest), again.withdrawn) == (0, ())
    later = {"id": 1, "result": [box("hat")], "was_cancelled": False, "updated_at": studio.now()}
    studio.stored[number] |= {"annotations": [later], "updated_at": studio.now()}
    (row,) = arrive(studio, root, feed).manifest.rows()
    assert row["id"] == ids[0]


def test_a_deleted_task_or_project_takes_nothing_back(studio, root, feed):
    ids = request_labels(root)
    hand_over(studio, root)
    studio.annotate(ids[0], None)
    commit(root, arrive(studio, root, feed))
    studio.stored.clear()
    assert arrive(studio, root, feed).withdrawn == ()
    studio.projects.clear()
    assert arrive(studio, root, feed).withdrawn == ()


def list_all_again(root):
    """Let the next fetch list all tasks, as an hour later."""
    store = open_store(root)
    found, etag = read_answers(store)
    write_answers(store, found.model_copy(update={"listed": datetime.now(UTC) - timedelta(hours=2)}), etag)


def test_waiting_tasks_that_were_removed_may_be_asked_for_again(studio, root):
    ids = request_labels(root)
    hand_over(studio, root)
    answers(studio, root)
    studio.annotate(ids[0], None)
    del studio.stored[studio.task(ids[1])["id"]]
    list_all_again(root)
    assert ids[1] not in answers(studio, root).images


def test_what_was_labelled_or_skipped_or_waits_is_not_asked_for_again(studio, root):
    ids = request_labels(root)
    hand_over(studio, root, label_queue=3)
    studio.annotate(ids[0], None)
    studio.skip(ids[1])
    found = answers(studio, root)
    assert found.with_people() == set(ids[:3])
    rows = [{"id": id_, "uri": "", "width": 1, "height": 1, "split": "", "group": id_, "source": id_, "round": 1,
             "annotations": None} for id_ in ids]  # fmt: skip
    pool = gather(open_store(root), Manifest.of(rows, CLASSES), 100, found.with_people())
    assert ({one.id for one in pool.candidates}, pool.with_people) == (set(ids[3:]), 3)


@pytest.mark.parametrize("gone", ["the task", "the project"])
def test_an_image_whose_label_and_task_were_removed_may_be_asked_for_again(studio, root, feed, gone):
    ids = request_labels(root)
    hand_over(studio, root)
    studio.annotate(ids[0], [box()])
    commit(root, arrive(studio, root, feed))
    studio.delete_annotations(ids[0])
    assert ids[0] in answers(studio, root).with_people()
    if gone == "the project":
        studio.projects.clear()
        studio.stored.clear()
    else:
        del studio.stored[studio.task(ids[0])["id"]]
        list_all_again(root)
    assert ids[0] not in answers(studio, root).with_people()
    assert arrive(studio, root, feed).withdrawn == (ids[0],)
    hand_over(studio, root)
    assert ids[0] in answers(studio, root).with_people()
    assert arrive(studio, root, feed).withdrawn == (ids[0],)


def test_a_server_that_gets_another_address_is_followed(studio, root, feed):
    ids = request_labels(root)
    hand_over(studio, root)
    studio.annotate(ids[0], [box()])
    commit(root, arrive(studio, root, feed))
    studio.address = studio.address.replace("127.0.0.1", "localhost")
    assert answers(studio, root).with_people() == set(ids)
    studio.delete_annotations(ids[0])
    assert arrive(studio, root, feed).withdrawn == (ids[0],)


def test_who_labelled_stays_out_unless_asked_for(studio, root):
    ids = request_labels(root)
    hand_over(studio, root)
    studio.annotate(ids[0], None, completed_by=7)
    answers(studio, root)
    assert '"annotator": 7' not in open_store(root).read(ANSWERS).decode()
    studio.edit(ids[0], [])
    answers(studio, root, keep_annotators=True)
    assert read_answers(open_store(root))[0].images[ids[0]].annotator == 7


def test_a_label_that_cannot_be_used_is_quarantined_until_it_is_mended(studio, root, feed):
    ids = request_labels(root)
    hand_over(studio, root)
    turned = box()
    turned["value"]["rotation"] = 30
    studio.annotate(ids[0], [turned])
    studio.annotate(ids[1], [box()])
    studio.annotate(ids[1], [box("hat")])
    arrived = arrive(studio, root, feed)
    reasons = sorted(one.reason for one in arrived.quarantine)
    assert [reason.partition(":")[0] for reason in reasons] == ["ambiguous", "turned box"]
    assert "Label Studio task" in reasons[1]
    assert len(arrived.manifest) == 0
    studio.edit(ids[0], [box()])
    assert arrive(studio, root, feed).counts["answered"] == 1


def test_labels_on_which_people_have_to_agree_fail_no_poll(studio, root, feed, caplog):
    ids = request_labels(root, range(1, 14))
    hand_over(studio, root)
    for id_ in ids[:-1]:
        studio.annotate(id_, [box()])
        studio.annotate(id_, [box(x=11.0)])
    studio.annotate(ids[-1], [box()])
    arrived = arrive(studio, root, feed)
    assert (arrived.counts["answered"], arrived.counts["quarantined"]) == (1, 12)
    assert (
        "12 images that were labelled in Label Studio cannot be used before people change their labels: " in caplog.text
    )
    assert "ambiguous (12)" in caplog.text
    caplog.clear()
    arrive(studio, root, feed)
    assert "cannot be used" not in caplog.text


def test_labels_that_are_bad_for_another_reason_fail_a_poll_like_those_of_the_feed(studio, root, feed):
    ids = request_labels(root, range(1, 13))
    hand_over(studio, root)
    for id_ in ids:
        studio.annotate(id_, [box("vest")])
    with pytest.raises(InputError, match="12 of 12 new files are bad"):
        take_new(feed, root, classes="hat,head", answers=answers(studio, root))


def test_a_outline_among_boxes_is_no_label_and_takes_nothing_for_background(studio, root, feed):
    ids = request_labels(root)
    hand_over(studio, root)
    outline = box() | {"type": "polygonlabels"}
    outline["value"] = {"points": [[10, 10], [50, 10], [50, 50]], "polygonlabels": ["head"]}
    studio.annotate(ids[0], [outline])
    studio.annotate(ids[1], [box(), outline])
    arrived = arrive(studio, root, feed)
    assert len(arrived.manifest) == 0
    tasks = [studio.task(id_)["id"] for id_ in ids[:2]]
    said = "head is marked by its outline: draw a rectangle in its place"
    assert sorted(one.reason for one in arrived.quarantine) == [f"no box: Label Studio task {n}: {said}" for n in tasks]


def test_a_size_that_cannot_be_keeps_no_other_answer_out(studio, root, feed):
    ids = request_labels(root)
    hand_over(studio, root)
    studio.annotate(ids[0], [box() | {"original_width": -96}])
    studio.annotate(ids[1], [box()])
    assert set(arrive(studio, root, feed).manifest.table["id"]) == set(ids[:2])


def test_what_is_wrong_with_a_box_names_the_task(studio, root, feed):
    ids = request_labels(root)
    hand_over(studio, root)
    studio.annotate(ids[0], [box(x=80.0)])
    (refused,) = arrive(studio, root, feed).quarantine
    assert refused.reason.endswith(f" (Label Studio task {studio.task(ids[0])['id']})")


def test_a_label_that_classes_does_not_name_is_quarantined(studio, root, feed):
    ids = request_labels(root)
    hand_over(studio, root)
    studio.annotate(ids[0], [box("vest")])
    found = answers(studio, root)
    refused = take_new(feed, root, classes="hat,head", answers=found)
    remedy = (
        "the parameter classes names hat, head: choose one of these labels, or add vest to classes or ignore_classes"
    )
    task = studio.task(ids[0])["id"]
    assert [one.reason for one in refused.quarantine] == [f"unknown class: vest: {remedy} (Label Studio task {task})"]
    assert take_new(feed, root, answers=found).manifest.classes == ("vest",)


@pytest.mark.parametrize("ignored", ["vest", "*"])
def test_boxes_of_ignored_classes_are_left_out_as_those_of_the_feed_are(studio, root, feed, ignored):
    ids = request_labels(root)
    hand_over(studio, root)
    studio.annotate(ids[0], [box("vest"), box("hat", x=50.0)])
    studio.annotate(ids[1], [box("vest")])
    wanted = {"classes": "hat,head", "ignore_classes": ignored, "answers": answers(studio, root)}
    arrived = take_new(feed, root, **wanted)
    labels = {row["id"]: [one["class_id"] for one in row["annotations"]] for row in arrived.manifest.rows()}
    assert labels == {ids[0]: [0], ids[1]: []}
    assert (arrived.manifest.classes, arrived.counts["ignored_boxes"]) == (("hat", "head"), 2)
    commit(root, arrived)
    assert len(take_new(feed, root, **wanted).manifest) == 0


def test_an_answer_counts_before_what_the_feed_says_of_the_image(studio, root, feed):
    ids = request_labels(root)
    hand_over(studio, root)
    studio.annotate(ids[0], [box()])
    image = open_store(root).read(f"blobs/{ids[0][:2]}/{ids[0]}.jpg")
    (Path(feed) / "a.jpg").write_bytes(image)
    (Path(feed) / "b.jpg").write_bytes(open_store(root).read(f"blobs/{ids[1][:2]}/{ids[1]}.jpg"))
    arrived = arrive(studio, root, feed)
    rows = {row["id"]: row["annotations"] for row in arrived.manifest.rows()}
    assert set(rows) == {ids[0], ids[1]}
    assert (len(rows[ids[0]]), rows[ids[1]]) == (1, None)


def ask_for_samples(studio, root, samples):
    """Ask for the labels of samples that came in by a feed."""
    names = ("id", "uri", "width", "height", "source")
    images = tuple(
        LabelRequest(**{name: row[name] for name in names}, share="random", score=0.5, reason="")
        for row in samples.rows()
    )
    write_list(open_store(root), LabelRequests(round=1, model=None, miner="entropy", classes=CLASSES, images=images))
    hand_over(studio, root)


def overwritten(feed, seed):
    """Put another image into the same file of a feed; its id."""
    data = jpeg(squares(np.random.default_rng(seed), 96)[0][:64])
    (Path(feed) / "latest.jpg").write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def starts(arrived):
    """Where the boxes of each image begin, by its id."""
    return {
        row["id"]: [pytest.approx(one["x1"]) for one in row["annotations"] or ()] for row in arrived.manifest.rows()
    }


def test_labels_of_images_that_came_under_one_name_are_those_of_each(studio, root, feed):
    first = overwritten(feed, 1)
    commit(root, arrive(studio, root, feed))
    second = overwritten(feed, 2)
    known = commit(root, arrive(studio, root, feed))
    assert set(known.table["source"]) == {"latest.jpg"}
    ask_for_samples(studio, root, known)
    studio.annotate(first, [box(x=25.0)])
    studio.annotate(second, [box(x=50.0)])
    for _ in range(2):  # of a poll, and of the round that it starts
        assert starts(arrive(studio, root, feed)) == {first: [24.0], second: [48.0]}


def test_a_new_image_under_the_name_of_a_labelled_one_is_not_lost(studio, root, feed):
    first = overwritten(feed, 1)
    ask_for_samples(studio, root, commit(root, arrive(studio, root, feed)))
    studio.annotate(first, [box(x=25.0)])
    second = overwritten(feed, 2)
    for _ in range(2):
        assert starts(arrive(studio, root, feed)) == {first: [24.0], second: []}


def test_an_answer_counts_before_a_label_file_under_the_name_that_the_image_has_in_the_job(studio, root, feed):
    image = overwritten(feed, 1)
    ask_for_samples(studio, root, commit(root, arrive(studio, root, feed)))
    studio.annotate(image, [box("hat", x=25.0)])
    (Path(feed) / "classes.txt").write_text("hat\n")
    (Path(feed) / "latest.txt").write_text("0 0.75 0.5 0.5 0.5\n")
    assert starts(arrive(studio, root, feed)) == {image: [24.0]}


def test_an_answer_that_cannot_be_used_hides_no_label_of_the_feed(studio, root, feed):
    (id_, *_) = request_labels(root)
    hand_over(studio, root)
    studio.annotate(id_, [box(x=25.0)])
    studio.annotate(id_, [box(x=26.0)])
    (Path(feed) / "a.jpg").write_bytes(open_store(root).read(f"blobs/{id_[:2]}/{id_}.jpg"))
    (Path(feed) / "classes.txt").write_text("hat\n")
    (Path(feed) / "a.txt").write_text("0 0.75 0.5 0.5 0.5\n")
    arrived = arrive(studio, root, feed)
    assert starts(arrived) == {id_: [48.0]}
    assert [one.reason.partition(":")[0] for one in arrived.quarantine] == ["ambiguous"]


def test_an_image_that_is_not_the_one_it_is_called_is_refused(studio, root, feed):
    ids = request_labels(root)
    hand_over(studio, root)
    studio.annotate(ids[0], [box()])
    studio.task(ids[0])["meta"]["key"] = f"blobs/{ids[1][:2]}/{ids[1]}.jpg"
    arrived = arrive(studio, root, feed)
    assert len(arrived.manifest) == 0
    assert [one.reason.partition(":")[0] for one in arrived.quarantine] == ["label without image"]


@pytest.mark.parametrize("key", ["../../etc/passwd", "/etc/passwd", "", "blobs/none.jpg"])
def test_a_key_from_the_server_reads_nothing_else(studio, root, feed, key):
    ids = request_labels(root)
    hand_over(studio, root)
    studio.annotate(ids[0], [box()])
    studio.task(ids[0])["meta"]["key"] = key
    arrived = arrive(studio, root, feed)
    assert [one.reason.partition(":")[0] for one in arrived.quarantine] == ["label without image"]


def test_a_damaged_record_of_answers_is_fetched_again(studio, root, caplog):
    ids = request_labels(root)
    hand_over(studio, root)
    studio.annotate(ids[0], None)
    open_store(root).write(ANSWERS, b"{half")
    assert answers(studio, root).labelled() == {ids[0]}
    assert "all answers are fetched again" in caplog.text
    assert read_answers(open_store(root))[0].labelled() == {ids[0]}


# --- what the proposals saved ---


def test_how_much_drawing_the_proposals_saved_is_told_by_class(studio, root, feed):
    found = Found(boxes=((0, 0, 20, 20), (30, 0, 50, 20), (60, 0, 80, 20), (0, 40, 20, 60)), scores=(0.9,) * 4,
                  class_ids=(0, 0, 0, 1))  # fmt: skip
    image = asked(root, 3, prelabels=found)
    lists = [LabelRequests(round=1, model="r0001-89abcdef", miner="entropy", classes=CLASSES, images=(image,))]
    write_list(open_store(root), lists[0])
    hand_over(studio, root)

    def drawn(name, x1, y1, x2, y2):
        return box(name, 100 * x1 / 96, 100 * y1 / 64, 100 * (x2 - x1) / 96, 100 * (y2 - y1) / 64)

    studio.annotate(image.id, [
        drawn("hat", 0, 0, 20, 20),  # as proposed
        drawn("hat", 32, 0, 50, 20),  # moved
        drawn("head", 60, 0, 80, 20),  # it is no hat
        drawn("head", 60, 40, 80, 60),  # it was missed; and there is nothing at 0, 40
    ])  # fmt: skip
    hat, head = label_agreement(lists, arrive(studio, root, feed).manifest)
    assert (hat.name, hat.kept, hat.adjusted, hat.renamed, hat.drawn, hat.removed) == ("hat", 1, 1, 0, 0, 0)
    assert (head.name, head.kept, head.adjusted, head.renamed, head.drawn, head.removed) == ("head", 0, 0, 1, 1, 1)
    assert (hat.saved, head.saved) == (1, 0.5)


# --- the steps ---


def step(component, tmp_path, kinds, *given, settings):
    outputs = {name: kind(name=name, uri=str(tmp_path / name), metadata={}) for name, kind in kinds.items()}
    return component.python_func(*given, **outputs, settings={"label_studio": settings}), outputs


def test_the_steps_send_and_count_what_was_answered(studio, root, feed, tmp_path):
    ids = request_labels(root)
    settings = {"label_studio_url": studio.address}
    sent, _ = step(send_step, tmp_path, {}, root, settings=settings)
    assert sent == f"{studio.address}/projects/1/data"
    for id_ in ids[:5]:
        studio.annotate(id_, None)
    kinds = {"manifest": dsl.Dataset, "quarantine": dsl.Dataset, "report": dsl.HTML}
    step(collect, tmp_path, kinds, feed, root, settings=settings)
    assert set(Manifest.read(tmp_path / "manifest").labelled().table["id"]) == set(ids[:5])
    assert "Proposed boxes and what people made of them" in (tmp_path / "report").read_text()


def test_what_was_sent_is_known_to_wait_also_where_nothing_polls(studio, root, tmp_path):
    ids = request_labels(root)
    settings = {"label_studio_url": studio.address, "label_queue": 4}
    step(label_step, tmp_path, {"counts": dsl.Metrics}, root, settings=settings)
    assert read_answers(open_store(root))[0].with_people() == set(ids[:4])
    send_step.python_func(root, {"label_studio_url": studio.address})
    assert read_answers(open_store(root))[0].with_people() == set(ids)


def test_a_round_offers_the_classes_that_its_champion_does_not_know_yet(studio, root):
    request_labels(root)
    send_step.python_func(root, {"classes": "hat,vest", "label_studio_url": studio.address})
    place = Place.of(studio.address, "", open_store(root).uri)
    assert find_project(LabelStudio.from_environment(studio.address), place).labels == (*CLASSES, "vest")


def test_removed_labels_reach_the_round_however_many_they_are(studio, root, feed, tmp_path):
    ids = request_labels(root, range(1, 41))
    hand_over(studio, root)
    for id_ in ids[:10]:
        studio.annotate(id_, [box()])
    commit(root, arrive(studio, root, feed))
    for id_ in ids[:4]:
        studio.delete_annotations(id_)
    for id_ in ids[10:]:
        studio.annotate(id_, [box()])
    settings = {"label_studio_url": studio.address}
    kinds = {"manifest": dsl.Dataset, "quarantine": dsl.Dataset, "report": dsl.HTML}
    _, collected = step(collect, tmp_path, kinds, feed, root, settings=settings)
    assert not any(id_ in json.dumps(collected["manifest"].metadata) for id_ in ids)  # a command line has it
    kinds = dict.fromkeys(("training", "everything", "core", "recent"), dsl.Dataset) | {"report": dsl.HTML}
    outputs = {name: kind(name=name, uri=str(tmp_path / f"plan-{name}"), metadata={}) for name, kind in kinds.items()}
    plan.python_func(
        collected["manifest"], root, **outputs, settings={"force_deploy": True, "train_ratio": 0.5, "val_ratio": 0.25}
    )
    assert set(Manifest.read(outputs["everything"].path).labelled().table["id"]) == set(ids[4:])


def test_a_step_that_cannot_send_says_what_becomes_of_the_round(studio, root, capfd):
    request_labels(root)
    studio.down = True
    with pytest.raises(SystemExit):
        send_step.python_func(root, {"label_studio": {"label_studio_url": studio.address}})
    told = capfd.readouterr().out
    assert "the round before is committed all the same; the next round, or the pipeline hard-example-mining" in told
    assert "send error: " in told


def test_without_an_address_nothing_is_sent(tmp_path, root):
    request_labels(root)
    assert step(send_step, tmp_path, {}, root, settings={})[0] == ""


def test_without_a_list_the_step_sends_nothing(studio, tmp_path, root):
    settings = {"label_studio_url": studio.address}
    assert step(send_step, tmp_path, {}, root, settings=settings)[0] == ""
    assert studio.requests == []


def test_a_folder_has_no_presigned_addresses(root):
    with pytest.raises(InputError, match="keep it in a bucket"):
        open_store(root).presigned("blobs/a.jpg", LIFETIME)
