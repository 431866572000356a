import signal
import subprocess
import sys

import psutil
import pytest

from components.core.processes import ending_signals, module_command, module_environment


def test_a_child_finds_this_suite_in_a_folder_with_packages_of_the_same_names(tmp_path):
    for name in ("components", "pipelines"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('somebody else')")
    command = [*module_command("components.convert.build"), "nothing.json"]
    done = subprocess.run(
        command, cwd=tmp_path, env=module_environment(), capture_output=True, text=True, check=False, timeout=120
    )
    assert "somebody else" not in done.stderr
    assert "nothing.json" in done.stderr  # the module itself complains


def test_what_is_on_the_path_already_stays_there(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/opt/plugins")
    assert module_environment()["PYTHONPATH"].endswith(":/opt/plugins")


def test_a_closed_terminal_ends_a_program_unless_it_is_to_outlive_it():
    before = signal.getsignal(signal.SIGHUP)
    try:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        assert ending_signals() == (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        assert ending_signals() == (signal.SIGINT, signal.SIGTERM)
    finally:
        signal.signal(signal.SIGHUP, before)


CASE = """
import time
from components.benchmark.isolation import run_isolated
from components.benchmark.row import Row

run_isolated(lambda: print("at work", flush=True) or time.sleep(600), Row(case="c", algorithm="a", seed=0), 600)
"""
POOL = """
import itertools, time
from components.core.stores.open import open_store
from components.ingest.dataset import Record
from components.ingest.images import take_in

if __name__ == "__main__":
    outcomes = take_in((Record("a.jpg", reason="missing: a.jpg") for _ in itertools.count()), open_store("store"))
    next(outcomes)
    print("at work", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("code", [CASE, POOL], ids=["a case of a benchmark", "the processes of ingest"])
def test_the_processes_of_a_step_that_is_killed_end_with_it(tmp_path, code):
    (tmp_path / "work.py").write_text(code)
    step = subprocess.Popen(
        [sys.executable, "work.py"], cwd=tmp_path, env=module_environment(), stdout=subprocess.PIPE, text=True
    )
    assert step.stdout.readline() == "at work\n"
    children = psutil.Process(step.pid).children(recursive=True)
    assert children
    step.kill()
    step.wait()
    _, left = psutil.wait_procs(children, timeout=30)
    for child in left:
        child.kill()
    assert left == []


def test_a_signal_that_comes_while_the_main_thread_looks_at_the_event_is_not_lost():
    program = """
import os, signal, threading, time
from components.core.processes import ended_by_signals
stop = threading.Event()
with ended_by_signals(lambda _: stop.set()):
    with stop._cond:  # as inside of Event.wait
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.2)
    print(stop.wait(5))
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env=module_environment(),
    )
    assert done.stdout == "True\n"
