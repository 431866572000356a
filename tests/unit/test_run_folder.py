"""The temporary folder of a run, and the processes that work in it."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from components.core.errors import InputError
from components.core.processes import lasting_environment
from pipelines.run_folder import run_folder
from tests.processes import nothing_is_left, working_in

REPOSITORY = Path(__file__).resolve().parents[2]
HOLDING = """
import os, signal, subprocess, tempfile, time
from pathlib import Path
from pipelines.run_folder import run_folder

with run_folder() as folder:
    Path(tempfile.mkdtemp(), "large").touch()
    subprocess.Popen(["sleep", "600"], stdout=subprocess.DEVNULL)
    print(folder, flush=True)
    {then}
"""


def hold(temporary: Path, then: str, *before: str) -> tuple[subprocess.Popen[str], Path]:
    run = subprocess.Popen(
        [*before, sys.executable, "-c", HOLDING.format(then=then)], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True,
        env=os.environ | {"TMPDIR": str(temporary)},
    )  # fmt: skip
    return run, Path(run.stdout.readline().strip())


def test_what_a_killed_run_left_is_removed_by_the_next_and_what_is_in_use_is_not(tmp_path):
    killed, left = hold(tmp_path, "time.sleep(600)")
    running, kept = hold(tmp_path, "time.sleep(600)")
    killed.kill()
    killed.communicate()
    assert set(tmp_path.iterdir()) == {left, kept}
    next_one, _ = hold(tmp_path, "pass")
    next_one.communicate(timeout=60)
    assert next_one.returncode == 0
    assert list(tmp_path.iterdir()) == [kept]
    assert {one.environ()["TMPDIR"] for one in working_in(tmp_path) if one.pid != running.pid} == {str(kept)}
    running.terminate()
    running.communicate(timeout=60)
    nothing_is_left(tmp_path)


def test_a_hangup_that_is_ignored_ends_nothing(tmp_path):
    run, _ = hold(tmp_path, "os.kill(os.getpid(), signal.SIGHUP); print('goes on')", "nohup")
    assert run.stdout.read() == "goes on\n"
    assert run.wait() == 0
    nothing_is_left(tmp_path)


def test_this_process_has_its_own_temporary_folder_again(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.delenv("TMPDIR", raising=False)
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    with run_folder() as folder:
        assert Path(tempfile.mkdtemp()).parent == folder == Path(os.environ["TMPDIR"])
    assert tempfile.gettempdir() == str(tmp_path) and "TMPDIR" not in os.environ
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == handlers
    assert list(tmp_path.iterdir()) == []


def test_a_temporary_folder_that_cannot_be_used_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(InputError, match=r"the temporary folder \(TMPDIR\)"), run_folder():
        pass


def test_a_program_that_outlives_the_run_has_the_folder_that_lasts(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with run_folder():
        assert lasting_environment()["TMPDIR"] == str(tmp_path)
    monkeypatch.setenv("TMPDIR", "/var/tmp")
    assert lasting_environment()["TMPDIR"] == "/var/tmp"
    monkeypatch.delenv("TMPDIR")
    assert "TMPDIR" not in lasting_environment()


def test_a_second_signal_does_not_interrupt_the_tidying_up():
    program = """
import signal
from pipelines.signals import Ended, endable
try:
    with endable():
        try:
            with endable():
                signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGINT)
            print("all is tidy")
except Ended as ended:
    print(ended.number == signal.SIGTERM)
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    print("as before")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.splitlines() == ["all is tidy", "True", "as before"]
