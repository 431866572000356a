"""Running a pipeline on this machine, with KFP's own local runner and without its noise."""

from __future__ import annotations

import builtins
import fcntl
import io
import logging
import os
import re
import shutil
import sys
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout, suppress
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from components.core.parameters import flat
from components.core.processes import module_environment
from components.core.processors import share_processors
from components.core.redaction import redacted
from components.core.steps import FAILS, SAYS
from components.core.stores.base import RESERVED
from components.core.stores.open import open_store
from components.core.stores.transfer import os_errors
from components.report.report import read_kept
from pipelines.arguments import face_of, parse, sort_into_place
from pipelines.containers import docker_runner, end_containers
from pipelines.run_folder import run_folder

LOG_BYTES = 20_000_000  # from which on the log is begun anew
POLLING = ("incremental-learning", "lifelong-learning")  # pipelines that look at a feed again and again
KEPT_POLLS = 20  # of each
_LOCK = f"{RESERVED}lock"  # hidden from listings, as all that a store keeps for itself
SIDE_BY_SIDE = 2  # tasks of a loop, for KFP's runner

_LINE = re.compile(rf"\s*([\w.-]+) ({re.escape(SAYS)}|{re.escape(FAILS)}) (.*)")


class Runner(StrEnum):
    """What a step of a pipeline is on this machine."""

    SUBPROCESS = "subprocess"
    DOCKER = "docker"


class RunError(Exception):
    """A step of the pipeline failed; the message is its own error."""


class RunLog(io.TextIOBase):
    """Takes all that a run prints: everything into a file, what steps say to the terminal.

    Libraries print lines that look like the failure of a step, such as ``libpng error: Read Error`` of an image that
    is skipped. So only those count that have the name of a task, or of a step that has said something.

    Args:
        file: gets everything.
        terminal: gets what steps say.
        listen: is told each line that a step says, with the step's name.
        tasks: names of the pipeline's tasks; a step may have another, such as ``setup`` of ``setup-joint``.

    Attributes:
        error: step and message of the last failure.
    """

    def __init__(
        self,
        file: TextIO,
        terminal: TextIO,
        listen: Callable[[str, str], None] | None = None,
        tasks: Collection[str] = (),
    ) -> None:
        self._listen, self._tasks = listen, tasks
        self._heard: set[str] = set()
        self._file = file
        self._terminal = terminal
        self._line = ""
        self.error: tuple[str, str] | None = None

    def write(self, text: str) -> int:
        """Take a piece of output."""
        given, text = len(text), redacted(text)  # KFP prints all parameters, and an address may hold a password
        self._file.write(text)
        self._file.flush()
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            self._show(line)
        return given

    def _show(self, line: str) -> None:
        said = _LINE.fullmatch(line)
        if said and said[2] == FAILS:
            if self._is_step(said[1]):
                self.error = (said[1], said[3])
        elif said:
            self._heard.add(said[1])
            if self._listen:
                self._listen(said[1], said[3])
            print(f"{said[1]:>9} {SAYS} {said[3]}", file=self._terminal, flush=True)

    def _is_step(self, name: str) -> bool:
        task = name.replace("_", "-")
        return name in self._heard or any(one == task or one.startswith(f"{task}-") for one in self._tasks)


def run(
    pipeline: Any,
    arguments: Mapping[str, Any],
    folder: Path,
    runner: Runner = Runner.SUBPROCESS,
    listen: Callable[[str, str], None] | None = None,
) -> Any:
    """Run a pipeline here, each step a process or a container of its own.

    Args:
        pipeline: from ``pipelines.registry``.
        arguments: its parameters by name.
        folder: where KFP keeps the artifacts of its runs, and the log.
        runner: what a step is.
        listen: is told each line that a step says, with the step's name.

    Returns:
        What the pipeline returns; None if it returns nothing.

    Raises:
        RunError: a step failed.
        InputError: parameters are wrong, the folder cannot be made, or Docker is to run the steps, and cannot.
    """
    from kfp import local

    placed = sort_into_place(pipeline, arguments)
    with os_errors(f"{folder} (from job_root) cannot be created or written"):
        folder.mkdir(parents=True, exist_ok=True)
    containers = docker_runner(pipeline, flat(arguments), folder) if runner == Runner.DOCKER else None
    log_path = folder / "run.log"
    with os_errors(str(log_path)):
        claim, opened = _claimed(folder), _appended(log_path)
    ending = partial(end_containers, containers) if containers else lambda: None
    with claim, opened as file, _environment(pipeline), run_folder(ending), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        local.init(containers or local.SubprocessRunner(use_venv=False), pipeline_root=str(folder))
        file.write(f"--- {pipeline.name}, {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC ---\n")
        tasks = [name.removeprefix("comp-") for name in pipeline.pipeline_spec.components]
        log = RunLog(file, sys.stdout, listen, tasks)
        try:
            with redirect_stdout(log), _quiet_logging(), _own_print(), _without_retries(pipeline):
                task = pipeline(**placed)
        except Exception as error:
            if log.error:
                raise RunError(f"step {log.error[0]} failed: {log.error[1]}") from error
            raise RunError(f"{type(error).__name__}: {error} (the whole output is in {log_path})") from error
    if log.error:  # KFP takes a container that was gone before it asked for one that succeeded
        raise RunError(f"step {log.error[0]} failed: {log.error[1]}")
    return task.outputs.get("Output")


def _appended(log_path: Path) -> TextIO:
    """The log to go on in; what was written long ago moves to ``run.log.1``."""
    if log_path.exists() and log_path.stat().st_size > LOG_BYTES:
        log_path.replace(log_path.with_name(f"{log_path.name}.1"))
    return log_path.open("a", encoding="utf-8")


def _claimed(folder: Path) -> TextIO:
    """Hold a folder where runs keep their artifacts; old polls go where nobody else holds it.

    Runs of several jobs may share a folder, and the round of an old poll may still train.
    """
    lock = (folder / _LOCK).open("a", encoding="utf-8")
    with suppress(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _remove_old_polls(folder)
    fcntl.flock(lock, fcntl.LOCK_SH)
    return lock


def _remove_old_polls(folder: Path) -> None:
    """Remove the artifacts of old polls, and of the rounds that these ran: the job has what came of them."""
    for pipeline in POLLING:
        polls = sorted(folder.glob(f"{pipeline}-*"), key=lambda path: path.stat().st_mtime)
        for path in polls[:-KEPT_POLLS]:
            shutil.rmtree(path, ignore_errors=True)


def figures(report_uri: str) -> dict[str, float]:
    """The figures that lie beside a report.

    Args:
        report_uri: what a pipeline returned.
    """
    root, _, name = report_uri.rpartition("/reports/")
    return read_kept(open_store(root), f"reports/{name.removesuffix('.html')}.json")[1]


def reports_of(job_root: str) -> set[str]:
    """Addresses of the reports that a job has."""
    store = open_store(job_root)
    return {store.uri_of(info.key) for info in store.list("reports/") if info.key.endswith(".html")}


def folder_of_runs(job_root: str) -> Path:
    """Where runs of a job keep their artifacts on this machine."""
    here = open_store(job_root).local_path("runs")
    return here if here else Path("local_outputs").resolve()


def parse_arguments(pipeline: Any, pairs: list[str], values: Mapping[str, Any]) -> dict[str, Any]:
    """Turn ``name=value`` words and the contents of a file into parameters of a pipeline by name.

    Args:
        pipeline: whose parameters they are.
        pairs: from the command line; they win over ``values``.
        values: from a file.

    Raises:
        InputError: a word is not ``name=value``, or a parameter is given twice.
    """
    return parse(face_of(pipeline), pairs, values)


@contextmanager
def _environment(pipeline: Any) -> Iterator[None]:
    """Let the steps' processes import this suite, wherever the command was given, and share the processors."""
    before = dict(os.environ)
    os.environ.update(module_environment(), PYTHONUNBUFFERED="1")
    spec = pipeline.pipeline_spec
    tasks = [task for part in (spec.root, *spec.components.values()) for task in part.dag.tasks.values()]
    share_processors(among=SIDE_BY_SIDE if any(task.WhichOneof("iterator") for task in tasks) else 1)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


@contextmanager
def _without_retries(pipeline: Any) -> Iterator[None]:
    """Run each step once: what fails here is rarely better half a minute later, and a person is waiting."""
    spec = pipeline.pipeline_spec
    before = type(spec)()
    before.CopyFrom(spec)
    for part in (spec.root, *spec.components.values()):
        for task in part.dag.tasks.values():
            task.ClearField("retry_policy")
    try:
        yield
    finally:
        spec.CopyFrom(before)


@contextmanager
def _own_print() -> Iterator[None]:
    """Take back ``print``, which KFP replaces while a step runs, and does not give back where steps run in parallel."""
    before = builtins.print
    try:
        yield
    finally:
        builtins.print = before


@contextmanager
def _quiet_logging() -> Iterator[None]:
    """Keep KFP from leaving its handlers on the root logger."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        yield
    finally:
        root.handlers[:], root.level = handlers, level
