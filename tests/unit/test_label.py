"""What people's tools are handed, and that it comes back as it went out."""

import hashlib
import json
import logging
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from components.core.errors import InputError, NotFoundError
from components.core.job.job import Job
from components.core.job.label_requests import Found, LabelRequest, LabelRequests, write_list
from components.core.stores.open import open_store
from components.ingest.feed import take_new
from components.ingest.formats import label_studio  # noqa: F401 (registers it)
from components.ingest.ingest import ingest
from components.label.handoff import prelabels, writers
from components.label.label import label
from tests.images import jpeg, squares

CLASSES = ("hat", "head", 'ä & "<1>"')
WIDTH, HEIGHT = 96, 64
FORMATS = ("label-studio", "coco", "yolo", "voc")


def asked(job_root, seed, **more):
    """An image among the blobs of a job, wider than high, with boxes on hundredths of pixels."""
    rng = np.random.default_rng(seed)
    data = jpeg(squares(rng, WIDTH)[0][:HEIGHT])
    identity = hashlib.sha256(data).hexdigest()
    key = f"blobs/{identity[:2]}/{identity}.jpg"
    open_store(str(job_root)).write(key, data)
    corners = rng.uniform((0, 0), (WIDTH / 2, HEIGHT / 2), (seed % 4, 2))
    boxes = np.hstack([corners, corners + rng.uniform(1, 30, (seed % 4, 2))])
    found = {
        "boxes": boxes.tolist(),
        "scores": rng.uniform(0.1, 1, seed % 4).tolist(),
        "class_ids": rng.integers(0, len(CLASSES), seed % 4).tolist(),
    }
    return LabelRequest(
        **{
            "id": identity,
            "uri": open_store(str(job_root)).uri_of(key),
            "width": WIDTH,
            "height": HEIGHT,
            "source": f"gate: camera {seed}",
            "share": "hardest",
            "score": 0.75,
            "reason": "2 boxes of doubt",
            **found,
            **more,
        }
    )


@pytest.fixture
def job(tmp_path):
    return tmp_path / "job"


def put_list(job, images, number=3, classes=CLASSES, model="r0003-89abcdef"):
    wanted = LabelRequests(round=number, model=model, miner="entropy", classes=classes, images=tuple(images))
    write_list(open_store(str(job)), wanted)
    return wanted


@pytest.fixture
def wanted(job):
    """A list of six images, on two of which nothing was found."""
    return put_list(job, [asked(job, seed) for seed in range(3, 9)])


def submit(folder, images=None):
    """What Label Studio exports when people submit each prediction as it is."""
    tasks = json.loads((folder / "tasks.json").read_text())
    for number, task in enumerate(tasks, 1):
        predictions = task.get("predictions", [])
        result = predictions[0]["result"] if predictions else []
        task["id"] = number
        task["annotations"] = [
            {"id": number, "result": result, "was_cancelled": False, "updated_at": f"2026-11-20T14:18:{number:02d}Z"}
        ]
        task["total_annotations"] = 1
    (folder / "project-1.json").write_text(json.dumps(tasks))


def taken_in(uri, root, label_format, classes=""):
    return ingest(uri, str(root), data_format=label_format, classes=classes, max_bad_fraction=0).manifest


def check_same(manifest, wanted):
    """Same images, same names, and boxes to within half a pixel, whatever their order."""
    rows = {row["id"]: row for row in manifest.rows()}
    assert rows.keys() == {image.id for image in wanted.images}
    for image in wanted.images:
        back = sorted((a["x1"], a["y1"], a["x2"], a["y2"], a["class_id"]) for a in rows[image.id]["annotations"])
        sent = sorted((*box, number) for box, number in zip(image.boxes, image.class_ids, strict=True))
        assert [manifest.classes[int(box[4])] for box in back] == [wanted.classes[box[4]] for box in sent]
        np.testing.assert_allclose([box[:4] for box in back], [box[:4] for box in sent], atol=0.02)
    assert sum(not image.boxes for image in wanted.images) == 2


@pytest.mark.parametrize("label_format", FORMATS)
def test_what_goes_out_comes_back_the_same(job, wanted, tmp_path, label_format):
    handed = label(str(job), label_format=label_format)
    boxes = sum(len(image.boxes) for image in wanted.images)
    assert handed.counts == {"images": 6, "boxes": boxes, "left_out": 0}
    if label_format == "label-studio":
        submit(Path(handed.uri.removeprefix("file://")))
    manifest = taken_in(handed.uri, tmp_path / "other", label_format)
    check_same(manifest, wanted)
    assert set(manifest.table["split"]) == {""}  # nobody has decided it


def test_nothing_submitted_is_nothing_labelled(job, wanted, tmp_path):
    manifest = taken_in(label(str(job)).uri, tmp_path / "other", "label-studio")
    assert len(manifest) == 6 and not len(manifest.labelled())


def test_labels_find_their_images_whatever_the_tool_makes_of_the_names(job, wanted, tmp_path):
    folder = Path(label(str(job)).uri.removeprefix("file://"))
    submit(folder)
    feed = tmp_path / "feed"
    (feed / "deep").mkdir(parents=True)
    text = (folder / "project-1.json").read_text()
    (feed / "export.json").write_text(text.replace("/data/local-files/?d=labelling/", "https://host/x/331421fd-"))
    for number, image in enumerate(sorted((folder / "images").iterdir())):
        shutil.copy(image, feed / "deep" / f"{number:08x}__{image.name}")
    check_same(taken_in(str(feed), tmp_path / "other", "label-studio"), wanted)


def test_a_image_that_the_tool_wrote_anew_is_another_sample(job, wanted, tmp_path):
    folder = Path(label(str(job)).uri.removeprefix("file://"))
    submit(folder)
    first = sorted((folder / "images").iterdir())[0]
    first.write_bytes(jpeg(squares(np.random.default_rng(99), WIDTH)[0][:HEIGHT]))
    manifest = taken_in(str(folder), tmp_path / "other", "label-studio")
    assert len(manifest) == 6 and first.stem not in set(manifest.table["id"])


def poll(feed, job_root, number):
    """One poll of a feed, whose arrivals the job then has."""
    arrivals = take_new(str(feed), str(job_root), data_format="label-studio", full=True)
    job = Job.open(str(job_root))
    state, etag = job.read()
    key = f"manifests/{number}.parquet"
    arrivals.manifest.write(job_root / key)
    manifest = key if len(arrivals.manifest) else state.manifest
    job.commit(state.model_copy(update={"round": number, "cursor": arrivals.cursor, "manifest": manifest}), etag)
    return arrivals.counts


def test_labels_come_back_through_a_feed(job, wanted, tmp_path):
    folder, other = Path(label(str(job)).uri.removeprefix("file://")), tmp_path / "other"
    counts = poll(folder, other, 1)
    assert (counts["images"], counts["unlabelled"]) == (6, 6)
    submit(folder)
    counts = poll(folder, other, 2)
    assert (counts["images"], counts["newly_labelled"], counts["negatives"], counts["quarantined"]) == (6, 6, 2, 0)
    tasks = json.loads((folder / "project-1.json").read_text())
    tasks[0]["annotations"][0] |= {"result": [], "updated_at": "2026-11-20T15:00:00Z"}
    (folder / "project-2.json").write_text(json.dumps(tasks))
    counts = poll(folder, other, 3)
    assert (counts["images"], counts["relabelled"], counts["negatives"]) == (1, 1, 1)
    assert poll(folder, other, 4)["images"] == 0


@pytest.mark.parametrize("label_format", FORMATS)
def test_the_same_list_gives_the_same_files(job, wanted, label_format):
    def content():
        label(str(job), label_format=label_format)
        files = sorted((job / "labelling").rglob("*"))
        return {file: file.read_bytes() for file in files if file.is_file()}

    before = content()
    assert content() == before and len(before) > 0


def test_label_studio_is_given_tasks_with_predictions_and_a_configuration(job, wanted):
    folder = Path(label(str(job)).uri.removeprefix("file://"))
    assert folder == job / "labelling/r0003.label-studio"
    view = ElementTree.parse(folder / "config.xml").getroot()
    control = view.find("RectangleLabels")
    assert [item.get("value") for item in control.iter("Label")] == list(CLASSES)
    tasks = json.loads((folder / "tasks.json").read_text())
    for task, image in zip(tasks, wanted.images, strict=True):
        address = task["data"][view.find("Image").get("value").removeprefix("$")]
        assert address == f"/data/local-files/?d=labelling/r0003.label-studio/images/{image.id}.jpg"
        assert hashlib.sha256((job / address.partition("?d=")[2]).read_bytes()).hexdigest() == image.id
        assert (task["data"]["reason"], task["data"]["score"]) == ("2 boxes of doubt", 0.75)
        for prediction in task.get("predictions", []):
            assert prediction["model_version"] == "r0003-89abcdef"
            assert [result["score"] for result in prediction["result"]] == list(image.scores)
            assert prediction["score"] == pytest.approx(np.mean(image.scores), abs=1e-6)
            for result in prediction["result"]:
                assert (result["from_name"], result["to_name"]) == (control.get("name"), control.get("toName"))
                assert (result["original_width"], result["original_height"]) == (WIDTH, HEIGHT)
        assert bool(task.get("predictions")) == bool(image.boxes)


@pytest.mark.parametrize("label_format", ["label-studio", "coco"])
def test_a_job_in_a_bucket(s3, tmp_path, label_format):
    wanted = put_list(s3, [asked(s3, seed) for seed in range(3, 9)])
    handed = label(s3, label_format=label_format)
    assert handed.uri.startswith(f"{s3}/labelling/r0003.{label_format}")
    if label_format == "label-studio":
        store = open_store(handed.uri)
        store.download("tasks.json", tmp_path / "tasks.json")
        addresses = [task["data"]["image"] for task in json.loads(store.read("tasks.json"))]
        assert addresses == [f"{handed.uri}/images/{image.id}.jpg" for image in wanted.images]
        submit(tmp_path)
        store.upload(tmp_path / "project-1.json", "project-1.json")
    check_same(taken_in(handed.uri, tmp_path / "other", label_format), wanted)


def test_coco_keeps_the_scores_and_numbers_every_box(job, wanted):
    with zipfile.ZipFile(label(str(job), label_format="coco").uri.removeprefix("file://")) as archive:
        content = json.loads(archive.read("annotations/instances_default.json"))
    scores = [score for image in wanted.images for score in image.scores]
    assert [annotation["score"] for annotation in content["annotations"]] == scores
    assert [annotation["id"] for annotation in content["annotations"]] == list(range(1, len(scores) + 1))
    assert [entry["file_name"] for entry in content["images"]] == [f"{p.id}.jpg" for p in wanted.images]


def test_boxes_are_cut_off_at_the_edges(job, tmp_path):
    boxes = [(-5, -3, 20, 30), (90, 60, 120, 70), (96, 10, 99, 20)]
    image = asked(job, 4, boxes=boxes, scores=[0.5] * 3, class_ids=[0] * 3)
    put_list(job, [image])
    assert [box[1:5] for box in prelabels(image)] == [(0, 0, 20, 30), (90, 60, 96, 64)]
    for label_format in ("coco", "yolo", "voc"):
        handed = label(str(job), label_format=label_format)
        assert handed.counts["boxes"] == 2
        assert len(taken_in(handed.uri, tmp_path / label_format, label_format).truths()[0]) == 2


@pytest.mark.parametrize("label_format", FORMATS)
def test_what_another_model_found_is_what_people_correct(job, tmp_path, label_format):
    image = asked(job, 6)
    better = Found(boxes=[(10, 10, 30, 40)], scores=[0.75], class_ids=[1])
    wanted = put_list(job, [image.model_copy(update={"prelabels": better})])
    writer = writers.get(label_format)
    named = wanted.model_copy(update={"prelabelled_by": "s3://jobs/large/bundles/v9"})
    files = writer.files(named, lambda one: one.id, lambda _: None)
    if label_format == "label-studio":
        (prediction,) = json.loads(files["tasks.json"])[0]["predictions"]
        assert (prediction["model_version"], prediction["score"]) == ("s3://jobs/large/bundles/v9", 0.75)
    handed = label(str(job), label_format=label_format)
    assert handed.counts["boxes"] == 1
    if label_format == "label-studio":
        submit(Path(handed.uri.removeprefix("file://")))
    (truth,) = taken_in(handed.uri, tmp_path / "other", label_format).truths()
    np.testing.assert_allclose(truth.boxes, [(10, 10, 30, 40)], atol=0.01)


@pytest.mark.parametrize("label_format", ["label-studio", "coco"])
def test_images_that_are_gone_or_damaged_are_left_out(job, wanted, tmp_path, caplog, label_format):
    gone, damaged = (Path(image.uri.removeprefix("file://")) for image in wanted.images[:2])
    gone.unlink()
    damaged.write_bytes(b"\xff\xd8\xff")
    with caplog.at_level(logging.WARNING):
        handed = label(str(job), label_format=label_format)
    assert (handed.counts["images"], handed.counts["left_out"]) == (4, 2)
    assert set(caplog.messages) == {
        f"skipped {gone.as_uri()}: no longer in the store",
        f"skipped {damaged.as_uri()}: its content does not match its digest",
    }
    assert len(taken_in(handed.uri, tmp_path / "other", label_format)) == 4
    for image in wanted.images[2:]:
        Path(image.uri.removeprefix("file://")).unlink()
    with pytest.raises(InputError, match="none of the 6 images of round 3 can be read"):
        label(str(job), label_format=label_format)


def test_the_latest_list_or_the_one_that_is_named(job, wanted):
    put_list(job, wanted.images[:2], number=12)
    assert label(str(job), label_format="yolo").uri == f"{job.as_uri()}/labelling/r0012.yolo.zip"
    assert label(str(job), label_format="yolo", round_number=3).counts["images"] == 6
    with pytest.raises(
        NotFoundError, match="to-label: no label request of round 4 found .rounds available: 3, 12.: run mine first"
    ):
        label(str(job), round_number=4)


def test_without_a_list(job):
    with pytest.raises(
        NotFoundError, match="to-label: no label request found .rounds available: none.: run mine first"
    ):
        label(str(job))
    put_list(job, [], classes=())
    handed = label(str(job), classes="hat")
    assert (handed.uri, handed.counts["images"]) == ("", 0) and not (job / "labelling").exists()


def test_a_list_that_asks_for_nothing_needs_no_class_names(job):
    put_list(job, [], number=0, classes=(), model=None)
    handed = label(str(job))
    assert (handed.uri, handed.counts["images"]) == ("", 0)


def test_class_names_before_the_first_round(job):
    put_list(job, [asked(job, 4)], number=0, classes=(), model=None)
    with pytest.raises(InputError, match="the label request of round 0 has no class names: set classes"):
        label(str(job))
    folder = Path(label(str(job), classes="hat:helmet,person:head").uri.removeprefix("file://"))
    names = [item.get("value") for item in ElementTree.parse(folder / "config.xml").getroot().iter("Label")]
    assert names == ["helmet", "head"]


def test_classes_are_added_to_those_of_the_list(job, wanted):
    with zipfile.ZipFile(
        label(str(job), label_format="yolo", classes="hat,vest").uri.removeprefix("file://")
    ) as archive:
        assert archive.read("classes.txt").decode().splitlines() == [*CLASSES, "vest"]


def test_unknown_formats_are_told(job, wanted):
    assert writers.names() == sorted(FORMATS)
    with pytest.raises(InputError, match="unknown label format 'cvat': choose from coco, label-studio, voc, yolo"):
        label(str(job), label_format="cvat")


def test_the_step_needs_no_torch():
    code = "import sys, components.label.label as x; x.writers.names(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
