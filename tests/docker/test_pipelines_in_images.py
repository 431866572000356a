"""Whole pipelines, each step in a container of its image, on a folder and on S3."""

import json
import os
import re
from pathlib import Path

import pytest

from components.core.stores.open import open_store
from tests.pipelines.test_helmet_detection import QUICK, command, voc_zip
from tests.pipelines.test_rounds import arrive

IN_DOCKER = ["--runner", "docker"]
ROUND = [
    "-p", "classes=red,blue", "-p", "epochs=1", "-p", "image_size=64", "-p", "batch=8", "-p", "device=cpu",
    "-p", "workers=0", "-p", "initial_model=yolov8n.yaml", "-p", "train_ratio=0.6", "-p", "val_ratio=0.2",
    "-p", 'trigger_conditions=["num_of_samples >= 12"]', "-p", 'gate_conditions=["map50 >= 0"]',
    "-p", "min_samples=2", "-p", "min_map50=0", "-p", "max_rounds=1",
]  # fmt: skip


@pytest.fixture(params=["folder", "s3"])
def place(request, tmp_path) -> str:
    """Where a job may keep its state."""
    return str(tmp_path) if request.param == "folder" else request.getfixturevalue("s3")


def put(folder: Path, place: str) -> None:
    """Copy all files of a folder to where they shall be found."""
    for path in (path for path in folder.rglob("*") if path.is_file() and place.startswith("s3:")):
        open_store(place).upload(path, path.relative_to(folder).as_posix())


def test_helmet_detection_makes_a_judged_detector(place, tmp_path):
    voc_zip(tmp_path / "data.zip")
    put(tmp_path, place)
    done = command(
        "run", "helmet-detection", *IN_DOCKER, "-p", f"data_url={place}/data.zip", "-p", f"job_root={place}/job",
        *QUICK, cwd=tmp_path, EDGE_CACHE_DIR=str(tmp_path / "cache"),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    for step in ("setup", "ingest", "prepare", "train", "convert", "evaluate", "report"):
        assert re.search(rf"^ +{step} \| done in", done.stdout, re.MULTILINE)
    reports = [info.key for info in open_store(f"{place}/job").list("reports/") if info.key.endswith(".json")]
    assert 0 <= json.loads(open_store(f"{place}/job").read(reports[0]))["map50"] <= 1


def test_a_round_of_incremental_learning_ends_with_a_champion_and_the_next_poll_waits(place, tmp_path):
    arrive(tmp_path / "feed", 0, 30)
    put(tmp_path, place)
    words = [
        "run", "incremental-learning", *IN_DOCKER, "-p", f"feed_url={place}/feed/train_data.txt",
        "-p", f"job_root={place}/job", *ROUND,
    ]  # fmt: skip
    done = command(*words, cwd=tmp_path, EDGE_CACHE_DIR=str(tmp_path / "cache"))
    assert done.returncode == 0, done.stdout + done.stderr
    state = json.loads(open_store(f"{place}/job").read("state.json"))
    assert state["round"] == 1
    assert json.loads(open_store(f"{place}/job").read("champion.json"))["version"] == state["champion"]
    again = command(*words, cwd=tmp_path, EDGE_CACHE_DIR=str(tmp_path / "cache"))
    assert again.returncode == 0, again.stdout + again.stderr
    assert "collect |" not in again.stdout


def test_what_containers_write_belongs_to_who_ran_them(tmp_path):
    voc_zip(tmp_path / "data.zip")
    done = command("run", "helmet-detection", *IN_DOCKER, "-p", "data_url=data.zip", "-p", "job_root=job", *QUICK,
                   cwd=tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert {path.lstat().st_uid for path in (tmp_path / "job").rglob("*")} == {os.getuid()}
    blobs = [path for path in (tmp_path / "job" / "cache").rglob("*.jpg") if "blobs" in path.parts]
    assert blobs
    assert all(path.stat().st_nlink > 1 for path in blobs)  # links, as without containers


def test_a_step_that_fails_in_its_container_is_one_line(tmp_path):
    broken = voc_zip(tmp_path / "data.zip").read_bytes()[:20_000]
    (tmp_path / "data.zip").write_bytes(broken)
    done = command("run", "helmet-detection", *IN_DOCKER, "-p", "data_url=data.zip", *QUICK, cwd=tmp_path)
    assert done.returncode == 1
    assert re.fullmatch(r"error: step ingest failed: .*data\.zip.*\n", done.stderr)


def test_an_image_that_is_nowhere_is_told_before_any_step(tmp_path):
    voc_zip(tmp_path / "data.zip")
    done = command("run", "helmet-detection", *IN_DOCKER, "-p", "data_url=data.zip", *QUICK, cwd=tmp_path,
                   EDGE_IMAGE_PREFIX="127.0.0.1:1/nobody")  # fmt: skip
    assert done.returncode == 1
    assert re.fullmatch(
        r"error: --runner docker: 127\.0\.0\.1:1/nobody/\S+ is not available locally .*build\.sh\n", done.stderr
    )
    assert "setup |" not in done.stdout
