"""A feed, poll by poll: what is new comes in once, whatever happens to files, lines and processes between polls."""

import csv
import functools
import http.server
import io
import json
import os
import random
import threading
import zipfile
from collections import Counter
from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from minio import Minio
from PIL import Image

from components.core.cache import fetch_masks
from components.core.errors import InputError, NotFoundError
from components.core.job.hard_examples import image_key, sidecar_key
from components.core.job.job import Job
from components.core.manifest import Manifest
from components.core.masks import VOID, read_mask
from components.core.stores.open import open_store
from components.ingest import feed as feed_module
from components.ingest.feed import FEW_BAD, take_new
from components.ingest.ingest import ingest
from components.ingest.locations import branch_of, latest
from components.ingest.poll_memory import MEMORY
from components.prepare.splits import assign
from tests.hard_examples import NOON, example
from tests.images import mask_png

WIDTH, HEIGHT = 60, 40


def jpeg(number=0):
    """A small image; each number gives other bytes."""
    buffer = io.BytesIO()
    Image.new("RGB", (WIDTH, HEIGHT), (200, 180, 40)).save(buffer, "JPEG", comment=f"image {number}")
    return buffer.getvalue()


def put(folder, name, data):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def yolo(folder, number, boxes="0 0.5 0.5 0.2 0.2"):
    put(folder, f"images/{number:03d}.jpg", jpeg(number))
    put(folder, f"labels/{number:03d}.txt", boxes)


def xml(*names):
    box = "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>11</xmax><ymax>12</ymax></bndbox>"
    return f"<annotation>{''.join(f'<object><name>{name}</name>{box}</object>' for name in names)}</annotation>"


def commit(job, arrivals):
    """What the last step of a round does with arrivals: the later round's row counts."""
    opened = Job.open(str(job))
    state, etag = opened.read()
    before = everything(job)
    tables = [arrivals.manifest.table] if before is None else [before.table, arrivals.manifest.table]
    table = pl.concat(tables).unique("id", keep="last", maintain_order=True)
    key = f"manifests/{state.round + 1}.parquet"
    path = Path(os.environ["EDGE_CACHE_DIR"]) / "scratch.parquet"
    Manifest(table, arrivals.manifest.classes).write(path)
    opened.store.upload(path, key)
    made = state.model_copy(update={"round": state.round + 1, "cursor": arrivals.cursor, "manifest": key})
    return opened.commit(made, etag)


def everything(job):
    opened = Job.open(str(job))
    return opened.manifest(opened.read()[0], Path(os.environ["EDGE_CACHE_DIR"]))


def names(arrivals):
    return [source.rpartition("/")[2] for source in arrivals.manifest.table["source"]]


def take_and_commit(feed, job, **options):
    arrivals = take_new(str(feed), str(job), **options)
    commit(job, arrivals)
    return arrivals


def content(job):
    """What a job knows, without what depends on when it learned it."""
    return everything(job).table.drop("round").sort("id").to_dicts()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGE_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def feed(tmp_path):
    folder = tmp_path / "feed"
    folder.mkdir()
    return folder


@pytest.fixture
def job(tmp_path):
    return tmp_path / "job"


@pytest.mark.parametrize("place", ["file", "s3"])
def test_a_job_that_lies_in_its_own_data_is_no_part_of_them(tmp_path, feed, place, request):
    url = request.getfixturevalue("s3") if place == "s3" else str(feed)
    yolo(feed, 0)
    into(place, feed, url)
    job = f"{url}/jobs/helmet"
    for _ in range(2):  # the second time there are blobs, and what edge workers have sent
        for arrivals in (ingest(url, job), take_new(url, job, full=True)):
            assert (names(arrivals), arrivals.counts["found"], arrivals.quarantine) == (["000.jpg"], 1, [])
        for name, data in {"x.jpg": jpeg(9), "x.txt": b"0 0.5 0.5 0.2 0.2"}.items():
            open_store(job).write(f"hard-examples/2026/{name}", data)
    assert names(ingest(url, job, data_path="jobs/helmet/hard-examples")) == ["x.jpg"]
    assert names(take_new(url, job, data_path="jobs/helmet/hard-examples")) == ["x.jpg"]


# --- folders ---


def test_only_what_is_new_comes_in(feed, job):
    for number in range(3):
        yolo(feed, number)
    first = take_and_commit(feed, job)
    assert names(first) == ["000.jpg", "001.jpg", "002.jpg"]
    assert set(first.manifest.table["round"]) == {1}
    assert first.complete
    nothing = take_new(str(feed), str(job))
    assert len(nothing.manifest) == 0
    assert nothing.manifest.classes == first.manifest.classes
    assert nothing.cursor == first.cursor, "a poll that finds nothing writes nothing"
    yolo(feed, 3)
    second = take_and_commit(feed, job)
    assert names(second) == ["003.jpg"]
    assert second.counts["images"] == 1
    assert second.manifest.table["round"].to_list() == [2]
    assert len(everything(job)) == 4


def test_what_is_not_committed_arrives_again_and_is_neither_lost_nor_doubled(feed, job):
    yolo(feed, 0)
    committed = take_and_commit(feed, job)
    yolo(feed, 1)
    crashed = take_new(str(feed), str(job))
    yolo(feed, 2)
    again = take_new(str(feed), str(job))
    assert names(crashed) == ["001.jpg"]
    assert names(again) == ["001.jpg", "002.jpg"]
    assert open_store(str(job)).read(committed.cursor), "the old cursor stays valid"
    assert len({committed.cursor, crashed.cursor, again.cursor}) == 3
    commit(job, again)
    assert len(take_new(str(feed), str(job)).manifest) == 0
    assert Counter(everything(job).table["source"]) == Counter({f"images/00{n}.jpg": 1 for n in range(3)})


def test_a_poll_that_is_repeated_gives_the_same(feed, job):
    yolo(feed, 0)
    one, two = take_new(str(feed), str(job)), take_new(str(feed), str(job))
    assert one.manifest.table.equals(two.manifest.table)
    assert one.cursor == two.cursor


def test_images_of_waiting_and_of_known_entries_are_not_opened_again(feed, job, monkeypatch):
    yolo(feed, 0)
    take_and_commit(feed, job)
    yolo(feed, 1)
    take_new(str(feed), str(job))
    opened = []
    monkeypatch.setattr(feed_module, "take_in", lambda records, store, values: opened.extend(records) or iter(()))
    assert names(take_new(str(feed), str(job))) == ["001.jpg"], "it waits for a round"
    assert opened == []


def test_a_label_that_comes_later_makes_its_image_a_sample(feed, job):
    put(feed, "images/000.jpg", jpeg(0))
    yolo(feed, 1)
    first = take_and_commit(feed, job)
    assert first.counts["unlabelled"] == 1
    put(feed, "labels/000.txt", "0 0.5 0.5 0.2 0.2")
    second = take_and_commit(feed, job)
    assert names(second) == ["000.jpg"]
    assert len(second.manifest.labelled()) == 1
    assert (second.counts["newly_labelled"], second.counts["relabelled"]) == (1, 0)
    assert len(everything(job).labelled()) == len(everything(job)) == 2


def test_a_label_that_comes_before_its_image_waits_for_it(feed, job):
    put(feed, "labels/000.txt", "0 0.5 0.5 0.2 0.2")
    assert len(take_and_commit(feed, job).manifest) == 0
    put(feed, "images/000.jpg", jpeg(0))
    assert len(take_and_commit(feed, job).manifest.labelled()) == 1


@pytest.mark.parametrize("data_format", ["auto", "voc"])
def test_images_first_and_the_first_labels_at_all_later(feed, job, data_format):
    put(feed, "JPEGImages/a.jpg", jpeg(0))
    assert take_and_commit(feed, job, data_format=data_format).counts["unlabelled"] == 1
    put(feed, "Annotations/a.xml", xml("hat"))
    arrivals = take_and_commit(feed, job, data_format=data_format)
    assert arrivals.manifest.classes == ("hat",)
    assert arrivals.counts["newly_labelled"] == 1


def test_an_edited_label_brings_the_sample_again(feed, job):
    yolo(feed, 0)
    yolo(feed, 1)
    first = take_and_commit(feed, job)
    before = first.manifest.table.filter(pl.col("source") == "images/000.jpg").row(0, named=True)
    put(feed, "labels/000.txt", "0 0.5 0.5 0.2 0.2\n0 0.2 0.2 0.1 0.1")
    second = take_and_commit(feed, job)
    assert second.counts["relabelled"] == 1
    assert second.manifest.table["id"].to_list() == [before["id"]]
    row = everything(job).where(pl.col("id") == before["id"]).table.row(0, named=True)
    assert (row["round"], len(row["annotations"])) == (2, 2)
    put(feed, "labels/000.txt", "0 0.5 0.5 0.2 0.2")
    assert take_and_commit(feed, job).counts["relabelled"] == 1, "also when it is changed back"
    assert content(job) == sorted(first.manifest.table.drop("round").to_dicts(), key=lambda row: row["id"]), (
        "all is as it was"
    )


def test_a_label_file_that_is_touched_is_no_news(feed, job):
    yolo(feed, 0)
    take_and_commit(feed, job)
    os.utime(feed / "labels/000.txt", (1, 1))
    arrivals = take_new(str(feed), str(job))
    assert len(arrivals.manifest) == 0
    assert arrivals.counts["known"] == 1


def test_the_same_image_under_another_name_is_no_news(feed, job):
    yolo(feed, 0)
    take_and_commit(feed, job)
    put(feed, "images/copy.jpg", jpeg(0))
    arrivals = take_new(str(feed), str(job))
    assert (len(arrivals.manifest), arrivals.counts["known"]) == (0, 1)


@pytest.mark.parametrize("cut", [0, 100, 400])
def test_a_image_that_is_still_being_written_is_taken_when_it_is_whole(feed, job, cut):
    yolo(feed, 0)
    yolo(feed, 1)
    whole = jpeg(1)
    (feed / "images/001.jpg").write_bytes(whole[:cut])
    first = take_and_commit(feed, job)
    assert names(first) == ["000.jpg"]
    assert [entry.source for entry in first.quarantine] == ["images/001.jpg"]
    with (feed / "images/001.jpg").open("ab") as file:
        file.write(whole[cut:])
    second = take_and_commit(feed, job)
    assert names(second) == ["001.jpg"]
    assert len(everything(job).labelled()) == 2


@pytest.mark.parametrize("seconds", [-10 * 365 * 86400, 10 * 365 * 86400])
def test_times_before_and_after_now_are_as_good_as_any(feed, job, seconds):
    """A camera whose clock jumps writes files that seem older than what was seen, or of the future."""
    yolo(feed, 0)
    take_and_commit(feed, job)
    yolo(feed, 1)
    for path in (feed / "images/001.jpg", feed / "labels/001.txt"):
        at = path.stat().st_mtime + seconds
        os.utime(path, (at, at))
    assert names(take_and_commit(feed, job)) == ["001.jpg"]
    assert len(take_new(str(feed), str(job)).manifest) == 0


def test_one_sample_per_poll_gives_what_all_at_once_gives(feed, job, tmp_path):
    together, numbers = tmp_path / "together", list(range(30))
    for number in numbers:
        yolo(together, number)
    take_and_commit(together, tmp_path / "other")
    random.Random(0).shuffle(numbers)
    for round_number, number in enumerate(numbers, 1):
        yolo(feed, number)
        assert len(take_and_commit(feed, job).manifest) == 1
        assert Job.open(str(job)).read()[0].round == round_number
    uri = {"uri": None}
    assert [row | uri for row in content(job)] == [row | uri for row in content(tmp_path / "other")]
    parts = list((job / "feed").glob("*.parquet"))
    assert len(parts) > len(numbers), "each poll leaves a new table"
    newest = pl.read_parquet_metadata(job / Job.open(str(job)).read()[0].cursor)
    assert len(json.loads(newest["parts"])) <= 6, "and reads only a few"


def test_a_trickle_is_split_like_a_flood(feed, job):
    """A split that were decided within each poll would put every single sample into the same one."""
    for number in range(30):
        yolo(feed, number)
        take_and_commit(feed, job)
    drawn = [assign(group, 0.8, 0.1, 0) for group in everything(job).table["group"]]
    assert 18 <= drawn.count("train") <= 29
    assert set(drawn) > {"train"}


def test_class_ids_of_the_job_stay_as_they_are(feed, job):
    put(feed, "JPEGImages/a.jpg", jpeg(0))
    put(feed, "Annotations/a.xml", xml("person"))
    take_and_commit(feed, job)
    put(feed, "JPEGImages/b.jpg", jpeg(1))
    put(feed, "Annotations/b.xml", xml("hat"))
    second = take_and_commit(feed, job)
    assert second.manifest.classes == ("person", "hat")
    assert second.manifest.boxes()["class_id"].to_list() == [1]


def test_other_classes_read_the_feed_anew(feed, job):
    put(feed, "JPEGImages/a.jpg", jpeg(0))
    put(feed, "Annotations/a.xml", xml("hat", "person"))
    first = take_and_commit(feed, job, classes="hat:helmet")
    assert [entry.reason for entry in first.quarantine] == ["unknown class: person"]
    assert len(take_and_commit(feed, job, classes="hat:helmet").quarantine) == 0
    second = take_and_commit(feed, job, classes="hat:helmet,person:head")
    assert (second.manifest.classes, second.counts["boxes"]) == (("helmet", "head"), 2)


def test_new_names_in_data_yaml_read_the_feed_anew(feed, job):
    put(feed, "data.yaml", "train: images\nnames: [hat]")
    yolo(feed, 0)
    yolo(feed, 1, "1 0.5 0.5 0.2 0.2")
    first = take_and_commit(feed, job)
    assert (names(first), len(first.quarantine)) == (["000.jpg"], 1)
    put(feed, "data.yaml", "train: images\nnames: [hat, head]")
    second = take_and_commit(feed, job)
    assert (names(second), second.counts["known"]) == (["001.jpg"], 1)


def test_folders_of_data_yaml_without_news_are_no_fault(feed, job):
    put(feed, "data.yaml", "train: train/images\nval: val/images\nnames: [hat]")
    for part, number in (("train", 0), ("val", 1)):
        put(feed, f"{part}/images/{number}.jpg", jpeg(number))
        put(feed, f"{part}/labels/{number}.txt", "0 0.5 0.5 0.2 0.2")
    assert set(take_and_commit(feed, job).manifest.table["split"]) == {"train", "val"}
    put(feed, "train/images/2.jpg", jpeg(2))
    put(feed, "elsewhere/3.jpg", jpeg(3))
    assert names(take_and_commit(feed, job)) == ["2.jpg"]
    put(feed, "elsewhere/4.jpg", jpeg(4))
    assert len(take_and_commit(feed, job).manifest) == 0


@pytest.mark.parametrize("place", ["file", "s3"])
def test_an_index_as_data_path_in_a_folder_beside_that_of_the_images(tmp_path, feed, place, request):
    url = request.getfixturevalue("s3") if place == "s3" else str(feed)
    root = f"{url}/data" if place == "s3" else url
    for number in (1, 2):
        put(feed, f"val2017/{number}.jpg", jpeg(number))
        put(feed, f"lists/images/{number}.txt", "no image")
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 10, 10]}
    content = {"images": [{"id": 1, "file_name": "1.jpg"}], "annotations": [box]}
    put(feed, "annotations/instances_val2017.json", json.dumps({**content, "categories": [{"id": 1, "name": "hat"}]}))
    put(feed, "lists/index.txt", "../val2017/1.jpg 1,2,11,12,0\n../val2017/2.jpg 1,2,11,12,0")
    put(feed, "lists/classes.txt", "hat")
    into(place, feed, root)
    for index, expected in {
        "annotations/instances_val2017.json": ["1.jpg"],
        "lists/index.txt": ["1.jpg", "2.jpg"],
    }.items():
        job = str(tmp_path / index.replace("/", "-"))
        assert names(ingest(root, f"{job}-once", data_path=index)) == expected
        arrivals = take_and_commit(root, job, data_path=index)
        assert (names(arrivals), arrivals.manifest.classes) == (expected, ("hat",))
        assert take_new(root, job, data_path=index).counts["found"] == 0
    with pytest.raises(
        InputError, match="the folder above as data_url, and data_path=annotations/instances_val2017.json"
    ):
        ingest(f"{root}/annotations/instances_val2017.json", str(tmp_path / "job"))


@pytest.mark.parametrize("where", ["data.yaml as the feed", "data.yaml as data_path", "a folder as data_path"])
def test_a_part_of_a_folder(feed, job, where):
    put(feed, "part/data.yaml", "train: images\nnames: [hat]")
    yolo(feed / "part", 0)
    put(feed, "other/x.jpg", jpeg(50))
    url, data_path = {
        "data.yaml as the feed": (feed / "part/data.yaml", ""),
        "data.yaml as data_path": (feed, "part/data.yaml"),
        "a folder as data_path": (feed, "part"),
    }[where]
    assert names(take_and_commit(url, job, data_path=data_path)) == ["000.jpg"]
    yolo(feed / "part", 1)
    assert names(take_and_commit(url, job, data_path=data_path)) == ["001.jpg"]
    with pytest.raises(InputError, match="is outside the data"):
        take_new(str(feed), str(job), data_path="../other")


def test_what_is_removed_from_the_feed_stays_in_the_job(feed, job):
    yolo(feed, 0)
    yolo(feed, 1)
    take_and_commit(feed, job)
    (feed / "images/000.jpg").unlink()
    assert len(take_and_commit(feed, job).manifest) == 0
    put(feed, "labels/000.txt", "0 0.5 0.5 0.3 0.3")
    assert [entry.source for entry in take_and_commit(feed, job).quarantine] == ["images/000.jpg"]
    assert len(everything(job)) == 2


def test_an_empty_feed_is_no_fault_and_an_absent_one_is(feed, job):
    assert len(take_and_commit(feed, job).manifest) == 0
    yolo(feed, 0)
    assert len(take_and_commit(feed, job).manifest) == 1
    with pytest.raises(NotFoundError, match="no such file or folder"):
        take_new(str(feed / "absent"), str(job))
    with pytest.raises(NotFoundError, match="data_path 'absent'"):
        take_new(str(feed), str(job), data_path="absent")


def test_names_that_are_not_text(feed, job):
    yolo(feed, 0)
    path = os.fsencode(feed) + b"/images/\xff\xfe.jpg"
    Path(os.fsdecode(path)).write_bytes(jpeg(1))
    assert len(take_and_commit(feed, job).manifest) == 2
    put(feed, os.fsdecode(b"labels/\xff\xfe.txt"), "0 0.5 0.5 0.2 0.2")
    assert take_and_commit(feed, job).counts["newly_labelled"] == 1


# --- what is bad ---


def test_many_bad_files_fail_one_poll_and_not_the_next(feed, job):
    for number in range(FEW_BAD + 1):
        yolo(feed, number, "not a label")
    yolo(feed, 99)
    with pytest.raises(InputError, match=f"{FEW_BAD + 1} of {FEW_BAD + 2} new files are bad") as caught:
        take_new(str(feed), str(job), data_format="yolo")
    (listed,) = (job / "quarantine").glob("*.csv")
    assert listed.name in str(caught.value)
    with listed.open(newline="") as file:
        assert len(list(csv.DictReader(file))) == FEW_BAD + 1
    arrivals = take_new(str(feed), str(job), data_format="yolo")
    assert names(arrivals) == ["099.jpg"]
    assert arrivals.counts["quarantined"] == arrivals.counts["quarantined_before"] == FEW_BAD + 1
    assert arrivals.quarantine_uri == "", "the list was written already"
    for number in range(FEW_BAD):
        put(feed, f"labels/{number:03d}.txt", "bad in another way")
    with pytest.raises(InputError, match=f"{FEW_BAD} of {FEW_BAD + 1} new files"):
        take_new(str(feed), str(job), data_format="yolo")


def test_bad_files_with_names_of_another_encoding_are_told_as_the_list_has_them(tmp_path):
    (tmp_path / "feed").mkdir()
    for number in range(FEW_BAD):
        (Path(os.fsdecode(os.fsencode(tmp_path / "feed") + b"/stra\xdfe%d.jpg" % number))).write_bytes(b"no image")
    with pytest.raises(InputError, match=r"for example stra\\udcdfe0\.jpg: ") as refused:
        take_new(str(tmp_path / "feed"), str(tmp_path / "job"))
    assert str(refused.value).isprintable()


def test_a_single_bad_file_does_not_fail_a_poll(feed, job):
    yolo(feed, 0, "not a label")
    arrivals = take_and_commit(feed, job, data_format="yolo")
    assert (len(arrivals.manifest), arrivals.counts["quarantined"], arrivals.counts["found"]) == (0, 1, 1)


# --- index files ---


def lines(feed, *texts):
    put(feed, "index.txt", "\n".join(texts))
    return feed / "index.txt"


def index_of(feed, count):
    for number in range(count):
        put(feed, f"{number}.jpg", jpeg(number))
    return [f"{number}.jpg 1,2,11,12,{number % 2}" for number in range(count)]


def test_lines_that_are_added_reordered_edited_or_blank(feed, job):
    texts = index_of(feed, 4)
    index = lines(feed, *texts[:3])
    assert names(take_and_commit(index, job, classes="0,1")) == ["0.jpg", "1.jpg", "2.jpg"]
    lines(feed, "", *reversed(texts[:3]), "   ", "")
    nothing = take_and_commit(index, job, classes="0,1")
    assert (nothing.counts["found"], len(nothing.quarantine)) == (0, 0)
    lines(feed, texts[0], "1.jpg 1,2,11,12,0", texts[2], texts[3])
    arrivals = take_and_commit(index, job, classes="0,1")
    assert names(arrivals) == ["1.jpg", "3.jpg"]
    assert arrivals.counts["relabelled"] == 1
    lines(feed, *texts)
    assert names(take_and_commit(index, job, classes="0,1")) == ["1.jpg"], "also when it is changed back"


def test_a_line_of_100_kb_is_read_whole(feed, job):
    texts = index_of(feed, 2)
    boxes = [f"{n % 50},{n % 30},{n % 50 + 1 + n // 50 / 50:g},{n % 30 + 5},{n % 2}" for n in range(8000)]
    line = " ".join(["0.jpg", *boxes])
    assert len(line) > 100_000
    arrivals = take_and_commit(lines(feed, line, texts[1]), job)
    assert names(arrivals) == ["0.jpg", "1.jpg"]
    assert arrivals.counts["boxes"] == 8001
    shorter = take_and_commit(lines(feed, " ".join(["0.jpg", *boxes[:-1]]), texts[1]), job)
    assert shorter.counts["boxes"] == 7999, "a change at its end is seen"


def test_a_line_whose_image_is_missing_is_tried_until_it_comes(feed, job):
    texts = [*index_of(feed, 1), *(f"late{n}.jpg 1,2,11,12,0" for n in range(FEW_BAD + 1))]
    index = lines(feed, *texts)
    with pytest.raises(InputError, match="label without image"):
        take_new(str(index), str(job))
    first = take_and_commit(index, job)
    assert names(first) == ["0.jpg"]
    assert {entry.source for entry in first.quarantine} == {f"late{n}.jpg" for n in range(FEW_BAD + 1)}
    still = take_and_commit(index, job)
    assert (len(still.manifest), still.counts["quarantined"]) == (0, FEW_BAD + 1)
    assert still.cursor == first.cursor
    put(feed, "late3.jpg", jpeg(100))
    arrivals = take_and_commit(index, job)
    assert names(arrivals) == ["late3.jpg"]
    assert arrivals.counts["quarantined"] == FEW_BAD
    assert len(take_new(str(index), str(job)).manifest) == 0


def test_a_line_that_is_still_being_written(feed, job):
    texts = index_of(feed, 2)
    index = lines(feed, texts[0], texts[1][:9])
    assert names(take_and_commit(index, job)) == ["0.jpg"]
    lines(feed, *texts)
    assert names(take_and_commit(index, job)) == ["1.jpg"]


def test_a_image_behind_a_line_that_is_still_being_written(feed, job):
    texts = index_of(feed, 2)
    whole = jpeg(1)
    put(feed, "1.jpg", whole[:200])
    index = lines(feed, *texts)
    assert names(take_and_commit(index, job)) == ["0.jpg"]
    put(feed, "1.jpg", whole)
    assert names(take_and_commit(index, job)) == ["1.jpg"]


def test_a_line_without_boxes_stays_a_negative_when_it_comes_alone(feed, job):
    texts = index_of(feed, 2)
    index = lines(feed, texts[0])
    take_and_commit(index, job)
    lines(feed, texts[0], "1.jpg")
    arrivals = take_and_commit(index, job)
    assert (names(arrivals), arrivals.counts["negatives"]) == (["1.jpg"], 1)


def test_a_list_of_images_that_gets_labels(feed, job):
    index_of(feed, 2)
    index = lines(feed, "0.jpg", "1.jpg")
    assert take_and_commit(index, job).counts["unlabelled"] == 2
    lines(feed, "0.jpg", "1.jpg 1,2,11,12,0")
    arrivals = take_and_commit(index, job)
    assert (arrivals.counts["newly_labelled"], arrivals.counts["negatives"]) == (2, 1)


def test_images_of_another_feed_are_not_taken_for_those_of_the_same_name(tmp_path, job):
    gates = [tmp_path / "gate-1", tmp_path / "gate-2"]
    for place, gate in enumerate(gates):
        put(gate, "0.jpg", jpeg(place))
        lines(gate, "0.jpg", "1.jpg")  # of which one is not there
    first = take_and_commit(gates[0] / "index.txt", job)
    second = take_new(str(gates[1] / "index.txt"), str(job))
    assert (names(first), names(second)) == (["0.jpg"], ["0.jpg"])
    assert first.manifest.table["id"][0] != second.manifest.table["id"][0]
    assert second.counts["quarantined_before"] == 0 and second.quarantine_uri


def test_lines_one_per_poll(feed, job, tmp_path):
    texts = index_of(feed, 30)
    for count in range(1, 31):
        assert len(take_and_commit(lines(feed, *texts[:count]), job, classes="0,1").manifest) == 1
    take_and_commit(feed / "index.txt", tmp_path / "other", classes="0,1")
    uri = {"uri": None}
    assert [row | uri for row in content(job)] == [row | uri for row in content(tmp_path / "other")]


def test_a_path_that_leads_out_of_the_folder_names_no_image(feed, job, tmp_path):
    put(tmp_path, "secret.jpg", jpeg(7))
    index = lines(feed, "../secret.jpg 1,2,11,12,0", f"{tmp_path}/secret.jpg 1,2,11,12,0", *index_of(feed, 1))
    arrivals = take_new(str(index), str(job))
    assert names(arrivals) == ["0.jpg"]
    assert {entry.reason.partition(":")[0] for entry in arrivals.quarantine} == {"label without image"}


def test_an_index_among_the_files(feed, job):
    texts = index_of(feed, 3)
    lines(feed, *texts[:2])
    assert names(take_and_commit(feed, job, classes="0,1")) == ["0.jpg", "1.jpg"]
    assert len(take_new(str(feed), str(job), classes="0,1").manifest) == 0
    lines(feed, texts[1], "0.jpg 1,2,11,12,1", texts[2], "absent.jpg 1,2,3,4,0")
    arrivals = take_and_commit(feed, job, classes="0,1")
    assert names(arrivals) == ["0.jpg", "2.jpg"]
    put(feed, "absent.jpg", jpeg(50))
    assert names(take_and_commit(feed, job, classes="0,1")) == ["absent.jpg"]


def coco(feed, count):
    images = [{"id": n, "file_name": f"{n}.jpg", "width": WIDTH, "height": HEIGHT} for n in range(count)]
    found = [{"id": n, "image_id": n, "category_id": 1, "bbox": [1, 2, 10, 10 + n]} for n in range(count)]
    for number in range(count):
        if not (feed / f"images/{number}.jpg").exists():
            put(feed, f"images/{number}.jpg", jpeg(number))
    data = {"images": images, "annotations": found, "categories": [{"id": 1, "name": "hat"}]}
    return put(feed, "all.json", json.dumps(data))


@pytest.mark.parametrize("as_index", [True, False])
def test_coco(feed, job, as_index):
    index = coco(feed, 2)
    url = index if as_index else feed
    assert names(take_and_commit(url, job)) == ["0.jpg", "1.jpg"]
    coco(feed, 3)
    assert names(take_and_commit(url, job)) == ["2.jpg"]
    index.write_text(index.read_text().replace("[1, 2, 10, 11]", "[1, 2, 20, 11]"))
    arrivals = take_and_commit(url, job)
    assert (names(arrivals), arrivals.counts["relabelled"]) == (["1.jpg"], 1)
    nothing = take_new(str(url), str(job))
    assert (nothing.counts["found"], nothing.cursor) == (0, arrivals.cursor)


# --- archives ---


def test_an_archive_is_read_again_when_it_is_another(feed, job, tmp_path):
    path = tmp_path / "data.zip"

    def pack(count):
        with zipfile.ZipFile(path, "w") as archive:
            for number in range(count):
                archive.writestr(f"images/{number}.jpg", jpeg(number))
                archive.writestr(f"labels/{number}.txt", "0 0.5 0.5 0.2 0.2")

    pack(2)
    assert names(take_and_commit(path, job)) == ["0.jpg", "1.jpg"]
    assert take_new(str(path), str(job)).counts["found"] == 0
    pack(3)
    arrivals = take_and_commit(path, job)
    assert (names(arrivals), arrivals.counts["known"]) == (["2.jpg"], 2)


def test_an_archive_from_the_web(feed, job, tmp_path):
    with zipfile.ZipFile(feed / "data.zip", "w") as archive:
        for name, data in pair(0).items():
            archive.writestr(name, data)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=feed)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/data.zip"
        assert names(take_and_commit(url, job)) == ["000.jpg"]
        assert take_new(url, str(job)).counts["found"] == 0
        server.shutdown()


# --- S3 ---


def upload(uri, files):
    store = open_store(uri)
    for name, data in files.items():
        store.write(name, data.encode() if isinstance(data, str) else data)


def put_object(uri, name, data):
    """Put an object as any other client would, which may give it any name."""
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    client = Minio(
        os.environ["AWS_ENDPOINT_URL"].removeprefix("http://"),
        os.environ["AWS_ACCESS_KEY_ID"],
        os.environ["AWS_SECRET_ACCESS_KEY"],
        secure=False,
    )
    client.put_object(bucket, f"{prefix}/{name}", io.BytesIO(data), len(data))


def pair(number, boxes="0 0.5 0.5 0.2 0.2"):
    return {f"images/{number:03d}.jpg": jpeg(number), f"labels/{number:03d}.txt": boxes}


def test_labelled_hard_examples_of_one_scene_share_a_group(feed, job):
    """Frames of one camera within an hour are nearly the same: in train and in test they would flatter every model."""
    store = open_store(str(job))
    taken = [example(n, jpeg(n)) for n in range(3)] + [example(3, jpeg(3), captured=NOON + timedelta(hours=1))]
    for image, sidecar in [*taken, example(4, jpeg(4), node="gate-8")]:
        store.write(image_key(sidecar), image)
        store.write(sidecar_key(sidecar), sidecar.model_dump_json().encode())
        (feed / f"{sidecar.image}.jpg").write_bytes(image)
        (feed / f"{sidecar.image}.txt").write_text("0 0.5 0.5 0.2 0.2")
    (feed / "other.jpg").write_bytes(jpeg(5))
    table = take_new(str(feed), str(job), classes="0").manifest.table
    groups = dict(table.select("source", "group").iter_rows())
    assert [groups[f"{sidecar.image}.jpg"] for _, sidecar in taken] == [
        *["gate-7: yard.mp4, 2026-11-20 12h"] * 3,
        "gate-7: yard.mp4, 2026-11-20 13h",
    ]
    assert table["group"].n_unique() == 4


@pytest.fixture
def downloaded(monkeypatch):
    """The keys that are downloaded."""
    from components.core.stores.s3 import S3Store

    keys, download = [], S3Store.download

    def counted(self, key, path, **options):
        keys.append(key)
        return download(self, key, path, **options)

    monkeypatch.setattr(S3Store, "download", counted)
    return keys


def test_a_prefix_brings_only_what_is_new(s3, job, downloaded, cache):
    url = f"{s3}/feed"
    upload(url, {**pair(0), **pair(1), "images/.hidden/x.jpg": b"no"})
    first = take_and_commit(url, job)
    assert names(first) == ["000.jpg", "001.jpg"]
    assert first.complete
    downloaded.clear()
    upload(url, pair(2))
    second = take_new(url, str(job))
    assert names(second) == ["002.jpg"]
    assert not second.complete
    assert sorted(downloaded) == sorted(pair(2))
    downloaded.clear()
    assert take_new(url, str(job)).cursor == second.cursor
    assert sorted(downloaded) == ["labels/002.txt"] or downloaded == [], "the image is not brought again"
    commit(job, second)
    downloaded.clear()
    assert len(take_new(url, str(job)).manifest) == 0
    assert downloaded == []
    assert [path for path in (cache / "feed/objects").rglob("*") if path.is_file()] == [], "no copy stays behind"


@pytest.mark.parametrize("name", ["a//b", "/lead", "cam1\\0001", "n" * 300])
def test_an_object_whose_name_no_file_can_have_is_listed_and_stops_nothing(s3, job, name):
    url = f"{s3}/odd"
    upload(url, {**pair(0), **pair(1)})
    for suffix, data in {".jpg": jpeg(7), ".txt": b"0 0.5 0.5 0.2 0.2"}.items():
        put_object(url, name + suffix, data)
    arrivals = take_and_commit(url, job, data_format="yolo")
    assert names(arrivals) == ["000.jpg", "001.jpg"]
    assert {entry.source: entry.reason.partition(":")[0] for entry in arrivals.quarantine} == {
        f"{name}.jpg": "name unusable",
        f"{name}.txt": "name unusable",
    }
    again = take_new(url, str(job), data_format="yolo")
    assert (again.counts["found"], again.quarantine) == (0, []), "they are told once"


def test_locks_and_other_clutter_that_came_along_into_a_bucket_are_no_part_of_a_data_set(s3, job):
    url = f"{s3}/copied"
    upload(url, {**pair(0), **pair(1)})
    put_object(url, "images/.edge-lock", b"")
    put_object(url, ".git/config", b"[core]")
    assert names(ingest(url, str(job), max_files=4)) == names(take_new(url, str(job))) == ["000.jpg", "001.jpg"]


def test_late_and_changed_keys_are_found_by_the_full_listing(s3, job):
    url = f"{s3}/feed"
    upload(url, pair(5) | pair(6))
    take_and_commit(url, job)
    upload(url, pair(1) | {"labels/005.txt": "0 0.5 0.5 0.3 0.3"})
    assert len(take_new(url, str(job)).manifest) == 0
    full = take_and_commit(url, job, full=True)
    assert (names(full), full.counts["relabelled"]) == (["001.jpg", "005.jpg"], 1)
    assert full.complete
    upload(url, {"labels/005.txt": "0 0.5 0.5 0.2 0.2"})
    assert take_and_commit(url, job, full=True).counts["relabelled"] == 1, "also when it is changed back"


def test_a_full_listing_comes_by_itself_when_the_last_is_long_ago_or_in_the_future(s3, job):
    url = f"{s3}/feed"
    upload(url, pair(5))
    take_and_commit(url, job)
    upload(url, pair(1))
    store = open_store(str(job))
    for listed in ("2001-01-01T00:00:00+00:00", "2999-01-01T00:00:00+00:00"):
        memory = json.loads(store.read(MEMORY))
        store.write(MEMORY, json.dumps(memory | {"listed": listed}).encode())
        assert names(take_new(url, str(job))) == ["001.jpg"]
        assert len(take_new(url, str(job)).manifest) == 0


def test_a_label_in_a_bucket_that_comes_after_its_image_was_seen(s3, job, downloaded):
    url = f"{s3}/feed"
    upload(url, pair(0) | {"images/001.jpg": jpeg(1)})
    assert take_and_commit(url, job).counts["unlabelled"] == 1
    upload(url, {"labels/001.txt": "0 0.5 0.5 0.2 0.2"})
    downloaded.clear()
    assert take_and_commit(url, job).counts["newly_labelled"] == 1
    assert "labels/001.txt" in downloaded
    assert not {"images/000.jpg", "labels/000.txt"} & set(downloaded)


def test_an_index_and_a_job_in_a_bucket(s3, tmp_path, downloaded):
    url, job = f"{s3}/feed/index.txt", f"{s3}/job"
    upload(f"{s3}/feed", {"index.txt": "a.jpg 1,2,11,12,0\nlate.jpg 1,2,11,12,0", "a.jpg": jpeg(0)})
    assert names(take_and_commit(url, job)) == ["a.jpg"]
    upload(f"{s3}/feed", {"late.jpg": jpeg(1), "index.txt": "\nlate.jpg 1,2,11,12,0\na.jpg 1,2,11,12,0"})
    downloaded.clear()
    assert names(take_and_commit(url, job)) == ["late.jpg"]
    assert "a.jpg" not in downloaded
    assert len(take_new(url, job).manifest) == 0
    assert {row["source"] for row in everything(job).rows()} == {"a.jpg", "late.jpg"}
    with pytest.raises(NotFoundError, match="no such object"):
        take_new(f"{s3}/feed/absent.txt", job)


def test_a_prefix_with_nothing_below_it_is_a_feed_that_has_not_begun(s3, job):
    assert len(take_new(f"{s3}/nothing", str(job)).manifest) == 0


def test_an_archive_and_coco_in_a_bucket(s3, job, tmp_path, feed):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, data in pair(0).items():
            archive.writestr(name, data)
    upload(s3, {"data.zip": content.getvalue()})
    assert names(take_and_commit(f"{s3}/data.zip", job)) == ["000.jpg"]
    assert take_new(f"{s3}/data.zip", str(job)).counts["found"] == 0
    coco(feed, 2)
    upload(f"{s3}/coco", {str(path.relative_to(feed)): path.read_bytes() for path in feed.rglob("*.*")})
    other = tmp_path / "other"
    assert names(take_and_commit(f"{s3}/coco", other)) == ["0.jpg", "1.jpg"]
    coco(feed, 3)
    upload(f"{s3}/coco", {"images/2.jpg": jpeg(2), "all.json": (feed / "all.json").read_bytes()})
    assert names(take_and_commit(f"{s3}/coco", other)) == ["2.jpg"]


def test_images_and_labels_have_last_keys_of_their_own():
    assert branch_of("a/images/2024/x.jpg") == "a/images/"
    assert branch_of("2024/x.jpg") == ""
    last = latest({}, ["images/2.jpg", "images/1.jpg", "labels/0.txt", "data.yaml"])
    assert last == {"": "labels/0.txt", "images/": "images/2.jpg", "labels/": "labels/0.txt"}
    assert len(latest({}, [f"{n}/images/x.jpg" for n in range(1000)])) <= 17


# --- masks ---


def halves(above, below):
    values = np.full((HEIGHT, WIDTH), above)
    values[HEIGHT // 2 :] = below
    return mask_png(values)


def segnet(folder, number, mask=None):
    put(folder, f"train/{number:03d}.jpg", jpeg(number))
    if mask:
        put(folder, f"trainannot/{number:03d}.png", mask)


def masks_of(arrivals, cache):
    """The upper and the lower class of each mask, by the name of its image; None where there is none."""
    found = {}
    for row in arrivals.manifest.rows():
        one = arrivals.manifest.where(pl.col("id") == row["id"])
        mask = read_mask(fetch_masks(one, cache)[0])[[0, -1], 0] if row["mask"] else None
        found[row["source"].rpartition("/")[2]] = mask if mask is None else tuple(map(int, mask))
    return found


def into(place, feed, bucket):
    """Make a prefix of a bucket what a folder is; or nothing, where the folder is the feed."""
    if place == "s3":
        store = open_store(bucket)
        for path in feed.rglob("*"):
            key = str(path.relative_to(feed))
            if path.is_file() and (store.stat(key) is None or store.read(key) != path.read_bytes()):
                store.write(key, path.read_bytes())
        return bucket
    return str(feed)


@pytest.mark.parametrize("place", ["file", "s3"])
def test_masks_poll_by_poll(feed, job, cache, place, request):
    bucket = request.getfixturevalue("s3") if place == "s3" else ""
    options = {"classes": "sky,road,car", "ignore_classes": "*", "full": place == "s3"}
    segnet(feed, 1)
    first = take_and_commit(into(place, feed, bucket), job, **options)
    assert (first.counts["unlabelled"], first.counts["masks"]) == (1, 0)

    segnet(feed, 1, halves(0, 1))
    segnet(feed, 2, halves(2, 11))
    segnet(feed, 3)
    second = take_and_commit(into(place, feed, bucket), job, **options)
    assert masks_of(second, cache) == {"001.jpg": (0, 1), "002.jpg": (2, VOID), "003.jpg": None}
    assert (second.counts["newly_labelled"], second.counts["masks"], second.counts["unlabelled"]) == (1, 2, 1)
    assert second.pixels["void (255)"] == WIDTH * HEIGHT / 2

    assert take_and_commit(into(place, feed, bucket), job, **options).counts["found"] == 0

    segnet(feed, 2, halves(2, 1))
    segnet(feed, 3, halves(1, 1))
    segnet(feed, 4, mask_png(np.zeros((5, 5))))
    fourth = take_new(into(place, feed, bucket), str(job), **options)
    again = take_new(into(place, feed, bucket), str(job), **options)
    for arrivals in (fourth, again):  # what is not committed is found again
        assert masks_of(arrivals, cache) == {"002.jpg": (2, 1), "003.jpg": (1, 1)}
        assert (arrivals.counts["relabelled"], arrivals.counts["newly_labelled"]) == (1, 1)
        assert [q.reason for q in arrivals.quarantine] == ["size contradicts the image: 5x5 in the mask, 60x40"]
    commit(job, again)

    segnet(feed, 4, halves(0, 0))
    fifth = take_and_commit(into(place, feed, bucket), job, **options)
    assert masks_of(fifth, cache) == {"004.jpg": (0, 0)}
    assert everything(job).table["mask"].is_not_null().all()


@pytest.mark.parametrize("place", ["file", "s3"])
def test_an_index_of_masks_line_by_line(feed, job, cache, place, request):
    bucket = request.getfixturevalue("s3") if place == "s3" else ""
    put(feed, "train.txt", "")
    put(feed, "classes.txt", "sky\nroad\ncar\n")

    def poll():
        return take_and_commit(f"{into(place, feed, bucket)}/train.txt", job)

    assert poll().counts["found"] == 0
    put(feed, "rgb/1.jpg", jpeg(1))
    put(feed, "gt/1.png", halves(0, 1))
    put(feed, "rgb/2.jpg", jpeg(2))
    put(feed, "train.txt", "rgb/1.jpg gt/1.png\nrgb/2.jpg d/2.png gt/2.png\n")
    first = poll()
    assert masks_of(first, cache) == {"1.jpg": (0, 1), "2.jpg": None}
    assert poll().counts["images"] == 0, "a mask that is missing is waited for, and the image is known meanwhile"
    put(feed, "gt/2.png", halves(2, 2))
    third = poll()
    assert (masks_of(third, cache), third.counts["newly_labelled"]) == ({"2.jpg": (2, 2)}, 1)
    assert poll().counts["found"] == 0


def test_masks_take_the_jobs_numbers_for_classes(feed, job, cache):
    segnet(feed, 1, halves(0, 1))
    take_and_commit(feed, job, classes="sky,road", ignore_classes="*")
    segnet(feed, 2, halves(0, 1))
    other = take_and_commit(feed, job, classes="road:car,sky:road", ignore_classes="*")  # value 0 is a car, 1 a road
    assert other.manifest.classes == ("sky", "road", "car")
    assert masks_of(other, cache)["002.jpg"] == (2, 1)


def test_an_archive_of_masks(tmp_path, job, cache):
    with zipfile.ZipFile(tmp_path / "feed.zip", "w") as archive:
        archive.writestr("images/1.jpg", jpeg(1))
        archive.writestr("masks/1.png", halves(1, 0))
        archive.writestr("classes.txt", "sky\nroad\n")
    arrivals = take_and_commit(tmp_path / "feed.zip", job)
    assert masks_of(arrivals, cache) == {"1.jpg": (1, 0)}
    assert take_and_commit(tmp_path / "feed.zip", job).counts["found"] == 0


def test_a_job_from_before_there_were_masks_goes_on(feed, job):
    yolo(feed, 1)
    take_and_commit(feed, job)
    opened = Job.open(str(job))
    path = Path(opened.store.local_path(opened.read()[0].manifest))
    old = pl.read_parquet(path).drop("mask")
    old.write_parquet(path, metadata={"classes": '["0"]'})
    yolo(feed, 2)
    assert names(take_new(str(feed), str(job))) == ["002.jpg"]
    put(feed, "labels/001.txt", "0 0.5 0.5 0.4 0.4")
    arrivals = take_and_commit(feed, job)
    assert (names(arrivals), arrivals.counts["relabelled"]) == (["001.jpg", "002.jpg"], 1)
    assert len(everything(job)) == 2
