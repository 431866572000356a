"""Masks that go to Label Studio as proposals, and come back as people have left them."""

import base64
import hashlib
import json
import re
import tempfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from components.core.errors import InputError
from components.core.job.job import Job
from components.core.job.label_requests import MASKS, FoundMask, LabelRequests, read_lists, write_list
from components.core.label_studio import brush
from components.core.label_studio.client import LabelStudio
from components.core.label_studio.project import Place, find_project
from components.core.manifest import Manifest
from components.core.masks import VOID, encode_mask, read_mask
from components.core.stores.open import open_store, split
from components.ingest.answers import fetch_answers
from components.ingest.dataset import LabelError, Region
from components.ingest.feed import take_new
from components.ingest.ingest import ingest
from components.ingest.label_agreement import mask_agreement
from components.ingest.regions import paint
from components.label.label import label
from components.label.send import check_predictions, send
from components.mine.label_feedback import label_feedback, worth_of_mining
from components.mine.report import worth_in_words
from tests.images import jpeg
from tests.unit.test_label import asked

CLASSES = ("road", "car", "sky")
WIDTH, HEIGHT = 96, 64
NUMBERS = {name: number for number, name in enumerate(CLASSES)}


def street(offset=0):
    """A mask: sky above, road below, a car that stands on it, and a corner of which nothing is known."""
    mask = np.full((HEIGHT, WIDTH), NUMBERS["road"], np.uint8)
    mask[: HEIGHT // 2] = NUMBERS["sky"]
    mask[36:50, 10 + offset : 40 + offset] = NUMBERS["car"]
    mask[:4, :4] = VOID
    return mask


def request_masks(root, masks, round_number=1):
    """A job that asks for masks; the ids of its images, the most wanted first."""
    store = open_store(root)
    images = []
    for seed, mask in enumerate(masks, 1):
        content = encode_mask(mask)
        key = f"{MASKS}{hashlib.sha256(content).hexdigest()}.png"
        store.write(key, content)
        found = FoundMask(key=key, scores={0: 0.9, 1: 0.6, 2: 0.75})
        images.append(asked(root, seed, boxes=(), scores=(), class_ids=(), mask=found))
    wanted = LabelRequests(round=round_number, model="r0001-89abcdef", miner="entropy-sum", labels="masks",
                           classes=CLASSES, images=tuple(images))  # fmt: skip
    write_list(store, wanted)
    return [image.id for image in images]


def hand_over(studio, root, **more):
    return send(root, label_studio_url=studio.address, **more)


def arrive(studio, root, feed, **more):
    return take_new(feed, root, answers=fetch_answers(open_store(root), label_studio_url=studio.address), **more)


def brushed(name, marked, **more):
    value = {"format": "rle", "rle": brush.encode(marked), "brushlabels": [name]}
    return result("brushlabels", value) | more


def polygon(name, *points, **more):
    percent = [[100 * x / WIDTH, 100 * y / HEIGHT] for x, y in points]
    return result("polygonlabels", {"points": percent, "polygonlabels": [name], "closed": True}) | more


def result(kind, value):
    return {"type": kind, "from_name": "label", "to_name": "image", "original_width": WIDTH,
            "original_height": HEIGHT, "image_rotation": 0, "origin": "manual", "value": value}  # fmt: skip


def mask_of(row):
    root, key = split(row["mask"])
    return read_mask(open_store(root).local_path(key))


# --- the code of a brush ---


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (64, 96), (130, 700)])
def test_a_brush_comes_back_as_it_went_out(shape):
    rng = np.random.default_rng(0)
    noise = rng.random(shape) < 0.5
    blob = cv2.GaussianBlur(rng.random(shape), (0, 0), 5) > 0.5
    for marked in (noise, blob, np.zeros(shape, bool), np.ones(shape, bool)):
        assert (brush.decode(brush.encode(marked), *shape) == marked).all()


def test_long_runs_are_split_where_their_length_has_no_room():
    marked = np.ones((300, 300), bool)
    code = brush.encode(marked)
    # 32 + 5 + 16 bits, then 360,000 values in 5 runs of 65,536 and one of 32,320, of 1 + 2 + 16 + 8 bits each
    assert len(code) == -(-(53 + 6 * 27) // 8)
    assert code[:4] == list((360_000).to_bytes(4, "big"))
    assert brush.decode(code, 300, 300).all()


def test_half_transparent_edges_are_marked_and_colours_do_not_matter():
    # As the canvas of a browser gives it, in runs of single values: red, green, blue, alpha of 1 x 3 pixels.
    values = [255, 0, 0, 128, 255, 255, 255, 0, 0, 0, 0, 255]
    runs = "0" + "10" + f"{len(values) - 1:08b}" + "".join(f"{value:08b}" for value in values)
    bits = f"{len(values):032b}" + "00111" + "".join(f"{size - 1:04b}" for size in (3, 4, 8, 16)) + runs
    bits += "0" * (-len(bits) % 8)
    code = [int(bits[place : place + 8], 2) for place in range(0, len(bits), 8)]
    assert brush.decode(code, 1, 3).tolist() == [[True, False, True]]


# What Label Studio 1.23.2 kept of a stroke from the middle to the lower right, drawn in Chromium over 96x64 pixels.
STROKE = (
    "AABgADkb/xLfAIzqNP4C7gEevH/xt/AXMAjXZ/+Nj4C5gEbdP/xrXAXMAjfI/+P8jROAuYBHDR/8fpGYcBcwCOTj/4+iMf4C5gEc"
    "7H/x7kYrwFzAI6uP/jzow3gLeARg0eHH/x4cYNwFvAIw2POj/47GMC4C3gEYrHtR/8c5wFzAIx2Plj/44HgLmARk0ffH/xsPAXMA"
    "jOZ/+NC4C5gEarH/x+MZLwFzAI4KP/j3YxfgLmAR1Uf/HoRhvAW8AjBI72P/jw4wbgLeARhkebH/x2PAXMAjE49mP/jn+AuYBGNR"
    "8sf/HD8BcwCMoj8I/+Np4C5gEZtH7x/8aNwFzAI06P+j9IyngLmARvkf/HwRi/AXMAjpI/+PSjD+At4BGCR38f/HhxhHAW8AjCo8"
    "mP/js+AuYBGJR60f/HPcBcwCMaj5Y/+OK4C5gEZPH4R/8bDwFzAIzOPxjluAu4BGORh3GycA"
)


def test_a_stroke_drawn_in_a_browser_is_read():
    marked = brush.decode(base64.b64decode(STROKE), 64, 96)
    rows, columns = np.nonzero(marked)
    assert marked.sum() == 134  # as many as in the server's own export BRUSH_TO_NUMPY
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (12, 45, 56, 85)
    assert np.corrcoef(rows, columns)[0, 1] > 0.98


def test_a_damaged_brush_is_refused():
    code = brush.encode(np.eye(8, dtype=bool))
    for wrong, words in (
        (code[: len(code) // 2], "it ends early"),
        ([], "it ends early"),
        (code[:4] + [255] * 40, "a run reaches beyond the last pixel"),
        ([0, 0, 0, 4, *code[4:]], "4 values instead of the 256 of 8x8 pixels"),
    ):
        with pytest.raises(ValueError, match=words):
            brush.decode(wrong, 8, 8)


# --- regions ---


def test_polygons_that_share_an_edge_share_no_pixel_and_leave_none_out():
    left = Region("road", True, points=((0, 0), (0.4, 0), (0.6, 1), (0, 1)))
    right = Region("car", True, points=((0.4, 0), (1, 0), (1, 1), (0.6, 1)))
    both = paint([left, right], NUMBERS, WIDTH, HEIGHT)
    assert (both == paint([right, left], NUMBERS, WIDTH, HEIGHT)).all()
    assert set(np.unique(both)) == {0, 1}
    box = Region(
        "sky", True, points=((10 / WIDTH, 8 / HEIGHT), (30 / WIDTH, 8 / HEIGHT), (30 / WIDTH, 0.5), (10 / WIDTH, 0.5))
    )
    found = paint([box], NUMBERS, WIDTH, HEIGHT)
    assert (found[8:32, 10:30] == 2).all() and (found == 2).sum() == 24 * 20


def test_what_people_drew_lies_above_what_they_left_and_the_later_above_the_earlier():
    everywhere = ((0, 0), (1, 0), (1, 1), (0, 1))
    half = ((0, 0), (0.5, 0), (0.5, 1), (0, 1))
    drawn, left = Region("car", True, points=half), Region("road", False, points=everywhere)
    mask = paint([drawn, left], NUMBERS, 4, 2)
    assert mask.tolist() == [[1, 1, 0, 0]] * 2
    later = Region("sky", True, points=everywhere)
    assert (paint([drawn, later], NUMBERS, 4, 2) == 2).all()
    assert (paint([], NUMBERS, 4, 2) == VOID).all()


def test_a_brush_of_another_size_is_refused():
    region = Region("car", True, code=bytes(brush.encode(np.ones((4, 4), bool))))
    with pytest.raises(LabelError, match="mask unreadable: brush of car: 64 values"):
        paint([region], NUMBERS, WIDTH, HEIGHT)


# --- sending ---


def test_masks_become_brushes_with_scores_and_the_version_of_the_model(studio, root):
    ids = request_masks(root, [street(), street(20)])
    sent = hand_over(studio, root)
    assert (sent.counts["images"], sent.counts["boxes"]) == (2, 6)
    (project,) = studio.projects.values()
    parsed = studio._parsed(project["label_config"])
    assert {one["type"]: one["labels"] for one in parsed.values()} == {
        "BrushLabels": list(CLASSES), "PolygonLabels": list(CLASSES)
    }  # fmt: skip
    (prediction,) = studio.task(ids[1])["predictions"]
    assert (prediction["model_version"], prediction["score"]) == ("r0001-89abcdef", 0.75)
    assert [one["score"] for one in prediction["result"]] == [0.9, 0.6, 0.75]
    for one, (number, name) in zip(prediction["result"], enumerate(CLASSES), strict=True):
        assert (one["value"]["brushlabels"], one["from_name"]) == ([name], "label")
        assert (brush.decode(one["value"]["rle"], HEIGHT, WIDTH) == (street(20) == number)).all()


def test_a_mask_that_is_lost_or_damaged_leaves_the_image_without_a_proposal(studio, root, caplog):
    ids = request_masks(root, [street(), street(5), street(9)])
    store = open_store(root)
    keys = sorted(found.key for found in store.list(MASKS))
    store.local_path(keys[0]).unlink()
    store.local_path(keys[1]).write_bytes(encode_mask(np.zeros((5, 5), np.uint8)))
    assert hand_over(studio, root).counts["images"] == 3
    assert sum(bool(studio.task(id_)["predictions"]) for id_ in ids) == 1
    assert caplog.text.count("goes out without a mask") == 2


def test_a_project_for_boxes_is_no_place_for_masks(studio, root):
    request_masks(root, [street()])
    hand_over(studio, root, label_studio_project="Masks")
    store = open_store(root)
    write_list(store, LabelRequests(round=2, model=None, miner="entropy", classes=CLASSES, images=(asked(root, 9),)))
    with pytest.raises(InputError, match="project 1 is for masks, but this job needs boxes: give another label_studio"):
        hand_over(studio, root, label_studio_project="Masks")


def test_a_new_class_comes_to_brush_and_polygon(studio, root):
    request_masks(root, [street()])
    hand_over(studio, root)
    hand_over(studio, root, classes="bus")
    (project,) = studio.projects.values()
    assert all(one["labels"] == [*CLASSES, "bus"] for one in studio._parsed(project["label_config"]).values())


def test_masks_that_the_server_would_take_and_not_show_are_refused(studio, root):
    request_masks(root, [street()])
    hand_over(studio, root)
    place = Place.of(studio.address, "", open_store(root).uri)
    project = find_project(LabelStudio.from_environment(studio.address), place)
    good = brushed("car", street() == 1)
    short = good | {"value": good["value"] | {"rle": good["value"]["rle"][:8]}}
    for wrong, words in (
        (brushed("bus", street() == 1), "no label 'bus'"),
        (good | {"from_name": "nope"}, "no control 'nope'"),
        (short, "a mask of task None is damaged: it ends early"),
        (good | {"original_width": 5}, "instead of the"),
        (good | {"type": "rectanglelabels"}, "project 1 takes brushlabels, not rectanglelabels"),
    ):
        with pytest.raises(InputError, match=words):
            check_predictions([{"data": {}, "predictions": [{"result": [wrong]}]}], project)
    check_predictions([{"data": {}, "predictions": [{"result": [good]}]}], project)


# --- coming back ---


def test_masks_come_back_as_they_were_left(studio, root, feed):
    ids = request_masks(root, [street(), street(20), street(7)])
    hand_over(studio, root)
    studio.annotate(ids[0], None)  # as proposed
    studio.annotate(ids[1], [
        brushed("sky", street() == 2, origin="prediction"),
        polygon("car", (20, 40), (60, 40), (60, 60), (20, 60)),
        brushed("road", street() == 0, origin="prediction"),
    ])  # fmt: skip
    arrived = arrive(studio, root, feed)
    assert (arrived.counts["masks"], arrived.counts["answered"], arrived.manifest.classes) == (2, 2, CLASSES)
    rows = {row["id"]: row for row in arrived.manifest.rows()}
    assert (mask_of(rows[ids[0]]) == street()).all()
    expected = street()
    expected[expected == 1] = VOID  # of the car that was proposed nothing was left
    expected[40:60, 20:60] = 1
    assert (mask_of(rows[ids[1]]) == expected).all()
    assert all(row["annotations"] is None for row in rows.values())
    assert arrived.pixels["car"] == (street() == 1).sum() + 20 * 40


def settled(root, arrived):
    """Let a round have taken them in."""
    job = Job.open(root)
    state, etag = job.read()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "m.parquet"
        arrived.manifest.write(file)
        key = f"manifests/r0001-{hashlib.sha256(file.read_bytes()).hexdigest()[:8]}.parquet"
        job.store.upload(file, key)
    changes = {"round": state.round + 1, "manifest": key, "cursor": arrived.cursor}
    job.commit(state.model_copy(update=changes), etag)


def test_masks_that_the_job_has_are_no_news_and_edits_and_deletions_are(studio, root, feed):
    ids = request_masks(root, [street(), street(20)])
    hand_over(studio, root)
    for id_ in ids:
        studio.annotate(id_, None)
    settled(root, arrive(studio, root, feed))
    assert len(arrive(studio, root, feed).manifest) == 0
    studio.edit(ids[0], [brushed("car", street() != VOID)])
    studio.delete_annotations(ids[1])
    arrived = arrive(studio, root, feed)
    (row,) = arrived.manifest.rows()
    assert (row["id"], arrived.counts["relabelled"], arrived.withdrawn) == (ids[0], 1, (ids[1],))
    assert set(np.unique(mask_of(row))) == {1, VOID}


def test_classes_keep_the_numbers_that_they_have_in_the_job(studio, root, feed):
    ids = request_masks(root, [street()])
    hand_over(studio, root)
    studio.annotate(ids[0], None)
    arrived = arrive(studio, root, feed, classes="sky,road,car")
    assert arrived.manifest.classes == ("sky", "road", "car")
    (row,) = arrived.manifest.rows()
    assert mask_of(row)[10, 50] == 0 and mask_of(row)[60, 60] == 1
    settled(root, arrived)
    assert len(arrive(studio, root, feed, classes="sky,road,car").manifest) == 0
    (void,) = arrive(studio, root, feed, classes="sky,road", ignore_classes="car").manifest.rows()
    assert set(np.unique(mask_of(void))) == {0, 1, VOID}
    other = arrive(studio, root, feed, classes="sky,road")
    assert [entry.reason.partition(" (")[0] for entry in other.quarantine] == ["unknown class: car"]


@pytest.mark.parametrize(
    ("options", "classes", "numbers"),
    [
        ({"ignore_classes": "pole"}, ("sign", "road", "car", "sky"), {0, 1, VOID}),
        ({"classes": "sign:board,road", "ignore_classes": "*"}, ("board", "road"), {0, 1, VOID}),
    ],
)
def test_masks_of_the_feed_and_of_people_have_the_same_numbers(studio, root, feed, options, classes, numbers):
    (id_,) = request_masks(root, [street()])
    hand_over(studio, root)
    studio.annotate(id_, None)
    for folder in ("images", "masks"):
        (Path(feed) / folder).mkdir()
    (Path(feed) / "classes.txt").write_text("sign\npole\nroad\n")
    (Path(feed) / "images" / "1.jpg").write_bytes(jpeg(np.full((HEIGHT, WIDTH, 3), 90, np.uint8)))
    columns = np.arange(WIDTH) // (WIDTH // 3)  # a sign, a pole and a road
    (Path(feed) / "masks" / "1.png").write_bytes(encode_mask(np.tile(columns.astype(np.uint8), (HEIGHT, 1))))
    arrived = arrive(studio, root, feed, **options)
    assert arrived.manifest.classes == classes
    found = {row["source"]: mask_of(row) for row in arrived.manifest.rows()}
    ours = found.pop("images/1.jpg")
    (theirs,) = found.values()
    assert set(np.unique(ours)) == numbers and ours[0, -1] == theirs[-1, 0] == classes.index("road")


@pytest.mark.parametrize(
    ("results", "reason"),
    [
        ([], "empty mask: Label Studio task .: nothing is marked: mark what is there, or skip the image"),
        ([brushed("car", np.zeros((HEIGHT, WIDTH), bool))], "empty mask: .*: no pixel is marked"),
        ([brushed("car", np.ones((4, 4), bool))], "mask unreadable: brush of car: 64 values instead of"),
        ([result("brushlabels", {"format": "rle", "rle": [1, 300], "brushlabels": ["car"]})], "annotation unreadable"),
        ([result("brushlabels", {"format": "rle", "rle": 1000, "brushlabels": ["car"]})], "annotation unreadable"),
        ([result("brushlabels", {"format": "png", "rle": [1], "brushlabels": ["car"]})], "annotation unreadable"),
        ([polygon("car", (1, 1), (5, 5))], "annotation unreadable: .*: not a polygon in percent with one label"),
        ([polygon("car", (1, 1), (5, 5), (float("nan"), 2))], "NaN or infinite"),
        ([polygon("car", (1e300, 1e300), (-1e300, -1e300), (5, 5))], "annotation unreadable: .*: not a polygon"),
    ],
)
def test_masks_that_cannot_be_used_are_quarantined(studio, root, feed, results, reason):
    (id_,) = request_masks(root, [street()])
    hand_over(studio, root)
    studio.annotate(id_, results)
    arrived = arrive(studio, root, feed)
    assert len(arrived.manifest) == 0
    (entry,) = arrived.quarantine
    assert re.match(reason, entry.reason), entry.reason


def test_how_much_of_the_proposed_masks_was_kept_is_told_by_class(studio, root, feed):
    ids = request_masks(root, [street()])
    hand_over(studio, root)
    changed = street()
    changed[36:50, 10:25] = NUMBERS["road"]  # half of the car is road
    studio.annotate(ids[0], [brushed(name, changed == number) for name, number in NUMBERS.items()])
    arrived = arrive(studio, root, feed)
    store = open_store(root)
    road, car, sky = mask_agreement(read_lists(store), arrived.manifest, store)
    assert (car.name, car.pixels, car.kept) == ("car", 14 * 15, 1.0)
    assert car.iou == pytest.approx(0.5)
    assert road.kept == pytest.approx((street() == 0).sum() / (changed == 0).sum())
    assert (sky.kept, sky.iou) == (1.0, 1.0)


@pytest.mark.parametrize("is_mined_worse", [True, False])
def test_the_experiment_compares_the_pixels_that_masks_of_mined_and_random_images_corrected(
    root, tmp_path, is_mined_worse
):
    store = open_store(root)
    request_masks(root, [street(offset) for offset in range(24)])
    (wanted,) = read_lists(store)
    shares = ["random" if place % 2 else "hardest" for place in range(24)]
    images = tuple(
        image.model_copy(update={"share": share}) for image, share in zip(wanted.images, shares, strict=True)
    )
    write_list(store, wanted.model_copy(update={"images": images}))
    rows = []
    for place, image in enumerate(images):
        final = street(place)
        if (image.share == "hardest") == is_mined_worse:
            final[50:60] = NUMBERS["car"]  # of 64 rows
        store.write(key := f"blobs/00/{place}.png", encode_mask(final))
        rows.append({"id": image.id, "uri": image.uri, "width": WIDTH, "height": HEIGHT, "split": "", "group": image.id,
                     "source": "", "round": 1, "annotations": None, "mask": store.uri_of(key)})  # fmt: skip
    known = Manifest.of(rows, CLASSES)
    worth = worth_of_mining(read_lists(store), known, store)
    changed = 10 * WIDTH / (HEIGHT * WIDTH - 16)
    assert (worth.mined, worth.random) == pytest.approx((changed, 0) if is_mined_worse else (0, changed))
    assert worth.verdict == ("pays" if is_mined_worse else "does not pay")
    assert worth.random_fraction(0.1) == (0.1 if is_mined_worse else 0.5)
    assert "of their pixels, those of random images" in worth_in_words(worth)
    tally = {one.share: one.mistakes for one in label_feedback(read_lists(store), known, store)}
    assert tally["hardest"] == pytest.approx(worth.mined)


# --- files ---


def test_an_export_of_masks_is_read(root, tmp_path, monkeypatch):
    monkeypatch.setenv("EDGE_CACHE_DIR", str(tmp_path / "cache"))
    request_masks(root, [street(), street(20)])
    handed = label(root, label_format="label-studio")
    folder = open_store(root).local_path(handed.uri.removeprefix(open_store(root).uri + "/"))
    tasks = json.loads((folder / "tasks.json").read_text())
    for number, one in enumerate(tasks, 1):
        one |= {"id": number, "annotations": [{"id": number, "result": one["predictions"][0]["result"]}]}
    tasks[1]["annotations"][0]["result"][1] = polygon("car", (0, 40), (60, 40), (60, 64), (0, 64))
    (folder / "project-1.json").write_text(json.dumps(tasks))
    (folder / "tasks.json").unlink()
    found = ingest(str(folder), str(tmp_path / "other"), max_bad_fraction=0).manifest
    assert found.classes == tuple(sorted(CLASSES))
    numbers = {name: found.classes.index(name) for name in CLASSES}
    masks = sorted((mask_of(row) for row in found.rows()), key=lambda mask: (mask == numbers["car"]).sum())
    for name, number in numbers.items():
        assert ((masks[0] == number) == (street() == NUMBERS[name])).all()
    assert (masks[1] == numbers["car"]).sum() == 60 * 24
