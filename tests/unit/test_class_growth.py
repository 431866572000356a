"""A round that brings a class which the champion does not know."""

from dataclasses import replace

import pytest

from components.core.job.job import Job
from components.core.manifest import Manifest
from components.ingest.ingest import ingest
from components.prepare.class_growth import complete
from components.prepare.replay import round_manifest
from tests import sites
from tests.edge import deploy
from tests.models import BUNDLE, colour_model


def only(manifest, class_id, round_number):
    """The samples that show a class, with its boxes alone."""
    rows = [
        {
            **row,
            "round": round_number,
            "annotations": [box for box in row["annotations"] if box["class_id"] == class_id],
        }
        for row in manifest.rows()
        if any(box["class_id"] == class_id for box in row["annotations"])
    ]
    return Manifest.of(rows, manifest.classes)


@pytest.fixture(scope="module")
def grown(tmp_path_factory):
    """A job whose champion knows red, and a second round with labels of blue alone."""
    folder = tmp_path_factory.mktemp("growth")
    sites.arrive(folder / "data", "day", 40, seed=3)
    root = folder / "job"
    everything = ingest(str(folder / "data"), str(root), classes="red,blue").manifest
    half = len(everything) // 2
    first = Manifest(only(Manifest(everything.table.head(half), everything.classes), 0, 1).table, ("red",))
    second = only(Manifest(everything.table.tail(half), everything.classes), 1, 2)
    known = round_manifest(None, first, round_number=1, min_test_samples=2, train_ratio=0.6, val_ratio=0.2).manifest
    data = round_manifest(known, second, round_number=2, min_test_samples=2, train_ratio=0.6, val_ratio=0.2)
    job = Job.open(str(root))
    bundle = replace(BUNDLE, classes=("red",), image_size=(96, 96))
    deploy(job, "r0001-00000001", folder / "v1", colour_model(96, 96, channels=(0,)), bundle)
    truths = dict(everything.table.select("id", "annotations").iter_rows())
    return job, data, truths


def boxes(annotations, class_id):
    return sorted((box["x1"], box["y1"]) for box in annotations if box["class_id"] == class_id)


def test_the_old_class_is_filled_into_new_images_and_labels_of_people_stay(grown):
    job, data, truths = grown
    before = {row["id"]: row["annotations"] for row in data.training.rows()}
    done = complete(data, job, "r0001-00000001", mode="fill", min_score=0.5)
    new = [row for row in done.training.rows() if row["round"] == 2]
    assert sum(len(boxes(row["annotations"], 0)) for row in new) > 0
    for row in new:
        # The champion finds every red square, and the boxes that people drew are as they were.
        assert boxes(row["annotations"], 0) == boxes(truths[row["id"]], 0)
        assert row["annotations"][: len(before[row["id"]])] == before[row["id"]]
    # It does not know blue, so that nothing of it is found in the old images.
    for row in done.training.rows():
        if row["round"] == 1:
            assert row["annotations"] == before[row["id"]]
    (section,) = done.sections
    count = sum(len(boxes(row["annotations"], 0)) for row in new)
    old = len(done.training) - len(new)
    assert f">red</td><td>{len(new)}</td><td>{count}</td>" in section.body
    assert f">blue</td><td>{old}</td><td>0</td>" in section.body
    assert "are trained on" in section.body


def test_a_report_counts_the_same_and_changes_nothing(grown):
    job, data, _ = grown
    done = complete(data, job, "r0001-00000001", mode="report", min_score=0.5)
    assert done.training.table.equals(data.training.table)
    assert "fill_unlabelled=fill does so" in done.sections[0].body


@pytest.mark.parametrize(("mode", "champion"), [("off", "r0001-00000001"), ("fill", None)])
def test_without_a_champion_or_a_wish_nothing_is_looked_at(grown, mode, champion):
    job, data, _ = grown
    done = complete(data, job, champion, mode=mode, min_score=0.5)
    assert done.training is data.training
    assert done.sections[0].body.count("not counted") == 2


def test_what_the_job_keeps_has_no_pseudo_labels(grown):
    job, data, _ = grown
    complete(data, job, "r0001-00000001", mode="fill", min_score=0.5)
    assert all(not boxes(row["annotations"], 0) for row in data.manifest.rows() if row["round"] == 2)
