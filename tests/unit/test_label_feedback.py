import hashlib

import pytest

from components.core.job.label_requests import LabelRequest, LabelRequests
from components.core.manifest import Manifest
from components.mine.label_feedback import FEWEST, Worth, label_feedback, worth_of_mining
from components.mine.report import worth_in_words

BOX = (10.0, 10.0, 30.0, 30.0)


def identity(name):
    return hashlib.sha256(name.encode()).hexdigest()


def request(name, share, found):
    boxes = (BOX,) * found
    return LabelRequest(
        id=identity(name), uri=f"file:///{name}.png", width=64, height=64, source=name, share=share, score=0.5,
        reason="a reason", boxes=boxes, scores=(0.9,) * found, class_ids=(0,) * found,
    )  # fmt: skip


def answered(images):
    """A list and the labels of its images: each has one box, which the model found or missed."""
    asked = [request(f"{share}{number}", share, found) for share, number, found in images]
    label = dict(zip(("x1", "y1", "x2", "y2"), BOX, strict=True)) | {"class_id": 0}
    rows = [
        {"id": one.id, "uri": one.uri, "width": 64, "height": 64, "split": "", "group": one.id, "source": one.source,
         "round": 1, "annotations": [label]}
        for one in asked
    ]  # fmt: skip
    wanted = LabelRequests(round=1, model="r0001-89abcdef", miner="entropy", classes=("red",), images=tuple(asked))
    return [wanted], Manifest.of(rows, ("red",))


def images(share, missed, found):
    return [(share, number, 0 if number < missed else 1) for number in range(missed + found)]


def test_mining_pays_if_its_labels_correct_more_errors_than_those_of_random_images():
    worth = worth_of_mining(*answered(images("hardest", 18, 2) + images("random", 2, 18)))
    assert worth is not None
    assert (worth.mined, worth.random, worth.images) == (0.9, 0.1, (20, 20))
    assert worth.low > 0.5
    assert worth.high < 1
    assert (worth.verdict, worth.random_fraction(0.1)) == ("pays", 0.1)


def test_images_in_which_nothing_was_found_count_as_mined():
    worth = worth_of_mining(*answered(images("empty", 12, 0) + images("random", 6, 6)))
    assert worth is not None
    assert (worth.mined, worth.random) == (1, 0.5)


@pytest.mark.parametrize(
    ("mined", "expected", "fraction"),
    [((1, 19), "does not pay", 0.5), ((15, 5), "not certain", 0.2), ((10, 10), "not certain", 0.2)],
)
def test_more_is_drawn_at_random_while_mining_does_not_pay(mined, expected, fraction):
    worth = worth_of_mining(*answered(images("hardest", *mined) + images("random", 12, 8)))
    assert worth is not None
    assert (worth.verdict, worth.random_fraction(0.1)) == (expected, fraction)


def test_too_few_labels_say_nothing():
    few = images("hardest", 20, 20) + images("random", FEWEST - 1, 0)
    assert worth_of_mining(*answered(few)) is None
    assert "once 10 mined and 10 random images are labelled" in worth_in_words(None)


def test_crowded_images_are_worth_no_more_because_of_their_boxes():
    lists, known = answered(images("hardest", 20, 0) + images("random", 20, 0))
    row = dict(known.table.row(0, named=True))
    far = [{"class_id": 0, "x1": 40.0 + n, "y1": 40.0, "x2": 41.0 + n, "y2": 60.0} for n in range(9)]
    crowded = [{**one, "annotations": row["annotations"] + far} if one["source"].startswith("hardest") else one
               for one in known.rows()]  # fmt: skip
    worth = worth_of_mining(lists, Manifest.of(crowded, ("red",)))
    assert worth is not None
    assert worth.mined == worth.random == 1  # all of ten boxes missed, as the one of the others


def test_boxes_of_classes_that_were_not_labelled_are_no_mistakes():
    lists, known = answered(images("hardest", 0, 20) + images("random", 0, 20))

    def mistakes(annotations, unlabelled):
        rows = [
            {**row, "annotations": annotations, "unlabelled_classes": unlabelled}
            if row["source"].startswith("hardest") else row
            for row in known.rows()
        ]  # fmt: skip
        now = Manifest.of(rows, ("red", "blue"))
        worth = worth_of_mining(lists, now)
        assert worth is not None and worth.random == 0
        hardest, _ = label_feedback(lists, now)
        assert hardest.mistakes == worth.mined
        return worth.mined

    assert mistakes([], None) == mistakes([], [1]) == 1  # what was labelled stays judged
    assert mistakes([], [0]) == 0
    own = known.table["annotations"][0].to_list()
    assert mistakes(own, [0]) == 0
    assert mistakes([{**own[0], "class_id": 1}], [0]) == 1  # the blue box that was missed


def test_the_report_says_what_a_label_was_worth():
    told = worth_in_words(Worth(0.42, 0.2, 0.05, 0.39, (30, 12)))
    assert "corrected 0.42 errors per box, those of random images 0.20 (30 and 12 images)" in told
    assert "+0.05 to +0.39 with 95 % confidence. The ranking pays." in told
