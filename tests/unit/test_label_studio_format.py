"""What the reader of Label Studio's exports makes of them. No reader opens an image, so images here are empty."""

import json
import logging

import pytest

from components.core.errors import InputError
from components.ingest.dataset import Folder, Label, formats
from components.ingest.formats import label_studio  # noqa: F401 (registers it)

SHA = "00a14a34e67c6a6787b2d3306a46cce5e2319eb29268ed91fba80152524c01e6"
OTHER = SHA[::-1]
LOCAL = "/data/local-files/?d=labelling/r0003.label-studio/images/"


@pytest.fixture
def data(tmp_path):
    """A function that fills a folder and scans it: paths with their content; images with none."""

    def fill(files, data_path=""):
        for name, content in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content if isinstance(content, str) else json.dumps(content))
        return Folder.scan(tmp_path, data_path)

    return fill


def read(folder):
    records = list(formats.get("label-studio").read(folder).records)
    assert len({record.source for record in records}) == len(records)
    return {record.source: record for record in records}


def reasons(records):
    return {source: record.reason for source, record in records.items() if record.reason}


def box(name="hat", x=10, y=20, width=30, height=40, *, rotation=0, kind="rectanglelabels", **more):
    value = {"x": x, "y": y, "width": width, "height": height, "rotation": rotation, "rectanglelabels": [name]}
    return {
        "id": "Dx_aB1",
        "type": kind,
        "from_name": "label",
        "to_name": "image",
        "original_width": 640,
        "original_height": 480,
        "image_rotation": 0,
        "value": value,
    } | more


def annotation(*results, at="2026-11-20T14:18:22.730769Z", **more):
    return {"result": results, "was_cancelled": False, "ground_truth": False, "updated_at": at} | more


def task(image, *annotations, number=7, **more):
    return {"id": number, "annotations": annotations, "predictions": [], "data": {"image": image}} | more


def test_an_export(data):
    folder = data(
        {
            "project-1.json": [
                task(f"{LOCAL}{SHA}.jpg", annotation(box("head", x=50), box())),
                task("s3://bucket/job/negative.jpg", annotation()),
                task("http://host/skipped.jpg?token=x", annotation(box(), was_cancelled=True)),
                task("nobody.jpg", predictions=[{"result": [box()], "model_version": "r0003"}]),
            ]
        }
        | dict.fromkeys((f"images/{SHA}.jpg", "negative.jpg", "skipped.jpg", "nobody.jpg", "unlisted.jpg"), "")
    )
    assert formats.get("label-studio").detect(folder)
    records = read(folder)
    found = records[f"images/{SHA}.jpg"]
    assert [label.name for label in found.labels] == ["hat", "head"]
    assert found.labels[0] == Label("hat", pytest.approx((0.1, 0.2, 0.4, 0.6)), normalised=True)
    assert (found.size, found.path, found.label_file) == ((640, 480), folder.path(found.source), "project-1.json")
    assert (records["negative.jpg"].labels, records["negative.jpg"].label_file) == ((), "project-1.json")
    assert (records["skipped.jpg"].labels, records["skipped.jpg"].label_file) == (None, "")
    assert records["nobody.jpg"].labels is None
    assert not reasons(records) and len(records) == 4


@pytest.mark.parametrize(
    "text",
    [
        '{"images": [], "annotations": [], "categories": []}',
        '[{"image": "a.jpg", "label": [], "id": 1}]',
        "[1, 2]",
        '{"data": {"image": "a.jpg"}}',
        "[]",
        "",
    ],
)
def test_other_json_is_no_export(data, text):
    folder = data({"x.json": text, "a.jpg": ""})
    assert not formats.get("label-studio").detect(folder)
    with pytest.raises(InputError, match="no export of Label Studio in the data .*: export as JSON, not JSON-MIN"):
        read(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"data": ', "x.json cannot be read"),
        ('[{"data": "a.jpg"}]', "x.json has no task with 'data'"),
    ],
)
def test_exports_that_cannot_be_read_at_all(data, text, message):
    with pytest.raises(InputError, match=message):
        read(data({"x.json": text}))


@pytest.mark.parametrize(
    "address",
    [
        f"{LOCAL}{SHA}.jpg",
        f"/data/upload/3/331421fd-{SHA}.jpg",
        f"s3://bucket/job/blobs/00/{SHA}.jpg",
        f"https://host:8080/a/{SHA}.jpg?X-Amz-Signature=00",
        f"elsewhere/331421fd__{SHA}.png",
    ],
)
@pytest.mark.parametrize("image", [f"images/{SHA}.jpg", f"x/081af399__{SHA}.jpg"])
def test_images_are_found_by_their_content_whatever_the_tool_calls_them(data, address, image):
    records = read(data({"x.json": [task(address, annotation(box()))], image: "", f"{OTHER}.jpg": ""}))
    assert list(records) == [image] and len(records[image].labels) == 1


@pytest.mark.parametrize(
    ("address", "image"),
    [
        ("/data/upload/3/331421fd-a%20b.jpg", "a b.jpg"),
        ("/data/upload/3/331421fd-a.jpg", "331421fd-a.jpg"),
        ("s3://bucket/north/a.jpg", "sites/north/a.jpg"),
        ("/data/local-files/?d=south%2Fa.jpg", "sites/south/a.jpg"),
        ("/label-studio/data/local-files/?d=south%2Fa.jpg", "sites/south/a.jpg"),
        ("C:\\data\\south\\a.jpg", "sites/south/a.jpg"),
        ("more/a#1 50%20.jpg", "a#1 50%20.jpg"),
    ],
)
def test_other_images_are_found_by_their_file_name(data, address, image):
    names = dict.fromkeys(("a b.jpg", "a#1 50%20.jpg", "331421fd-a.jpg", "sites/north/a.jpg", "sites/south/a.jpg"), "")
    assert list(read(data({"x.json": [task(address, annotation(box()))]} | names))) == [image]


@pytest.mark.parametrize(
    ("address", "source", "reason"),
    [
        (f"{LOCAL}{OTHER}.jpg", f"labelling/r0003.label-studio/images/{OTHER}.jpg", "label without image: x.json"),
        ("gone.jpg", "gone.jpg", "label without image: x.json task 7 labels"),
        ("../../etc/passwd", "../../etc/passwd", "label without image: x.json task 7 labels"),
        ("s3://b/west/a.jpg", "/west/a.jpg", "ambiguous: 2 images fit: north/a.jpg, south/a.jpg"),
    ],
)
def test_images_that_are_not_there_or_not_one(data, address, source, reason):
    names = dict.fromkeys((f"{SHA}.jpg", "north/a.jpg", "south/a.jpg"), "")
    records = read(data({"x.json": [task(address, annotation(box()))]} | names))
    assert list(records) == [source] and records[source].reason.startswith(reason)


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        (box(rotation=30), "turned box: x.json task 7: hat is rotated by 30 degrees: draw it upright"),
        (box(image_rotation=90), "turned image: x.json task 7: labelled when rotated by 90 degrees"),
        (box(x=float("nan")), "NaN or infinite: x.json task 7: hat"),
        (box(x="left"), "annotation unreadable: x.json task 7: not a box in percent with one label"),
        (
            box() | {"value": {"x": 1, "y": 1, "width": 2, "height": 2}},
            "annotation unreadable: x.json task 7: not a box",
        ),
        (
            box() | {"value": box()["value"] | {"rectanglelabels": ["hat", "head"]}},
            "annotation unreadable: x.json task",
        ),
        (
            box() | {"value": box()["value"] | {"rectanglelabels": []}},
            "annotation unreadable: x.json task 7: not a box",
        ),
        (box(name=3), "annotation unreadable: x.json task 7: the label is not text"),
        (box(name=" "), "annotation unreadable: x.json task 7: the label is not text"),
        (box(kind="ellipselabels"), "annotation unreadable: x.json task 7: a mark of type 'ellipselabels'"),
        (box(kind="polygonlabels"), "annotation unreadable: x.json task 7: not a polygon in percent with one label"),
        (box(original_width=480), "ambiguous: x.json task 7 gives the image different sizes"),
        ("box", "annotation unreadable: x.json task 7: result is not a list of objects"),
    ],
)
def test_a_bad_box_keeps_its_image_out_and_nothing_else(data, result, reason):
    tasks = [task("a.jpg", annotation(box(), result)), task("b.jpg", annotation(box()), number=8)]
    records = read(data({"x.json": tasks, "a.jpg": "", "b.jpg": ""}))
    assert list(reasons(records)) == ["a.jpg"] and records["a.jpg"].reason.startswith(reason)
    assert len(records["b.jpg"].labels) == 1


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        (7, "annotation unreadable: x.json#1 is not a task"),
        ({"id": 3, "annotations": []}, "annotation unreadable: x.json task 3 names 0 images in its data"),
        (
            {"id": 3, "data": {"left": "a.jpg", "right": "b.jpg"}},
            "annotation unreadable: x.json task 3 names 2 images in its data",
        ),
        ({"id": 3, "data": {"image": ""}}, "annotation unreadable: x.json task 3 names no image"),
    ],
)
def test_tasks_without_a_image(data, item, reason):
    records = read(data({"x.json": [task("a.jpg", annotation(box())), item], "a.jpg": ""}))
    (found,) = reasons(records).values()
    assert found.startswith(reason) and records["a.jpg"].labels


def test_the_image_may_have_another_key_in_the_data(data):
    item = task("", annotation(box())) | {"data": {"photo": "/data/upload/1/a.jpg", "site": "north", "round": 3}}
    assert read(data({"x.json": [item], "a.jpg": ""}))["a.jpg"].labels


def test_remarks_are_passed_over_and_told(data, caplog):
    results = [
        box(),
        {"type": "choices", "value": {"choices": ["night"]}},
        {"type": "textarea", "value": {"text": "?"}},
    ]
    with caplog.at_level(logging.WARNING):
        records = read(data({"x.json": [task("a.jpg", annotation(*results))], "a.jpg": ""}))
    assert len(records["a.jpg"].labels) == 1
    assert caplog.messages == ["x.json: ignoring everything that is neither box nor mask: 1 choices, 1 textarea"]


def test_annotations_that_differ_are_not_chosen_from(data):
    one, two = annotation(box()), annotation(box(x=50))
    files = dict.fromkeys(("same.jpg", "differ.jpg", "truth.jpg", "skipped.jpg"), "")
    tasks = [
        task("same.jpg", one, annotation(box(), id=4)),
        task("differ.jpg", one, two),
        task("truth.jpg", one, two | {"ground_truth": True}),
        task("skipped.jpg", one, two | {"was_cancelled": True}),
    ]
    records = read(data({"x.json": tasks} | files))
    assert reasons(records) == {
        "differ.jpg": "ambiguous: x.json task 7: 2 annotations differ: mark one as ground truth"
    }
    assert [records[f"{name}.jpg"].labels[0].box[0] for name in ("same", "truth", "skipped")] == [0.1, 0.5, 0.1]


@pytest.mark.parametrize("names", [("a.json", "b.json"), ("b.json", "a.json")])
def test_of_the_same_task_in_several_exports_the_one_changed_last_counts(data, names):
    address = f"{LOCAL}{SHA}.jpg"
    early = task(address, annotation(box(x=10), at="2026-11-20T14:00:00Z"))
    late = task(address, annotation(box(x=50), at="2026-11-20T15:00:00Z"))
    bad = task(address, annotation(box(rotation=3), at="2026-11-20T16:00:00Z"))
    asked = {"data": {"image": address}, "predictions": [{"result": [box(x=70)]}]}
    image = f"{SHA}.jpg"
    first, second = names
    records = read(data({first: [early], second: [late], "tasks.json": [asked], image: ""}))
    assert records[image].labels[0].box[0] == 0.5 and records[image].label_file == second
    records = read(data({first: [early], second: [bad]}))
    assert reasons(records)[image].startswith("turned box")


def test_different_tasks_of_one_image_must_agree(data):
    tasks = [task("/data/upload/1/a.jpg", annotation(box())), task("/data/upload/2/a.jpg", annotation(box()), number=8)]
    assert read(data({"x.json": tasks, "a.jpg": ""}))["a.jpg"].labels
    tasks[1] = task("/data/upload/2/a.jpg", annotation(box(x=50)), number=8)
    records = read(data({"x.json": tasks}))
    assert reasons(records) == {"a.jpg": "ambiguous: x.json task 7 and x.json task 8 label it differently"}


def test_a_named_export_is_the_only_one(data):
    files = {"x.json": [task("a.jpg", annotation(box()))], "y.json": [task("a.jpg", annotation())], "a.jpg": ""}
    assert read(data(files, "y.json"))["a.jpg"].labels == ()
