"""Dates of a machine whose clock may be wrong: a board without a battery begins at 1970 and is set some time later.

Whatever lasts is measured on the clock of ``time.monotonic``. The date of an image names its folder in the job's root;
one that cannot be right is corrected when the image is uploaded, since a store that is reached has set the clock, or
refuses what is signed at a wrong time.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

from components.core.job.hard_examples import Sidecar

EARLIEST = datetime(2026, 1, 1, tzinfo=UTC)  # this software is younger
_AHEAD = timedelta(days=1)  # more than any time zone taken for another


def is_set(moment: datetime) -> bool:
    """Whether a clock that gives this time has been set."""
    return moment >= EARLIEST


def dated(sidecar: Sidecar, since: float, now: datetime | None = None) -> Sidecar:
    """A sidecar with a date that can be right.

    Args:
        sidecar: with the date that the machine's clock gave.
        since: when its image came, on the clock of ``time.monotonic``.
        now: by the machine's clock; read where None.

    Returns:
        The same, unless its date is before this software or in the future, while the clock has been set by now.
    """
    now = now or datetime.now(UTC)
    if not is_set(now) or EARLIEST <= sidecar.captured <= now + _AHEAD:
        return sidecar
    captured = now - timedelta(seconds=time.monotonic() - since)
    return sidecar.model_copy(update={"captured": captured if is_set(captured) else now, "clock": "upload"})
