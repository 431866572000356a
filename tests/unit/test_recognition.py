"""How well a score tells what is unseen from what is known, and what an image is known by."""

import numpy as np
import pytest

from components.core.lifelong.appearance import LOOKS, NUMBERS, appearance
from components.core.metrics.recognition import auroc


def test_the_area_is_how_often_an_unseen_sample_scores_higher():
    assert auroc([1, 2, 3], [4, 5]) == 1
    assert auroc([4, 5], [1, 2, 3]) == 0
    assert auroc([1, 3], [2, 4]) == pytest.approx(3 / 4)
    assert auroc([1, 2], [2]) == pytest.approx(3 / 4)  # a tie counts half
    assert auroc([], [1]) is None and auroc([1], []) is None


def test_an_image_is_known_by_its_light_and_sharpness_whatever_its_size():
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)
    image = np.kron(coarse, np.ones((64, 64, 1), np.uint8))
    numbers = appearance(image)
    assert numbers.shape == (NUMBERS,) and np.isfinite(numbers).all()
    assert np.abs(appearance(image[::2, ::2]) - numbers)[:LOOKS].max() < 0.1
    assert numbers[LOOKS:].tolist() == [9, 9]  # 512 pixels each
    assert np.allclose(numbers[:3], image.mean(axis=(0, 1)) / 255, atol=0.01)
    dark = appearance((image * 0.3).astype(np.uint8))
    assert (dark[:3] < 0.4 * numbers[:3]).all()
    noisy = np.clip(image.astype(int) + rng.integers(-30, 30, image.shape), 0, 255).astype(np.uint8)
    assert appearance(noisy)[LOOKS - 5] > numbers[LOOKS - 5]  # contrast at the finest scale


@pytest.mark.parametrize("size", [(1, 1), (2, 900), (8, 8)])
def test_an_odd_image_is_looked_at_too(size):
    assert np.isfinite(appearance(np.zeros((*size, 3), np.uint8))).all()


def test_the_numbers_of_an_image_are_those_of_the_plain_formulas():
    image = np.random.default_rng(1).integers(30, 200, (256, 200, 3), dtype=np.uint8)
    pixels = image / 255
    grey, colourful = pixels.mean(axis=2), pixels.max(axis=2) - pixels.min(axis=2)
    expected = [*pixels.mean(axis=(0, 1)), *pixels.std(axis=(0, 1)), *np.percentile(grey, (5, 25, 50, 75, 95)),
                colourful.mean(), colourful.std(), grey[:128].mean(), grey[128:].mean(), grey[:128].std(),
                grey[128:].std()]  # fmt: skip
    assert appearance(image)[: len(expected)] == pytest.approx(expected, abs=1e-6)
