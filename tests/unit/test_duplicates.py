import random
from datetime import UTC, datetime
from itertools import combinations

import cv2
import numpy as np
import pytest

from components.core.duplicates import Duplicates, fingerprint
from components.core.errors import InputError
from components.core.stores.open import open_store
from pipelines.demo.lights import LIGHTS
from pipelines.demo.scenes import draw_scene
from pipelines.demo.sites import SITES
from tests.hard_examples import drain, example, open_spool
from tests.images import jpeg


def scene(seed, site="warehouse", light="day"):
    return draw_scene(np.random.default_rng(seed), site=site, light=light, size=(240, 320))[0]


def noisy(image, seed):
    return np.clip(image + np.random.default_rng(seed).normal(0, 6, image.shape), 0, 255).astype(np.uint8)


def difference(first, second):
    return (fingerprint(first) ^ fingerprint(second)).bit_count()


def test_a_fingerprint_has_64_bits():
    assert fingerprint(np.zeros((5, 7, 3), np.uint8)) == 0
    rising = np.tile(np.arange(0, 250, 2, dtype=np.uint8)[None, :, None], (80, 1, 3))
    assert fingerprint(rising) == 2**64 - 1
    assert fingerprint(rising[:, ::-1]) == 0


def test_the_same_scene_in_other_bytes_is_a_near_duplicate():
    image = scene(1)
    again = cv2.imdecode(np.frombuffer(jpeg(image), np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]
    smaller = cv2.resize(image, (160, 120), interpolation=cv2.INTER_AREA)
    brighter = np.clip(image * 1.05, 0, 255).astype(np.uint8)
    for changed in (again, smaller, noisy(image, 0), brighter):
        assert difference(image, changed) <= 4


def test_other_scenes_are_none():
    looks = [(site, light) for site in SITES for light in LIGHTS for _ in range(3)]
    images = [scene(seed, site, light) for seed, (site, light) in enumerate(looks)]
    assert min(difference(first, second) for first, second in combinations(images, 2)) > 4


def test_the_threshold_is_in_bits():
    known = Duplicates(threshold=2, kept=[0b0000])
    assert 0b0011 in known
    assert 0b0111 not in known
    assert 0b0000 not in Duplicates(threshold=-1, kept=[0b0000])


def test_only_the_last_that_were_kept_count():
    known = Duplicates(threshold=0, window=2)
    for candidate in (1, 2, 3):
        assert candidate not in known
        known.keep(candidate)
    assert 1 not in known
    assert 2 in known
    assert 3 in known


@pytest.mark.parametrize(
    ("threshold", "window", "message"), [(64, 1, "threshold 64"), (-2, 1, "-2"), (4, 0, "window 0")]
)
def test_what_cannot_be(threshold, window, message):
    with pytest.raises(InputError, match=message):
        Duplicates(threshold, window)


def decide(folder, store, images, restarts, rng):
    """Which of some images are kept by a worker that starts from scratch now and then, and uploads now and then."""
    kept, spool, duplicates = [], None, None
    for number, image in enumerate(images):
        if spool is None or number in restarts:
            if spool is not None:
                spool.close()
            spool = open_spool(folder)
            duplicates = Duplicates(window=5, kept=spool.fingerprints())
        print_ = fingerprint(image)
        if print_ not in duplicates:
            data, sidecar = example(number, jpeg(image), captured=datetime(2026, 1, 1, tzinfo=UTC))
            if spool.add(data, sidecar, print_) == "kept":
                duplicates.keep(print_)
                kept.append(number)
        if rng.random() < 0.3:
            drain(spool, store)
    spool.close()
    return kept


def test_a_restart_decides_nothing_differently(tmp_path):
    """Scenes that come again after a while, as a camera that turns sees them."""
    rng = random.Random(3)
    scenes = [scene(seed, rng.choice([*SITES]), rng.choice([*LIGHTS])) for seed in range(12)]
    images = [noisy(scenes[(number // 3 + rng.choice([0, 0, 1, 4])) % len(scenes)], number) for number in range(60)]
    undisturbed = decide(tmp_path / "a", open_store(str(tmp_path / "job a")), images, set(), rng)
    restarted = decide(tmp_path / "b", open_store(str(tmp_path / "job b")), images, set(range(1, 60, 2)), rng)
    assert len(scenes) < len(undisturbed) < len(images)
    assert restarted == undisturbed
