import polars as pl
import pytest

from components.core.errors import InputError, NotFoundError
from components.core.manifest import Manifest


def row(number: int, annotations: list | None) -> dict:
    return {
        "id": f"{number:064x}",
        "uri": f"file:///blobs/{number}.jpg",
        "width": 100,
        "height": 80,
        "split": "train",
        "group": f"{number:064x}",
        "source": f"{number}.jpg",
        "round": 0,
        "annotations": annotations,
    }


BOX = {"class_id": 1, "x1": 1.0, "y1": 2.0, "x2": 30.0, "y2": 40.0}


def test_round_trip_keeps_boxes_negatives_and_the_unlabelled(tmp_path):
    manifest = Manifest.of([row(1, [BOX, BOX]), row(2, []), row(3, None)], ["helmet", "head"])
    manifest.write(tmp_path / "m.parquet")
    read = Manifest.read(tmp_path / "m.parquet")
    assert read.table.equals(manifest.table)
    assert read.classes == ("helmet", "head")
    assert len(read.labelled()) == 2
    assert read.boxes().height == 2
    assert [len(truth) for truth in read.truths()] == [2, 0, 0]
    assert list(tmp_path.iterdir()) == [tmp_path / "m.parquet"]


def test_no_file_is_an_error_that_names_it(tmp_path):
    with pytest.raises(NotFoundError, match=r"gone\.parquet"):
        Manifest.read(tmp_path / "gone.parquet")


def test_half_a_file_is_an_error(tmp_path):
    Manifest.of([row(1, [BOX])], ["a", "b"]).write(tmp_path / "m.parquet")
    data = (tmp_path / "m.parquet").read_bytes()
    (tmp_path / "m.parquet").write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match="not a readable Parquet"):
        Manifest.read(tmp_path / "m.parquet")


def test_other_columns_are_an_error_that_names_them(tmp_path):
    pl.DataFrame({"id": ["a"], "colour": ["red"]}).write_parquet(tmp_path / "m.parquet")
    with pytest.raises(InputError, match="colour"):
        Manifest.read(tmp_path / "m.parquet")


def test_a_class_without_a_name_is_an_error(tmp_path):
    Manifest.of([row(1, [BOX])], ["only"]).write(tmp_path / "m.parquet")
    with pytest.raises(InputError, match="class 1 has no name"):
        Manifest.read(tmp_path / "m.parquet")


def test_a_mask_is_a_label_too(tmp_path):
    rows = [row(1, [BOX]), row(2, None) | {"mask": "file:///blobs/2.png"}, row(3, None)]
    manifest = Manifest.of(rows, ["helmet", "head"])
    manifest.write(tmp_path / "m.parquet")
    read = Manifest.read(tmp_path / "m.parquet")
    assert read.table.equals(manifest.table)
    assert read.table["mask"].to_list() == [None, "file:///blobs/2.png", None], "a row without the key has none"
    assert read.labelled().table["source"].to_list() == ["1.jpg", "2.jpg"]
    assert (read.has_masks, read.where(pl.col("mask").is_null()).has_masks) == (True, False)
    assert [len(truth) for truth in read.truths()] == [1, 0, 0]


@pytest.mark.parametrize(
    ("rows", "only_masks"),
    [
        ([row(1, None) | {"mask": "file:///m.png"}, row(2, None)], True),
        ([row(1, None) | {"mask": "file:///m.png"}, row(2, [])], False),
        ([row(1, [])], False),
        ([row(1, None)], False),
        ([], False),
    ],
)
def test_a_job_whose_labels_are_all_masks_is_known(rows, only_masks):
    assert Manifest.of(rows, ("hat",)).has_only_masks is only_masks


def test_a_manifest_from_before_there_were_masks_is_read(tmp_path):
    manifest = Manifest.of([row(1, [BOX]), row(2, None)], ["helmet", "head"])
    manifest.table.drop("mask").write_parquet(tmp_path / "m.parquet", metadata={"classes": '["helmet", "head"]'})
    read = Manifest.read(tmp_path / "m.parquet")
    assert read.table.equals(manifest.table)
    assert read.classes == ("helmet", "head")
    assert not read.has_masks
    assert len(read.labelled()) == 1
