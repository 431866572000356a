"""What every step of a pipeline does around its work: say what it is doing, end with its runner, fail in one line."""

from __future__ import annotations

import logging
import os
import select
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from components.core.errors import ConflictError, InputError, LostRaceError, may_pass
from components.core.job.failures import note_failure
from components.core.job.tries import failed_before, note_sure_failure
from components.core.processors import share_processors
from components.core.redaction import redacted, redacted_output
from components.core.stores.transfer import NO_SPACE, os_reason

# The command line reads steps' output by these: `train | epoch 3/20 ...` is shown, `train error: no such file` is the
# error, which the log viewer of Kubeflow Pipelines shows in red.
SAYS, FAILS = "|", "error:"

_ORPHAN_SECONDS = 2.0


@contextmanager
def step(
    name: str, job_root: str = "", round_number: float | None = None, settings: Mapping[str, Any] | None = None
) -> Iterator[None]:
    """Run the body of one component.

    An ``InputError``, and a full disk, ends the process with exit code 1 and one line, since it is the user who can do
    something about it. On a cluster the next tries of the step end at once with the same line, unless it may pass. Any
    other exception goes on with its traceback, after the same line. Nothing that is printed shows a credential, see
    :mod:`components.core.redaction`.

    Args:
        name: of the step.
        job_root: where a failure is put on record; empty where there is no job.
        round_number: of that round, as the metadata of an artifact has it; None outside of one.
        settings: the parameters of the round; None where they are not known.
    """
    share_processors()
    threading.Thread(target=_end_with_reader, daemon=True).start()

    def fail(message: str, *, lost: bool = False, sure: bool = False) -> None:
        line = redacted(" ".join(message.split()))
        print(f"{name} {FAILS} {line}", flush=True)
        if sure:
            note_sure_failure(job_root, name, line)
        if round_number is not None and not lost:  # who lost a race did nothing wrong
            note_failure(job_root, int(round_number), name, line, settings)

    if before := failed_before(job_root, name):
        print(f"{name} {FAILS} {before}", flush=True)
        raise SystemExit(1)
    with redacted_output(), _failures_told_by(fail), _speaking_as(name):
        started = time.monotonic()
        yield
        logging.info("done in %.1f s", time.monotonic() - started)


@contextmanager
def _failures_told_by(fail: Callable[..., None]) -> Iterator[None]:
    """Tell what ends a step in one line, and end the process where nobody needs to see a traceback."""
    try:
        yield
    except InputError as error:
        fail(str(error), lost=isinstance(error, LostRaceError), sure=not may_pass(error))
        raise SystemExit(1) from None
    except MemoryError:
        fail("out of memory: give the step more memory, or a smaller batch or image_size")
        raise
    except OSError as error:
        if error.errno in NO_SPACE:
            fail(f"{error.filename or 'the disk of this step'}: {os_reason(error)}")
            raise SystemExit(1) from None
        fail(f"{error.strerror or type(error).__name__}: {error.filename or error}")
        raise
    except Exception as error:
        fail(f"{type(error).__name__}: {error}", lost=isinstance(error, ConflictError))
        raise


@contextmanager
def _speaking_as(name: str) -> Iterator[None]:
    """Put a step's name before all it logs, and nothing else's: KFP logs to the same place before and after."""
    root = logging.getLogger()
    before = root.handlers[:], root.level
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter(f"{name} {SAYS} %(message)s"))
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.handlers[:] = before[0]
        root.setLevel(before[1])


def _end_with_reader() -> None:
    """End this process when whoever reads its output is gone.

    A runner that was killed cannot end its steps. A step that went on without it would race with the next run.
    """
    output = sys.__stdout__
    if output is None or not stat.S_ISFIFO(os.fstat(output.fileno()).st_mode):
        return
    watched = select.poll()
    watched.register(output.fileno(), select.POLLERR)
    while not any(event & select.POLLERR for _, event in watched.poll(0)):
        time.sleep(_ORPHAN_SECONDS)
    os._exit(1)
