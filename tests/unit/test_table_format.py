"""What the readers of CSV and JSON Lines make of a data set. No reader opens an image, so most images are empty."""

import json
import logging
from pathlib import PureWindowsPath

import cv2
import numpy as np
import pytest

from components.core.errors import InputError
from components.ingest.dataset import Folder, Label, formats
from components.ingest.formats import table  # noqa: F401 (registers them)
from components.ingest.ingest import ingest

HEADER = "filename,xmin,ymin,xmax,ymax,class"
HAT, HEAD = Label("hat", (1, 2, 30.5, 40)), Label("head", (5, 6, 7, 8))


@pytest.fixture
def data(tmp_path):
    """A function that fills a folder and scans it: paths with their text; images with none."""

    def fill(files, data_path=""):
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return Folder.scan(tmp_path, data_path)

    return fill


def read(folder, name):
    found = formats.get(name).read(folder)
    records = list(found.records)
    assert found.classes is None and len({record.source for record in records}) == len(records)
    return {record.source: record for record in records}


def reasons(records):
    return {source: record.reason for source, record in records.items() if record.reason}


def csv_of(*lines, header=HEADER):
    return "\n".join((header, *lines)) + "\n"


def jsonl_of(*items):
    return "".join((item if isinstance(item, str) else json.dumps(item)) + "\n" for item in items)


def detected(folder):
    return {name for name in ("csv", "jsonl") if formats.get(name).detect(folder)}


# --- CSV ---


def test_csv(data):
    lines = [
        "images/a.jpg,1,2,30.5,40,hat",
        "images/a.jpg,5,6,7,8,head",
        "b c.png,,,,,",
        " images/d.jpg , 1,2,3,4, hat ",
    ]
    folder = data({"labels.csv": csv_of(*lines)} | dict.fromkeys(("images/a.jpg", "b c.png", "images/d.jpg"), ""))
    records = read(folder, "csv")
    assert detected(folder) == {"csv"}
    assert records["images/a.jpg"].labels == (HAT, HEAD)
    assert records["images/a.jpg"].path == folder.path("images/a.jpg")
    assert (records["b c.png"].labels, records["b c.png"].label_file) == ((), "labels.csv")
    assert records["images/d.jpg"].labels == (Label("hat", (1, 2, 3, 4)),)
    assert not reasons(records) and len(records) == 3


@pytest.mark.parametrize(
    "header",
    [
        "image,x1,y1,x2,y2,label",
        "Path,XMin,YMin,XMax,YMax,Name",
        "file_name, x_min, y_min, x_max, y_max, category",
        '"filename","xmin","ymin","xmax","ymax","class"',
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_csv_in_common_spellings_and_encodings(data, header, encoding, end):
    text = csv_of('"ä, b.jpg",1,2,30.5,40,hat', header=header).replace("\n", end).encode(encoding)
    folder = data({"labels.csv": text, "ä, b.jpg": ""})
    assert detected(folder) == {"csv"}
    assert read(folder, "csv")["ä, b.jpg"].labels == (HAT,)


def test_csv_columns_in_another_order_with_the_size(data, caplog):
    header = "class,height,width,ymax,xmax,ymin,xmin,depth,filename"
    folder = data({"x.csv": csv_of("hat,480,640,40,30.5,2,1,3,a.jpg", header=header), "a.jpg": ""})
    with caplog.at_level(logging.WARNING):
        record = read(folder, "csv")["a.jpg"]
    assert (record.labels, record.size) == ((HAT,), (640, 480))
    assert caplog.messages == ["x.csv: ignoring the columns depth"]


def test_csv_tables_of_splits_beside_their_images(data):
    files = {f"{split}/_annotations.csv": csv_of("a.jpg,1,2,30.5,40,hat") for split in ("train", "valid")}
    records = read(data(files | {"train/a.jpg": "", "valid/a.jpg": ""}), "csv")
    assert {source: record.split for source, record in records.items()} == {
        "train/a.jpg": "train",
        "valid/a.jpg": "val",
    }


def test_csv_lines_of_one_image_count_together_by_whatever_name(data):
    line = "a.jpg,1,2,30.5,40,hat"
    record = read(data({"x.csv": csv_of(line, "a.jpg,5,6,7,8,head", "./a.jpg,1,2,30.5,40,hat"), "a.jpg": ""}), "csv")
    assert record["a.jpg"].labels == (HAT, HEAD, HAT)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("a.jpg,1,2,30,40", "annotation unreadable: x.csv line 4 has 5 columns, the first line 6"),
        ("a.jpg,1,2,30,40,hat,", "annotation unreadable: x.csv line 4 has 7 columns, the first line 6"),
        ('a.jpg,"1,2,30,40,hat', "annotation unreadable: x.csv line 4 has 2 columns, the first line 6"),
        (
            "a.jpg,1,2,wide,40,hat",
            "annotation unreadable: x.csv line 4: not four numbers x1, y1, x2, y2: 'hat' 1,2,wide",
        ),
        ('a.jpg,"1,5",2,30,40,hat', "annotation unreadable: x.csv line 4: not four numbers"),
        ("a.jpg,1,,30,40,hat", "annotation unreadable: x.csv line 4: not four numbers"),
        ("a.jpg,,,,,hat", "annotation unreadable: x.csv line 4: not four numbers"),
        ("a.jpg,1,2,30,40,", "annotation unreadable: x.csv line 4: a box without a class"),
        ("a.jpg,1,nan,30,40,hat", "NaN or infinite: x.csv line 4: 'hat' 1,nan,30,40"),
        ("a.jpg,1,2,inf,40,hat", "NaN or infinite: x.csv line 4"),
        ("a.jpg,30,2,1,40,hat", "inverted or zero-area box: x.csv line 4: 'hat' 30,2,1,40"),
        ("a.jpg,1,2,1,40,hat", "inverted or zero-area box: x.csv line 4"),
        ("a.jpg,,,,,", "ambiguous: x.csv lines 2, 4 have boxes but are also marked as empty"),
    ],
)
def test_csv_a_bad_line_keeps_its_image_out_and_nothing_else(data, line, reason):
    text = csv_of("a.jpg,1,2,30.5,40,hat", "", line, "b.jpg,1,2,30.5,40,hat")
    records = read(data({"x.csv": text, "a.jpg": "", "b.jpg": ""}), "csv")
    assert list(reasons(records)) == ["a.jpg"] and records["a.jpg"].reason.startswith(reason)
    assert records["b.jpg"].labels == (HAT,)


@pytest.mark.parametrize("name", ["gone.jpg", "../b.jpg", "/etc/passwd", "C:\\images\\gone.jpg"])
def test_csv_images_that_are_not_there(data, name):
    records = read(data({"x.csv": csv_of(f"{name},1,2,3,4,hat"), "a.jpg": ""}), "csv")
    reason = f"label without image: x.csv lists it; no image is called {PureWindowsPath(name).name}, line 2"
    assert reasons(records) == {name: reason}


def test_csv_lines_without_a_image(data):
    records = read(data({"x.csv": csv_of(",1,2,3,4,hat", ",,,,,", "a.jpg,1,2,3,4,hat"), "a.jpg": ""}), "csv")
    assert reasons(records) == {"x.csv#2": "annotation unreadable: x.csv line 2 names no image"}


def test_csv_names_that_could_mean_several_images(data):
    images = dict.fromkeys(("x/same.jpg", "y/same.jpg", "x/deep/one.jpg"), "")
    lines = ("same.jpg,1,2,3,4,hat", "y\\same.jpg,1,2,3,4,hat", "deep/one.jpg,1,2,3,4,hat")
    records = read(data({"x.csv": csv_of(*lines)} | images), "csv")
    assert reasons(records) == {"same.jpg": "ambiguous: 2 images fit: x/same.jpg, y/same.jpg, line 2"}
    assert records["y/same.jpg"].labels and records["x/deep/one.jpg"].labels


def test_csv_a_image_in_two_tables(data):
    tables = {name: csv_of("a.jpg,1,2,30.5,40,hat") for name in ("x.csv", "y.csv")}
    found = list(formats.get("csv").read(data(tables | {"a.jpg": ""})).records)
    assert [record.reason for record in found] == ["", "ambiguous: both x.csv and y.csv label it"]


def test_csv_contradicting_sizes(data):
    header = HEADER + ",width,height"
    text = csv_of("a.jpg,1,2,3,4,hat,640,480", "a.jpg,5,6,7,8,hat,480,640", header=header)
    records = read(data({"x.csv": text, "a.jpg": ""}), "csv")
    assert reasons(records) == {"a.jpg": "ambiguous: x.csv lines 2, 3 give the image different sizes"}


@pytest.mark.parametrize(("separator", "name"), [(";", "a semicolon"), ("\t", "a tab"), ("|", "a bar")])
def test_csv_with_another_separator_is_told_and_refused(data, separator, name):
    folder = data({"x.csv": csv_of("a.jpg,1,2,3,4,hat").replace(",", separator), "a.jpg": ""})
    assert detected(folder) == {"csv"}
    with pytest.raises(InputError, match=f"x.csv: columns are separated by {name}: use commas"):
        read(folder, "csv")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "x.csv: the first line must name the columns; missing: image.filename.*; it has: ''"),
        ("a.jpg,1,2,3,4,hat\n", "x.csv: the first line must name the columns"),
        ("filename,xmin,ymin,xmax,class\n", "missing: y2.ymax.y_max; it has: 'filename,xmin,ymin,xmax,class'"),
        ("filename,path,x1,y1,x2,y2,class\n", "x.csv: the columns 'filename' and 'path' both give the image"),
        ("x" * 200_000, "CSV: x.csv: the first line cannot be read: field larger than field limit"),
        (csv_of("ä.jpg,1,2,3,4,hat").encode("latin-1"), "x.csv: not UTF-8 text: save it as UTF-8"),
    ],
)
def test_csv_that_cannot_be_read_at_all(data, text, message):
    with pytest.raises(InputError, match=message):
        read(data({"x.csv": text, "a.jpg": ""}), "csv")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "kind,source,reason\nbad,a.jpg,cut short\n",
        "filename,class\na.jpg,hat\n",
        "a.jpg,1,2,3,4,hat\n",
        b"\xff\x00",
    ],
)
def test_other_tables_are_not_taken_for_boxes(data, text):
    assert detected(data({"x.csv": text, "x.jsonl": text, "a.jpg": ""})) == set()


def test_a_table_that_is_named_is_the_only_one(data):
    files = {"x.csv": csv_of("a.jpg,1,2,30.5,40,hat"), "y.csv": csv_of("a.jpg,5,6,7,8,head"), "a.jpg": ""}
    assert read(data(files, "y.csv"), "csv")["a.jpg"].labels == (HEAD,)
    with pytest.raises(InputError, match="no JSON Lines table of boxes in the data: found a.jpg, x.csv, y.csv"):
        read(data(files), "jsonl")


# --- JSON Lines ---


def test_json_lines(data):
    boxes = {"boxes": [[1, 2, 30.5, 40], [5, 6, 7, 8]]}
    items = [
        {"image": "images/a.jpg", **boxes, "labels": ["hat", "head"], "width": 640, "height": 480},
        {"file_name": "b.jpg", **boxes, "classes": ["hat", "head"]},
        {"path": "c.jpg", "objects": [{"x1": 1, "y1": 2, "x2": 30.5, "y2": 40, "class": "hat"}]},
        {"image": "d.jpg", "objects": [{"xmin": 5, "ymin": 6, "xmax": 7, "ymax": 8, "label": 3}]},
        {"image": "negative.jpg", "boxes": []},
        {"image": "unlabelled.jpg"},
    ]
    names = ("images/a.jpg", "b.jpg", "c.jpg", "d.jpg", "negative.jpg", "unlabelled.jpg", "unlisted.jpg")
    folder = data({"x.jsonl": "\ufeff" + jsonl_of(*items).replace("\n", "\r\n")} | dict.fromkeys(names, ""))
    records = read(folder, "jsonl")
    assert detected(folder) == {"jsonl"}
    assert records["images/a.jpg"].labels == records["b.jpg"].labels == (HAT, HEAD)
    assert records["images/a.jpg"].size == (640, 480)
    assert records["c.jpg"].labels == (HAT,)
    assert records["d.jpg"].labels == (Label("3", (5, 6, 7, 8)),)
    assert (records["negative.jpg"].labels, records["negative.jpg"].label_file) == ((), "x.jsonl")
    assert (records["unlabelled.jpg"].labels, records["unlabelled.jpg"].label_file) == (None, "")
    assert not reasons(records) and len(records) == 6


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        ('{"image": "a.jpg", "boxes": [', "annotation unreadable: x.jsonl line 2 is not valid JSON"),
        ("[1]", "annotation unreadable: x.jsonl line 2: 1 is not an object"),
        ({"boxes": []}, "annotation unreadable: x.jsonl line 2 names no image"),
        ({"image": 3, "boxes": []}, "annotation unreadable: x.jsonl line 2 names no image"),
        ({"image": "a.jpg", "path": "b.jpg"}, "ambiguous: x.jsonl line 2 gives the image twice, once as 'path'"),
        ({"image": "a.jpg", "boxes": [[1, 2, 3, 4]]}, "annotation unreadable: x.jsonl line 2 has 1 boxes and 0 labels"),
        (
            {"image": "a.jpg", "boxes": {}, "labels": []},
            "annotation unreadable: x.jsonl line 2: boxes is not a list: {}",
        ),
        (
            {"image": "a.jpg", "boxes": [[1, 2, 3]], "labels": ["hat"]},
            "annotation unreadable: x.jsonl line 2: not four",
        ),
        (
            {"image": "a.jpg", "boxes": ["1234"], "labels": ["hat"]},
            "annotation unreadable: x.jsonl line 2: a box is not a list",
        ),
        ({"image": "a.jpg", "boxes": [None], "labels": ["hat"]}, "annotation unreadable: x.jsonl line 2: a box is no"),
        (
            {"image": "a.jpg", "boxes": [[1, 2, 3, True]], "labels": ["hat"]},
            "annotation unreadable: x.jsonl line 2: not",
        ),
        ({"image": "a.jpg", "boxes": [[1, 2, 3, 4]], "labels": [None]}, "annotation unreadable: x.jsonl line 2: a box"),
        ({"image": "a.jpg", "boxes": [[1, 2, 3, float("nan")]], "labels": ["x"]}, "NaN or infinite: x.jsonl line 2"),
        ({"image": "a.jpg", "boxes": [], "objects": []}, "ambiguous: x.jsonl line 2 has boxes and objects"),
        (
            {"image": "a.jpg", "objects": [{"bbox": [1, 2, 3, 4], "class": "x"}]},
            "ambiguous: x.jsonl line 2: bbox may be",
        ),
        ({"image": "a.jpg", "objects": [7]}, "annotation unreadable: x.jsonl line 2: 7 is not an object"),
        ({"image": "a.jpg", "bboxes": [[1, 2, 3, 4]]}, "annotation unreadable: x.jsonl line 2 has bboxes, but neither"),
        ({"image": "a.jpg", "x1": 1, "label": "hat"}, "annotation unreadable: x.jsonl line 2 has x1, but neither"),
        ({"image": "b.jpg", "boxes": []}, "ambiguous: x.jsonl lines 1, 2 label it differently"),
        (
            {"image": "gone.jpg", "boxes": []},
            "label without image: x.jsonl lists it; no image is called gone.jpg, line 2",
        ),
    ],
)
def test_json_lines_with_a_fault(data, item, reason):
    good = {"image": "b.jpg", "boxes": [[1, 2, 30.5, 40]], "labels": ["hat"]}
    records = read(data({"x.jsonl": jsonl_of(good, item), "a.jpg": "", "b.jpg": ""}), "jsonl")
    (found,) = reasons(records).values()
    assert found.startswith(reason)


def test_json_lines_that_are_there_twice_count_once(data):
    item = {"image": "a.jpg", "boxes": [[1, 2, 30.5, 40]], "labels": ["hat"]}
    record = read(data({"x.jsonl": jsonl_of(item, item), "a.jpg": ""}), "jsonl")["a.jpg"]
    assert (record.labels, record.reason) == ((HAT,), "")


# --- all the way ---


@pytest.mark.parametrize("name", ["csv", "jsonl"])
def test_tables_are_taken_in_and_every_fault_is_listed(data, tmp_path, name):
    content = cv2.imencode(".png", np.arange(64 * 48, dtype=np.uint16).view(np.uint8).reshape(64, 96))[1].tobytes()
    boxes = {"good.png": (10, 20, 90, 60), "outside.png": (10, 20, 120, 60), "nan.png": (10, float("nan"), 90, 60)}
    text = {
        "csv": csv_of(*(f"{name},{','.join(map(str, box))},hat" for name, box in boxes.items())),
        "jsonl": jsonl_of(*({"image": name, "boxes": [box], "labels": ["hat"]} for name, box in boxes.items())),
    }[name]
    images = {name: content + bytes(place) for place, name in enumerate((*boxes, "unlisted.png"))}
    data({f"data/{path}": content for path, content in (images | {f"labels.{name}": text}).items()})
    done = ingest(str(tmp_path / "data"), str(tmp_path / "job"), data_format=name, max_bad_fraction=1)
    assert [row["source"] for row in done.manifest.rows()] == ["good.png"]
    assert done.manifest.truths()[0].boxes.tolist() == [[10, 20, 90, 60]] and done.manifest.classes == ("hat",)
    assert {entry.source: entry.reason.partition(":")[0] for entry in done.quarantine} == {
        "outside.png": "box outside the image",
        "nan.png": "NaN or infinite",
        "unlisted.png": "not listed",
    }
    assert done.counts["unlisted"] == 1
