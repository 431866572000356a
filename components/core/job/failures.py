"""Rounds that ended in an error, so that one that cannot succeed does not train again at every poll.

``failures.json`` in the job's root records how often a round failed in a costly step (training or later), and
why the last time; once the round is committed it is out of date. A step that was killed leaves
nothing here, and neither does one that lost a race: both say nothing about the round, which the next poll does again.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from components.core.backoff import doubled
from components.core.errors import InputError
from components.core.stores.open import Store, open_store

FAILURES = "failures.json"
AT_ONCE = 3  # failures after which the next poll tries again
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 600.0, 6 * 3600.0
_LONGEST_ERROR = 500  # characters

log = logging.getLogger(__name__)


class Failures(BaseModel):
    """What is known of a round that fails.

    Attributes:
        round: its number.
        count: how often it has failed; a step that KFP tries again fails as often as it is tried.
        step: where, the last time.
        error: why, in one line.
        at: when, UTC.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    round: Annotated[int, Field(ge=1)]
    count: Annotated[int, Field(ge=1)]
    step: str
    error: str
    at: datetime

    def rests_until(self, now: datetime) -> datetime | None:
        """When the round may be tried again; None where that is now.

        The first failures are no reason to wait. From the third on the pause doubles, from ten minutes to six hours. A
        failure in the future, since the clock was put back, is none to wait for either.
        """
        if self.count < AT_ONCE:
            return None
        pause = timedelta(seconds=doubled(FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, self.count - AT_ONCE))
        return self.at + pause if self.at <= now < self.at + pause else None

    def describe(self) -> str:
        """All of it as one line."""
        times = "once" if self.count == 1 else f"{self.count} times"
        last = f"the last time in {self.step} at {self.at:%Y-%m-%d %H:%M UTC}"
        return f"round {self.round} has failed {times}, {last}: {self.error}"


def read_failures(store: Store) -> Failures | None:
    """What is known of the round that failed last; None if nothing is.

    Raises:
        InputError: the store is out of reach.
    """
    found = store.read_versioned(FAILURES)
    if found is None:
        return None
    try:
        return Failures.model_validate_json(found[0])
    except ValidationError:
        log.warning("%s is damaged and not looked at", store.uri_of(FAILURES))
        return None


def note_failure(job_root: str, round_number: int, step: str, error: str) -> None:
    """Put a failure of a round on record; where that cannot be done, it has failed all the same.

    Args:
        job_root: the job's store.
        round_number: from 1 on.
        step: where it failed.
        error: why.
    """
    try:
        store = open_store(job_root)
        before = read_failures(store)
        count = before.count + 1 if before and before.round == round_number else 1
        failures = Failures(
            round=round_number, count=count, step=step, error=error[:_LONGEST_ERROR], at=datetime.now(UTC)
        )
        store.write(FAILURES, failures.model_dump_json(indent=2).encode())
    except (InputError, OSError):
        return
