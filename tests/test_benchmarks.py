"""The benchmarks run: each in small, as its text says, and with public names of what it measures."""

import ast
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

from pipelines.demo.scenes import make_dataset

REPOSITORY = Path(__file__).resolve().parent.parent
BENCHMARKS = sorted((REPOSITORY / "benchmarks").glob("*.py"))


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Archives of a few drawn scenes, no two alike, by how many they hold."""
    folder = tmp_path_factory.mktemp("scenes")
    for seed, count in enumerate((12, 13, 60)):
        make_dataset(folder / f"{count}.zip", count, seed)
    return folder


def renamed(archive, target, **names):
    """A copy of an archive whose labels call the classes otherwise."""
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name.endswith(".xml"):
                for before, after in names.items():
                    data = data.replace(f"<name>{before}</name>".encode(), f"<name>{after}</name>".encode())
            new.writestr(name, data)
    return target


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs a benchmark as its text says, and gives what it prints."""
    monkeypatch.setenv("EDGE_CACHE_DIR", str(tmp_path / "cache"))

    def run(name, *words):
        command = [sys.executable, f"benchmarks/{name}.py", *map(str, words)]
        done = subprocess.run(command, check=False, cwd=REPOSITORY, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    return run


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.stem)
def test_a_benchmark_uses_public_names(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imported = {
        name.asname or name.name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in node.names
    }
    private = [
        f"{node.value.id}.{node.attr}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
        if node.value.id in imported and node.attr.startswith("_") and not node.attr.endswith("__")
    ]
    assert private == []
    assert [name for name in imported if name.startswith("_")] == []


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.stem)
def test_a_benchmark_has_a_test_that_runs_it(path):
    assert f"test_{path.stem}_in_small" in globals()


def test_mining_in_small(run):
    told = run("mining", "--frames", 200, "--repeats", 1)
    assert "200 frames" in told and "CrossEntropy" in told


def test_deeppcb_in_small(tmp_path):
    from benchmarks import deeppcb
    from components.ingest.dataset import Folder

    board = tmp_path / "group00041" / "00041"
    for folder in (board, board.with_name("00041_not")):
        folder.mkdir(parents=True)
    for name in ("1_test.jpg", "1_temp.jpg", "2_test.jpg", "3_test.jpg"):
        (board / name).write_bytes(b"image")
    (board.with_name("00041_not") / "1.txt").write_text("466 441 493 470 3\n\n28 25 55 55 6\n")
    (board.with_name("00041_not") / "2.txt").write_text("1 2 3 4 7\n")
    folder = Folder.scan(tmp_path)
    assert deeppcb.DeepPcb.detect(folder)
    first, second, third = deeppcb.DeepPcb.read(folder).records
    assert [(label.name, label.box) for label in first.labels] == [
        ("mousebite", (466, 441, 493, 470)), ("pin-hole", (28, 25, 55, 55)),
    ]  # fmt: skip
    assert "a type from 1 to 6" in second.reason
    assert third.reason


def test_models_of_other_settings_are_not_gone_on_with(tmp_path):
    from argparse import Namespace

    from benchmarks import learning, selection

    given = {"folder": tmp_path, "set": "drawn", "base": "yolo11n.yaml", "images": 40, "image_size": 64, "rate": 0.1,
             "first_steps": 1, "steps": 1, "freeze": 0, "round_size": 10, "epochs": 1, "round_epochs": 1,
             "round_rate": 0.1, "replay_ratio": 1}  # fmt: skip
    one, other, longer = (Namespace(**{**given, **more}) for more in ({}, {"image_size": 96}, {"round_epochs": 2}))
    assert selection.champion_folder(one, 0) != selection.champion_folder(other, 0)
    assert learning.model_folder(one, 0, "ours", 2) != learning.model_folder(longer, 0, "ours", 2)
    assert learning.model_folder(one, 0, "full", 1) == learning.model_folder(longer, 0, "full", 1)


@pytest.mark.parametrize("name", ["pcb-domain", "pcb-class"])
def test_the_files_of_parameters_are_right(name):
    from components.benchmark.algorithms import read_algorithms
    from components.core.documents import read_yaml
    from components.core.parameters import WORKFLOWS, problems

    given = read_yaml((REPOSITORY / "benchmarks" / f"{name}.yaml").read_text(), name)
    assert problems({**given, "data_url": "DeepPCB", "job_root": "jobs/pcb"}, WORKFLOWS["benchmark"]) == []
    assert read_algorithms(given["algorithms"])


@pytest.mark.slow
def test_ingest_in_small(run, scenes):
    assert "times as long as ours" in run("ingest", scenes / "12.zip", "--images", 24, "--repeats", 1)


@pytest.mark.slow
def test_poll_in_small(run):
    assert "the first round takes" in run("poll", "--counts", 100, 200)


@pytest.mark.slow
def test_spool_in_small(run):
    assert "on the wire, to the server" in run("spool", "--scenes", 3)


@pytest.mark.slow
def test_edge_in_small(run):
    assert "frames/s" in run("edge", "--repeats", 1, "--frames", 1000)


@pytest.mark.slow
def test_mixed_precision_in_small(run):
    small = "--repeats", 1, "--steps", 1, "--image-size", 64, "--batch", 2
    found = run("mixed_precision", "--architecture", "fasterrcnn_mobilenet_v3_large_320_fpn", *small)
    assert "float32: " in found and "mixed precision: " in found
    assert float(found.split("ratio: ")[1]) > 0


def test_threads_in_small(run):
    found = run("threads", "--repeats", 1, "--steps", 1, "--image-size", 64, "--batch", 2)
    assert "shared: alone" in found
    assert "by itself: alone" in found


def test_training_in_small(run):
    told = run("training", "--scenes", 40, "--epochs", 2, "--image-size", 64, "--repeats", 1)
    assert "epochs  ours" in told


@pytest.mark.slow
def test_selection_in_small(run, tmp_path):
    small = ("--images", 40, "--seeds", 0, "--image-size", 64, "--first-steps", 1, "--steps", 1)
    told = run("selection", "drawn", "--folder", tmp_path, "--arms", "random,diversity,IBT", *small)
    assert "| IBT |" in told
    again = run("selection", "drawn", "--folder", tmp_path, "--arms", "random,diversity,IBT", *small)
    assert again.splitlines() == told.splitlines()[-len(again.splitlines()) :]  # nothing is measured twice


@pytest.mark.slow
def test_learning_in_small(run, scenes, tmp_path):
    first, feed = (
        renamed(scenes / f"{count}.zip", tmp_path / f"{count}.zip", helmet="hat", head="person") for count in (60, 12)
    )
    new_site = renamed(scenes / "13.zip", tmp_path / "13.zip", head="no-helmet")
    small = ("--seeds", 0, "--round-size", 10, "--image-size", 64, "--epochs", 1, "--round-epochs", 1)
    told = run(
        "learning", "--first", first, "--feed", feed, "--new-site", new_site, "--folder", tmp_path / "work", *small
    )
    assert "forgetting" in told


@pytest.mark.slow
@pytest.mark.skipif(not find_spec("rknn"), reason="rknn-toolkit2 is not installed")
def test_conversion_in_small(run, scenes, tmp_path):
    from components.core.estimators.ultralytics_offline import ultralytics_offline
    from components.core.estimators.yolo import Yolo

    architecture = Path(ultralytics_offline().__file__).parent / "cfg" / "models" / "11" / "yolo11.yaml"
    (tmp_path / "yolo11n.yaml").write_text(architecture.read_text().replace("nc: 80", "nc: 2"))
    model = Yolo()
    model.load(tmp_path / "yolo11n.yaml")  # its classes are called 0 and 1
    thresholds = {"confidence_threshold": 0.25, "nms_threshold": 0.7}
    model.save(tmp_path / "model", image_size=(64, 64), lineage={}, **thresholds)
    small = ("--classes", "helmet:0,head:1", "--targets", "rv1106", "--max-eval-images", 5)
    told = run("conversion", tmp_path / "model", scenes / "60.zip", "--folder", tmp_path / "work", *small)
    assert "float32" in told and "concatenated" in told and "ultralytics" in told


def test_joint_in_small(run):
    told = run("joint", "--repeats", 1, "--batched", "yolo11n@64")
    assert "of the bytes" in told
    assert "yolo11n at 64" in told and "in batches of 4" in told


SERVERS = ("servers", "--requests", 4, "--clients", 2, "--turns", 1)


@pytest.mark.slow
def test_servers_in_small(run):
    told = run(*SERVERS)
    assert told.startswith("cloud server, JPEG: 1 client ") and "2 clients" in told


@pytest.mark.slow
@pytest.mark.skipif(not find_spec("kserve"), reason="kserve is not installed, whose packages are others than ours")
def test_kserve_model_in_small(run):
    told = run(*SERVERS, "--kserve", sys.executable)
    assert "KServe, base64: " in told and "KServe, predict blocks, JPEG: " in told


@pytest.mark.slow
def test_reliability_in_small(run):
    small = ("--requests", 300, "--kills", 1, "--clients", 2, "--hours", 0.03, "--fps", 2, "--timeout", 0.5)
    told = run("reliability", *small)
    assert "300 of 300 requests answered, each with its own number" in told
    assert "killed 1 times" in told
    parts = [line for line in told.splitlines() if line.startswith("  cloud ")]
    assert len(parts) == 8  # without frames sent again, and with
    for _, silent, gone, _ in (parts[:4], parts[4:]):
        assert "answered 0" in silent and "answered 0" in gone
    assert told.count("circuit opened 1 times, closed at the end") == 2
    assert "answered late, each with its own number, none lost" in told


@pytest.mark.slow
def test_cascade_in_small(run, scenes, tmp_path):
    from components.core.estimators.yolo import Yolo

    for name, size in (("little", 64), ("big", 96)):
        model = Yolo()
        model.load("yolo11n.yaml")
        model.save(tmp_path / name, image_size=(size, size), confidence_threshold=0.25, nms_threshold=0.7, lineage={})
    data = (
        "--data",
        f"first={scenes / '12.zip'}@helmet:0,head:1",
        "--data",
        f"new={scenes / '13.zip'}@helmet:0,head:1",
    )
    told = run("cascade", *(f"--{name}={tmp_path / name}" for name in ("little", "big")), *data, "--folder", tmp_path)
    assert "first: 12 images" in told and "new: 13 images" in told
    assert "refused in 100" in told and "label more or lower the goal" in told


@pytest.mark.slow
def test_lifelong_in_small(run, tmp_path):
    small = ("--folder", tmp_path / "work", "--seeds", 0, "--epochs", 1, "--images", 20, "--image-size", "64,96")
    told = run("lifelong", "drawn", *small, "--only-recognition")
    assert "AUROC" in told and "forgetting" not in told
    told = run("lifelong", "drawn", *small)
    assert "forgetting" in told and "AUROC" in told and (tmp_path / "work" / "report.html").is_file()
    cells = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "work" / "cells").iterdir()}
    lost = tmp_path / "work" / "cells" / "seed0-scores-replay-3.json"
    lost.unlink()
    assert run("lifelong", "drawn", *small).splitlines()[-15:] == told.splitlines()[-15:]
    # Only what was missing was done again.
    again = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "work" / "cells").iterdir()}
    assert {name for name in cells if again[name] != cells[name]} == {lost.name}


def test_knowledge_base_in_small(run):
    printed = run("knowledge_base", "--repeats", 1, "--frames", 12, "--tasks", 3)
    assert "router, all loaded:" in printed and "definition, three loaded:" in printed
    assert "sync: 4 models" in printed
    assert "of one task (site-0):" in printed and "the shared model, too (shared, site-0):" in printed
