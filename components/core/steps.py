"""What every step of a pipeline does around its work: say what it is, how long it took, and fail in one line."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from components.core.errors import InputError

ERROR_MARK = "EDGE-ERROR"  # the command line looks for this in a step's output to show the error and nothing else


@contextmanager
def step(name: str) -> Iterator[None]:
    """Run the body of one component.

    An ``InputError`` ends the process with exit code 1 and one line, since its message is meant for the user. Any
    other exception goes on with its traceback, after the same line.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout, force=True)
    started = time.monotonic()
    try:
        yield
    except InputError as error:
        _report(name, str(error))
        sys.stdout.flush()
        raise SystemExit(1) from None
    except MemoryError:
        _report(name, "out of memory: give the step more memory, or a smaller batch or image_size")
        raise
    except Exception as error:
        _report(name, f"{type(error).__name__}: {error}")
        raise
    logging.info("%s done in %.1f s", name, time.monotonic() - started)


def _report(name: str, message: str) -> None:
    print(f"{ERROR_MARK} {name}: {' '.join(message.split())}", flush=True)
