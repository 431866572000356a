"""What the last rounds left open, settled at each poll."""

from __future__ import annotations

from datetime import datetime

from components.core.job.job import Job
from components.core.job.state import State
from components.core.rules.window import Window
from components.deploy.canary import settle_canary
from components.deploy.deploy import promote_pending
from components.deploy.pointer import is_current, publish_pointer
from components.deploy.workers import roll_back_failed


def settle(job: Job, *, window: Window | None, now: datetime, fraction: float) -> State:
    """Deploy what waited, end a canary, take back what the workers cannot run, and repair the workers' pointers.

    Args:
        job: the job.
        window: when a model may be deployed; None for always.
        now: the time, with its zone.
        fraction: share of the workers, 0 to 1, that must be able to run the champion.

    Returns:
        The job's state afterwards.

    Raises:
        InputError: the state is damaged, or the bundle of a champion that the pointers do not name yet.
    """
    found = job.read()
    if promote_pending(job, window=window, now=now, found=found):
        found = job.read()
    result = settle_canary(job, now, found)
    if result and result.outcome != "canary":
        found = job.read()
    if roll_back_failed(job, fraction, found):
        found = job.read()
    if not is_current(job, found[0]):  # a run that was killed after its commit may not have written them
        publish_pointer(job, found[0])
    return found[0]
