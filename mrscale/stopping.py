"""SIGTERM, by which schedulers ask a process to end: as Ctrl-C, but work can put it off to a point
at which it can be saved."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_AGAIN_SECONDS = 0.01
_asked = threading.Event()
_deferred = 0


class Stopped(KeyboardInterrupt):
    """This process was asked to end; everything ends as after Ctrl-C."""


def was_asked() -> bool:
    """Whether SIGTERM has come."""
    return _asked.is_set()


@contextmanager
def heeded() -> Iterator[None]:
    """Raise :class:`Stopped` in the main thread when SIGTERM comes, once, instead of dying.

    In the block, neither it nor Ctrl-C is lost where it comes while Python cleans up after an
    object: what is raised there is printed and dropped, so the signal is sent again a little later.
    """
    before, report = signal.signal(signal.SIGTERM, _on_signal), sys.unraisablehook
    again: list[threading.Timer] = []

    def dropped(what: sys.UnraisableHookArgs) -> None:
        if not issubclass(what.exc_type, KeyboardInterrupt):
            report(what)
            return
        number = signal.SIGINT
        if issubclass(what.exc_type, Stopped):
            _asked.clear()
            number = signal.SIGTERM
        again.append(threading.Timer(_AGAIN_SECONDS, os.kill, (os.getpid(), number)))
        again[-1].start()

    sys.unraisablehook = dropped
    try:
        yield
    finally:
        for timer in again:
            timer.cancel()
        sys.unraisablehook = report
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
