import hashlib
import json
import logging
import struct
import zlib
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar, Literal

import cv2
import numpy as np
import polars as pl
import pytest
from kfp import dsl
from onnx import helper
from pydantic.dataclasses import dataclass

from components.core import cache
from components.core.detections import Detections
from components.core.errors import InputError
from components.core.heads import STRICT, SemanticHead, SplitHead, heads
from components.core.job.hard_examples import image_key, sidecar_key
from components.core.job.job import Job
from components.core.job.label_requests import list_key, read_lists, write_list
from components.core.job.state import Change
from components.core.manifest import Manifest
from components.core.miners.base import Frame, Judgement
from components.core.parameters import MineSettings, problems
from components.core.reports.page import write_page
from components.core.runtimes.base import decoders
from components.core.runtimes.detector import GridDecoder
from components.core.tasks.base import tasks
from components.core.tasks.detection import Detection
from components.mine import score_pool as look
from components.mine.component import mine as component
from components.mine.label_feedback import label_feedback
from components.mine.mine import make_rule, mine
from components.mine.pool import gather
from components.mine.score_pool import score_pool
from tests.classification import ScoresHead
from tests.hard_examples import example
from tests.models import BUNDLE, colour_model, model, port, write_bundle

# What the champion scores 0.95, 0.75, 0.68 and, with half of what it is deployed with, 0.3.
RED, ROSE, PALE, FAINT = (250, 0, 0), (175, 0, 0), (160, 0, 0), (92, 0, 0)
NOTHING = None
CHAMPION = "r0001-89abcdef"


@pytest.fixture(params=["file", "s3"])
def any_root(request, tmp_path):
    return str(tmp_path / "job") if request.param == "file" else request.getfixturevalue("s3")


@pytest.fixture
def root(tmp_path):
    return str(tmp_path / "job")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGE_CACHE_DIR", str(tmp_path / "cache"))


def png(number, *colours):
    """An image of 96x64 that looks like no other, with a square of each colour."""
    grey = np.random.default_rng(number).integers(30, 120, (8, 12, 1), dtype=np.uint8)
    image = np.repeat(np.kron(grey, np.ones((8, 8, 1), np.uint8)), 3, axis=2)
    for place, colour in enumerate(colours):
        if colour is not None:
            image[8:16, 8 + 24 * place : 16 + 24 * place] = colour
    done, data = cv2.imencode(".png", image[:, :, ::-1])
    assert done
    return data.tobytes()


def hard(job, number, *colours, data=None, **changes):
    """Bring one hard example, as the uploader of a worker does, and return its id."""
    data = png(number, *colours or (RED,)) if data is None else data
    seen = {"width": 96, "height": 64, "suffix": ".png", "classes": ("red", "blue"), "boxes": (), "scores": (),
            "class_ids": ()}  # fmt: skip
    image, sidecar = example(number, data, **(seen | changes))
    job.store.write(image_key(sidecar), image)
    job.store.write(sidecar_key(sidecar), sidecar.model_dump_json().encode())
    return sidecar.image


def sample(job, number, colour=RED, labelled=False, boxes=(), round_number=1):
    """One row of the job's manifest, with its blob."""
    data = png(number, colour)
    identity = hashlib.sha256(data).hexdigest()
    key = f"blobs/{identity[:2]}/{identity}.png"
    job.store.write(key, data)
    annotations = [{"class_id": 0, **dict(zip(("x1", "y1", "x2", "y2"), box, strict=True))} for box in boxes]
    return {
        "id": identity, "uri": job.store.uri_of(key), "width": 96, "height": 64, "split": "", "group": f"g{number}",
        "source": f"{number}.png", "round": round_number, "annotations": annotations if labelled else None,
    }  # fmt: skip


def commit(job, tmp_path, rows=(), champion=CHAMPION, number=1):
    """Let the job have these samples and this champion."""
    state, etag = job.read()
    key = None
    if rows:
        file = tmp_path / "manifest.parquet"
        Manifest.of(list(rows), ("red", "blue")).write(file)
        key = f"manifests/r{number:04d}-{hashlib.sha256(file.read_bytes()).hexdigest()[:8]}.parquet"
        job.store.upload(file, key)
    if champion and champion not in job.registry.versions():
        job.registry.publish(write_bundle(tmp_path / champion, colour_model()), champion)
    history = state.history
    if champion and champion != state.champion:
        change = Change(version=champion, before=state.champion, at=datetime.now(UTC), why="promoted")
        history = (*history, change)
    changes = {"round": number, "manifest": key, "champion": champion, "history": history}
    job.commit(state.model_copy(update=changes), etag)


def chosen(mined, share=None):
    return [image.id for image in mined.wanted.images if share in (None, image.share)]


def test_hard_examples_and_unlabelled_samples_are_ranked_together(any_root, tmp_path):
    job = Job.open(any_root)
    sure, unsure, empty = (hard(job, n, colour) for n, colour in enumerate((RED, PALE, NOTHING)))
    rows = [sample(job, 10, PALE), sample(job, 11, labelled=True), sample(job, 12, labelled=True)]
    commit(job, tmp_path, rows)
    mined = mine(any_root, label_budget=3, random_fraction=0, empty_fraction=0.34, shortlist=1)
    assert set(chosen(mined, "hardest")) == {unsure, rows[0]["id"]}
    assert chosen(mined, "empty") == [empty]
    assert sure not in chosen(mined)
    assert mined.counts == {
        "asked": 3, "hardest": 2, "empty": 1, "random": 0, "pool": 4, "near_duplicates": 0,
        "unreadable": 0, "labelled": 0, "with_people": 0, "beyond_limit": 0,
    }  # fmt: skip
    image = next(one for one in mined.wanted.images if one.id == unsure)
    assert (image.boxes, image.class_ids) == (((8, 8, 16, 16),), (0,))
    assert 0.5 <= image.scores[0] < 0.7
    assert (mined.wanted.model, mined.wanted.round, mined.wanted.classes) == (CHAMPION, 1, ("red", "blue"))


def test_a_sample_with_a_mask_is_labelled(any_root, tmp_path):
    job = Job.open(any_root)
    masked, unlabelled = sample(job, 10, PALE) | {"mask": "file:///x/1.png"}, sample(job, 11, PALE)
    commit(job, tmp_path, [masked, unlabelled])
    assert chosen(mine(any_root, label_budget=2)) == [unlabelled["id"]]


def test_the_list_lies_in_the_job_and_its_images_can_be_fetched(any_root, tmp_path):
    job = Job.open(any_root)
    for number in range(4):
        hard(job, number)
    commit(job, tmp_path)
    mined = mine(any_root, label_budget=2)
    assert write_list(job.store, mined.wanted) == job.store.uri_of("to-label/r0001.json")
    assert json.loads(job.store.read(list_key(1)))["images"][0]["id"] == chosen(mined)[0]
    assert list(read_lists(job.store)) == [mined.wanted]
    mined.manifest().write(tmp_path / "to-label.parquet")
    manifest = Manifest.read(tmp_path / "to-label.parquet")
    assert manifest.table["id"].to_list() == chosen(mined)
    assert len(manifest.labelled()) == 0
    assert [file.stat().st_size > 0 for file in cache.fetch_blobs(manifest, tmp_path / "fetched")] == [True, True]


def test_what_earlier_lists_of_a_round_asked_for_is_remembered(any_root, tmp_path):
    job = Job.open(any_root)
    ids = [hard(job, number) for number in range(4)]
    commit(job, tmp_path)
    first = mine(any_root, label_budget=3, random_fraction=0, empty_fraction=0).wanted
    by_id = {image.id: image for image in first.images}
    write_list(job.store, first)
    for kept in (1, 1, 0):  # the second asks for nothing else, and the last one has the middle image again
        images = first.images[kept : kept + 1]
        write_list(job.store, first.model_copy(update={"images": images}))
    lists = list(read_lists(job.store))
    assert lists[-1].images == first.images[:1]
    assert [[image.id for image in one.images] for one in lists[:-1]] == [
        [first.images[0].id, first.images[2].id],
        [first.images[1].id],
    ]
    rows = [sample(job, number, labelled=id_ in by_id) for number, id_ in enumerate(ids)]
    (tally,) = label_feedback(lists, Manifest.of(rows, ("red", "blue")))
    assert (tally.asked, tally.labelled) == (3, 3)


def test_of_the_empty_images_those_with_faint_boxes_go_first(root, tmp_path):
    job = Job.open(root)
    for number in range(20):
        hard(job, number, NOTHING)
    faint = [hard(job, 100, FAINT, FAINT), hard(job, 101, FAINT)]
    commit(job, tmp_path)
    mined = mine(root, label_budget=2, random_fraction=0, empty_fraction=1)
    assert chosen(mined, "empty") == faint
    assert [image.boxes for image in mined.wanted.images] == [(), ()]
    scores = [pick.seen.judgement.score for pick in mined.picks]
    assert scores == pytest.approx([1.76 / 2.76, 0.88 / 1.88], abs=0.01)
    assert (
        mine(root, label_budget=2, random_fraction=0, empty_fraction=1, min_score=0.5).picks[0].seen.judgement.score
        == 0
    )


def test_what_is_labelled_is_not_asked_for_again_whatever_it_is_named(root, tmp_path):
    job = Job.open(root)
    ids = [hard(job, number) for number in range(3)]
    commit(job, tmp_path)
    first = mine(root)
    assert set(chosen(first)) == set(ids)
    write_list(job.store, first.wanted)
    row = {**sample(job, 1, labelled=True), "source": "renamed by somebody.png"}
    commit(job, tmp_path, [row], number=2)
    second = mine(root)
    assert set(chosen(second)) == {ids[0], ids[2]}
    assert second.counts["labelled"] == 1


def test_a_image_counts_once_wherever_it_lies(root, tmp_path):
    job = Job.open(root)
    ids = {hard(job, number, data=png(1, RED)) for number in (0, 4000, 8000)}
    commit(job, tmp_path, [sample(job, 1), sample(job, 2)])
    mined = mine(root)
    assert mined.counts["pool"] == 2
    assert ids < set(chosen(mined))


def test_the_limit_leaves_the_latest(root, tmp_path):
    job = Job.open(root)
    hours = [hard(job, 3600 * number) for number in range(4)]
    rows = [sample(job, 100 + number, round_number=number) for number in range(4)]
    commit(job, tmp_path, rows[::-1], number=4)
    assert set(chosen(mine(root, pool_limit=2))) == set(hours[2:])
    mined = mine(root, pool_limit=5)
    assert set(chosen(mined)) == {*hours, rows[3]["id"]}
    assert mined.counts["beyond_limit"] == 3
    assert mine(root, pool_limit=4).counts["beyond_limit"] == 4


def test_images_that_cannot_be_read_are_passed_over_and_counted(any_root, tmp_path, caplog):
    job = Job.open(any_root)
    good = hard(job, 1)
    hard(job, 2, data=b"not an image")
    _, changed = example(3, png(3), suffix=".png", width=96, height=64)
    job.store.write(image_key(changed), png(4))
    _, missing = example(5, png(5), suffix=".png", width=96, height=64)
    for sidecar in (changed, missing):
        job.store.write(sidecar_key(sidecar), sidecar.model_dump_json().encode())
    job.store.write("hard-examples/2026/11/20/12/half.json", b"{")
    commit(job, tmp_path)
    mined = mine(any_root)
    assert chosen(mined) == [good]
    assert mined.counts["unreadable"] == 3
    lines = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert sum("damaged, too large or not an image" in line for line in lines) == 2
    assert sum(f"{image_key(missing)}: not found" in line for line in lines) == 1


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("size", [(40_000, 40_000), (12_000, 12_000)])
def test_an_image_that_would_fill_the_memory_is_passed_over(root, tmp_path, size):
    job = Job.open(root)
    good = hard(job, 1)
    header = b"IHDR" + struct.pack(">IIBBBBB", *size, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes((size[0] // 8 + 1) * size[1]))
    chunks = [header, b"IDAT" + rows, b"IEND"]
    parts = [struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks]
    hard(job, 2, data=b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    commit(job, tmp_path)
    mined = mine(root)
    assert (chosen(mined), mined.counts["unreadable"]) == ([good], 1)


@pytest.mark.parametrize("budget", [0, 5])
def test_nothing_to_ask_for_is_an_empty_list_and_one_line(root, tmp_path, caplog, budget):
    caplog.set_level(logging.INFO)
    job = Job.open(root)
    if not budget:
        hard(job, 1)
    commit(job, tmp_path)
    mined = mine(root, label_budget=budget)
    assert chosen(mined) == []
    assert [record.message for record in caplog.records] == [
        "no unlabelled images: 0 hard examples are already labelled, 0 images are with people, 0 are unreadable"
        if budget
        else "label_budget=0: no images are requested"
    ]
    assert len(mined.manifest()) == mined.ranking().height == 0
    write_page(tmp_path / "page.html", "Mine", mined.sections)


def test_a_job_that_has_not_begun_has_nothing_to_ask_for(root):
    mined = mine(root)
    assert (mined.wanted.images, mined.wanted.model, mined.wanted.round) == ((), None, 0)


def test_without_a_champion_images_are_drawn_at_random(root, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    job = Job.open(root)
    for number in range(9):
        hard(job, number)
    commit(job, tmp_path, champion=None)
    mined = mine(root, label_budget=4)
    assert [image.share for image in mined.wanted.images] == ["random"] * 4
    assert mined.wanted.model is None
    assert "requested labels for 4 of 9 images: drawn at random because the job has no champion yet" in caplog.text


def noise(number):
    """A dark grey image that looks like no other."""
    grey = np.random.default_rng(number).integers(0, 60, (8, 12, 1), dtype=np.uint8)
    return np.repeat(np.kron(grey, np.ones((8, 8, 1), np.uint8)), 3, axis=2)


def encoded(image):
    return cv2.imencode(".png", image[:, :, ::-1])[1].tobytes()


def commit_segmenter(job, tmp_path, **more):
    """A champion that gives each cell of 8 pixels the class of its colour, the more surely the more of it there is."""
    graph = colour_model()
    (logits,) = (node for node in graph.graph.node if "logits" in node.output)
    weights = [one for one in graph.graph.initializer if {one.name} & {"weights", "bias", "steep"}]
    conv = next(node for node in graph.graph.node if node.op_type == "Conv")
    segmenter = model([conv, logits], [port("images", 1, 3, 64, 96)], [port("logits", 1, 2, 8, 12)], weights)
    described = replace(BUNDLE, task="segmentation", head=SemanticHead(stride=8), outputs=("logits",))
    job.registry.publish(write_bundle(tmp_path / "s1", segmenter, described), "s1")
    commit(job, tmp_path, champion="s1", **more)


def test_a_champion_that_segments_ranks_by_entropy_and_proposes_masks(any_root, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    job = Job.open(any_root)
    red, blue = np.array([190, 0, 0], np.uint8), np.array([0, 0, 190], np.uint8)
    images = {"sure": noise(1) + red, "grey": noise(2), "half": noise(3) + red}
    images["half"][:, 48:] = noise(3)[:, 48:] + blue
    ids = {name: hard(job, number, data=encoded(image)) for number, (name, image) in enumerate(images.items())}
    commit_segmenter(job, tmp_path, rows=[sample(job, 100) | {"mask": "file:///x/1.png"}])
    mined = mine(any_root, label_budget=3, random_fraction=0, shortlist=1)
    assert "3 hardest by pixel entropy, 0 empty, 0 random" in caplog.text
    assert chosen(mined, "hardest")[0] == ids["grey"]
    wanted = mined.wanted
    assert (wanted.model, wanted.labels, wanted.miner, wanted.classes) == (
        "s1",
        "masks",
        "pixel entropy",
        ("red", "blue"),
    )
    images = {image.id: image for image in wanted.images}
    assert images[ids["grey"]].score > 0.99 > 0.1 > images[ids["sure"]].score
    masks = {name: mined.proposals.mask(id_) for name, id_ in ids.items()}
    assert (masks["sure"] == 0).all() and images[ids["sure"]].mask.scores[0] > 0.9
    assert (masks["half"][:, :48] == 0).all() and (masks["half"][:, 48:] == 1).all()
    mined.proposals.write(job.store)
    assert all(job.store.read(image.mask.key) for image in wanted.images)


def test_masks_of_another_job_are_what_people_correct(root, tmp_path):
    other, job = Job.open(str(tmp_path / "large")), Job.open(root)
    commit_segmenter(other, tmp_path)
    id_ = hard(job, 1, data=encoded(noise(1)))
    commit_segmenter(job, tmp_path / "own")
    mined = mine(root, prelabel_job=str(tmp_path / "large"))
    (image,) = mined.wanted.images
    assert (image.id, mined.wanted.prelabelled_by) == (id_, other.store.uri_of("bundles/s1"))
    assert image.to_correct.mask.key in mined.proposals.files
    boxes = Job.open(str(tmp_path / "boxes"))
    commit(boxes, tmp_path)
    with pytest.raises(InputError, match="is for detection, but this job is for segmentation: choose a job"):
        mine(root, prelabel_job=str(tmp_path / "boxes"))


def commit_of_kind(job, tmp_path, graph, **described):
    """A champion of another kind of task."""
    job.registry.publish(write_bundle(tmp_path / "other-kind", graph, replace(BUNDLE, **described)), "k1")
    commit(job, tmp_path, champion="k1", rows=[sample(job, 100, labelled=True)])


def test_with_a_champion_that_gives_neither_boxes_nor_masks_images_are_drawn_at_random(root, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    job = Job.open(root)
    for number in range(9):
        hard(job, number)
    mean = helper.make_node("GlobalAveragePool", ["images"], ["mean"])
    graph = model([mean, helper.make_node("Flatten", ["mean"], ["scores"])], [port("images", 1, 3, 64, 96)],
                  [port("scores", 1, 3)])  # fmt: skip
    kind = {"task": "classification", "head": ScoresHead(), "outputs": ("scores",), "classes": ("r", "g", "b")}
    commit_of_kind(job, tmp_path, graph, **kind)
    mined = mine(root, label_budget=4)
    assert [image.share for image in mined.wanted.images] == ["random"] * 4
    assert (mined.wanted.model, mined.wanted.labels, mined.wanted.classes) == (None, "boxes", ("red", "blue"))
    reason = "the champion is for classification, which has neither boxes nor masks"
    assert f"requested labels for 4 of 9 images: drawn at random because {reason}" in caplog.text
    with pytest.raises(InputError, match="k1 is for classification, which proposes neither boxes nor masks"):
        mine(str(tmp_path / "new"), prelabel_job=root)


@dataclass(frozen=True, config=STRICT)
class InspectionHead(SplitHead):
    task: ClassVar[str] = "inspection"
    kind: Literal["inspection"] = "inspection"


class Inspection(Detection):
    name = "inspection"


def test_a_new_kind_of_task_whose_models_give_boxes_ranks_by_the_miner_and_proposes_them(root, tmp_path, monkeypatch):
    for registry, entry in ((tasks, Inspection), (heads, InspectionHead), (decoders, GridDecoder)):
        monkeypatch.setitem(registry._entries, "inspection", entry)
    job = Job.open(root)
    sure, unsure = hard(job, 1, RED), hard(job, 2, PALE)
    head = InspectionHead(strides=BUNDLE.head.strides, reg_max=1, end_to_end=False)
    commit_of_kind(job, tmp_path, colour_model(), task="inspection", head=head)
    wanted = mine(root, label_budget=2, random_fraction=0, shortlist=1, prelabel_job=root).wanted
    assert (wanted.model, wanted.labels, wanted.miner) == ("k1", "boxes", "entropy-sum")
    assert [image.id for image in wanted.images] == [unsure, sure]
    for image in wanted.images:
        assert image.boxes == image.to_correct.boxes == ((8, 8, 16, 16),)
        assert image.prelabels is not None and image.prelabels.class_ids == (0,)


def test_a_pool_smaller_than_the_budget_is_asked_for_as_a_whole(root, tmp_path):
    job = Job.open(root)
    ids = {hard(job, number, NOTHING if number % 2 else PALE) for number in range(5)}
    commit(job, tmp_path)
    mined = mine(root, label_budget=50)
    assert set(chosen(mined)) == ids


def test_near_duplicates_are_asked_for_once(root, tmp_path):
    job = Job.open(root)
    image = cv2.imdecode(np.frombuffer(png(1, RED), np.uint8), cv2.IMREAD_COLOR)
    for brightness in range(6):
        hard(job, brightness, data=cv2.imencode(".png", image + np.uint8(brightness))[1].tobytes())
    commit(job, tmp_path)
    mined = mine(root)
    assert (mined.counts["asked"], mined.counts["near_duplicates"]) == (1, 5)


def test_the_same_input_gives_the_same_list(root, tmp_path, monkeypatch):
    job = Job.open(root)
    for number in range(30):
        hard(job, number, (RED, PALE, NOTHING)[number % 3])
    rows = [sample(job, 100 + number) for number in range(10)]
    commit(job, tmp_path, rows)
    first = mine(root, label_budget=12)
    commit(job, tmp_path, rows[::-1])
    monkeypatch.setattr(look, "_AHEAD", 3)
    assert mine(root, label_budget=12).wanted == first.wanted
    assert mine(root, label_budget=12, miner="novelty").wanted == mine(root, label_budget=12, miner="novelty").wanted


def test_the_miner_and_its_parameters_decide(root, tmp_path):
    job = Job.open(root)
    one_doubtful, less_doubtful = hard(job, 1, RED, PALE, RED), hard(job, 2, ROSE)
    faint_too = hard(job, 3, RED, FAINT, FAINT)
    commit(job, tmp_path)

    def first(miner, min_score=0.5, **parameters):
        options = {"random_fraction": 0, "empty_fraction": 0, "min_score": min_score, "miner_parameters": parameters}
        return chosen(mine(root, label_budget=1, miner=miner, **options))

    assert first("entropy", boxes="worst") == [one_doubtful]
    assert first("entropy", boxes="mean") == [less_doubtful]
    assert first("entropy-sum") == [one_doubtful]
    assert first("entropy-sum", min_score=0.2) == [faint_too]
    with pytest.raises(InputError, match="unknown miner 'guess'"):
        mine(root, miner="guess")


def test_the_boxes_to_correct_are_those_of_the_deployed_model_whatever_the_miner_sees(root, tmp_path):
    job = Job.open(root)
    hard(job, 1, RED, PALE, FAINT)
    commit(job, tmp_path)
    for min_score in (0.05, 0.5, 0.9):
        (image,) = mine(root, min_score=min_score).wanted.images
        assert sorted(image.boxes) == [(8, 8, 16, 16), (32, 8, 40, 16)], min_score


@pytest.mark.parametrize("score", [3.0, float("nan")])
def test_a_miner_whose_scores_cannot_be_ranked_is_named(root, tmp_path, score):
    class Own:
        name = "own"

        def judge(self, frame):
            return Judgement(True, score, "as it likes")

    job = Job.open(root)
    hard(job, 1)
    (candidate,) = gather(job.store, None, 10).candidates
    with pytest.raises(InputError, match=f"miner 'own' gave .*png the score {score}: return 0 to 1"):
        score_pool([candidate], None, Own(), 0.05, tmp_path / "cache")


def test_a_pool_is_ranked_by_images_with_boxes_unless_told_otherwise():
    empty = Frame(Detections.none(), key="ab")
    assert make_rule("entropy-sum", {}).judge(empty).score == 0
    assert make_rule("IBT", {"on_empty": "hard"}).judge(empty).score == 1
    assert make_rule("CloudOnly", {}).judge(empty).score == 1


def test_a_damaged_champion_is_told(root, tmp_path):
    job = Job.open(root)
    hard(job, 1)
    commit(job, tmp_path)
    job.store.write(f"bundles/{CHAMPION}/model.onnx", b"something else")
    with pytest.raises(InputError, match=r"model\.onnx does not have the SHA-256"):
        mine(root)


def test_the_ranking_is_a_table_in_the_order_of_the_list(root, tmp_path):
    job = Job.open(root)
    for number in range(4):
        hard(job, number, kind="audit" if number % 2 else "hard")
    commit(job, tmp_path, [sample(job, 9)])
    mined = mine(root)
    table = mined.ranking()
    assert table["rank"].to_list() == [1, 2, 3, 4, 5]
    assert table["id"].to_list() == chosen(mined)
    assert sorted(table["kind"]) == ["audit", "audit", "hard", "hard", "unlabelled"]
    assert table["model"].unique().to_list() == [CHAMPION]
    assert pl.read_csv(table.write_csv().encode()).columns == table.columns


def test_the_report_shows_images_and_what_earlier_answers_say(root, tmp_path):
    job = Job.open(root)
    right, wrong = hard(job, 1), hard(job, 2)
    commit(job, tmp_path)
    first = mine(root, label_budget=2, random_fraction=0.5, empty_fraction=0)
    write_list(job.store, first.wanted)
    assert "Answers" not in str([section.title for section in first.sections])
    true_box, missed = (8, 8, 16, 16), (40, 40, 60, 60)
    rows = [
        sample(job, 1, labelled=True, boxes=[true_box]),
        sample(job, 2, labelled=True, boxes=[missed]),
        sample(job, 3),
    ]
    assert {rows[0]["id"], rows[1]["id"]} == {right, wrong}
    commit(job, tmp_path, rows, number=2)
    mined = mine(root)
    write_page(tmp_path / "page.html", "Mine", mined.sections)
    page = Path(tmp_path / "page.html").read_text()
    assert "requested labels for 1 of 1 images" in page
    assert page.count("<img") == 1
    assert "(unlabelled; 3.png)" in page
    share = {image.id: image.share for image in first.wanted.images}
    table = str(mined.sections[1].body)
    assert mined.sections[1].title == "Labels received for earlier requests"
    for id_, mistakes in ((right, "0.000"), (wrong, "2.000")):
        assert f'<td class="text">{share[id_]}</td><td>1</td><td>1</td><td>{mistakes}</td>' in table


def other_job(tmp_path, **changes):
    """The root of a job whose champion is another model."""
    root = str(tmp_path / "other")
    job = Job.open(root)
    job.registry.publish(write_bundle(tmp_path / "large", colour_model(), replace(BUNDLE, **changes)), "large")
    state, etag = job.read()
    job.commit(state.pointing_at("large", "a test"), etag)
    return root


def test_the_champion_of_another_job_finds_the_boxes_that_people_correct(any_root, tmp_path):
    job = Job.open(any_root)
    hard(job, 1, FAINT)
    commit(job, tmp_path)
    other = other_job(tmp_path, classes=("truck", "red"), confidence_threshold=0.2)
    with_blue = hard(job, 2, FAINT, (0, 0, 250))
    mined = mine(any_root, label_budget=2, prelabel_job=other)
    assert mined.wanted.prelabelled_by == f"file://{other}/bundles/large"
    assert (mined.wanted.model, mined.wanted.classes) == (CHAMPION, ("red", "blue"))
    found = {image.id: image for image in mined.wanted.images}
    # What is blue it calls red, which is class 0 here; the faint red squares are trucks to it, of which nobody asked.
    assert found[with_blue].prelabels.class_ids == (0,)
    assert found[with_blue].prelabels.boxes == ((32, 8, 40, 16),)
    assert found[with_blue].class_ids == (1,), "by which it was chosen stays what this job's champion found"
    assert [len(image.to_correct.boxes) for image in mined.wanted.images if image.id != with_blue] == [0]
    write_list(job.store, mined.wanted)
    assert list(read_lists(job.store)) == [mined.wanted]
    write_page(tmp_path / "page.html", "Mine", mined.sections)
    assert "from file://" in (tmp_path / "page.html").read_text()


def test_before_the_first_round_another_jobs_champion_names_the_classes(root, tmp_path):
    hard(Job.open(root), 1, RED)
    mined = mine(root, prelabel_job=other_job(tmp_path))
    (image,) = mined.wanted.images
    assert (mined.wanted.model, mined.wanted.classes) == (None, ("red", "blue"))
    assert (image.boxes, image.to_correct.class_ids) == ((), (0,))


def test_another_job_that_cannot_help_is_told(root, tmp_path):
    with pytest.raises(InputError, match="/nothing: the job has no champion"):
        mine(root, prelabel_job=str(tmp_path / "nothing"))  # though there is nothing to ask for yet
    job = Job.open(root)
    hard(job, 1)
    commit(job, tmp_path)
    with pytest.raises(InputError, match="/nothing: the job has no champion: check the address"):
        mine(root, prelabel_job=str(tmp_path / "nothing"))
    other = other_job(tmp_path, classes=("truck", "van"))
    with pytest.raises(InputError, match=r"large knows truck, van, but this job has red, blue: choose a job"):
        mine(root, prelabel_job=other)


def test_a_list_that_is_none_is_told(root, tmp_path):
    job = Job.open(root)
    commit(job, tmp_path, [sample(job, 1)])
    job.store.write(list_key(1), b'{"round": 1}')
    with pytest.raises(InputError, match=r"r0001\.json is not a valid list of label requests .*: remove it"):
        mine(root)


def test_the_component_writes_every_output(root, tmp_path):
    job = Job.open(root)
    ids = {hard(job, number) for number in range(3)}
    commit(job, tmp_path)
    kinds = {"ranking": dsl.Dataset, "to_label": dsl.Dataset, "report": dsl.HTML}
    outputs = {name: kind(name=name, uri=str(tmp_path / name), metadata={}) for name, kind in kinds.items()}
    component.python_func(root, **outputs, settings={"label_budget": 2.0})
    assert pl.read_csv(tmp_path / "ranking").height == len(Manifest.read(tmp_path / "to_label")) == 2
    assert "Images to label" in (tmp_path / "report").read_text()
    assert {image.id for image in next(read_lists(job.store)).images} < ids


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            {"random_fraction": 0.6, "empty_fraction": 0.5},
            "random_fraction=0.6 and empty_fraction=0.5 are more than the budget",
        ),
        ({"label_budget": -1}, "label_budget=-1"),
        ({"pool_limit": 0}, "pool_limit=0"),
        ({"min_score": 1.5}, "min_score=1.5"),
        ({}, ""),
    ],
)
def test_parameters_that_cannot_be_are_told_before_any_work(given, words):
    found = problems(given, [MineSettings])
    assert len(found) == bool(words)
    assert words in "".join(found)
