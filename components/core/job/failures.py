"""Rounds that ended in an error, so that one that cannot succeed does not train again at every poll.

``failures.json`` in the job's root records how often a round failed in a costly step (training or later), and
why the last time; once the round is committed, or its parameters change, it is out of date. A step that was killed
leaves nothing here, and neither does one that lost a race: both say nothing about the round, which the next poll does
again.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from components.core.backoff import doubled
from components.core.errors import InputError
from components.core.parameters import flat, whole_numbers
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
        parameters: which parameters it had, see :func:`parameters_key`; empty where that is not known.
        step: where, the last time.
        error: why, in one line.
        at: when, UTC.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    round: Annotated[int, Field(ge=1)]
    count: Annotated[int, Field(ge=1)]
    parameters: str = ""
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

    def is_of(self, number: int, parameters: str) -> bool:
        """Whether this is known of a round with certain parameters; with others it may succeed."""
        return self.round == number and self.parameters in ("", parameters)

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
        log.warning("%s is damaged and ignored", store.uri_of(FAILURES))
        return None


def parameters_key(settings: Mapping[str, Any]) -> str:
    """What distinguishes parameters from others, in a few letters; how a run was forced does not matter.

    Args:
        settings: parameters by name, or by section and name.

    Raises:
        InputError: a section is no mapping, or a parameter is given twice.
    """
    chosen = {name: value for name, value in flat(settings).items() if not name.startswith("force_")}
    return hashlib.sha256(json.dumps(whole_numbers(chosen), sort_keys=True, default=str).encode()).hexdigest()[:16]


def note_failure(
    job_root: str, round_number: int, step: str, error: str, settings: Mapping[str, Any] | None = None
) -> None:
    """Put a failure of a round on record; where that cannot be done, it has failed all the same.

    Args:
        job_root: the job's store.
        round_number: from 1 on.
        step: where it failed.
        error: why.
        settings: the parameters of the round; None where they are not known.
    """
    try:
        store = open_store(job_root)
        before = read_failures(store)
        parameters = "" if settings is None else parameters_key(settings)
        if before and before.round > round_number:
            return  # that of a run that was overtaken
        count = before.count + 1 if before and before.is_of(round_number, parameters) else 1
        failures = Failures(
            round=round_number, count=count, parameters=parameters, step=step, error=error[:_LONGEST_ERROR],
            at=datetime.now(UTC),
        )  # fmt: skip
        store.write(FAILURES, failures.model_dump_json(indent=2).encode())
    except (InputError, OSError):
        return
