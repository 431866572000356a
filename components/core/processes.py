"""Python processes of this suite, which import it whatever folder they start in."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import components

RUN_PREFIX = "edge-run-"  # of the temporary folder that a run on this machine has to itself


def module_command(module: str) -> list[str]:
    """The beginning of a command that runs a module of this suite; it needs ``module_environment``."""
    return [sys.executable, "-m", module]


def module_environment() -> dict[str, str]:
    """This process's environment, in which a child finds this suite's packages first.

    The working directory comes last, not first: people have folders of their own that are called ``components`` or
    ``pipelines``. Plug-ins are found there still, see ``plugins.load``.
    """
    ours = str(Path(components.__path__[0]).resolve().parent)
    path = os.pathsep.join(filter(None, (ours, os.environ.get("PYTHONPATH"))))
    return os.environ | {"PYTHONPATH": path, "PYTHONSAFEPATH": "1"}


def lasting_environment() -> dict[str, str]:
    """``module_environment`` for a program that outlives its run, and with it the run's temporary folder."""
    environment = module_environment()
    folder = Path(environment.get("TMPDIR", ""))
    return environment | ({"TMPDIR": str(folder.parent)} if folder.name.startswith(RUN_PREFIX) else {})


def direct_on_this_machine() -> dict[str, str]:
    """Variables by which programs on this machine reach each other, whatever proxy leads to the outside."""
    known = (os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or "").strip()
    hosts = known if known == "*" else ",".join(filter(None, (known, "127.0.0.1")))
    return {"no_proxy": hosts, "NO_PROXY": hosts}


def ending_signals() -> tuple[signal.Signals, ...]:
    """The signals that ask a program to end in order: Ctrl-C, SIGTERM and, without ``nohup``, a closed terminal."""
    outlives = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return (signal.SIGINT, signal.SIGTERM, *(() if outlives else (signal.SIGHUP,)))


@contextmanager
def ended_by_signals(end: Callable[[int], None]) -> Iterator[None]:
    """While the body runs, let a thread call a function with the number of each signal that asks this process to end.

    A handler runs between any two instructions of the main thread, perhaps while that holds a lock that the handler
    needs, such as that of an event, and would wait for it for ever. So the handlers do nothing, and the thread reads
    the signals' numbers from a pipe.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    before = {number: signal.signal(number, lambda *_: None) for number in ending_signals()}
    threading.Thread(target=_take_signals, args=(reader, end), name="signals", daemon=True).start()
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(wakeup)
        os.close(writer)  # which ends the thread


def _take_signals(reader: int, end: Callable[[int], None]) -> None:
    with open(reader, "rb", buffering=0) as pipe:
        while number := pipe.read(1):
            end(number[0])


def end_with_parent() -> None:
    """End this process, one of ``multiprocessing``, as soon as the one that started it is gone.

    A step that was killed cannot end its processes. What went on without it would race with the next try.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def end(process: subprocess.Popen[Any], patience_s: float = 20) -> None:
    """Ask a process to end, and kill it where it does not in that time."""
    process.terminate()
    try:
        process.wait(timeout=patience_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
