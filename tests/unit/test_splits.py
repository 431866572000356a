"""The splits of new samples, and what the gate needs of them."""

import pytest

from components.core.errors import InputError
from components.core.manifest import Manifest
from components.prepare.replay import check_test_set, round_manifest
from components.prepare.splits import MAX_TEST_FRACTION, Splits, assign, what_lacks

RATIOS = {"train_ratio": 0.8, "val_ratio": 0.1, "seed": 0}


def row(number: int, **changes):
    return {
        "id": f"{number:064x}", "uri": f"file:///{number}.jpg", "width": 10, "height": 10, "split": "",
        "group": f"g{number}", "source": f"{number}.jpg", "round": 1, "annotations": [], **changes,
    }  # fmt: skip


def samples(first: int, count: int, **changes) -> Manifest:
    return Manifest.of([row(number, **changes) for number in range(first, first + count)], ["helmet"])


NOTHING = Manifest.of([], ["helmet"])


def splits_of(known: Manifest, new: Manifest, needed: int) -> tuple[Splits, dict[str, int]]:
    splits = Splits(known, new.rows(), **RATIOS, min_test_samples=needed)
    found = [splits.of(one) for one in new.rows()]
    return splits, {name: found.count(name) for name in ("train", "val", "test", "")}


@pytest.mark.parametrize("count", [50, 60, 100, 150, 199])
def test_a_first_round_that_the_trigger_lets_run_has_the_test_images_that_the_gate_needs(count):
    splits, found = splits_of(NOTHING, samples(0, count), 20)
    assert splits.count_tests() == found["test"] >= 20
    assert found["test"] <= MAX_TEST_FRACTION * count
    assert found["train"] > found["val"] > 0


def test_of_many_samples_the_ratios_decide():
    new = samples(0, 1000)
    splits = Splits(NOTHING, new.rows(), **RATIOS, min_test_samples=20)
    assert all(splits.of(one) == assign(one["group"], 0.8, 0.1, 0) for one in new.rows())


def test_of_too_few_samples_the_ratios_decide_too():
    new = samples(0, 30)
    splits = Splits(NOTHING, new.rows(), **RATIOS, min_test_samples=20)
    assert all(splits.of(one) == assign(one["group"], 0.8, 0.1, 0) for one in new.rows())
    assert splits.count_tests() < 20


def test_a_job_with_enough_test_samples_takes_no_more_than_the_ratios_say():
    known = samples(0, 25, split="test")
    new = samples(100, 60)
    splits = Splits(known, new.rows(), **RATIOS, min_test_samples=20)
    assert all(splits.of(one) == assign(one["group"], 0.8, 0.1, 0) for one in new.rows())


def test_a_group_stays_where_it_was_and_is_counted_there():
    known = Manifest.of(
        [*samples(0, 15, split="test", group="a").rows(), row(20, split="train", group="b")], ["helmet"]
    )
    new = Manifest.of([row(30 + n, group="a") for n in range(5)] + [row(40, group="b")], ["helmet"])
    splits, found = splits_of(known, new, 20)
    assert found == {"train": 1, "val": 0, "test": 5, "": 0}
    assert splits.count_tests() == 20


def test_what_has_no_label_has_no_split_and_does_not_count():
    new = Manifest.of([row(n, annotations=None) for n in range(100)], ["helmet"])
    splits, found = splits_of(NOTHING, new, 1)
    assert (found[""], splits.count_tests()) == (100, 0)


def test_groups_that_are_one_are_never_split():
    new = Manifest.of([row(n, group=f"video-{n // 20}") for n in range(100)], ["helmet"])
    splits, found = splits_of(NOTHING, new, 20)
    assert found["test"] in (20, 40)
    sides = {one["group"]: splits.of(one) for one in new.rows()}
    assert all(splits.of(one) == sides[one["group"]] for one in new.rows())


def test_a_round_whose_candidate_the_gate_would_reject_for_its_test_set_is_not_trained():
    data = round_manifest(None, samples(0, 40), round_number=1, **RATIOS, min_test_samples=20)
    have = len(data.core)
    with pytest.raises(
        InputError, match=rf"test images: have {have}, need >= 20, .*min_samples.*; training was not started"
    ):
        check_test_set(data, 20)
    check_test_set(data, have)


def test_frames_of_one_scene_that_is_not_for_training_wait_for_more():
    place = {assign(f"scene{number}", 0.8, 0.1, 0): f"scene{number}" for number in range(40)}
    scene = samples(0, 30, group=place["test"])
    assert Splits(NOTHING, scene.rows(), **RATIOS, min_test_samples=0).lacks_training() == (
        "training images: have 0 among 30 new labelled images in 1 group, need >= 1: a group, such as the frames of "
        "one scene, goes to one split as a whole; the next groups bring some"
    )
    more = Manifest.of([*scene.rows(), row(100, group=place["train"])], ["helmet"])
    assert Splits(NOTHING, more.rows(), **RATIOS, min_test_samples=0).lacks_training() == ""
    known = samples(500, 1, group=place["test"], split="train")  # of a scene that was trained on before
    assert Splits(known, scene.rows(), **RATIOS, min_test_samples=0).lacks_training() == ""
    unlabelled = samples(0, 3, group=place["test"], annotations=None)
    assert Splits(NOTHING, unlabelled.rows(), **RATIOS, min_test_samples=0).lacks_training() == ""


def test_samples_of_earlier_rounds_are_fetched_only_where_they_matter():
    place = {assign(f"scene{number}", 0.8, 0.1, 0): f"scene{number}" for number in range(40)}
    scene, asked = samples(0, 30, group=place["test"]), []
    known = samples(500, 1, group=place["test"], split="train")

    def fetch():
        asked.append(1)
        return known

    given = {"gate_needs_tests": False, "min_test_samples": 20, **RATIOS}
    assert what_lacks(samples(0, 30, group=place["train"]), None, fetch, **given) == ""
    assert asked == []
    assert what_lacks(scene, None, fetch, **given) == ""
    assert asked == [1]
    assert what_lacks(scene, None, lambda: None, **given).startswith("training images: have 0 among 30")
    first = {**given, "gate_needs_tests": True}
    assert what_lacks(samples(0, 10), NOTHING, fetch, **first).startswith("test images: have ")
    assert what_lacks(samples(0, 60), NOTHING, fetch, **first) == ""
