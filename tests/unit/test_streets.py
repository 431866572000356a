"""Drawn streets with masks, and the small network that learns them."""

import logging

import cv2
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from components.core import plugins
from components.core.errors import InputError
from components.core.estimators.base import estimators
from components.core.estimators.conformance import check_estimator
from components.core.masks import read_mask
from pipelines.demo.small_segmenter import SmallSegmenter
from pipelines.demo.streets import CLASSES, INDEX, app, draw_street, write_streets

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_street_has_every_class_somewhere_and_its_sky_above():
    drawn = [draw_street(np.random.default_rng(seed), light="day") for seed in range(8)]
    assert {int(one) for _, mask in drawn for one in np.unique(mask)} == set(range(len(CLASSES)))
    for image, mask in drawn:
        assert image.shape == (*mask.shape, 3) == (64, 96, 3)
        rows = np.arange(len(mask))[:, None] * np.ones_like(mask)
        assert rows[mask == CLASSES.index("sky")].mean() < rows[mask == CLASSES.index("road")].mean()


def test_one_seed_gives_the_same_streets_and_an_index_of_them(tmp_path):
    for folder in ("a", "b"):
        write_streets(tmp_path / folder, "night", 2, seed=3)
        write_streets(tmp_path / folder, "day", 1)
    lines = (tmp_path / "a" / INDEX).read_text().splitlines()
    assert [line.split()[0] for line in lines] == ["night/003-0000.png", "night/003-0001.png", "day/000-0000.png"]
    for line in lines:
        image, mask = line.split()
        assert (tmp_path / "a" / image).read_bytes() == (tmp_path / "b" / image).read_bytes()
        assert read_mask(tmp_path / "a" / mask).shape == cv2.imread(str(tmp_path / "a" / image)).shape[:2]
    with pytest.raises(InputError, match="light 'storm': choose from day, dusk, night, haze"):
        write_streets(tmp_path, "storm", 1)


def test_the_small_network_conforms(tmp_path, caplog):
    plugins.load("pipelines.demo.small_segmenter")
    with caplog.at_level(logging.WARNING, "components.core.estimators.conformance"):
        found = check_estimator(
            "small-segmenter", base_model="untrained", image_size=(64, 96), options={}, folder=tmp_path / "exam"
        )
    assert found == []
    assert "same seed" not in caplog.text


def test_what_the_small_network_knows_of_a_class_stays_with_its_name():
    model = estimators.get("small-segmenter")()
    model.load("untrained")
    model._begin(("a", "b"), (64, 96), None)
    weights = model._network[-1].weight.detach().clone()
    model._begin(("c", "b"), (64, 96), None)
    assert torch.equal(model._network[-1].weight[1], weights[1])
    assert not torch.equal(model._network[-1].weight[0], weights[0])


@pytest.mark.parametrize(
    ("base_model", "options", "words"),
    [
        ("lost.pt", {}, "base_model=lost.pt: no such file; small-segmenter starts from untrained"),
        ("untrained", {"momentum": 1}, "small-segmenter has lr, and not momentum"),
        ("untrained", {"lr": 0}, "lr=0 must be a number above 0"),
        ("untrained", {"lr": "fast"}, "lr='fast' must be a number above 0"),
    ],
)
def test_what_is_wrong_is_known_before_any_work(base_model, options, words):
    (told,) = SmallSegmenter().check(base_model, options)
    assert words in told


def test_a_file_that_is_no_model_is_refused(tmp_path):
    (tmp_path / "model.pt").write_bytes(b"half a fi")
    with pytest.raises(InputError, match="not a model of the estimator small-segmenter"):
        SmallSegmenter().load(tmp_path / "model.pt")
    with pytest.raises(InputError, match="untrained has no weights yet"):
        SmallSegmenter().predict([np.zeros((8, 8, 3), np.uint8)], confidence_threshold=0.25, nms_threshold=0.7)


@pytest.mark.parametrize("words", [["{}/file", "day"], ["{}/feed", "storm"]])
def test_streets_that_cannot_be_drawn_are_told_in_one_line(words, tmp_path):
    (tmp_path / "file").touch()
    done = CliRunner().invoke(app, [word.format(tmp_path) for word in words])
    assert done.exit_code == 1
    assert done.output.startswith("error: ") and done.output.count("\n") == 1


@pytest.mark.parametrize("words", [["--seed", "-1"], ["--count", "0"]])
def test_numbers_out_of_range_draw_no_streets(words, tmp_path):
    done = CliRunner().invoke(app, [str(tmp_path / "feed"), "day", *words])
    assert done.exit_code == 2
    assert not (tmp_path / "feed").exists()
