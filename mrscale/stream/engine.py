"""A Dask client: threads of this process, or a scheduler elsewhere."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from ssl import SSLError
from typing import Any, Protocol

import dask
from dask.system import CPU_COUNT
from distributed import Client, Future, KilledWorker, LocalCluster, Security
from distributed.comm import CommClosedError, connect
from distributed.system import MEMORY_LIMIT
from threadpoolctl import threadpool_limits

from mrscale.errors import EngineError

__all__ = ["MEMORY_LIMIT", "Client", "answered", "engine", "readers"]

CONNECT_SECONDS = 10
_COPIES = 9
"""Of a block's dosages, at most, on the thread that works on it."""
LOOPBACK = "127.0.0.1:0"
_THREADS: dict[str, Any] = {
    "n_workers": 1,
    "processes": False,
    "protocol": "inproc://",
}
_PROCESSES: dict[str, Any] = {
    "n_workers": CPU_COUNT,
    "threads_per_worker": 1,
    "host": "127.0.0.1",
}
_ENVIRONMENT = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), 1)
"""Of processes. Not Dask's MALLOC_TRIM_THRESHOLD_: training an encoder takes twice as long with it,
in giving memory back and asking for it again."""
_LOGGERS = ("distributed", "distributed.client", "tornado.application")
"""Those that distributed gives a level of their own; others follow them."""


class _UnaskedTimeouts(logging.Filter):
    """Leaves out that nobody asked how a wait ended: distributed's sender of batches is waiting for
    the next one when its loop is stopped, and a busy machine may count that as a timeout."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to log it."""
        error = record.exc_info[1] if record.exc_info else None
        return not (isinstance(error, TimeoutError) and str(error) == "Timeout")


_UNASKED_TIMEOUTS = _UnaskedTimeouts()


@contextmanager
def engine(
    scheduler: str | None = None, *, processes: bool = False, threads: int = CPU_COUNT
) -> Iterator[Client]:
    """Open a Dask client for the duration of the block.

    Parameters
    ----------
    scheduler : str, optional
        Address of a running scheduler (``tcp://host:8786``, or ``tls://host:8786`` with the
        certificates of Dask's own configuration). Without it, workers of this machine; what they
        listen on is on loopback.
    processes : bool, default False
        The workers of this machine are a process for each core instead of threads of this one: for
        work that is not blocks of arrays.
    threads : int
        How many threads of this one, by default one for each core; see :func:`threads_within`.

    Yields
    ------
    distributed.Client

    Raises
    ------
    EngineError
        If the address is none, or no scheduler answers there within ten seconds; or if the
        scheduler or all workers are gone later.

    Notes
    -----
    BLAS is held to one thread inside: parallelism comes from blocks, and a product must have the
    same bits whatever else runs.
    """
    settings = {
        "distributed.admin.tick.limit": "1h",
        "distributed.worker.daemon": False,
        # fits of a thousand instruments are large, and readers of the warning cannot change it
        "distributed.admin.large-graph-warning-threshold": "1TiB",
        "distributed.nanny.pre-spawn-environ": _ENVIRONMENT,
    }
    # for good: what it is about comes when the loop is collected, long after this block
    logging.getLogger("asyncio").addFilter(_UNASKED_TIMEOUTS)
    with threadpool_limits(1, user_api="blas"), dask.config.set(settings):
        if scheduler:
            _require_answer(scheduler)
            with (
                answered(),
                _enough_memory("a Dask worker"),
                _errors_only_raised(),
                Client(scheduler, timeout=CONNECT_SECONDS) as client,
            ):
                yield client
            return
        with (
            LocalCluster(
                **(_PROCESSES if processes else _THREADS | {"threads_per_worker": threads}),
                dashboard_address=LOOPBACK,
                worker_dashboard_address=LOOPBACK,
                memory_limit=0,
                # errors reach the caller as exceptions; the worker's own log repeats them
                silence_logs=logging.CRITICAL,
            ) as cluster,
            Client(cluster) as client,
            _enough_memory("this machine"),
        ):
            yield client


def threads_within(memory_gib: float | None, block_bytes: int) -> int:
    """How many threads of this machine may have a block of people at once.

    Parameters
    ----------
    memory_gib : float or None
        What all blocks together may take; None is no limit.
    block_bytes : int
        Of a block's dosages as float64.

    Returns
    -------
    int
        At most one for each core. A thread is taken to need nine times its block, as estimating
        does, which needs most.

    Raises
    ------
    EngineError
        If there is not room for one.
    """
    if memory_gib is None:
        return CPU_COUNT
    needed = _COPIES * block_bytes / 2**30
    if needed > memory_gib:
        raise EngineError(
            f"a block of people takes up to {needed:.2g} GiB while it is worked on; found "
            f"memory_gib = {memory_gib:g}; set at least that, or extract fewer variants"
        )
    return min(CPU_COUNT, int(memory_gib / needed))


class Pending(Protocol):
    """What will be read."""

    def result(self, timeout: float) -> Any:
        """Wait for it."""


class Readers(Protocol):
    """What calls functions beside this thread, such as an executor."""

    def submit(self, function: Callable[..., Any], /, *arguments: Any) -> Pending:
        """Call a function, and be told its result when it is asked for."""


@contextmanager
def readers(scheduler: str | None = None) -> Iterator[Readers]:
    """What reads and decodes chunks: threads of this process, or the workers of a Dask cluster.

    Parameters and errors are those of :func:`engine`.
    """
    if scheduler is None:
        threads = ThreadPoolExecutor(CPU_COUNT)
        try:
            yield threads
        finally:
            threads.shutdown(cancel_futures=True)
        return
    with engine(scheduler) as client:
        yield _Workers(client)


class _Workers:
    """The workers of a Dask cluster as readers.

    Dask's own executor waits for ever for what was asked for just when the scheduler went away.
    """

    def __init__(self, client: Client) -> None:
        self._client = client

    def submit(self, function: Callable[..., Any], *arguments: Any) -> _Answer:
        return _Answer(self._client, self._client.submit(function, *arguments, pure=False))


@dataclass(frozen=True)
class _Answer:
    client: Client
    future: Future

    def result(self, timeout: float) -> Any:
        """The result, or CancelledError as soon as the scheduler is gone."""
        until = time.monotonic() + timeout
        while time.monotonic() < until:
            try:
                return self.future.result(timeout=1)
            except TimeoutError:
                if self.client.status != "running":
                    raise CancelledError from None
        raise TimeoutError


@contextmanager
def _enough_memory(whose: str) -> Iterator[None]:
    try:
        yield
    except MemoryError:
        raise EngineError(
            f"the memory of {whose} is too small for a block of people on each of its threads; use "
            "fewer of them (memory_gib in the study file; on a cluster the threads of a worker) or "
            "more memory; fewer variants take less"
        ) from None


@contextmanager
def answered() -> Iterator[None]:
    """Say in one sentence what it means if a result does not come.

    Raises
    ------
    EngineError
        If Dask's scheduler or workers are gone, or what was waited for has not come in time.
    """
    try:
        yield
    except (CancelledError, CommClosedError, KilledWorker, TimeoutError) as error:
        raise EngineError(
            "a chunk of the store could not be read: Dask's scheduler or workers are gone, or the "
            f"storage does not answer ({type(error).__name__}); mend that and run the same "
            "command again, it continues where it stopped"
        ) from None


@contextmanager
def _errors_only_raised() -> Iterator[None]:
    """Keep tracebacks of lost connections out of the output: callers get them as exceptions."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _require_answer(scheduler: str) -> None:
    """Refuse an address where no scheduler answers.

    Not left to ``Client``: one that could not connect closes itself when it is garbage collected,
    which may be on its own event loop and then waits for itself.
    """
    with ThreadPoolExecutor(1) as thread:  # the caller may have an event loop, as notebooks do
        try:
            thread.submit(asyncio.run, _connect(scheduler)).result()
        except ValueError:
            raise EngineError(
                f"{scheduler!r} is not the address of a Dask scheduler; give one such as "
                "tcp://host:8786, or leave it out to use this machine"
            ) from None
        except (TypeError, FileNotFoundError, SSLError):
            raise EngineError(
                f"the Dask scheduler at {scheduler} asks for certificates, and Dask's own "
                "configuration (distributed.comm.tls: ca-file, client.key, client.cert) names none "
                "that can be read; name them there"
            ) from None
        except OSError:
            refused = " (or it refused this certificate)" if scheduler.startswith("tls") else ""
            raise EngineError(
                f"no Dask scheduler answered at {scheduler} within {CONNECT_SECONDS} s{refused}; "
                "start one, correct the address, or leave it out to use this machine"
            ) from None


async def _connect(scheduler: str) -> None:
    arguments = Security().get_connection_args("client")
    comm = await connect(scheduler, timeout=CONNECT_SECONDS, **arguments)
    await comm.close()
