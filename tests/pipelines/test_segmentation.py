"""Rounds of a job whose labels are masks, on the command line."""

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from components.core.job.job import Job
from components.core.job.label_requests import read_lists
from components.core.masks import encode_mask, read_mask
from tests.images import squares
from tests.tiny_segmenter import CLASSES, painted

REPOSITORY = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.slow


def arrive(feed: Path, numbers: range, unlabelled: int) -> None:
    """Let images arrive, the first few without a mask."""
    for folder in ("images", "masks"):
        (feed / folder).mkdir(parents=True, exist_ok=True)
    (feed / "classes.txt").write_text("\n".join(CLASSES))
    for number in numbers:
        image, boxes = squares(np.random.default_rng(number))
        cv2.imwrite(str(feed / "images" / f"{number:03}.png"), image[:, :, ::-1])
        if number >= numbers.start + unlabelled:
            (feed / "masks" / f"{number:03}.png").write_bytes(encode_mask(painted(boxes)))


def poll(tmp_path: Path) -> str:
    given = {
        "feed_url": tmp_path / "feed", "job_root": tmp_path / "job", "estimator": "segmentation",
        "initial_model": "yolo26n-sem.yaml", "image_size": "64", "epochs": "1", "batch": "4", "workers": "0",
        "min_samples": "1", "trigger_conditions": '["num_of_samples >= 10"]', "gate_conditions": '["miou_delta >= -1"]',
        "max_class_drop": "-1", "min_map50": "0",
    }  # fmt: skip
    words = [word for name, value in given.items() for word in ("-p", f"{name}={value}")]
    done = subprocess.run(
        [sys.executable, "-m", "pipelines", "run", "incremental-learning", *words],
        capture_output=True, text=True, cwd=REPOSITORY, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_masks_go_round_and_round(tmp_path):
    job = Job.open(str(tmp_path / "job"))
    arrive(tmp_path / "feed", range(20), unlabelled=4)
    told = poll(tmp_path)
    first = job.read()[0]
    assert first.champion == first.candidate
    assert "16 masks" in told and "mIoU" in told and "iou" in told
    assert "requested labels for 4 of 4 images: " in told and "hardest by pixel entropy" in told
    (wanted,) = read_lists(job.store)
    assert (wanted.model, wanted.classes, len(wanted.images)) == (first.champion, CLASSES, 4)
    for image in wanted.images:
        assert read_mask(job.store.local_path(image.mask.key)).shape == (image.height, image.width)

    arrive(tmp_path / "feed", range(20, 34), unlabelled=0)
    told = poll(tmp_path)
    second = job.read()[0]
    assert (second.round, second.champion) == (2, second.candidate)
    assert second.champion != first.champion
    assert "miou_delta >= -1 (have" in told
    page = next((tmp_path / "job" / "reports").glob("*round-2.html")).read_text()
    assert "mIoU" in page and "labelled pixels" in page
