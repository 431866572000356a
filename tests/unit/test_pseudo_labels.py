"""Pseudo-labels: a model's boxes of classes that were not labelled."""

import pytest

from components.core.detections import Detections
from components.core.manifest import Manifest
from components.core.pseudo_labels import fill, unlabelled_classes

CLASSES = ("helmet", "head", "vest")


def box(class_id, x=0.0):
    return {"class_id": class_id, "x1": x, "y1": 0.0, "x2": x + 10, "y2": 10.0}


def row(name, number, *boxes, labelled=True):
    return {"id": name, "source": name, "round": number, "annotations": list(boxes) if labelled else None}


def manifest():
    return Manifest.of(
        [
            row("old", 1, box(0), box(1, 50.0)),
            row("older", 1, box(1)),
            row("new", 2, box(2)),
            row("empty", 3),
            row("waiting", 2, labelled=False),
        ],
        CLASSES,
    )


def test_a_class_without_a_box_in_a_round_counts_as_unlabelled_there():
    # Round 1 knew no vest, round 2 brought nothing but vests; round 3 brought no class, so that it was labelled whole.
    assert unlabelled_classes(manifest()) == {"old": {2}, "older": {2}, "new": {0, 1}}


def test_a_job_whose_classes_stay_lacks_nothing():
    rows = [row("a", 1, box(0), box(1)), row("b", 2, box(0)), row("c", 3, box(1)), row("d", 4)]
    assert unlabelled_classes(Manifest.of(rows, CLASSES)) == {}
    assert unlabelled_classes(Manifest.of([row("d", 4)], CLASSES)) == {}


def test_confident_boxes_of_unlabelled_classes_are_added_where_nothing_is_yet():
    found = Detections.of(
        [[0, 0, 10, 10], [30, 0, 40, 10], [60, 0, 70, 10], [80, 0, 90, 10]], [0, 1, 2, 0], [0.9, 0.8, 0.9, 0.4]
    )
    filled = fill(manifest(), {"new": {0, 1}}, lambda _: found, 0.5)
    # The first lies on the vest that is there, the third is of a class that was labelled, the fourth is unsure.
    assert filled.boxes == {"head": 1} and filled.samples == 1
    rows = {one["id"]: one["annotations"] for one in filled.manifest.rows()}
    assert rows["new"] == [box(2), box(1, 30.0)]
    assert rows["old"] == [box(0), box(1, 50.0)]
    assert rows["waiting"] is None


def test_a_model_is_asked_for_no_image_that_lacks_nothing():
    def never(one):
        pytest.fail(f"asked for {one['id']}")

    assert fill(manifest(), {}, never, 0.5).manifest.table.equals(manifest().table)
