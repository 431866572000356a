"""The temporary folder of a run on this machine: what its steps and KFP put there ends with the run, and so do they.

Steps find it as ``TMPDIR``. That is also how the processes of a run are known, whatever became of their parents.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from components.core.processes import RUN_PREFIX
from components.core.stores.transfer import os_errors
from pipelines.signals import endable

PATIENCE_S = 5.0  # that a step has to end by itself
_LOOK_S = 0.1
_LOCK = "run.lock"


@contextmanager
def run_folder(end_others: Callable[[], None] = lambda: None) -> Iterator[Path]:
    """Give a run a temporary folder of its own, in which this process makes its temporary files, too.

    At the end, and if a signal ends this process, all processes that work in it are ended and it is removed. Folders
    of runs that were killed, and could not do so, are removed by the next run.

    Args:
        end_others: ends what else the run started, such as containers; may be called more than once.

    Raises:
        InputError: there is no room for it.
    """
    with os_errors("the temporary folder (TMPDIR)"):
        parent = Path(tempfile.gettempdir())
        _remove_dead(parent)
        folder = Path(tempfile.mkdtemp(prefix=RUN_PREFIX))
        lock = _locked(folder)
    variable, done = os.environ.get("TMPDIR"), threading.Event()
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder)

    def end(number: int) -> None:
        # In a thread: KFP waits for steps that run side by side before it lets go of an exception.
        threading.Thread(target=_end, args=(folder, number, done, end_others), daemon=True).start()

    try:
        with endable(end):
            yield folder
    finally:
        done.set()
        tempfile.tempdir = str(parent)
        if variable is None:
            os.environ.pop("TMPDIR", None)
        else:
            os.environ["TMPDIR"] = variable
        _end_all(folder, end_others)
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _locked(folder: Path) -> int:
    """Lock a folder as long as this process lives; the lock is held before others can see it."""
    new = folder / f"{_LOCK}.new"
    lock = os.open(new, os.O_CREAT | os.O_RDWR, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    new.rename(folder / _LOCK)
    return lock


def _remove_dead(parent: Path) -> None:
    """Remove the folders of runs whose process is gone: nobody holds their lock."""
    for lock in parent.glob(f"{RUN_PREFIX}*/{_LOCK}"):
        # Another user's cannot be opened, one that another run is removing is gone, and one in use is locked.
        with contextlib.suppress(OSError), lock.open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _end_all(lock.parent, lambda: None)
            shutil.rmtree(lock.parent, ignore_errors=True)


def _processes(folder: Path) -> list[psutil.Process]:
    """The processes that work in a folder, or in one below it."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):  # gone meanwhile, or another user's
            its = process.environ().get("TMPDIR", "")
            if process.pid != os.getpid() and folder in (Path(its), *Path(its).parents):
                found.append(process)
    return found


def _end(folder: Path, number: int, done: threading.Event, end_others: Callable[[], None]) -> None:
    """Interrupt the steps, and kill them where they do not end, or where others take their place."""
    end_others()
    first, patience_ends = _processes(folder), time.monotonic() + PATIENCE_S
    if number != signal.SIGINT:  # the terminal has sent that to all of them
        for process in first:
            with contextlib.suppress(psutil.Error):
                process.send_signal(signal.SIGINT)
    while not done.wait(_LOOK_S):
        late = time.monotonic() > patience_ends
        for process in _processes(folder):
            if late or process not in first:
                with contextlib.suppress(psutil.Error):
                    process.kill()
        if late:
            end_others()


def _end_all(folder: Path, end_others: Callable[[], None]) -> None:
    end_others()
    for _ in range(5):  # one that is killed may have begun another
        left = _processes(folder)
        if not left:
            return
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(left, timeout=1)
