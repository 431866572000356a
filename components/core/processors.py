"""Processors: as many threads as this process may use, which leave them to others while they wait.

By itself PyTorch starts a thread for each processor of the machine, whatever share of it a container may use, and
ultralytics trains on a single one. A thread of OpenMP that waits for the others keeps its processor busy for
milliseconds. Where there are fewer processors than threads, as for two trainings side by side or under a CPU limit of
Kubernetes, that is most of the time: ``benchmarks/threads.py``.
"""

from __future__ import annotations

import math
import os
from collections.abc import MutableMapping
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
SPINS = "3000"  # turns that a waiting thread takes before it sleeps; OpenMP's own choice is 300,000


def processor_limit(cgroups: Path = CGROUPS) -> int:
    """How many threads can run at a time in this container; 0 where it may use all processors that it sees.

    Args:
        cgroups: where Linux shows the quota, of version 2 or 1; see cgroups(7).
    """
    quota = _quota(cgroups)
    if quota is None or quota >= len(os.sched_getaffinity(0)):
        return 0
    return math.ceil(quota)


def share_processors(
    environment: MutableMapping[str, str] = os.environ, *, among: int = 1, cgroups: Path = CGROUPS
) -> None:
    """Set OpenMP's environment, where the user has not. It counts for libraries that are loaded later.

    Args:
        environment: of this process.
        among: so many processes like this one run side by side.
        cgroups: see ``processor_limit``.
    """
    usable = processor_limit(cgroups) or len(os.sched_getaffinity(0))
    environment.setdefault("OMP_NUM_THREADS", str(max(1, usable // among)))
    if "OMP_WAIT_POLICY" not in environment:
        environment.setdefault("GOMP_SPINCOUNT", SPINS)


def _quota(cgroups: Path) -> float | None:
    """Processors that a container may use on average; None where there is no limit."""
    for names in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            quota, period = " ".join((cgroups / name).read_text() for name in names).split()
            return float(quota) / float(period) if float(quota) > 0 else None
        except (OSError, ValueError, ZeroDivisionError):  # of the other version, or "max": no limit
            continue
    return None
