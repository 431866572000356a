import hashlib
import random

import polars as pl
import pytest

from components.core.errors import InputError
from components.core.manifest import Manifest
from components.prepare.replay import draw, round_manifest, section
from components.prepare.splits import assign

CLASSES = ("helmet", "head")
BOX = {"x1": 1.0, "y1": 1.0, "x2": 9.0, "y2": 9.0}


def row(name, classes=(0,), group=None, split="", number=0):
    """One sample with a box of each class; ``None`` instead of classes: unlabelled."""
    identity = hashlib.sha256(str(name).encode()).hexdigest()
    return {
        "id": identity, "uri": f"file:///blobs/{identity}.jpg", "width": 10, "height": 10, "split": split,
        "group": group or identity, "source": f"{name}.jpg", "round": number,
        "annotations": None if classes is None else [{"class_id": c, **BOX} for c in classes],
    }  # fmt: skip


def batch(start, count, classes=(0,)):
    return Manifest.of([row(name, classes) for name in range(start, start + count)], CLASSES)


def ids(manifest):
    return set(manifest.table["id"])


def rounds(batches, **options):
    """The data of one round after another."""
    known = None
    for number, new in enumerate(batches, start=1):
        data = round_manifest(known, new, round_number=number, **options)
        known = data.manifest
        yield data


def test_the_first_round_trains_on_what_is_new_and_replays_nothing():
    (data,) = rounds([batch(0, 200)], min_test_samples=10)
    assert data.counts == {
        "new_labels": 200, "relabelled": 0, "new_train": len(data.training.split("train")), "replayed": 0,
        "train": len(data.training.split("train")), "val": len(data.training.split("val")),
        "core": len(data.core), "recent": len(data.core), "unlabelled": 0, "all": 200,
    }  # fmt: skip
    assert data.counts["train"] + data.counts["val"] + data.counts["core"] == 200
    assert all(
        split == assign(identity, 0.8, 0.1, 0) for identity, split in data.manifest.table.select("id", "split").rows()
    )
    assert set(data.manifest.table["round"]) == {1}
    assert ids(data.core) == ids(data.recent) == ids(data.manifest.split("test"))


@pytest.mark.parametrize(("ratio", "limit"), [(0, 5000), (0.5, 5000), (1.0, 5000), (2.0, 5000), (1.0, 7)])
def test_a_round_replays_as_many_earlier_training_samples_as_the_ratio_says(ratio, limit):
    first, second = rounds([batch(0, 300), batch(300, 100)], replay_ratio=ratio, replay_limit=limit)
    train = second.training.split("train")
    wanted = min(round(ratio * second.counts["new_train"]), limit)
    assert second.counts["replayed"] == wanted
    assert len(ids(train) & ids(first.training.split("train"))) == wanted
    assert len(train) == second.counts["new_train"] + wanted
    assert second.budget(10) == {"new_labels": 100, "replayed": wanted, "sample_epochs": 10 * len(train)}


def test_no_more_is_replayed_than_there_is():
    first, second = rounds([batch(0, 60), batch(60, 400)])
    assert second.counts["replayed"] == first.counts["train"]


def test_the_order_of_rows_changes_nothing():
    many = [row(n, [(0,), (1,), (0, 1), ()][n % 4]) for n in range(400)]
    shuffled = random.Random(3).sample(many, len(many))
    results = []
    for rows in (many, shuffled):
        first, second = rounds([Manifest.of(rows, CLASSES), batch(400, 80)])
        results.append([m.table for data in (first, second) for m in (data.manifest, data.training, data.core)])
    assert all(one.equals(other) for one, other in zip(*results, strict=True))


def test_another_seed_and_another_round_draw_other_samples():
    pool = batch(0, 500)
    drawn = [ids(draw(pool, 100, key)) for key in ("0:2", "0:2", "1:2", "0:3")]
    assert drawn[0] == drawn[1]
    assert all(len(one) == 100 for one in drawn)
    assert len({frozenset(one) for one in drawn}) == 3
    assert 5 < len(drawn[0] & drawn[3]) < 50  # some 20 by chance


def test_rare_classes_are_drawn_as_often_as_common_ones_and_negatives_keep_their_share():
    rows = [row(n, (1,) if n < 100 else () if n < 300 else (0,)) for n in range(1300)]
    pool = Manifest.of(rows, CLASSES)
    counts = {0: 0, 1: 0, None: 0}
    for key in range(20):
        for annotations in draw(pool, 65, str(key)).table["annotations"].to_list():
            counts[annotations[0]["class_id"] if annotations else None] += 1
    assert counts[None] == 20 * 10  # 200 of 1300
    assert counts[0] + counts[1] == 20 * 55
    assert counts[1] / counts[0] == pytest.approx(1, abs=0.25)  # 1 to 10 in the pool


def test_a_draw_of_every_size_has_that_size():
    pool = Manifest.of([row(n, [(0,), (), (0, 1)][n % 3]) for n in range(17)], CLASSES)
    assert [len(draw(pool, size, "k")) for size in range(20)] == [*range(18), 17, 17]
    assert len(draw(Manifest.of([row(n, ()) for n in range(9)], CLASSES), 4, "k")) == 4


def test_removing_samples_that_were_not_drawn_changes_no_uniform_draw():
    pool = Manifest.of([row(n, ()) for n in range(100)], CLASSES)
    drawn = draw(pool, 10, "k")
    others = sorted(ids(pool) - ids(drawn))[:40]
    assert ids(draw(pool.where(~pl.col("id").is_in(others)), 10, "k")) == ids(drawn)


def test_the_core_set_is_frozen_and_the_recent_set_slides():
    history = list(rounds([batch(100 * n, 100) for n in range(6)], core_rounds=2, recent_rounds=3, min_test_samples=1))
    tests = [ids(data.manifest.split("test").where(pl.col("round") == n)) for n, data in enumerate(history, start=1)]
    assert ids(history[0].core) == tests[0]
    for data in history[1:]:
        assert ids(data.core) == tests[0] | tests[1]
    assert ids(history[5].recent) == tests[3] | tests[4] | tests[5]
    assert ids(history[1].recent) == tests[0] | tests[1]


def test_small_rounds_are_joined_until_a_set_has_enough_samples():
    history = list(rounds([batch(20 * n, 20) for n in range(20)], min_test_samples=15))
    sizes = [data.counts["core"] for data in history]
    frozen = next(place for place, size in enumerate(sizes) if size >= 15)
    assert 0 < sizes[0] < 15
    assert frozen > 0
    assert all(ids(data.core) == ids(history[frozen].core) for data in history[frozen:])
    assert all(data.counts["recent"] >= 15 for data in history[frozen:])
    newest = history[-1].recent.table["round"]
    assert newest.max() <= 20
    assert newest.min() > 1


def random_rounds(seed, count=50):
    """Rounds of all sizes with groups that come again, relabelled, unlabelled and repeated samples."""
    rng = random.Random(seed)
    seen = []
    for number in range(count):
        fresh = [
            row(f"{seed}-{number}-{n}", rng.choice([(0,), (1,), (0, 1), (), None]), group=f"video{rng.randrange(150)}")
            for n in range(400 if number == 0 else rng.randrange(15, 60))
        ]
        again = [
            {**old, "annotations": rng.choice([old["annotations"], None, row(0, (1, 1))["annotations"]])}
            for old in rng.sample(seen, min(len(seen), rng.randrange(8)))
        ]
        seen += fresh
        yield Manifest.of(rng.sample(fresh + again, len(fresh) + len(again)), CLASSES)


def test_nothing_is_ever_both_trained_on_and_measured_on():
    sides, trained, measured, labelled = {}, set(), set(), set()
    known, core = None, None
    for number, new in enumerate(random_rounds(5), start=1):
        # The ratios change on the way; whoever has a side keeps it.
        ratios = (0.7, 0.15) if number % 2 else (0.3, 0.3)
        data = round_manifest(known, new, round_number=number, train_ratio=ratios[0], val_ratio=ratios[1], seed=number)
        known = data.manifest
        for identity, group, split in known.labelled().table.select("id", "group", "split").iter_rows():
            assert sides.setdefault(identity, split) == split
            assert sides.setdefault(group, split) == split
        assert set(data.training.table["split"]) == {"train", "val"}
        assert set(data.core.table["split"]) == set(data.recent.table["split"]) == {"test"}
        trained |= ids(data.training)
        measured |= ids(data.core) | ids(data.recent)
        assert not trained & measured
        assert core is None or ids(data.core) == core
        core = ids(data.core)
        assert known.table["id"].is_unique().all()
        assert data.training.table["id"].is_unique().all()
        labelled |= ids(new.labelled())
        assert ids(known.labelled()) == labelled
        assert set(known.where(pl.col("annotations").is_null()).table["split"]) <= {""}


def test_a_corrected_label_replaces_the_old_one_and_is_trained_on_again():
    first, second = rounds(
        [batch(0, 400), Manifest.of([row(n, (1,)) for n in range(20)] + [row(n) for n in range(400, 430)], CLASSES)],
        replay_ratio=0,
    )
    corrected = {row(n)["id"] for n in range(20)}
    assert second.counts["relabelled"] == 20
    assert second.counts["new_labels"] == 50
    assert ids(second.training.split("train")) >= corrected & ids(first.training.split("train"))
    rows = {one["id"]: one for one in second.manifest.rows() if one["id"] in corrected}
    assert {one["annotations"][0]["class_id"] for one in rows.values()} == {1}
    assert {one["round"] for one in rows.values()} == {1}
    before = dict(first.manifest.table.select("id", "split").iter_rows())
    assert all(before[identity] == one["split"] for identity, one in rows.items())
    # The core set keeps its samples and has the corrected labels.
    assert ids(second.core) == ids(first.core)
    assert {one["annotations"][0]["class_id"] for one in second.core.rows() if one["id"] in corrected} == {1}


def test_the_same_sample_again_is_no_news_and_takes_no_label_away():
    again = Manifest.of([row(n) for n in range(50)] + [row(n, None) for n in range(50, 90)], CLASSES)
    everything = Manifest(pl.concat([again.table, batch(200, 40).table]), CLASSES)
    first, second = rounds([batch(0, 200), everything])
    assert second.counts["new_labels"] == 40
    assert second.counts["relabelled"] == 0
    assert second.counts["unlabelled"] == 0
    assert second.manifest.where(pl.col("round") == 1).table.equals(first.manifest.table)


def test_a_label_that_was_taken_back_is_trained_on_no_more_until_there_is_another():
    first = round_manifest(None, batch(0, 200), round_number=1)
    gone = sorted(ids(first.manifest.split("train")))[:3]
    second = round_manifest(first.manifest.without_labels(gone), batch(200, 50), round_number=2, replay_ratio=100)
    assert not set(gone) & ids(second.training)
    assert second.counts["unlabelled"] == 3
    assert ids(second.manifest) == ids(first.manifest) | ids(batch(200, 50))
    again = first.manifest.where(pl.col("id").is_in(gone[:1]))
    third = round_manifest(second.manifest, again, round_number=3, purpose="train")
    assert gone[0] in ids(third.manifest.labelled())
    assert third.counts["new_labels"] == 1


def test_a_label_that_comes_later_makes_the_sample_one_of_that_round():
    first, second = rounds(
        [
            Manifest(pl.concat([batch(0, 400).table, batch(400, 100, None).table]), CLASSES),
            Manifest(pl.concat([batch(400, 60).table, batch(800, 10).table]), CLASSES),
        ]
    )
    assert first.counts["unlabelled"] == 100
    assert second.counts["unlabelled"] == 40
    assert second.counts["new_labels"] == 70
    assert second.counts["relabelled"] == 0
    assert ids(second.core) == ids(first.core)
    assert len(second.manifest.where(pl.col("round") == 2)) == 70


def test_classes_are_joined_by_name():
    other = Manifest.of([row(n, (0, 2)) for n in range(200, 300)], ("vest", "helmet", "head"))
    _, second = rounds([batch(0, 200), other])
    assert second.manifest.classes == second.core.classes == ("helmet", "head", "vest")
    new = second.manifest.where(pl.col("round") == 2)
    assert {tuple(box["class_id"] for box in one["annotations"]) for one in new.rows()} == {(2, 1)}


def test_the_validation_set_is_drawn_from_all_rounds_up_to_its_limit():
    first, second = rounds([batch(0, 600), batch(600, 200)], val_limit=30)
    assert first.counts["val"] == second.counts["val"] == 30
    val = second.manifest.where(pl.col("id").is_in(list(ids(second.training.split("val")))))
    assert set(val.table["split"]) == {"val"}
    assert set(val.table["round"]) == {1, 2}


def test_a_round_with_nothing_to_train_on_says_so():
    tests = [n for n in range(300) if assign(row(n)["id"], 0.8, 0.1, 0) == "test"]
    (first,) = rounds([batch(1000, 200)])
    new = Manifest.of([row(n) for n in tests[:5]], CLASSES)
    with pytest.raises(InputError, match="no new training sample among 5 new labelled samples and 205 in total"):
        round_manifest(first.manifest, new, round_number=2)
    with pytest.raises(InputError, match="no new training sample and no validation sample among"):
        round_manifest(None, new, round_number=1)
    with pytest.raises(InputError, match="no test sample"):
        round_manifest(None, batch(0, 100), round_number=1, train_ratio=0.5, val_ratio=0.5, min_test_samples=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"replay_ratio": -1}, "replay_ratio=-1 must be a number >= 0"),
        ({"replay_ratio": float("nan")}, "replay_ratio=nan must be"),
        ({"replay_limit": -1}, "replay_limit=-1 must be >= 0"),
        ({"core_rounds": 0}, "core_rounds=0 must be >= 1"),
        ({"recent_rounds": 0}, "recent_rounds=0 must be >= 1"),
        ({"val_limit": 0}, "val_limit=0 must be >= 1"),
    ],
)
def test_settings_out_of_range_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        round_manifest(None, batch(0, 100), round_number=1, **options)


def test_a_round_follows_the_known_ones():
    (first,) = rounds([batch(0, 200)])
    with pytest.raises(InputError, match="round_number=1 must be greater than 1, the last round that took in samples"):
        round_manifest(first.manifest, batch(200, 50), round_number=1)


def test_the_report_tells_the_counts():
    (data,) = rounds([batch(0, 200)])
    body = section(data, epochs=10).body
    assert "new labels</dt><dd>200<" in body
    assert f"core</dt><dd>{data.counts['core']}<" in body


def test_a_class_without_boxes_is_warned_of_in_the_log_and_the_report(caplog):
    (data,) = rounds([batch(0, 200)])
    assert data.warnings == [
        "class head has 0 training boxes; a detector needs hundreds",
        "class head has no boxes in val",
        "class head has no boxes in test",
    ]
    body = section(data, epochs=1).body
    assert all(warning in caplog.text and warning in body for warning in data.warnings)


# --- masks ---


def masked(start, count, mask="1", classes=CLASSES):
    uri = f"file:///blobs/{mask}.png"
    return Manifest.of([row(n, None) | {"mask": uri} for n in range(start, start + count)], classes)


def test_masks_alone_are_replayed_without_favour():
    first, second = rounds([masked(0, 300), masked(300, 100)], replay_ratio=0.5)
    assert (first.counts["new_labels"], first.counts["unlabelled"]) == (300, 0)
    replayed = ids(second.training.split("train")) & ids(first.training)
    assert len(replayed) == second.counts["replayed"] == round(0.5 * second.counts["new_train"])
    assert second.training.table["mask"].is_not_null().all()
    pool = first.manifest.split("train")
    assert ids(draw(pool, 20, "a")) != ids(draw(pool, 20, "b"))
    shuffled = Manifest(pool.table.sample(fraction=1, shuffle=True, seed=1), CLASSES)
    assert ids(draw(shuffled, 20, "a")) == ids(draw(pool, 20, "a"))


def test_samples_with_masks_keep_their_share_beside_samples_with_boxes():
    pool = Manifest(pl.concat([masked(0, 100).table, batch(100, 300).table]), CLASSES)
    assert draw(pool, 40, "a").table["mask"].is_not_null().sum() == 10


def test_a_mask_that_changes_replaces_the_old_one_and_nothing_else():
    first = round_manifest(None, masked(0, 100), round_number=1)
    again = Manifest.of([row(n, None) | {"mask": "file:///blobs/2.png"} for n in range(3)], CLASSES)
    same = masked(3, 5)
    unlabelled = Manifest.of([row(n, None) for n in range(8, 12)], CLASSES)
    new = Manifest(pl.concat([again.table, same.table, unlabelled.table, masked(100, 60).table]), CLASSES)
    second = round_manifest(first.manifest, new, round_number=2)
    assert second.counts["relabelled"] == 3
    before = {r["id"]: r for r in first.manifest.rows()}
    for found in second.manifest.where(pl.col("id").is_in(list(before))).rows():
        changed = found["id"] in ids(again)
        assert found == before[found["id"]] | ({"mask": "file:///blobs/2.png"} if changed else {})


def test_boxes_and_a_mask_of_one_image_are_kept_together():
    first = round_manifest(None, batch(0, 100), round_number=1)
    second = round_manifest(first.manifest, Manifest(pl.concat([masked(0, 3).table, batch(100, 60).table]), CLASSES),
                            round_number=2)  # fmt: skip
    both = second.manifest.where(pl.col("mask").is_not_null())
    assert (len(both), second.counts["relabelled"]) == (3, 3)
    assert both.table["annotations"].list.len().to_list() == [1, 1, 1]


def test_a_mask_that_comes_later_labels_its_sample():
    unlabelled = Manifest(pl.concat([batch(0, 100).table, batch(100, 40, None).table]), CLASSES)
    first = round_manifest(None, unlabelled, round_number=1)
    second = round_manifest(first.manifest, masked(100, 40), round_number=2)
    assert (first.counts["unlabelled"], second.counts["unlabelled"], second.counts["new_labels"]) == (40, 0, 40)
    assert set(second.manifest.where(pl.col("mask").is_not_null()).table["round"]) == {2}


def test_masks_with_other_numbers_for_the_jobs_classes_are_refused():
    first = round_manifest(None, masked(0, 100), round_number=1)
    with pytest.raises(InputError, match=r"the new masks have the classes \['head', 'helmet'\], but the job"):
        round_manifest(first.manifest, masked(100, 60, classes=("head", "helmet")), round_number=2)
    more = round_manifest(first.manifest, masked(100, 60, classes=(*CLASSES, "vest")), round_number=2)
    assert more.manifest.classes == (*CLASSES, "vest")
