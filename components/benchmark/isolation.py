"""A case in a process of its own: whatever it does, it costs one row."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import re
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path

from components.benchmark.row import Row
from components.core.errors import InputError
from components.core.job.tries import POD_VARIABLE
from components.core.processes import end_with_parent
from components.core.redaction import redacted

log = logging.getLogger(__name__)

LONGEST_ERROR = 500
_MEMORY = "out of memory: give the step more memory, or a smaller batch or image_size"
MAX_DEATHS = 2  # of whole containers; a step has one more try than this


def died_before() -> bool:
    """Whether the container of this step has ended too often before, on a cluster.

    A case that fails does not fail its step. Where memory runs out, though, the kernel may end all processes of the
    container; the last try then has to write the row.
    """
    number = re.search(r"\((\d+)\)$", os.environ.get(POD_VARIABLE, ""))
    return number is not None and int(number[1]) >= MAX_DEATHS


def run_isolated(work: Callable[[], Row], failed: Row, timeout: float) -> Row:
    """Run a case in a child process.

    Args:
        work: runs the case.
        failed: the row if it fails; its ``error`` is filled in.
        timeout: seconds after which it is ended.

    Returns:
        The row of the case, or ``failed`` with the reason: an error, a signal such as that of the kernel when memory
        runs out, or the time limit.
    """
    if died_before():
        return failed.model_copy(update={"error": f"its container was ended {MAX_DEATHS} times, probably {_MEMORY}"})
    with tempfile.TemporaryDirectory(prefix="case-") as scratch:
        result = Path(scratch) / "row.json"
        # Forked, so that nothing has to be pickled; this process has not loaded torch, which would not survive it.
        child = multiprocessing.get_context("fork").Process(target=_work, args=(work, result))
        child.start()
        child.join(timeout)
        if child.is_alive():
            child.kill()
            child.join()
            return failed.model_copy(update={"error": f"ran for more than {timeout:g} s: raise case_timeout"})
        if result.is_file():
            told = json.loads(result.read_text(encoding="utf-8"))
            return Row.model_validate(told["row"]) if "row" in told else failed.model_copy(update=told)
    return failed.model_copy(update={"error": _ended(child.exitcode or 0)})


def _work(work: Callable[[], Row], result: Path) -> None:
    """What the child does; the result appears whole or not at all."""
    end_with_parent()
    told: dict[str, object]
    try:
        told = {"row": work().model_dump(mode="json")}
    except InputError as error:
        told = {"error": redacted(str(error))[:LONGEST_ERROR]}
    except MemoryError:
        told = {"error": _MEMORY}
    except Exception as error:
        log.exception("a case failed")
        told = {"error": redacted(f"{type(error).__name__}: {error}")[:LONGEST_ERROR]}
    partial = result.with_suffix(".partial")
    partial.write_text(json.dumps(told), encoding="utf-8")
    partial.replace(result)


def _ended(code: int) -> str:
    if code == -signal.SIGKILL:
        return f"killed, probably {_MEMORY}"
    if code < 0:
        return f"ended by {signal.Signals(-code).name}"
    return f"ended with code {code} and no result"
