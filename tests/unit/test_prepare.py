import collections
import hashlib
import random

import numpy as np
import polars as pl
import pytest

from components.core.colours import PALETTE
from components.core.errors import InputError
from components.core.manifest import Manifest
from components.core.masks import VOID, encode_mask
from components.prepare.balance import balance
from components.prepare.prepare import _painted, prepare, sections
from components.prepare.splits import assign
from tests.images import job_with_images

CLASSES = ["helmet", "head"]


def sample(number: int, boxes: int | None = 1, split: str = "", source: str = "", class_id: int = 0) -> dict:
    box = {"class_id": class_id, "x1": 1.0, "y1": 2.0, "x2": 30.0, "y2": 40.0}
    identity = f"{number:064x}"
    return {
        "id": identity, "uri": f"file:///b/{number}.jpg", "width": 64, "height": 64, "split": split, "group": identity,
        "source": source or f"{number}.jpg", "round": 0, "annotations": None if boxes is None else [box] * boxes,
    }  # fmt: skip


def splits(manifest: Manifest) -> dict[str, str]:
    return dict(zip(manifest.table["source"], manifest.table["split"], strict=True))


def test_ratios_hold_however_samples_arrive():
    whole = prepare(Manifest.of([sample(n) for n in range(2000)], CLASSES)).manifest
    shares = {name: len(whole.split(name)) / 2000 for name in ("train", "val", "test")}
    assert shares["train"] == pytest.approx(0.8, abs=0.03)
    assert shares["val"] == pytest.approx(0.1, abs=0.02)
    numbers = list(range(2000))
    random.Random(1).shuffle(numbers)
    shuffled = prepare(Manifest.of([sample(n) for n in numbers[:500]], CLASSES)).manifest
    assert splits(shuffled).items() <= splits(whole).items()


def test_the_seed_changes_the_split():
    samples = Manifest.of([sample(n) for n in range(200)], CLASSES)
    assert splits(prepare(samples, seed=1).manifest) != splits(prepare(samples, seed=2).manifest)


def test_a_group_is_never_divided():
    samples = Manifest.of([sample(n, source=f"cam{n % 60}/frame{n}.jpg") for n in range(600)], CLASSES)
    prepared = prepare(samples, group_pattern=r"^(cam\d+)/").manifest
    by_group = collections.defaultdict(set)
    for source, split in splits(prepared).items():
        by_group[source.split("/")[0]].add(split)
    assert len(by_group) == 60
    assert all(len(found) == 1 for found in by_group.values())


def test_a_group_pattern_is_read_as_python_reads_it():
    samples = Manifest.of([sample(n, source=f"site-{n % 40}/frame{n}.jpg") for n in range(200)], CLASSES)
    prepared = prepare(samples, group_pattern=r"(?<=site-)(\d+)(?=/)\S*\Z").manifest
    assert set(prepared.table["group"]) == {str(n) for n in range(40)}


def test_the_data_sets_own_splits_can_be_kept():
    own = ["train", "val", "test", ""]
    samples = Manifest.of([sample(n, split=own[n % 4]) for n in range(400)], CLASSES)
    kept = splits(prepare(samples, split_by="source").manifest)
    assert all(kept[f"{n}.jpg"] == own[n % 4] for n in range(400) if own[n % 4])
    assert {kept[f"{n}.jpg"] for n in range(3, 400, 4)} == {"train", "val", "test"}
    hashed = splits(prepare(samples).manifest)
    assert any(hashed[f"{n}.jpg"] != own[n % 4] for n in range(400) if own[n % 4])


def test_a_data_set_without_a_test_split_gives_half_of_val():
    samples = Manifest.of([sample(n, split="val" if n % 2 else "train") for n in range(400)], CLASSES)
    counts = prepare(samples, split_by="source").counts
    assert counts["train"] == 200
    assert 70 < counts["test"] < 130
    assert counts["val"] + counts["test"] == 200


def test_negatives_stay_and_the_unlabelled_get_no_split():
    rows = [sample(n) for n in range(100)] + [sample(n, boxes=0) for n in range(100, 150)]
    prepared = prepare(Manifest.of([*rows, sample(500, boxes=None)], CLASSES))
    assert prepared.counts["negatives"] == 50
    assert prepared.counts["unlabelled"] == 1
    assert splits(prepared.manifest)["500.jpg"] == ""
    assert sum(prepared.counts[split] for split in ("train", "val", "test")) == 150


def test_too_few_samples_are_an_error_that_says_so():
    with pytest.raises(InputError, match=r"no samples for .*: 2 labelled samples in 2 groups"):
        prepare(Manifest.of([sample(n) for n in range(2)], CLASSES)).check()


def test_images_without_any_label_are_an_error_that_says_so(tmp_path):
    prepared = prepare(Manifest.of([sample(n, boxes=None) for n in range(10)], ()))
    assert [section.title for section in sections(prepared, tmp_path)] == ["Data", "Labelled images"]
    with pytest.raises(InputError, match="none of the 10 images has a label"):
        prepared.check()


def test_a_class_that_is_rare_or_missing_is_warned_of():
    prepared = prepare(Manifest.of([sample(n) for n in range(300)], CLASSES))
    assert any("class head has 0 training boxes" in warning for warning in prepared.warnings)
    assert any("class head has no boxes in test" in warning for warning in prepared.warnings)
    assert not any("class helmet" in warning for warning in prepared.warnings)


def test_a_class_with_few_boxes_to_test_on_is_warned_of(caplog):
    rows = [sample(n, class_id=int(n < 18), split=("train", "val", "test")[n % 3]) for n in range(180)]
    prepared = prepare(Manifest.of(rows, CLASSES), split_by="source")
    few = "class head has 6 test boxes, too few for a reliable evaluation"
    assert prepared.warnings == ["class head has 6 training boxes; a detector needs hundreds", few]
    assert few in caplog.text
    assert prepared.counts["warnings"] == 2


def test_balance_counts_boxes_per_class_and_split():
    rows = [sample(n, boxes=2, class_id=n % 2) for n in range(400)]
    table = balance(prepare(Manifest.of(rows, CLASSES)).manifest)
    assert table.select(pl.sum("train", "val", "test")).row(0) == tuple(
        2 * sum(assign(f"{n:064x}", 0.8, 0.1, 0) == split for n in range(400)) for split in ("train", "val", "test")
    )


def masked(number: int, split: str = "") -> dict:
    return sample(number, boxes=None, split=split) | {"mask": f"file:///b/{number % 3}.png"}


def test_masks_are_labels_and_nothing_is_said_of_boxes():
    prepared = prepare(Manifest.of([*(masked(n) for n in range(100)), sample(500, boxes=None)], CLASSES))
    assert (prepared.counts["masks"], prepared.counts["unlabelled"], prepared.counts["negatives"]) == (100, 1, 0)
    assert sum(prepared.counts[split] for split in ("train", "val", "test")) == 100
    assert prepared.warnings == []
    mixed = prepare(Manifest.of([*(masked(n) for n in range(100)), *(sample(n) for n in range(100, 200))], CLASSES))
    assert any("class head has 0 training boxes" in warning for warning in mixed.warnings)


@pytest.mark.parametrize("masks", [True, False])
def test_the_report_shows_masks(tmp_path, masks):
    manifest = job_with_images(tmp_path / "job", {"train": 4, "val": 2, "test": 2})
    if masks:
        rows = []
        for number, row in enumerate(manifest.rows()):
            data = encode_mask(np.full((row["height"], row["width"]), (0, 1, VOID)[number % 3], dtype=np.uint8))
            digest = hashlib.sha256(data).hexdigest()
            path = tmp_path / "job" / "blobs" / digest[:2] / f"{digest}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            rows.append(row | {"annotations": None, "mask": path.as_uri()})
        manifest = Manifest.of(rows, manifest.classes)
    prepared = prepare(manifest, split_by="source")
    data, images = sections(prepared, tmp_path / "cache")
    assert ("train boxes" in data.body) is not masks
    assert images.body.count("<figure>") == 4


def test_a_mask_is_painted_over_its_image_except_where_it_is_void():
    image = np.full((2, 3, 3), 101, dtype=np.uint8)
    mask = np.array([[0, 1, VOID], [8, 0, VOID]], dtype=np.uint8)
    painted = _painted(image, mask)
    red, green, blue = (int(PALETTE[0][place : place + 2], 16) for place in (1, 3, 5))
    assert painted[0, 0].tolist() == [50 + red // 2, 50 + green // 2, 50 + blue // 2]
    assert painted[1, 0].tolist() == painted[0, 0].tolist(), "colours begin again after the last"
    assert (painted[:, 2] == 101).all()
    assert painted.dtype == np.uint8
