"""Independent pieces of work, spread over workers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from distributed import as_completed

from mrscale.stream.engine import engine

S = TypeVar("S")
T = TypeVar("T")


def spread(
    function: Callable[[S], T], items: Iterable[S], *, scheduler: str | None = None
) -> Iterator[tuple[S, T]]:
    """Call a function on every item, in processes of this machine or of a Dask cluster.

    Parameters
    ----------
    function : callable
        Of a module that the workers can import.
    items : iterable
        Begun in this order.
    scheduler : str, optional
        As for :func:`mrscale.stream.engine.engine`; without one, a process for each core.

    Yields
    ------
    item, result
        As they are finished.

    Raises
    ------
    EngineError
        As :func:`mrscale.stream.engine.engine`. An error of the function is raised as it is.
    """
    items = list(items)
    if not items:
        return
    with engine(scheduler, processes=True) as client:
        waiting = {client.submit(function, item, pure=False): item for item in items}
        for done in as_completed(list(waiting)):
            yield waiting.pop(done), done.result()
