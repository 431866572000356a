"""How much memory a model may take on this machine."""

from __future__ import annotations

import resource
from contextlib import suppress
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
_STACKS_BYTES = 512 << 20  # address space that threads reserve and never touch
_PAGE_BYTES = resource.getpagesize()


def free_bytes() -> int:
    """Bytes that a further process can take before the system kills one: of the machine, and of this container."""
    free = _fields(Path("/proc/meminfo")).get("MemAvailable:", 0) << 10 or 1 << 62  # a system that does not say
    with suppress(OSError, ValueError):  # no limit, or not cgroup v2
        limit = int((_CGROUP / "memory.max").read_text())
        used = int((_CGROUP / "memory.current").read_text())
        free = min(free, limit - used + _fields(_CGROUP / "memory.stat").get("inactive_file", 0))
    return max(free, 0)


def resident_bytes(pid: int) -> int:
    """Bytes of memory that a process holds; 0 if it has ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES
    except (OSError, IndexError):
        return 0


def limit_to(max_bytes: int) -> None:
    """Let allocations in this process fail beyond a limit, and let the system kill it before any other."""
    soft = max_bytes + _STACKS_BYTES
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if hard == resource.RLIM_INFINITY or soft < hard:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def _fields(path: Path) -> dict[str, int]:
    try:
        lines = [line.split() for line in path.read_text().splitlines()]
    except OSError:
        return {}
    return {words[0]: int(words[1]) for words in lines if len(words) > 1 and words[1].isdigit()}
