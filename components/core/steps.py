"""What every step of a pipeline does around its work: say what it is doing, end with its runner, fail in one line."""

from __future__ import annotations

import logging
import os
import select
import stat
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from components.core.errors import ConflictError, InputError
from components.core.failures import note_failure
from components.core.stores.transfer import NO_SPACE, os_reason

# The command line reads steps' output by these: `train | epoch 3/20 ...` is shown, `train ! no such file` is the error.
SAYS, FAILS = "|", "!"

_ORPHAN_SECONDS = 2.0


@contextmanager
def step(name: str, round_of: str = "") -> Iterator[None]:
    """Run the body of one component.

    Args:
        name: of the step.
        round_of: root of the job of whose round this is a costly step: a failure is put on record there.

    An ``InputError``, and a full disk, ends the process with exit code 1 and one line, since it is the user who can do
    something about it. Any other exception goes on with its traceback, after the same line.
    """
    threading.Thread(target=_end_with_reader, daemon=True).start()
    started = time.monotonic()
    try:
        with _speaking_as(name):
            yield
            logging.info("done in %.1f s", time.monotonic() - started)
    except InputError as error:
        _fail(name, str(error), round_of)
        raise SystemExit(1) from None
    except ConflictError as error:
        _fail(name, f"{type(error).__name__}: {error}")
        raise
    except MemoryError:
        _fail(name, "out of memory: give the step more memory, or a smaller batch or image_size", round_of)
        raise
    except OSError as error:
        if error.errno in NO_SPACE:
            _fail(name, f"{error.filename or 'the disk of this step'}: {os_reason(error)}", round_of)
            raise SystemExit(1) from None
        _fail(name, f"{error.strerror or type(error).__name__}: {error.filename or error}", round_of)
        raise
    except Exception as error:
        _fail(name, f"{type(error).__name__}: {error}", round_of)
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


def _fail(name: str, message: str, round_of: str = "") -> None:
    line = " ".join(message.split())
    print(f"{name} {FAILS} {line}", flush=True)
    if round_of:
        note_failure(round_of, name, line)


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
