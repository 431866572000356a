"""A job that releases a little and a big model together."""

from __future__ import annotations

from components.core.errors import InputError
from components.core.job.job import Job

LITTLE, BIG = "little", "big"  # the members of its releases


def check_job(job_root: str) -> None:
    """Make sure that a job can release a pair.

    Args:
        job_root: the job; one that is not there yet can.

    Raises:
        InputError: its workers run something else, and would not find their model in the release of a pair.
    """
    job = Job.open(job_root)
    state, _ = job.read()
    if state.champion is None:
        return
    members = job.registry.release(state.champion, state.vouched.get(state.champion)).members
    if members.keys() != {LITTLE, BIG}:
        raise InputError(
            f"{job.store.uri}: its champion {state.champion} consists of {', '.join(sorted(members))}, and joint "
            f"inference releases {LITTLE} and {BIG}: give it a job_root of its own"
        )
