"""Independent pieces of work in processes: each item once, errors as they are."""

from __future__ import annotations

import math
import os

import pytest

from mrscale.stream.spread import spread


def test_processes_of_this_machine_do_the_work() -> None:
    found = dict(spread(math.factorial, range(8)))
    assert found == {n: math.factorial(n) for n in range(8)}
    pids = {pid for _, pid in spread(_where, range(4))}
    assert os.getpid() not in pids


def _where(_item: int) -> int:
    import os

    return os.getpid()


def test_an_error_of_the_function_is_raised_as_it_is() -> None:
    with pytest.raises(ValueError, match=r"math domain error|expected a nonnegative"):
        list(spread(math.sqrt, [1.0, -1.0]))


def test_a_running_cluster_is_used(running_scheduler: str) -> None:
    assert dict(spread(abs, [-2, 3], scheduler=running_scheduler)) == {-2: 2, 3: 3}


def test_nothing_to_do_starts_no_engine() -> None:
    assert list(spread(abs, [], scheduler="tcp://127.0.0.1:1")) == []
