"""A command that is told to end, by Ctrl-C, SIGTERM or a closed terminal, tidies up before it does."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Ended(KeyboardInterrupt):
    """A signal asked this process to end.

    Attributes:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class _Handler:
    """Raises :class:`Ended` at the first signal; later ones would only interrupt the tidying up, and are ignored."""

    def __init__(self, first: Callable[[int], None]) -> None:
        self._first = first
        self.was_called = False

    def __call__(self, number: int, _: object) -> None:
        self.was_called = True
        for each in ENDING:
            signal.signal(each, signal.SIG_IGN)
        self._first(number)
        raise Ended(number)


@contextmanager
def endable(first: Callable[[int], None] = lambda number: None) -> Iterator[None]:
    """Let each signal that ends a process raise :class:`Ended` in the body.

    A signal that is ignored, as ``nohup`` makes it, still is. Does nothing outside of the main thread, which alone gets
    signals.

    Args:
        first: called with the signal's number before anything is raised; for what the body would wait for in vain.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = _Handler(first)
    before = {number: signal.getsignal(number) for number in ENDING}
    mine = [number for number, one in before.items() if one not in (signal.SIG_IGN, None)]
    for number in mine:
        signal.signal(number, handler)
    try:
        yield
    finally:
        # The body of an outer one still has to tidy up.
        if not (handler.was_called and any(isinstance(one, _Handler) for one in before.values())):
            for number, one in before.items():
                if one is not None:
                    signal.signal(number, one)
