"""A run that is told to end leaves no process and no file in the temporary folder."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests import sites
from tests.pipelines.test_benchmark import ALGORITHM, REPOSITORY
from tests.processes import nothing_is_left, working_in

DAWDLING = """
import pathlib, subprocess, time
from components.core.estimators.base import estimators
from tests.site_estimator import Brightness

@estimators.register("dawdling")
class Dawdling(Brightness):
    def train(self, *_, **__):
        subprocess.Popen(["sleep", "600"], start_new_session=True)
        while True:
            try:
                pathlib.Path("{started}").touch()
                time.sleep(600)
            except KeyboardInterrupt:
                if not {stubborn}:
                    raise
"""


def begin(tmp_path: Path, pipeline: str, *, stubborn: bool = False, **parameters: object) -> subprocess.Popen[str]:
    """A run whose training goes on for ever; it has begun when this returns."""
    sites.arrive(tmp_path / "data", "day", 20, seed=1)
    started, temporary = tmp_path / "started", tmp_path / "tmp"
    temporary.mkdir(exist_ok=True)
    (tmp_path / "dawdling.py").write_text(DAWDLING.format(started=started, stubborn=stubborn))
    given = {"data_url": str(tmp_path / "data"), "job_root": str(tmp_path / "job"), "plugins": "dawdling",
             "classes": "red,blue", "train_ratio": 0.6, "val_ratio": 0.2, "workers": 0} | parameters  # fmt: skip
    (tmp_path / "given.yaml").write_text(yaml.safe_dump(given))
    run = subprocess.Popen(
        [sys.executable, "-m", "pipelines", "run", pipeline, "--params", str(tmp_path / "given.yaml")],
        cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        env=os.environ | {"TMPDIR": str(temporary), "PYTHONPATH": f"{REPOSITORY}:{tmp_path}"},
    )  # fmt: skip
    while not started.exists():
        assert run.poll() is None, run.communicate()[0]
        time.sleep(0.1)
    return run


def begin_benchmark(tmp_path: Path, **more: bool) -> subprocess.Popen[str]:
    dawdling = {**ALGORITHM, "estimator": "dawdling"}
    return begin(tmp_path, "benchmark", algorithms=[dawdling], seeds="0,1,2,3", baselines="", **more)


def begin_helmet(tmp_path: Path) -> subprocess.Popen[str]:
    return begin(tmp_path, "helmet-detection", estimator="dawdling", base_model="nothing", epochs=1, image_size="96")


@pytest.mark.slow
@pytest.mark.parametrize("begin, number", [(begin_benchmark, signal.SIGTERM), (begin_helmet, signal.SIGHUP)])
def test_a_run_that_a_signal_ends_leaves_nothing(tmp_path, begin, number):
    run = begin(tmp_path)
    assert len(working_in(tmp_path / "tmp")) > 2 and list((tmp_path / "tmp").iterdir())
    run.send_signal(number)
    said = run.communicate(timeout=60)[0]
    assert run.returncode == 128 + number, said
    assert said.splitlines()[-1] == "interrupted; run the same command again to resume training from its last epoch"
    nothing_is_left(tmp_path / "tmp")


@pytest.mark.slow
def test_ctrl_c_that_all_processes_get_leaves_nothing_even_of_steps_that_do_not_listen(tmp_path):
    run = begin_benchmark(tmp_path, stubborn=True)
    for _ in range(3):  # an impatient person
        os.killpg(run.pid, signal.SIGINT)
        time.sleep(0.2)
    said = run.communicate(timeout=60)[0]
    assert run.returncode == 130, said
    nothing_is_left(tmp_path / "tmp")
