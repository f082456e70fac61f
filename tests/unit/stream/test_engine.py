"""The Dask client: local by default, on loopback, and quick to say that nobody answers."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import time

import numpy as np
import psutil
import pytest
from threadpoolctl import threadpool_info

from mrscale.errors import EngineError
from mrscale.stream import engine as module
from mrscale.stream.engine import engine, threads_within


def listening():
    connections = psutil.Process().net_connections("inet")
    return {c.laddr for c in connections if c.status == psutil.CONN_LISTEN}


def test_nothing_listens_beyond_loopback():
    before = listening()
    with engine() as client:
        assert client.submit(sum, [1, 2]).result() == 3
        opened = listening() - before
    assert all(address.ip in ("127.0.0.1", "::1") for address in opened), opened
    deadline = time.monotonic() + 5
    while (left := listening() - before) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left


def test_threads_of_this_process_do_the_work():
    with engine() as client:
        assert client.submit(os.getpid, pure=False).result() == os.getpid()
        assert sum(client.nthreads().values()) == os.cpu_count()


def blas_threads():
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


def test_blas_has_one_thread_while_blocks_are_computed():
    before = blas_threads()
    with engine() as client:
        assert blas_threads() == {1}
        assert client.submit(blas_threads, pure=False).result() == {1}
    assert blas_threads() == before


def test_too_little_memory_is_said_with_what_takes_less():
    said = r"memory of this machine is too small .*; use fewer of them \(memory_gib"
    with pytest.raises(EngineError, match=said), engine() as client:
        client.submit(np.empty, 2**45).result()


@pytest.mark.parametrize(("gib", "threads"), [(None, 8), (9, 1), (17.9, 1), (18, 2), (900, 8)])
def test_as_many_threads_work_as_memory_has_room_for(monkeypatch, gib, threads):
    monkeypatch.setattr(module, "CPU_COUNT", 8)
    assert threads_within(gib, 2**30) == threads


def test_memory_for_less_than_one_block_is_refused():
    with pytest.raises(EngineError, match=r"up to 9 GiB .* found memory_gib = 8; set at least"):
        threads_within(8, 2**30)


def test_fewer_threads_do_the_work_where_it_is_asked_for():
    with engine(threads=1) as client:
        assert sum(client.nthreads().values()) == 1


def test_a_running_scheduler_is_used_and_left_running(running_scheduler):
    for _ in range(2):
        with engine(running_scheduler) as client:
            assert client.scheduler.address == running_scheduler
            assert client.submit(sum, [2, 2], pure=False).result() == 4


def test_a_scheduler_that_does_not_answer_is_named_within_seconds(monkeypatch):
    assert module.CONNECT_SECONDS <= 10
    monkeypatch.setattr(module, "CONNECT_SECONDS", 2)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    start = time.monotonic()
    with (
        pytest.raises(EngineError, match=f"no Dask scheduler answered at {address}.*start one"),
        engine(address),
    ):
        pass
    assert time.monotonic() - start < 7


@pytest.mark.parametrize("address", ["nonsense", "tcp://127.0.0.1", "ftp://127.0.0.1:1"])
def test_an_address_that_is_none_is_refused(address):
    with (
        pytest.raises(EngineError, match=r"is not the address of a Dask sch.*such as"),
        engine(address),
    ):
        pass


@pytest.mark.parametrize(
    ("error", "logged"), [(TimeoutError("Timeout"), False), (TimeoutError("of a user"), True)]
)
def test_waits_that_nobody_asks_about_are_not_told_of(caplog, error, logged):
    with engine():
        pass

    async def forget() -> None:
        asyncio.get_running_loop().create_future().set_exception(error)
        gc.collect()

    asyncio.run(forget())
    assert ("never retrieved" in caplog.text) is logged
