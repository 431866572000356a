"""Setup: everything that can be known to be wrong before any work starts, and what the work needs on a cluster."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from components.core.errors import InputError, OutOfReachError, may_pass
from components.core.job.job import Job
from components.core.parameters import Parameters, flat, problems, renamed
from components.core.release import MODEL
from components.core.stores.open import check_readable, open_store
from components.core.stores.race import check_conditional_writes

logger = logging.getLogger(__name__)


Check = Callable[[], object]


def check_run(values: Mapping[str, Any], phases: Iterable[type[Parameters]], more: Iterable[Check] = ()) -> None:
    """Check the parameters of a run, that its sources can be read and that its store can be written.

    Args:
        values: parameters of the pipeline, by name or under ``settings``.
        phases: the parts of the table that the pipeline has, such as ``WORKFLOWS["helmet-detection"]``.
        more: further checks, which raise ``InputError``; made only if the parameters are of the right form.

    Raises:
        InputError: one line that tells everything that is wrong.
    """
    for line in renamed(values):
        logger.warning("%s", line)
    given = flat(values)
    found = problems(given, phases)
    well_formed = not found
    complaints: list[tuple[str, bool]] = []
    for check, name in _CHECKS:
        if given.get(name) and not any(problem.startswith(name) for problem in found):
            complaints += _complaints(lambda check=check, name=name: check(str(given[name])), f"{name}: ")  # type: ignore[misc]
    if well_formed:
        for further in more:
            complaints += _complaints(further)
    found += [line for line, _ in complaints]
    if found:
        passes = len(complaints) == len(found) and all(passes for _, passes in complaints)
        kind = OutOfReachError if passes else InputError
        raise kind(f"{'; '.join(found)} (nothing was started)")
    logger.info("all checks passed: parameters, data source and store")


def base_of_round(job_root: str, base_model: str, initial_model: str) -> str:
    """What a round's candidate starts from, as far as it can be checked: empty for a model of the job's own."""
    if base_model not in ("champion", "candidate"):
        return base_model
    state, _ = Job.open(job_root).read()
    return "" if getattr(state, base_model) else initial_model


def check_one_model(job_root: str) -> None:
    """Make sure that a job can release one model.

    Args:
        job_root: the job; one that is not there yet can.

    Raises:
        InputError: its champion consists of several, and its workers would not find theirs.
    """
    job = Job.open(job_root)
    state, _ = job.read()
    if state.champion is None:
        return
    members = job.registry.release(state.champion, state.vouched.get(state.champion)).members
    if MODEL not in members:
        raise InputError(
            f"{job.store.uri}: its champion {state.champion} consists of {', '.join(sorted(members))}, and this "
            "pipeline releases one model: give it a job_root of its own"
        )


def _complaints(check: Check, prefix: str = "") -> list[tuple[str, bool]]:
    """What a check says is wrong, and whether it may pass."""
    try:
        check()
    except InputError as error:
        return [(prefix + str(error), may_pass(error))]
    return []


def _check_base(base_model: str) -> None:
    url = base_model.partition("#")[0]
    if "://" in url:
        check_readable(url)


def _check_store(job_root: str) -> None:
    """See that the store can be written, and that writers who race for one object do not all win.

    Credentials that only read are found now, not after an hour of training.
    """
    store = open_store(job_root)
    key = f"setup/{uuid.uuid4().hex}"
    store.write(key, b"can this store be written?")
    store.delete(key)
    check_conditional_writes(store)


_CHECKS: tuple[tuple[Callable[[str], object], str], ...] = (
    (check_readable, "data_url"),
    (check_readable, "test_url"),
    (check_readable, "feed_url"),
    (_check_base, "base_model"),
    (_check_base, "initial_model"),
    (_check_store, "job_root"),
    (lambda job_root: Job.open(job_root).champion(), "prelabel_job"),
)
