import zipfile
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest

from components.core.errors import InputError
from pipelines.demo.canvas import Canvas, box, ellipse
from pipelines.demo.lights import LIGHTS
from pipelines.demo.people import draw_worker
from pipelines.demo.scenes import CLASSES, draw_scene, make_dataset
from pipelines.demo.sites import SITES


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "helmets.zip"
    make_dataset(path, 64, seed=5)
    return path


def read(path: Path) -> dict[str, tuple[np.ndarray, ElementTree.Element]]:
    with zipfile.ZipFile(path) as archive:
        stems = [Path(name).stem for name in archive.namelist() if name.startswith("JPEGImages/")]
        return {
            stem: (
                cv2.imdecode(np.frombuffer(archive.read(f"JPEGImages/{stem}.jpg"), np.uint8), cv2.IMREAD_COLOR),
                ElementTree.fromstring(archive.read(f"Annotations/{stem}.xml")),
            )
            for stem in stems
        }


def numbers(element: ElementTree.Element) -> dict[str, int]:
    return {child.tag: int(child.text) for child in element}


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("light", LIGHTS)
def test_every_site_is_drawn_in_every_light(site, light):
    rng = np.random.default_rng(3)
    found = []
    for _ in range(5):
        image, boxes = draw_scene(rng, site=site, light=light, size=(150, 210))
        assert image.shape == (150, 210, 3)
        assert image.dtype == np.uint8
        assert image.std() > 8
        found += boxes
    assert found
    for name, x1, y1, x2, y2 in found:
        assert name in CLASSES
        assert 0 <= x1 < x2 <= 210
        assert 0 <= y1 < y2 <= 150


def test_one_seed_gives_one_scene():
    first, second, other = (
        draw_scene(np.random.default_rng(seed), site="hall", light="day", size=(120, 160)) for seed in (1, 1, 2)
    )
    assert np.array_equal(first[0], second[0])
    assert first[1] == second[1]
    assert not np.array_equal(first[0], other[0])


def test_light_changes_the_image_and_not_the_boxes():
    scenes = {
        light: draw_scene(np.random.default_rng(11), site="hall", light=light, size=(160, 220)) for light in LIGHTS
    }
    brightness = {light: image.mean() for light, (image, _) in scenes.items()}
    assert brightness["night"] < brightness["day"]
    assert brightness["dusk"] < brightness["day"]
    assert scenes["haze"][0].std() < scenes["day"][0].std()
    assert scenes["day"][1]
    assert all(boxes == scenes["day"][1] for _, boxes in scenes.values())


def test_the_box_is_tight_around_what_is_painted():
    canvas = Canvas(60, 80)
    canvas.fill(ellipse(40, 30, 12, 8), (255, 0, 0), owner=1)
    assert canvas.visible_box(1) == (28, 22, 52, 38)
    red = canvas.finished()[:, :, 0] > 127
    assert (red.any(axis=0).nonzero()[0][[0, -1]] == [28, 51]).all()
    assert (red.any(axis=1).nonzero()[0][[0, -1]] == [22, 37]).all()


def test_the_box_shrinks_to_what_is_not_painted_over():
    canvas = Canvas(60, 80)
    canvas.fill(box(20, 20, 40, 40), (255, 0, 0), owner=1)
    whole = canvas.area(1)
    canvas.fill(box(30, 0, 80, 60), (0, 0, 255), owner=2)
    assert canvas.visible_box(1) == (20, 20, 30, 40)
    assert canvas.area(1) == pytest.approx(whole / 2, rel=0.05)


@pytest.mark.parametrize(("helmet", "shape"), [(True, "wide"), (False, "tall")])
def test_the_box_of_a_worker_is_the_shell_or_the_whole_head(helmet, shape):
    for seed in range(20):
        canvas = Canvas(200, 200)
        rng = np.random.default_rng(seed)
        draw_worker(canvas, rng, x=100, feet=190, height=150, helmet=helmet, owner=1)
        x1, y1, x2, y2 = canvas.visible_box(1)
        assert ("wide" if x2 - x1 > y2 - y1 else "tall") == shape
        assert y2 < 190 - 0.4 * 150
        assert abs((x1 + x2) / 2 - 100) < 30


def test_a_hidden_head_is_not_labelled(monkeypatch):
    monkeypatch.setattr(
        "pipelines.demo.scenes.draw_worker",
        lambda canvas, rng, *, x, feet, height, helmet, owner: (
            canvas.fill(box(50, 50, 70, 70), (9, 9, 9), owner),
            hide and canvas.fill(box(0, 0, 160, 120), (9, 9, 9)),
        ),
    )
    hide = False
    assert draw_scene(np.random.default_rng(2), site="hall", light="day", size=(120, 160))[1]
    hide = True
    assert draw_scene(np.random.default_rng(2), site="hall", light="day", size=(120, 160))[1] == []


def test_the_zip_is_voc_with_a_label_file_for_each_image(dataset):
    images = read(dataset)
    assert len(images) == 64
    for stem, (image, labels) in images.items():
        height, width = image.shape[:2]
        assert 200 <= width <= 320
        assert labels.findtext("filename") == f"{stem}.jpg"
        assert numbers(labels.find("size")) == {"width": width, "height": height, "depth": 3}
        for entry in labels.iter("object"):
            corners = numbers(entry.find("bndbox"))
            assert entry.findtext("name") in CLASSES
            assert 0 <= corners["xmin"] < corners["xmax"] <= width
            assert 0 <= corners["ymin"] < corners["ymax"] <= height


def test_there_are_negatives_both_classes_and_every_combination(dataset):
    images = read(dataset)
    names = [[entry.findtext("name") for entry in labels.iter("object")] for _, labels in images.values()]
    counts = Counter(name for found in names for name in found)
    assert min(counts["helmet"], counts["head"]) > 25
    assert 1 <= names.count([]) < 16
    combinations = Counter(tuple(stem.split("-")[:2]) for stem in images)
    assert set(combinations.values()) == {4}
    assert len(combinations) == len(SITES) * len(LIGHTS)


def test_the_same_seed_gives_the_same_bytes(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        make_dataset(tmp_path / name, 6, seed)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert (tmp_path / "a").read_bytes() != (tmp_path / "c").read_bytes()


def test_a_longer_data_set_begins_with_the_shorter_one(tmp_path):
    make_dataset(tmp_path / "short.zip", 5, 1)
    make_dataset(tmp_path / "long.zip", 8, 1)
    short, long = read(tmp_path / "short.zip"), read(tmp_path / "long.zip")
    assert list(short) == list(long)[:5]
    assert all(np.array_equal(image, long[stem][0]) for stem, (image, _) in short.items())


def test_sites_and_lights_can_be_chosen(tmp_path):
    make_dataset(tmp_path / "a.zip", 8, 1, sites=["hall", "roadworks"], lights=["night"])
    assert {tuple(stem.split("-")[:2]) for stem in read(tmp_path / "a.zip")} == {
        ("hall", "night"),
        ("roadworks", "night"),
    }


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"sites": ["mars"]}, "site mars: choose from scaffold, roadworks, warehouse, hall"),
        ({"lights": ["day", "neon"]}, "light neon: choose from day, dusk, night, haze"),
        ({"lights": []}, "light list is empty: choose from day, dusk, night, haze"),
    ],
)
def test_an_unknown_name_is_refused_and_nothing_is_written(tmp_path, wrong, message):
    with pytest.raises(InputError, match=f"^{message}$"):
        make_dataset(tmp_path / "a.zip", 4, 1, **wrong)
    assert list(tmp_path.iterdir()) == []


def test_a_failure_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail(*arguments, **options):
        raise OSError("disk full")

    monkeypatch.setattr("pipelines.demo.scenes.draw_scene", fail)
    with pytest.raises(OSError, match="disk full"):
        make_dataset(tmp_path / "a.zip", 4, 1)
    assert list(tmp_path.iterdir()) == []
