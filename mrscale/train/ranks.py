"""Ranks: who am I, how many are we, and sums over all of us."""

from __future__ import annotations

import atexit
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from multiprocessing import parent_process
from typing import Any

import torch
from torch import Tensor, distributed, multiprocessing

from mrscale import stopping
from mrscale.errors import EngineError
from mrscale.holding import Held

MEETING = timedelta(minutes=10)
"""For ranks to come together: one may have read, or waited for a machine, longer than others."""
SILENCE = timedelta(minutes=2)
"""After which a rank that others wait for is given up: a host that is cut off takes no leave."""
GRACE_SECONDS = 10
STOP_SECONDS = 8
"""For ranks that are asked to end: schedulers kill what is there after ten or more."""


@dataclass(frozen=True)
class Ranks:
    """This process among the processes that train together; ``Ranks()`` is alone."""

    rank: int = 0
    world: int = 1

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum over all ranks, in place; every rank gets the same bits.

        Raises
        ------
        EngineError
            If another rank is gone, or silent for longer than ``SILENCE``.
        """
        if self.world > 1:
            try:
                distributed.all_reduce(tensor)
            except RuntimeError as error:
                # this rank only suffers: let the one that broke be the first to be heard
                time.sleep(GRACE_SECONDS)
                # gloo begins with the place in its own source
                reason = str(error).strip().splitlines()[0].rpartition("] ")[2]
                raise EngineError(
                    f"another training rank is gone, or gave no answer for {_minutes(SILENCE)} "
                    f"({reason}); mend that and run the same command again, it continues from the "
                    "last checkpoint"
                ) from None
        return tensor

    def gathered(self, tensor: Tensor, dim: int) -> Tensor:
        """The tensors of all ranks behind each other along one dimension, in which alone they may
        differ in length."""
        lengths = torch.zeros(self.world, dtype=torch.int64)
        lengths[self.rank] = tensor.shape[dim]
        before = self.sum(lengths).cumsum(0) - lengths
        shape = [*tensor.shape[:dim], int(lengths.sum()), *tensor.shape[dim + 1 :]]
        everybody = tensor.new_zeros(shape)
        everybody.narrow(dim, int(before[self.rank]), tensor.shape[dim]).copy_(tensor)
        return self.sum(everybody)

    def wait(self) -> None:
        """Return when every rank has come here."""
        self.sum(torch.zeros(1))

    def as_leading(self, found: int) -> int:
        """The number that the leading rank found, or whether it found something; files may change
        between the looks of two ranks."""
        return int(self.sum(torch.tensor(float(found if self.leads else 0))))

    def any(self, found: bool) -> bool:
        """Whether any rank found something."""
        return found if self.world == 1 else bool(self.sum(torch.tensor(float(found))))

    @property
    def leads(self) -> bool:
        """Whether this rank writes files and shows progress."""
        return self.rank == 0


def leads_here() -> bool:
    """Whether this process leads, as torchrun's environment says, before it has joined."""
    return os.environ.get("RANK", "0") == "0"


def best_device(asked: str = "auto") -> torch.device:
    """The device of this process: as asked, or a GPU of its own if there is one, or the CPU.

    Raises
    ------
    EngineError
        If several ranks would have to share a GPU.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu" if asked == "auto" else asked)
    if asked not in ("auto", "cuda"):
        device = torch.device(asked)
        here = int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("WORLD_SIZE", "1"))
        if device.type == "cuda" and here > 1:
            raise EngineError(
                f"every training rank of a machine needs a GPU of its own; found {here} ranks and "
                f'device = "{asked}"; set device = "cuda"'
            )
        return device
    mine, there = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if mine >= there:
        raise EngineError(
            f"every training rank of a machine needs a GPU of its own; found {there} GPUs and a "
            f'rank number {mine + 1}; lower ranks, or set device = "cpu"'
        )
    device = torch.device("cuda", mine)
    torch.cuda.set_device(device)
    return device


@contextmanager
def joined() -> Iterator[Ranks]:
    """Join the process group that the environment describes (``RANK`` and ``WORLD_SIZE`` as
    torchrun sets them); alone without one.

    Raises
    ------
    EngineError
        If not all ranks come within ``MEETING``.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Ranks()
        return
    # once for the life of the process: a second group would meet the first one's addresses
    # in the store that torchrun keeps, and wait for ever
    if not distributed.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        store, rank, _ = next(distributed.rendezvous("env://", timeout=MEETING))
        # torchrun keeps its store over restarts, and in it the addresses of ranks that are gone
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        store = distributed.PrefixStore(attempt, store)
        _meet(store, rank, world)
        distributed.init_process_group(
            backend, store=store, rank=rank, world_size=world, timeout=SILENCE
        )
        # threads of gloo that still run when the interpreter ends would abort the process
        atexit.register(distributed.destroy_process_group)
    yield Ranks(distributed.get_rank(), world)


def _meet(store: distributed.Store, rank: int, world: int) -> None:
    """Wait for all ranks; from then on none may be silent for long."""
    store.set(f"here/{rank}", "")
    try:
        store.wait([f"here/{other}" for other in range(world)], MEETING)
    except RuntimeError:
        raise EngineError(
            f"a training of {world} ranks needs all of them, and some did not come within "
            f"{_minutes(MEETING)}; see what they say and whether their machines can be reached, "
            "then start all of them again"
        ) from None


def _minutes(span: timedelta) -> str:
    return f"{span.total_seconds() / 60:.0f} minutes"


def _hold_torch() -> Callable[[], None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    return partial(torch.set_num_threads, threads)


_torch = Held(_hold_torch)


@contextmanager
def one_thread() -> Iterator[None]:
    """Hold torch to one thread of the CPU: the tensors of a step are small, so that a second one
    brings little, and where something else runs it makes every step wait for that."""
    with _torch:
        yield


def launch(num_ranks: int, function: Callable[..., None], *arguments: Any) -> None:
    """Run ``function(*arguments)`` in this many new processes that can join each other.

    Parameters
    ----------
    num_ranks : int
        One runs in this process; so does any number under torchrun, which has launched already.
    function : callable
        Importable; calls :func:`joined` itself.

    Raises
    ------
    EngineError
        If a rank fails; the others are ended with it.
    """
    if num_ranks == 1 or "WORLD_SIZE" in os.environ:
        function(*arguments)
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    try:
        ranks = multiprocessing.spawn(
            _enter, (num_ranks, port, function, arguments), nprocs=num_ranks, join=False
        )
        try:
            while not ranks.join():
                pass
        except KeyboardInterrupt:
            # SIGTERM, or a SIGINT that only this process may have been sent
            _stop(ranks.processes)
            raise
    except multiprocessing.ProcessRaisedException as error:
        reason = str(error).strip().splitlines()[-1]
        raise EngineError(f"a training rank failed and the others were ended: {reason}") from None
    except multiprocessing.ProcessExitedException as error:
        raise EngineError(
            f"a training rank was killed and the others were ended ({error}); "
            "run the same command again, it continues from the last checkpoint"
        ) from None


def _enter(
    rank: int, world: int, port: int, function: Callable[..., None], arguments: tuple[Any, ...]
) -> None:
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        with stopping.heeded():
            function(*arguments)
    except stopping.Stopped:
        # what is worth keeping is on disk, and taking the interpreter down takes seconds
        atexit.register(os._exit, 0)
        raise


def _stop(processes: list[Any]) -> None:
    """Ask ranks to end, and give them time to write a checkpoint."""
    for process in processes:
        process.terminate()
    until = time.monotonic() + STOP_SECONDS
    for process in processes:
        process.join(max(0, until - time.monotonic()))
        process.kill()


def _end_with_parent() -> None:
    """Keep a rank from training on, beside the rerun, when its parent was killed."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
