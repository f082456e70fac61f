"""Progress for people: a bar on a terminal or in a notebook, nothing elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)


class Advance(Protocol):
    """What a long-running function calls to say how far it is."""

    def __call__(self, amount: float = 1, *, note: str = "") -> None: ...


def silent(amount: float = 1, *, note: str = "") -> None:
    """Report nothing; the default of every library function that can report progress."""


@contextmanager
def bar(title: str, total: float | None = None, *, quiet: bool = False) -> Iterator[Advance]:
    """Show a progress bar on standard error while the block runs.

    Parameters
    ----------
    title : str
        What is being done, in a few words.
    total : float, optional
        Amount at which the bar is full; without it a spinner and the elapsed time are shown.
    quiet : bool, default False
        Show nothing even on a terminal or in a notebook.

    Yields
    ------
    Advance
        Call it with the amount done since the last call and an optional short note.
    """
    console = Console(file=sys.stderr)
    # in a notebook, whose standard error claims to be a terminal, rich draws by a widget
    shown = find_spec("ipywidgets") if console.is_jupyter else console.is_terminal
    if quiet or not shown:
        yield silent
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description:<28}"),
        BarColumn(bar_width=30),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(title, total=total, note="")

        def advance(amount: float = 1, *, note: str = "") -> None:
            progress.update(task, advance=amount, note=note)

        yield advance
        progress.update(task, total=total or 1, completed=total or 1, note="")
