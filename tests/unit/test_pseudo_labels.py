"""Pseudo-labels: a model's boxes of classes that were not labelled."""

import pytest

from components.core.detections import Detections
from components.core.manifest import Manifest
from components.core.pseudo_labels import fill, lacking_samples

CLASSES = ("helmet", "head", "vest")


def box(class_id, x=0.0):
    return {"class_id": class_id, "x1": x, "y1": 0.0, "x2": x + 10, "y2": 10.0}


def row(name, *boxes, unlabelled=None, labelled=True):
    return {"id": name, "source": name, "annotations": list(boxes) if labelled else None,
            "unlabelled_classes": unlabelled}  # fmt: skip


def manifest():
    return Manifest.of(
        [
            row("old", box(0), box(1, 50.0), unlabelled=[2]),
            row("new", box(2), unlabelled=[0, 1]),
            row("whole"),
            row("waiting", labelled=False),
        ],
        CLASSES,
    )


def test_confident_boxes_of_unlabelled_classes_are_added_where_nothing_is_yet():
    found = Detections.of(
        [[0, 0, 10, 10], [30, 0, 40, 10], [60, 0, 70, 10], [80, 0, 90, 10]], [0, 1, 2, 0], [0.9, 0.8, 0.9, 0.4]
    )
    filled = fill(manifest(), {0, 1}, lambda _: found, 0.5)
    # The first lies on the vest that is there, the third is of a class that was labelled, the fourth is unsure.
    assert filled.boxes == {"head": 1} and filled.samples == 1
    rows = {one["id"]: one["annotations"] for one in filled.manifest.rows()}
    assert rows["new"] == [box(2), box(1, 30.0)]
    assert rows["old"] == [box(0), box(1, 50.0)]
    assert rows["waiting"] is None
    # More of them may be there than the model finds.
    assert filled.manifest.unlabelled_classes() == [{2}, {0, 1}, set(), set()]


def test_a_model_is_asked_for_no_image_that_lacks_nothing():
    def never(one):
        pytest.fail(f"asked for {one['id']}")

    assert fill(manifest().with_ids({"whole", "waiting"}), {0, 1, 2}, never, 0.5).samples == 0
    assert fill(manifest().with_ids({"old"}), {0, 1}, never, 0.5).samples == 0


def test_samples_that_lack_labels_are_counted_by_class():
    assert lacking_samples(manifest()) == {"helmet": 1, "head": 1, "vest": 1}
    assert lacking_samples(manifest().with_ids({"whole"})) == {}
