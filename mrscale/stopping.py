"""SIGTERM, by which schedulers ask a process to end: as Ctrl-C, but work can put it off to a point
at which it can be saved."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_asked = threading.Event()
_deferred = 0


class Stopped(KeyboardInterrupt):
    """This process was asked to end; everything ends as after Ctrl-C."""


def was_asked() -> bool:
    """Whether SIGTERM has come."""
    return _asked.is_set()


@contextmanager
def heeded() -> Iterator[None]:
    """Raise :class:`Stopped` in the main thread when SIGTERM comes, once, instead of dying."""
    before = signal.signal(signal.SIGTERM, _on_signal)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def deferred() -> Iterator[Callable[[], bool]]:
    """Put SIGTERM off in the block, which is told by a call whether it has come, to the end."""
    global _deferred
    _deferred += 1
    try:
        yield was_asked
    finally:
        _deferred -= 1
    if was_asked():
        raise Stopped


def _on_signal(*_: object) -> None:
    again = was_asked()
    _asked.set()
    if not (again or _deferred):
        raise Stopped
