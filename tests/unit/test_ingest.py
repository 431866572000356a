"""Ingest as a whole: from archives, folders and stores to manifest, blobs, quarantine list and counts."""

import csv
import hashlib
import http.server
import io
import json
import os
import tarfile
import threading
import zipfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from components.core.errors import InputError, NotFoundError
from components.core.manifest import SCHEMA, Manifest
from components.core.stores.open import open_store
from components.ingest.dataset import DataSet, Label, Record, formats
from components.ingest.images import CHUNK
from components.ingest.ingest import group_of, ingest
from components.ingest.quarantine import BAD, DUPLICATE

WIDTH, HEIGHT = 60, 40


def jpeg(number=0, size=(WIDTH, HEIGHT), **options):
    """A small image; each number gives other bytes."""
    buffer = io.BytesIO()
    Image.new("RGB", size, (200, 180, 40)).save(buffer, "JPEG", comment=f"image {number}", **options)
    return buffer.getvalue()


def xml(*boxes, size=(WIDTH, HEIGHT)):
    objects = "".join(
        f"<object><name>{name}</name><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax>"
        "</bndbox></object>"
        for name, x1, y1, x2, y2 in boxes
    )
    return f"<annotation><size><width>{size[0]}</width><height>{size[1]}</height></size>{objects}</annotation>".encode()


def voc(count, **more):
    """The files of a VOC data set: image n has one hat n pixels from the left."""
    files = {f"VOC/JPEGImages/{n:03d}.jpg": jpeg(n) for n in range(count)}
    files |= {f"VOC/Annotations/{n:03d}.xml": xml(("hat", n % 30, 5, n % 30 + 10, 20)) for n in range(count)}
    return files | {f"VOC/{folder}/{name}": data for (folder, name), data in more.get("also", {}).items()}


def as_folder(path, files):
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def as_zip(path, files):
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def as_tar(path, files):
    with tarfile.open(path, "w:gz") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


@pytest.fixture
def job(tmp_path):
    return tmp_path / "job"


def files_of(folder: Path):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def bring(tmp_path, job, files, **options):
    return ingest(str(as_folder(tmp_path / "data", files)), str(job), **options)


def by_source(ingested):
    return {row["source"].rpartition("/")[2]: row for row in ingested.manifest.rows()}


def listed(ingested, kind=BAD):
    return {q.source.rpartition("/")[2]: q.reason for q in ingested.quarantine if q.kind == kind}


# --- what comes in ---


@pytest.mark.parametrize("make", [as_folder, as_zip, as_tar])
def test_a_data_set_becomes_a_manifest_and_blobs(tmp_path, job, make):
    files = voc(5)
    ingested = ingest(str(make(tmp_path / "data.x", files)), str(job), round_number=3)
    assert ingested.format == "voc"
    assert ingested.manifest.classes == ("hat",)
    assert dict(ingested.manifest.table.schema) == SCHEMA
    assert ingested.manifest.table["source"].to_list() == [f"VOC/JPEGImages/{n:03d}.jpg" for n in range(5)]
    row = by_source(ingested)["003.jpg"]
    identity = hashlib.sha256(jpeg(3)).hexdigest()
    assert row == {
        "id": identity,
        "uri": f"file://{job}/blobs/{identity[:2]}/{identity}.jpg",
        "width": WIDTH,
        "height": HEIGHT,
        "split": "",
        "group": identity,
        "source": "VOC/JPEGImages/003.jpg",
        "round": 3,
        "annotations": [{"class_id": 0, "x1": 3, "y1": 5, "x2": 13, "y2": 20}],
        "mask": None,
        "unlabelled_classes": None,
    }
    assert {open_store(str(job)).read(f"blobs/{i[:2]}/{i}.jpg") for i in ingested.manifest.table["id"]} == {
        jpeg(n) for n in range(5)
    }
    assert len(files_of(job)) == 5, "nothing but blobs is left in the job"
    assert (ingested.quarantine, ingested.quarantine_uri) == ([], "")
    assert ingested.counts == {
        "found": 5, "images": 5, "duplicates": 0, "quarantined": 0, "negatives": 0, "without_label_file": 0,
        "unlabelled": 0, "boxes": 5, "ignored_boxes": 0, "masks": 0, "repeated_boxes": 0, "unlisted": 0, "warnings": 0,
    }  # fmt: skip


def test_the_same_input_gives_the_same_bytes(tmp_path, job):
    files = voc(2 * CHUNK + 3)
    folder = bring(tmp_path, job, files)
    archive = ingest(str(as_zip(tmp_path / "x.zip", dict(reversed(files.items())))), str(job))
    folder.manifest.write(tmp_path / "1.parquet")
    archive.manifest.write(tmp_path / "2.parquet")
    assert len(folder.manifest) == 2 * CHUNK + 3
    assert (tmp_path / "1.parquet").read_bytes() == (tmp_path / "2.parquet").read_bytes()
    assert Manifest.read(tmp_path / "1.parquet").table.equals(folder.manifest.table)


def test_a_folder_is_read_in_place_and_left_as_it_is(tmp_path, job):
    before = voc(3)
    bring(tmp_path, job, before)
    assert {name: (tmp_path / "data" / name).read_bytes() for name in files_of(tmp_path / "data")} == before


def test_a_file_address_and_a_data_path(tmp_path, job):
    folder = as_folder(tmp_path / "my data", {f"part/{name}": data for name, data in voc(2).items()} | {"x.txt": b"x"})
    assert len(ingest(f"file://{tmp_path}/my%20data", str(job), data_path="part/VOC").manifest) == 2
    assert len(ingest(str(as_zip(tmp_path / "a.zip", voc(2))), str(job), data_path="VOC").manifest) == 2
    with pytest.raises(NotFoundError, match="data_path 'nowhere'"):
        ingest(str(folder), str(job), data_path="nowhere")


def test_yolo_splits_and_roboflow_groups(tmp_path, job):
    rf = "site_jpg.rf.{}.jpg"
    names = [rf.format("0123456789abcdef0123456789abcdef"), rf.format("f" * 32)]
    files = {f"train/images/{name}": jpeg(number) for number, name in enumerate(names)}
    files |= {
        "valid/images/other.jpg": jpeg(9),
        "data.yaml": b"names: [hat, head]\ntrain: ../train/images\nval: ../valid/images",
        f"train/labels/{names[0][:-4]}.txt": b"1 0.5 0.5 0.5 0.5",
    }
    ingested = bring(tmp_path, job, files)
    rows = by_source(ingested)
    assert [rows[name]["group"] for name in names] == ["site_jpg", "site_jpg"]
    assert rows["other.jpg"]["group"] == rows["other.jpg"]["id"]
    assert [rows[name]["split"] for name in (*names, "other.jpg")] == ["train", "train", "val"]
    assert rows[names[0]]["annotations"] == [{"class_id": 1, "x1": 15, "y1": 10, "x2": 45, "y2": 30}]
    assert rows["other.jpg"]["annotations"] == []
    assert ingested.manifest.classes == ("hat", "head")
    assert (ingested.counts["negatives"], ingested.counts["without_label_file"]) == (2, 2)


def test_a_name_that_only_looks_like_roboflow_is_its_own_group():
    assert group_of("a/b.rf.x.jpg", "id") == "id"
    assert group_of("a/b.jpg", "id") == "id"


def test_sedna_index_file(tmp_path, job):
    folder = as_folder(
        tmp_path / "data",
        {"train.txt": b"i/a.jpg 1,2,30,40,1\n", "classes.txt": b"person\nhat", "i/a.jpg": jpeg(1), "i/b.jpg": jpeg(2)},
    )
    for ingested in (ingest(str(folder), str(job)), ingest(str(folder / "train.txt"), str(job))):
        assert ingested.format == "sedna"
        assert by_source(ingested)["a.jpg"]["annotations"] == [{"class_id": 1, "x1": 1, "y1": 2, "x2": 30, "y2": 40}]
        assert ingested.counts["unlisted"] == 1
    with pytest.raises(InputError, match="data_path must be empty"):
        ingest(str(folder / "train.txt"), str(job), data_path="i")


def test_coco_and_plain_images(tmp_path, job):
    index = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": WIDTH, "height": HEIGHT}, {"id": 2, "file_name": "b.jpg"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 5, "bbox": [1, 2, 3, 4]}],
        "categories": [{"id": 5, "name": "hat"}, {"id": 2, "name": "head"}],
    }
    images = {"a.jpg": jpeg(1), "b.jpg": jpeg(2)}
    ingested = bring(tmp_path, job, images | {"x.json": json.dumps(index).encode()})
    assert (ingested.format, ingested.manifest.classes) == ("coco", ("head", "hat"))
    assert by_source(ingested)["a.jpg"]["annotations"] == [{"class_id": 1, "x1": 1, "y1": 2, "x2": 4, "y2": 6}]
    assert by_source(ingested)["b.jpg"]["annotations"] == []
    plain = ingest(str(tmp_path / "data"), str(job), data_format="folder")
    assert plain.manifest.table["annotations"].to_list() == [None, None]
    assert (plain.manifest.classes, plain.counts["unlabelled"]) == ((), 2)


def test_a_format_of_a_plug_in(tmp_path, job):
    @formats.register("by-name")
    class ByName:
        @staticmethod
        def detect(folder):
            return "names.here" in folder

        @staticmethod
        def read(folder):
            label = Label("hat", (0, 0, 0.5, 1), normalised=True)
            return DataSet(("hat",), (Record(name, folder.path(name), (label,)) for name in folder.images))

    try:
        ingested = bring(tmp_path, job, {"a.jpg": jpeg(), "names.here": b""})
    finally:
        del formats._entries["by-name"]
    assert ingested.format == "by-name"
    assert by_source(ingested)["a.jpg"]["annotations"][0]["x2"] == WIDTH / 2


# --- classes ---


def people():
    files = {f"{name}.jpg": jpeg(name) for name in ("one", "two", "none")}
    files["one.xml"] = xml(("hat", 0, 0, 10, 10), ("person", 5, 5, 20, 20))
    files["two.xml"] = xml(("cap", 0, 0, 10, 10), ("dog", 5, 5, 20, 20))
    return files | {"none.xml": xml(("dog", 1, 1, 9, 9))}


def classes_of(ingested, image):
    return [ingested.manifest.classes[a["class_id"]] for a in by_source(ingested)[image]["annotations"]]


def test_classes_are_those_found_if_the_data_set_declares_none(tmp_path, job):
    assert bring(tmp_path, job, people()).manifest.classes == ("cap", "dog", "hat", "person")


def test_classes_are_renamed_joined_and_ordered(tmp_path, job):
    ingested = bring(tmp_path, job, people(), classes="person:head, hat:helmet, cap:helmet", ignore_classes="dog")
    assert ingested.manifest.classes == ("head", "helmet")
    assert classes_of(ingested, "one.jpg") == ["helmet", "head"]
    assert classes_of(ingested, "two.jpg") == ["helmet"]
    assert classes_of(ingested, "none.jpg") == []
    assert (ingested.counts["ignored_boxes"], ingested.counts["negatives"]) == (2, 1)


def test_all_other_classes_can_be_ignored(tmp_path, job):
    ingested = bring(tmp_path, job, people(), classes="hat", ignore_classes="*")
    assert (ingested.counts["boxes"], ingested.counts["ignored_boxes"], ingested.counts["quarantined"]) == (1, 4, 0)


def test_an_ignored_class_is_not_in_the_list(tmp_path, job):
    assert bring(tmp_path, job, people(), ignore_classes="dog,cap").manifest.classes == ("hat", "person")


def test_a_name_in_the_quarantine_list_is_no_formula(tmp_path, job):
    files = people() | {"=cmd|calc.jpg": b"no image"}
    ingested = bring(tmp_path, job, files, max_bad_fraction=1)
    assert listed(ingested)["=cmd|calc.jpg"].startswith("not an image")
    written = Path(ingested.quarantine_uri.removeprefix("file://")).read_text()
    assert "\nbad,./=cmd|calc.jpg," in written


def test_an_unknown_class_is_quarantined(tmp_path, job):
    ingested = bring(tmp_path, job, people(), classes="hat,person", max_bad_fraction=1)
    assert listed(ingested) == {"two.jpg": "unknown class: cap", "none.jpg": "unknown class: dog"}


def test_a_declared_class_list_makes_other_numbers_unknown(tmp_path, job):
    files = {
        "data.yaml": b"names: [hat]\ntrain: i",
        "i/a.jpg": jpeg(1),
        "i/a.txt": b"1 .5 .5 .1 .1",
        "i/b.jpg": jpeg(2),
    }
    ingested = bring(tmp_path, job, files, max_bad_fraction=1)
    assert listed(ingested) == {"a.jpg": "unknown class: number 1"}


def test_a_class_the_data_does_not_have_is_kept_and_told(tmp_path, job, caplog):
    ingested = bring(tmp_path, job, people(), classes="hat,vest", ignore_classes="*")
    assert ingested.manifest.classes == ("hat", "vest")
    assert "classes contains vest, which the data set does not have" in caplog.text


@pytest.mark.parametrize(
    ("classes", "ignore_classes", "message"),
    [
        ("hat", "hat", "in both classes and ignore_classes"),
        ("", "*", "classes is empty"),
        (":x", "", "not a name"),
        ("a:x,a:y", "", "given twice"),
    ],
)
def test_contradicting_classes_are_refused(tmp_path, job, classes, ignore_classes, message):
    with pytest.raises(InputError, match=message):
        bring(tmp_path, job, people(), classes=classes, ignore_classes=ignore_classes)


# --- what does not come in ---


def test_every_fault_has_its_line_and_the_rest_comes_in(tmp_path, job):
    turned = Image.Exif()
    turned[0x0112] = 6
    faults = {
        "truncated": (jpeg(101)[:-200], xml(), "truncated"),
        "text": (b"this is no image", xml(), "not an image"),
        "empty": (b"", xml(), "not an image"),
        "damaged": (b"\xff\xd8\xff\xe0" + bytes(99), xml(), "undecodable"),
        "outside": (jpeg(102), xml(("hat", 0, 0, WIDTH + 2, 5)), "box outside the image"),
        "inverted": (jpeg(103), xml(("hat", 9, 0, 3, 5)), "inverted or zero-area box"),
        "flat": (jpeg(104), xml(("hat", 3, 4, 9, 4)), "inverted or zero-area box"),
        "nan": (jpeg(105), xml(("hat", "nan", 4, 9, 9)), "NaN or infinite"),
        "infinite": (jpeg(106), xml(("hat", 1, 4, "1e999", 9)), "NaN or infinite"),
        "malformed": (jpeg(107), b"<annotation><object>", "annotation unreadable"),
        "entities": (
            jpeg(108),
            b'<!DOCTYPE a [<!ENTITY x "y">]><annotation/>',
            "XML with a document type or entities",
        ),
        "wrong-size": (jpeg(109), xml(size=(WIDTH, HEIGHT + 1)), "size contradicts the image"),
        "turned": (jpeg(110, exif=turned), xml(), "size contradicts the image"),
    }
    good = {
        "no-size": (jpeg(120), xml(("hat", 1, 1, 5, 5), size=(0, 0))),
        "a-pixel-out": (jpeg(121), xml(("hat", -1, 0, WIDTH + 1, HEIGHT))),
        "upright": (jpeg(122, exif=turned), xml(size=(HEIGHT, WIDTH))),
        "negative": (jpeg(123), xml()),
    }
    files = {f"VOC/JPEGImages/{name}.jpg": data for name, (data, *_) in (faults | good).items()}
    files |= {f"VOC/Annotations/{name}.xml": label for name, (_, label, *_) in (faults | good).items()}
    files |= {"VOC/Annotations/alone.xml": xml(), "VOC/JPEGImages/unlabelled.jpg": jpeg(124)}
    files |= {
        "VOC/JPEGImages/two.jpg": jpeg(125),
        "VOC/JPEGImages/two.png": jpeg(126),
        "VOC/Annotations/two.xml": xml(),
    }
    ingested = bring(tmp_path, job, files, max_bad_fraction=0.9)
    assert {source.partition(".")[0]: reason.partition(":")[0] for source, reason in listed(ingested).items()} == {
        name: fault for name, (*_, fault) in faults.items()
    } | {"alone": "label without image", "two": "ambiguous"}
    assert by_source(ingested).keys() == {f"{name}.jpg" for name in [*good, "unlabelled"]}
    assert by_source(ingested)["unlabelled.jpg"]["annotations"] is None
    assert by_source(ingested)["a-pixel-out.jpg"]["annotations"][0] | {"class_id": 0} == {
        "class_id": 0, "x1": 0, "y1": 0, "x2": WIDTH, "y2": HEIGHT,
    }  # fmt: skip
    counts = ingested.counts
    assert (counts["found"], counts["quarantined"]) == (len(faults) + len(good) + 4, len(faults) + 3)
    assert (counts["images"], counts["negatives"], counts["unlabelled"]) == (5, 2, 1)
    assert [entry.source for entry in ingested.quarantine] == sorted(entry.source for entry in ingested.quarantine)
    assert all(len(entry.reason.splitlines()) == 1 for entry in ingested.quarantine)
    stored = list(csv.reader(io.StringIO(Path(ingested.quarantine_uri.removeprefix("file://")).read_text())))
    assert stored == [["kind", "source", "reason"]] + [[q.kind, q.source, q.reason] for q in ingested.quarantine]
    assert len(list((job / "blobs").rglob("*.jpg"))) == 5, "what is quarantined is not stored"


def test_the_suffix_is_that_of_the_content(tmp_path, job):
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((10, 10), np.uint8)).save(buffer, "PNG")
    ingested = bring(tmp_path, job, {"a.jpg": buffer.getvalue()})
    assert by_source(ingested)["a.jpg"]["uri"].endswith(".png")


def test_names_that_are_no_text_come_in(tmp_path, job):
    folder = as_folder(tmp_path / "data", {"good.jpg": jpeg(0), "größe 图.jpg": jpeg(1)})
    (folder / os.fsdecode(b"bad\xff\nname.jpg")).write_bytes(jpeg(2))
    (folder / os.fsdecode(b"broken\xfe.jpg")).write_bytes(b"x")
    ingested = ingest(str(folder), str(job), max_bad_fraction=0.5)
    assert ingested.manifest.table["source"].to_list() == ["bad\\udcff\\nname.jpg", "good.jpg", "größe 图.jpg"]
    assert list(listed(ingested)) == ["broken\\udcfe.jpg"]
    ingested.manifest.write(tmp_path / "m.parquet")
    assert pl.read_parquet(tmp_path / "m.parquet").height == 3


def test_duplicates_count_once_and_a_labelled_copy_goes_before_one_without_label(tmp_path, job):
    files = {"a.jpg": jpeg(1), "b.jpg": jpeg(1), "c.jpg": jpeg(1), "d.jpg": jpeg(2)}
    files |= {f"{name}.xml": xml(("hat", 1, 1, 5, 5)) for name in "bcd"}
    ingested = bring(tmp_path, job, files, max_bad_fraction=0)
    assert by_source(ingested).keys() == {"b.jpg", "d.jpg"}
    assert ingested.counts["boxes"] == 2
    assert listed(ingested, DUPLICATE) == {"a.jpg": "same image as b.jpg", "c.jpg": "same image as b.jpg"}
    assert (ingested.counts["duplicates"], ingested.counts["quarantined"], ingested.counts["found"]) == (2, 0, 4)
    assert ingested.quarantine_uri


def test_copies_with_different_labels_are_ambiguous_and_none_comes_in(tmp_path, job):
    files = {"a.jpg": jpeg(1), "b.jpg": jpeg(1), "c.jpg": jpeg(1), "d.jpg": jpeg(2), "d.xml": xml()}
    files |= {"a.xml": xml(("hat", 1, 1, 5, 5)), "b.xml": xml(("hat", 1, 1, 5, 6))}
    ingested = bring(tmp_path, job, files, max_bad_fraction=0.8)
    assert by_source(ingested).keys() == {"d.jpg"}
    reason = "ambiguous: the same image with different labels: a.jpg, b.jpg"
    assert listed(ingested) == {"a.jpg": reason, "b.jpg": reason, "c.jpg": reason}


def test_a_yolo_image_without_a_label_file_does_not_empty_its_labelled_copy(tmp_path, job):
    files = {"a/raw.jpg": jpeg(1), "b/x.jpg": jpeg(1), "b/x.txt": b"0 0.5 0.5 0.2 0.2", "classes.txt": b"hat"}
    ingested = bring(tmp_path, job, files)
    assert by_source(ingested).keys() == {"x.jpg"} and ingested.counts["boxes"] == 1


def test_a_bad_copy_does_not_hide_a_good_one(tmp_path, job):
    files = {"a.jpg": jpeg(1), "a.xml": b"broken", "b.jpg": jpeg(1), "b.xml": xml(("hat", 1, 1, 5, 5))}
    ingested = bring(tmp_path, job, files, max_bad_fraction=0.5)
    assert by_source(ingested).keys() == {"b.jpg"} and listed(ingested).keys() == {"a.jpg"}


def test_too_many_bad_files_stop_it_with_the_reasons_and_the_list(tmp_path, job):
    files = voc(8) | {f"VOC/JPEGImages/bad{n}.jpg": b"no" for n in range(3)} | {"VOC/Annotations/alone.xml": xml()}
    with pytest.raises(InputError) as caught:
        bring(tmp_path, job, files, max_bad_fraction=0.3)
    message = str(caught.value)
    assert message.startswith("4 of 12 files are bad, max_bad_fraction allows 0.3: ")
    assert "not an image (3), label without image (1)" in message
    (stored,) = (job / "quarantine").glob("*.csv")
    assert str(stored) in message and len(stored.read_text().splitlines()) == 5
    assert ingest(str(tmp_path / "data"), str(job), max_bad_fraction=4 / 12).counts["quarantined"] == 4


def test_no_usable_image_is_always_an_error(tmp_path, job):
    with pytest.raises(InputError, match="no usable image, 1 of 1 files are bad: not an image"):
        bring(tmp_path, job, {"a.jpg": b"no"}, max_bad_fraction=1)
    empty = as_folder(tmp_path / "empty", {"data.json": b'{"images": [], "annotations": [], "categories": []}'})
    with pytest.raises(InputError, match="no images in the data"):
        ingest(str(empty), str(job))


# --- what cannot be read at all ---


@pytest.mark.parametrize("make", [as_zip, as_tar])
def test_nothing_is_left_of_an_archive_that_fails(tmp_path, job, make):
    path = make(tmp_path / "x", voc(20))
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(InputError, match="truncated, damaged or encrypted"):
        ingest(str(path), str(job))
    assert list(job.iterdir()) == []


def test_nothing_is_left_of_an_archive_of_no_known_format(tmp_path, job):
    with pytest.raises(InputError, match="unknown data format"):
        ingest(str(as_zip(tmp_path / "x.zip", {"a.csv": b"1"})), str(job))
    assert list(job.iterdir()) == []


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        ({"max_files": 9}, "raise max_files"),
        ({"max_unpacked_gb": 1e-6}, "raise max_unpacked_gb"),
        ({"max_compression_ratio": 0.5}, "raise max_compression_ratio"),
    ],
)
def test_limits_hold_for_the_whole_archive(tmp_path, job, limit, message):
    with pytest.raises(InputError, match=message):
        ingest(str(as_zip(tmp_path / "x.zip", voc(5))), str(job), **limit)


def test_what_is_not_there_is_named(tmp_path, job):
    with pytest.raises(NotFoundError, match="nowhere.zip: no such file or folder"):
        ingest(str(tmp_path / "nowhere.zip"), str(job))
    with pytest.raises(InputError, match="ftp"):
        ingest("ftp://host/a.zip", str(job))
    with pytest.raises(InputError, match="unknown format 'tfrecord': choose from cityscapes, coco, csv, .*voc, yolo"):
        ingest(str(tmp_path), str(job), data_format="tfrecord")


# --- over the network ---


@pytest.fixture
def web(tmp_path):
    """A web server for the folder, which is returned with its address."""
    (tmp_path / "web").mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *parts):
            super().__init__(*parts, directory=str(tmp_path / "web"))

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield tmp_path / "web", f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_an_archive_from_the_web_and_no_secret_in_a_message(web, job, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    folder, address = web
    as_zip(folder / "a.zip", voc(3))
    (folder / "page").write_text("<html>please log in</html>")
    assert len(ingest(f"{address}/a.zip?token=hush", str(job)).manifest) == 3
    with pytest.raises(InputError, match="page.*not a zip or tar archive") as caught:
        ingest(f"{address.replace('//', '//user:hush@')}/page?token=hush", str(job))
    assert "hush" not in str(caught.value)
    assert {path.name for path in job.iterdir()} == {"blobs"}


def test_archive_prefix_and_index_in_s3_into_s3(tmp_path, s3):
    store = open_store(s3)
    store.upload(as_zip(tmp_path / "a.zip", voc(3)), "in/a.zip")
    for name, data in voc(3).items():
        store.write(f"prefix/{name}", data)
    store.write("index/train.txt", b"i/a.jpg 1,2,30,40,0")
    store.write("index/i/a.jpg", jpeg(7))
    archive, prefix = ingest(f"{s3}/in/a.zip", f"{s3}/job"), ingest(f"{s3}/prefix", f"{s3}/job")
    assert archive.manifest.table.equals(prefix.manifest.table) and len(prefix.manifest) == 3
    store.write("prefix/back\\slash.jpg", jpeg(8))
    with_odd_name = ingest(f"{s3}/prefix", f"{s3}/job", max_bad_fraction=0.5)
    assert listed(with_odd_name)["back\\slash.jpg"].startswith("name unusable")
    assert ingest(f"{s3}/index/train.txt", f"{s3}/job").format == "sedna"
    for row in archive.manifest.rows():
        assert row["uri"] == f"{s3}/job/blobs/{row['id'][:2]}/{row['id']}.jpg"
        assert hashlib.sha256(store.read(row["uri"].removeprefix(f"{s3}/"))).hexdigest() == row["id"]
    with pytest.raises(NotFoundError, match="no such object or prefix"):
        ingest(f"{s3}/nowhere", f"{s3}/job")
    with pytest.raises(InputError, match="raise max_files"):
        ingest(f"{s3}/prefix", f"{s3}/job", max_files=5)
