import numpy as np
import pytest

from components.core.errors import InputError
from components.mine.embeddings import by_appearance, by_champion, greedy_k_centre
from tests.models import colour_model, write_bundle

RED, BLUE = (250, 0, 0), (0, 0, 250)


def image(*colours):
    """An image of 64x96 in stripes of colours."""
    return np.repeat(np.array(colours, np.uint8), 64 * 96 // len(colours), axis=0).reshape(64, 96, 3)


def test_images_in_which_a_model_sees_the_same_are_close(tmp_path):
    embed = by_champion(write_bundle(tmp_path / "bundle", colour_model()))
    red, mirrored, blue = embed(image(RED, RED, BLUE)), embed(image(BLUE, RED, RED)), embed(image(BLUE, BLUE, RED))
    assert np.linalg.norm(red) == pytest.approx(1, abs=1e-5)
    assert np.linalg.norm(red - mirrored) < 0.01 < np.linalg.norm(red - blue)


def test_the_vector_is_the_mean_of_the_deepest_feature_map(tmp_path):
    embed = by_champion(write_bundle(tmp_path / "bundle", colour_model()))
    # Two channels: (red - green - blue) / 255 - 0.5 and (blue - ...) - 0.5, steepened six times, as logits or scores.
    seen = embed(image(RED))
    assert seen.shape == (2,)
    assert seen[0] > seen[1]


def test_without_a_model_images_are_compared_by_their_looks():
    assert np.linalg.norm(by_appearance(image(RED)) - by_appearance(image(RED))) == 0
    assert np.linalg.norm(by_appearance(image(RED)) - by_appearance(image(BLUE))) > 0.5


def test_a_damaged_network_is_reported(tmp_path):
    folder = write_bundle(tmp_path / "bundle", colour_model())
    (folder / "model.onnx").write_bytes(b"no network")
    with pytest.raises(InputError, match=r"model\.onnx"):
        by_champion(folder)


def test_k_centre_takes_the_farthest_of_equals_and_the_most_valuable_first():
    vectors = np.array([[1, 0], [0.99, 0.14], [0, 1]], np.float32)
    assert greedy_k_centre(vectors, [0.5, 0.6, 0.5], np.empty((0, 2), np.float32)) == [1, 2, 0]
    assert greedy_k_centre(vectors, [0.5, 0.6, 0.5], vectors[2:])[-1] == 2
    assert greedy_k_centre(vectors, [0, 0, 0], np.empty((0, 2), np.float32)) == [0, 2, 1]
