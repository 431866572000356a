"""The whole pipeline as users run it: the command line, each step a process of its own, one real epoch."""

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from components.core.job.job import Job
from components.core.stores.open import open_store
from pipelines.arguments import sort_into_place
from pipelines.helmet_detection import helmet_detection
from tests.images import CLASSES, jpeg, squares

REPOSITORY = Path(__file__).resolve().parents[2]
SPLIT = ["-p", "train_ratio=0.6", "-p", "val_ratio=0.2", "-p", "min_map50=0"]
QUICK = ["-p", "epochs=1", "-p", "image_size=64", "-p", "batch=8", "-p", "device=cpu", "-p", "workers=0",
         "-p", "base_model=yolov8n.yaml", *SPLIT]  # fmt: skip


def voc_zip(path: Path, count: int = 30) -> Path:
    rng = np.random.default_rng(1)
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(count):
            image, boxes = squares(rng)
            objects = "".join(
                f"<object><name>{CLASSES[c]}</name><bndbox><xmin>{b[0]}</xmin><ymin>{b[1]}</ymin><xmax>{b[2]}</xmax>"
                f"<ymax>{b[3]}</ymax></bndbox></object>"
                for c, b in boxes
            )
            size = "<size><width>96</width><height>96</height><depth>3</depth></size>"
            archive.writestr(f"set/JPEGImages/{number:03}.jpg", jpeg(image))
            archive.writestr(f"set/Annotations/{number:03}.xml", f"<annotation>{size}{objects}</annotation>")
    return path


def command(*words: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "pipelines", *words],
        capture_output=True, text=True, cwd=cwd, timeout=300, check=False,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), **environment},
    )  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    here = tmp_path_factory.mktemp("run")
    data = voc_zip(here / "data.zip")
    # A relative path and a secret in the environment, as a user has them.
    done = command(
        "run", "helmet-detection", "-p", "data_url=data.zip", "-p", "job_root=job", *QUICK,
        "-p", "experiment_labels=site=north", cwd=here, AWS_SECRET_ACCESS_KEY="do-not-tell-anyone",
    )  # fmt: skip
    return here, data, done


def test_it_ends_with_figures_and_one_self_contained_report(finished):
    here, _, done = finished
    assert done.returncode == 0, done.stdout + done.stderr
    report = Path(re.search(r"^report: (.*)$", done.stdout, re.MULTILINE)[1])
    assert report.parent == here / "job" / "reports"
    text = report.read_text()
    for words in ("mAP50", "Training", "Labelled images", "north", "red", "blue", "data:image/jpeg"):
        assert words in text
    assert not re.search(r'(src|href)="(?!data:|#)', text)
    figures = json.loads(report.with_suffix(".json").read_text())
    assert 0 <= figures["map50"] <= 1
    assert f"{figures['map50']:.4g}" in done.stdout


def test_the_model_becomes_the_champion_of_the_job(finished):
    here, _, done = finished
    state, _ = Job.open(str(here / "job")).read()
    model = here / "job" / "bundles" / state.champion
    assert (model / "model.onnx").is_file()
    assert done.stdout.splitlines()[-1].startswith("promoted: the first model of the job")
    assert f"model: {model}" in done.stdout.splitlines()
    assert str(model) in Path(re.search(r"^report: (.*)$", done.stdout, re.MULTILINE)[1]).read_text()
    assert state.champion in (here / "job" / "champion.json").read_text()  # what the edge workers read


def test_weights_of_ones_own_are_judged_against_the_champion(finished, tmp_path):
    here, _, _ = finished
    champion = Job.open(str(here / "job")).read()[0].champion
    weights = here / "job" / "bundles" / champion / "model.pt"
    done = command(
        "run", "helmet-detection", "-p", "data_url=data.zip", "-p", "job_root=job", *SPLIT, "-p", "epochs=0",
        "-p", f"base_model={weights}", "-p", "image_size=96", "-p", "min_samples=1", cwd=here,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "epochs=0: the base model is used unchanged" in done.stdout
    assert re.search(r"^champion: r0002-\w+, before: " + champion, done.stdout, re.MULTILINE)


def test_the_terminal_shows_progress_and_no_framework_noise(finished):
    _, _, done = finished
    for step in ("setup", "ingest", "prepare", "train", "evaluate", "promote", "report"):
        assert re.search(rf"^ +{step} \| done in", done.stdout, re.MULTILINE)
    assert "train | epoch 1/1" in done.stdout
    assert "executor" not in done.stdout.lower()
    assert done.stderr == ""


def test_no_secret_is_written_anywhere(finished):
    here, _, done = finished
    assert "do-not-tell-anyone" not in done.stdout
    for path in here.rglob("*"):
        assert not path.is_file() or b"do-not-tell-anyone" not in path.read_bytes(), path


def test_nothing_half_written_stays(finished):
    here, _, _ = finished
    left = [p for p in here.rglob("*") if p.name.endswith((".partial", ".lock")) or "checkpoints" in p.parts]
    assert not [path for path in left if path.is_file() and not path.name.startswith(".edge-")]


def test_the_compiled_pipeline_runs_as_it_is_committed(finished, tmp_path):
    _, data, _ = finished
    given = {"data_url": str(data), "job_root": str(tmp_path / "job"), "epochs": 1, "image_size": "64", "batch": 8,
             "device": "cpu", "workers": 0, "base_model": "yolov8n.yaml", "train_ratio": 0.6,
             "val_ratio": 0.2}  # fmt: skip
    code = (
        "import sys, json\nfrom kfp import components, local\n"
        "local.init(local.SubprocessRunner(use_venv=False), pipeline_root=sys.argv[2])\n"
        "components.load_component_from_file(sys.argv[1])(**json.loads(sys.argv[3]))\n"
    )
    compiled = REPOSITORY / "compiled" / "pipelines" / "helmet-detection.yaml"
    arguments = sort_into_place(helmet_detection, given)
    done = subprocess.run(
        [sys.executable, "-c", code, str(compiled), str(tmp_path / "runs"), json.dumps(arguments)],
        capture_output=True, text=True, cwd=tmp_path, timeout=300, check=False,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list((tmp_path / "job" / "reports").glob("*.html"))) == 1


def test_it_runs_on_a_store_elsewhere(finished, s3, tmp_path):
    _, data, _ = finished
    store = open_store(s3)
    store.upload(data, "incoming/data.zip")
    done = command(
        "run", "helmet-detection", "-p", f"data_url={s3}/incoming/data.zip", "-p", f"job_root={s3}/job", *QUICK,
        cwd=tmp_path, EDGE_CACHE_DIR=str(tmp_path / "cache"),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    kinds = {info.key.split("/")[1] for info in store.list("job/")}
    assert kinds >= {"blobs", "bundles", "manifests", "reports", "setup", "state.json"}
    assert not kinds & {"cache", "runs", "checkpoints"}
    assert f"report: {s3}/job/reports/" in done.stdout
    assert not list((tmp_path / "cache").rglob("training/*"))


def test_a_broken_archive_fails_in_one_line_and_the_next_run_goes_through(finished, tmp_path):
    _, data, _ = finished
    (tmp_path / "data.zip").write_bytes(data.read_bytes()[:20_000])
    done = command("run", "helmet-detection", "-p", "data_url=data.zip", *QUICK, cwd=tmp_path)
    assert done.returncode == 1
    assert re.fullmatch(r"error: step ingest failed: .*data\.zip.*\n", done.stderr)
    assert "Traceback" not in done.stdout + done.stderr
    (tmp_path / "data.zip").write_bytes(data.read_bytes())
    again = command("run", "helmet-detection", "-p", "data_url=data.zip", *QUICK, cwd=tmp_path)
    assert again.returncode == 0, again.stdout + again.stderr
    assert (tmp_path / "jobs" / "helmet-detection" / "reports").is_dir()


def test_names_that_do_not_exist_are_told_before_any_work(finished, tmp_path):
    _, data, _ = finished
    words = ["-p", f"data_url={data}", "-p", "data_format=vok", "-p", "base_model=yolo11n.pt",
             "-p", 'estimator_options={"mosaik": 0}', "-p", "plugins=not_mine"]  # fmt: skip
    done = command("run", "helmet-detection", *words, cwd=tmp_path)
    assert done.returncode == 1
    for part in ("step setup failed", "'not_mine'", "unknown format 'vok'", "models are not downloaded", "mosaic is"):
        assert part in done.stderr
    assert done.stderr.count("\n") == 1
    assert "ingest |" not in done.stdout


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["-p", "data_url=gone.zip"], r"error: step setup failed: data_url: .*gone\.zip.*"),
        (["-p", "epochs=many", "-p", "batch=0"], r"error: 3 parameters are wrong: .*data_url is required.*'many'.*"),
        (["-p", "epochs"], r"error: not name=value: epochs"),
        (["--params", "gone.yaml"], r"error: --params gone\.yaml: .*"),
    ],
)
def test_what_a_newcomer_gets_wrong_is_one_line(tmp_path, words, error):
    done = command("run", "helmet-detection", *words, cwd=tmp_path)
    assert done.returncode == 1
    assert re.fullmatch(error + r"\n", done.stderr), done.stderr


def test_an_unknown_pipeline_is_told_with_the_known(tmp_path):
    done = command("run", "helmets", cwd=tmp_path)
    assert done.returncode == 1
    assert re.fullmatch(r"error: unknown pipeline 'helmets': choose from helmet-detection, .*\n", done.stderr)


def test_parameters_come_from_a_file_and_the_command_line_wins(tmp_path):
    (tmp_path / "params.yaml").write_text("data_url: gone.zip\nepochs: 0\n")
    done = command("run", "helmet-detection", "--params", "params.yaml", "-p", "epochs=1", cwd=tmp_path)
    assert "epochs" not in done.stderr
    assert "gone.zip" in done.stderr


def test_plugins_are_listed_and_a_module_of_the_users_own_joins(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from components.ingest.dataset import formats\n\n"
        "@formats.register('mine')\nclass Mine:\n    '''My own format.'''\n"
    )
    done = command("plugins", "mine", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    listed = [line.split()[:2] for line in done.stdout.splitlines()]
    for words in ("estimator yolo", "format voc", "format yolo", "format mine", "runtime onnx"):
        assert words.split() in listed


def test_a_job_root_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("no folder")
    done = command(
        "run", "incremental-learning", "-p", "feed_url=/nowhere", "-p", f"job_root={tmp_path}/file/job", cwd=tmp_path
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    assert "(from job_root) cannot be created" in done.stderr
