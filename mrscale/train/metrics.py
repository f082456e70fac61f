"""What is measured while encoders train: one JSON line for every look at the people held out."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from mrscale.errors import InputError
from mrscale.provenance import write_text

T = TypeVar("T")


class Metrics:
    """Lines of a file, and what a TensorBoard shows of them.

    Parameters
    ----------
    path : Path or None
        A ``.jsonl`` file; none keeps nothing.
    tensorboard : bool, default False
        Write event files beside it too; needs the package tensorboard.

    Raises
    ------
    InputError
        If the package is wanted and not there.
    """

    def __init__(self, path: Path | None = None, *, tensorboard: bool = False) -> None:
        self._path, self._board = path, None
        if path and tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                raise InputError(
                    "tensorboard = true needs a package that is not installed; "
                    "run: pip install tensorboard, or leave it out"
                ) from None
            self._board = SummaryWriter(str(path.with_suffix("")))

    def continue_from(self, step: int) -> None:
        """Drop what was measured after a step, and a line that was cut off: training starts there
        again."""
        if self._path and self._path.exists():
            kept = [line for line in self._path.read_text().splitlines() if _is_until(line, step)]
            write_text(self._path, "".join(f"{line}\n" for line in kept))

    def add(self, record: dict[str, Any]) -> None:
        """Write a line; ``step`` says when it was."""
        if self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a") as handle:
            handle.write(json.dumps(record) + "\n")
        if self._board is not None:
            for name, value in _flat(record):
                self._board.add_scalar(name, value, record["step"])
            self._board.flush()


class Watch:
    """How long training took since the last look, and how much of it waited for input."""

    def __init__(self) -> None:
        self._waited = 0.0
        self._since = time.perf_counter()

    def over(self, batches: Iterable[T]) -> Iterator[T]:
        """The same batches, with the time they were waited for counted."""
        waiting = iter(batches)
        while True:
            start = time.perf_counter()
            batch = next(waiting, None)
            self._waited += time.perf_counter() - start
            if batch is None:
                return
            yield batch

    def look(self) -> tuple[float, float]:
        """Seconds since the last look, and those of them that were waited."""
        now = time.perf_counter()
        seconds, waited = now - self._since, self._waited
        self._since, self._waited = now, 0.0
        return seconds, waited


def _is_until(line: str, step: int) -> bool:
    try:
        return bool(json.loads(line)["step"] <= step)
    except (ValueError, KeyError):
        return False


def _flat(record: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for name, value in record.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}/")
        elif isinstance(value, list):
            yield from ((f"{prefix}{name}/{index}", one) for index, one in enumerate(value))
        else:
            yield f"{prefix}{name}", value
