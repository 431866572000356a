import hashlib
import random

import numpy as np
import pytest

from components.core.detections import Detections
from components.core.miners.base import Judgement
from components.mine.pool import Candidate
from components.mine.score_pool import Inference
from components.mine.selection import choose, weights_of


def seen(name, score=0.5, boxes=1, looks=None, class_id=0):
    """An image that looks like no other unless told what it looks like."""
    id_ = hashlib.sha256(str(name).encode()).hexdigest()
    classes = class_id if isinstance(class_id, list) else [class_id] * boxes
    found = Detections.of([[0, 0, 9, 9]] * boxes, classes, [0.5] * boxes)
    looks = int(id_[:16], 16) if looks is None else looks
    judgement = Judgement(True, score, f"judged {score}")
    return Inference(Candidate(id_, f"file:///{name}.jpg", str(name), id_, "hard"), 64, 48, found, judgement, looks)


def names(selection, share=None):
    return [pick.seen.candidate.source for pick in selection.picks if share in (None, pick.share)]


def pool_of(found, empty):
    return [seen(f"f{n}", n / 1000) for n in range(found)] + [seen(f"e{n}", 1, boxes=0) for n in range(empty)]


def counts(selection):
    return tuple(selection.count(share) for share in ("hardest", "empty", "random"))


def test_the_budget_is_shared_among_the_hardest_the_empty_and_the_random():
    selection = choose(pool_of(100, 50), 20, random_fraction=0.1, empty_fraction=0.2)
    assert counts(selection) == (14, 4, 2)
    assert sorted(names(selection, "hardest")) == sorted(f"f{n}" for n in range(86, 100))
    assert all(name.startswith("e") for name in names(selection, "empty"))
    assert len(set(names(selection))) == 20


def test_every_image_has_the_reason_of_its_share():
    selection = choose(pool_of(100, 50), 20, random_fraction=0.1, empty_fraction=0.2)
    reasons = {share: {p.reason for p in selection.picks if p.share == share} for share in ("empty", "random")}
    assert reasons == {"empty": {"no detections"}, "random": {"drawn at random"}}
    assert "judged 0.099" in {pick.reason for pick in selection.picks}


@pytest.mark.parametrize(
    ("found", "empty", "expected"),
    [(100, 1, (17, 1, 2)), (3, 100, (3, 15, 2)), (100, 0, (18, 0, 2)), (0, 100, (0, 18, 2)), (8, 6, (7, 5, 2))],
)
def test_a_share_that_finds_too_few_leaves_what_is_over_to_the_others(found, empty, expected):
    assert counts(choose(pool_of(found, empty), 20, random_fraction=0.1, empty_fraction=0.2)) == expected


@pytest.mark.parametrize("budget", [0, 1, 2, 7, 30])
def test_no_budget_is_exceeded_and_none_is_left_while_there_are_images(budget):
    for random_fraction, empty_fraction in ((0, 0), (0.1, 0.2), (0.5, 0.5), (1, 0), (0, 1)):
        selection = choose(pool_of(12, 8), budget, random_fraction=random_fraction, empty_fraction=empty_fraction)
        assert len(selection.picks) == len(set(names(selection))) == min(budget, 20)


def test_a_small_budget_has_a_random_image_in_some_rounds():
    pools = [[seen(f"{round_}/{n}", n / 10) for n in range(8)] for round_ in range(300)]
    drawn = [choose(pool, 3, random_fraction=0.1, empty_fraction=0).count("random") for pool in pools]
    assert set(drawn) == {0, 1}
    assert 70 <= sum(drawn) <= 110  # 0.1 of 3 images in each of 300 rounds
    assert {choose(pool, 3, random_fraction=0, empty_fraction=0).count("random") for pool in pools} == {0}


def test_an_empty_pool_gives_nothing():
    assert choose([], 10, random_fraction=0.1, empty_fraction=0.2).picks == ()


def test_near_duplicates_count_once():
    alike = [seen(f"a{n}", 0.9, looks=0b1111 ^ (1 << n % 4)) for n in range(30)]
    others = [seen(f"o{n}", 0.1) for n in range(5)]
    selection = choose(alike + others, 10, random_fraction=0, empty_fraction=0)
    assert sum(name.startswith("a") for name in names(selection)) == 1
    assert len(selection.picks) == 6
    assert selection.duplicates == 29


def test_a_near_duplicate_of_one_share_is_not_chosen_for_another():
    pool = [seen("found", 0.9, looks=7), seen("empty", 1, boxes=0, looks=6), seen("rest", 0.1, looks=5)]
    selection = choose(pool, 3, random_fraction=0.34, empty_fraction=0.33)
    assert names(selection) == ["found"]


def test_the_order_of_the_pool_changes_nothing():
    pool = [seen(f"p{n}", n % 3 / 3, boxes=n % 4) for n in range(80)]
    expected = choose(pool, 25, random_fraction=0.2, empty_fraction=0.3)
    for turn in range(5):
        random.Random(turn).shuffle(pool)
        assert choose(pool, 25, random_fraction=0.2, empty_fraction=0.3) == expected


def test_random_images_are_drawn_whatever_their_score():
    drawn = names(choose(pool_of(400, 0), 100, random_fraction=1, empty_fraction=0))
    scores = [int(name[1:]) for name in drawn]
    assert 160 < sum(scores) / 100 < 240
    assert len(drawn) == 100


def test_every_beginning_of_the_list_has_all_shares():
    selection = choose(pool_of(200, 200), 50, random_fraction=0.1, empty_fraction=0.2)
    shares = [pick.share for pick in selection.picks]
    for length in (10, 20, 30, 40):
        found = [shares[:length].count(share) / length for share in ("hardest", "empty", "random")]
        assert found == pytest.approx([0.7, 0.2, 0.1], abs=0.1)
    hardest = [pick.seen.judgement.score for pick in selection.picks if pick.share == "hardest"]
    assert hardest == sorted(hardest, reverse=True)


def test_random_images_are_drawn_before_the_ranking_takes_the_best():
    drawn = names(choose(pool_of(400, 0), 200, random_fraction=0.5, empty_fraction=0), "random")
    assert any(int(name[1:]) >= 300 for name in drawn)  # of the 100 hardest, which the ranking would have taken


def test_a_budget_in_boxes_counts_what_the_model_found():
    pool = [seen(f"three{n}", 0.9, boxes=3) for n in range(10)] + [seen(f"e{n}", 0.9, boxes=0) for n in range(10)]
    selection = choose(pool, 12, random_fraction=0, empty_fraction=0.5, in_boxes=True)
    assert counts(selection) == (2, 6, 0)  # 2 x 3 boxes, and 6 images in which one box is expected


def test_with_a_budget_in_boxes_crowded_images_do_not_win_by_their_number_of_boxes():
    pool = [seen("crowded", 0.9, boxes=9), seen("single", 0.4)]
    assert names(choose(pool, 1, random_fraction=0, empty_fraction=0)) == ["crowded"]
    assert names(choose(pool, 1, random_fraction=0, empty_fraction=0, in_boxes=True)) == ["single"]


def test_a_class_with_few_labels_goes_first_among_equals():
    weights = weights_of({"helmet": 90, "head": 10}, ("helmet", "head"))
    assert weights == pytest.approx([50 / 90, 4.0])
    pool = [seen(f"helmet{n}", 0.5) for n in range(5)] + [seen("head", 0.5, class_id=1)]
    assert names(choose(pool, 1, random_fraction=0, empty_fraction=0, class_weights=weights)) == ["head"]
    assert weights_of({}, ("helmet", "head")) == [1, 1]
    assert weights_of({"helmet": 5}, ("helmet", "new")) == [0.5, 4]


def test_with_a_budget_in_boxes_a_rare_class_among_others_is_asked_for_more_often_than_by_chance():
    group = [1, 1, 0, 0, 0]  # two of five wear no helmet; who stands alone wears one
    pool = [seen(f"alone{n}", 0.33) for n in range(100)]
    pool += [seen(f"group{n}", 0.71, boxes=5, class_id=group) for n in range(40)]
    weights = weights_of({"helmet": 75, "head": 25}, ("helmet", "head"))
    chosen = choose(pool, 60, random_fraction=0, empty_fraction=0, in_boxes=True, class_weights=weights)
    drawn = np.concatenate([pick.seen.detections.classes for pick in chosen.picks])
    assert np.mean(drawn == 1) > 80 / 300


def test_of_a_shortlist_images_are_chosen_that_are_unlike_each_other():
    scenes = {"yard": [1, 0, 0], "hall": [0, 1, 0], "roof": [0, 0, 1]}
    pool = [seen(f"yard{n}", 0.9 - n / 100) for n in range(4)] + [seen("hall0", 0.8), seen("roof0", 0.7)]

    def vectors(images):
        return np.array([scenes[image.candidate.source[:4]] for image in images], np.float32)

    some = {"random_fraction": 0, "empty_fraction": 0, "vectors": vectors}
    assert sorted(names(choose(pool, 3, shortlist=2, **some))) == ["hall0", "roof0", "yard0"]
    assert sorted(names(choose(pool, 3, shortlist=1, **some))) == ["yard0", "yard1", "yard2"]
    assert "roof0" not in names(choose(pool, 3, shortlist=1.6, **some))  # not among the five best


def test_a_shortlist_of_near_duplicates_leaves_its_room_to_the_next_images():
    alike = [seen(f"a{n}", 0.9, looks=7) for n in range(30)]
    others = [seen(f"o{n}", 0.1) for n in range(5)]
    assert len(choose(alike + others, 6, random_fraction=0, empty_fraction=0, shortlist=2).picks) == 6
