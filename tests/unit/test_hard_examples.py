import json
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pytest
from pydantic import ValidationError

from components.core.job.hard_examples import Sidecar, image_key, read_sidecars, sidecar_key
from components.core.stores.open import open_store

IMAGE = "ab" * 32
SEEN = {
    "image": IMAGE, "width": 640, "height": 480, "captured": datetime(2026, 11, 20, 13, 59, 59, tzinfo=UTC),
    "node": "gate-7", "source": "yard.mp4", "frame": 41, "kind": "hard", "miner": "IBT", "score": 0.75,
    "reason": "3 of 4 boxes score 0.5 or less", "model": "round-3", "classes": ("helmet", "head"),
    "boxes": [[1, 2, 3.14159, 4]], "scores": [0.123456789], "class_ids": [1],
}  # fmt: skip


@pytest.fixture(params=["file", "s3"])
def store(request, tmp_path):
    return open_store(request.getfixturevalue("s3") if request.param == "s3" else str(tmp_path / "job"))


def write(store, **changes):
    sidecar = Sidecar(**SEEN | changes)
    store.write(sidecar_key(sidecar), sidecar.model_dump_json().encode())
    return sidecar


def test_keys_name_the_hour_and_the_content():
    sidecar = Sidecar(**SEEN)
    assert image_key(sidecar) == f"hard-examples/2026/11/20/13/{IMAGE}.jpg"
    assert sidecar_key(sidecar) == f"hard-examples/2026/11/20/13/{IMAGE}.json"


def test_the_hour_is_that_of_utc():
    captured = datetime(2026, 1, 1, 1, 30, tzinfo=timezone(timedelta(hours=2)))
    assert image_key(Sidecar(**SEEN | {"captured": captured})).startswith("hard-examples/2025/12/31/23/")
    with pytest.raises(ValidationError, match="timezone"):
        Sidecar(**SEEN | {"captured": datetime(2026, 1, 1)})


def test_json_says_the_same():
    sidecar = Sidecar(**SEEN)
    assert Sidecar.model_validate_json(sidecar.model_dump_json()) == sidecar
    assert json.loads(sidecar.model_dump_json())["boxes"] == [[1, 2, 3.14, 4]]


def test_detections_come_back():
    found = Sidecar(**SEEN).detections()
    np.testing.assert_allclose(found.boxes, [[1, 2, 3.14, 4]], rtol=1e-6)
    np.testing.assert_allclose(found.scores, [0.123457], rtol=1e-6)
    assert found.classes.tolist() == [1]
    assert len(Sidecar(**SEEN | {"boxes": [], "scores": [], "class_ids": []}).detections()) == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": "AB" * 32}, "image"),
        ({"suffix": ".json"}, "suffix"),
        ({"suffix": "/../../x"}, "suffix"),
        ({"score": 1.5}, "score"),
        ({"score": float("nan")}, "score"),
        ({"kind": "easy"}, "kind"),
        ({"scores": []}, "1 boxes, 0 scores, 1 class_ids: lengths differ"),
        ({"class_ids": [2]}, "class 2 has no name"),
        ({"boxes": [[0, 0, float("inf"), 1]]}, "finite"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_what_cannot_be(changes, message):
    with pytest.raises(ValidationError, match=message):
        Sidecar(**SEEN | changes)


def test_the_password_of_a_camera_stays_at_the_edge():
    sidecar = Sidecar(**SEEN | {"source": "rtsp://me:secret@camera:554/stream?token=secret"})
    assert sidecar.source == "rtsp://camera:554/stream?..."
    assert "secret" not in sidecar.model_dump_json()


def test_sidecars_are_read_in_the_order_of_their_keys(store):
    written = [
        write(store, captured=datetime(2026, 11, 20, hour, tzinfo=UTC), image=digit * 64)
        for hour in (3, 14, 15)
        for digit in "0c"
    ]
    store.write(image_key(written[0]), b"an image")
    store.write("hard-examples.json", b"{}")
    assert list(read_sidecars(store)) == written
    assert list(read_sidecars(store, since=sidecar_key(written[2]))) == written[3:]
    assert list(read_sidecars(store, since="hard-examples/2026/11/20/15")) == written[4:]


def test_there_may_be_none(store):
    assert list(read_sidecars(store)) == []


def test_what_is_no_sidecar_is_passed_over_and_named(store, caplog):
    good = write(store)
    store.write("hard-examples/2026/11/20/14/broken.json", b'{"image": 1}')
    assert list(read_sidecars(store)) == [good]
    assert "14/broken.json is not a valid sidecar of a hard example" in caplog.text
