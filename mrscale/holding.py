"""Settings of the whole process that stay while any of its threads needs them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from threading import Lock


class Held(AbstractContextManager[None]):
    """A setting that the first thread to come in makes, and the last to leave takes back.

    Parameters
    ----------
    hold : callable
        Makes the setting, and returns what restores the one before it.
    """

    def __init__(self, hold: Callable[[], Callable[[], object]]) -> None:
        self._hold = hold
        self._lock = Lock()
        self._restore: Callable[[], object] = lambda: None
        self._num_inside = 0

    def __enter__(self) -> None:
        with self._lock:
            if not self._num_inside:
                self._restore = self._hold()
            self._num_inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._num_inside -= 1
            if not self._num_inside:
                self._restore()
